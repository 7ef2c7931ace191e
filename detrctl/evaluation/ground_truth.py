"""The truths that detections are scored against, as compact arrays read from a COCO annotation file.

No torch here, so that a result file can be scored without loading it. I images, N annotations.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detrctl import coco_values
from detrctl.errors import DataError


def read_json(path: Path) -> Any:
    """The content of a JSON file; anything that stops it from being read is one line naming the file."""
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors begin a file with a byte-order mark
            return json.load(file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, a JSON file is needed") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not a JSON file (it is not UTF-8 text)") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: is not a JSON file ({error.msg})") from None
    except ValueError:
        raise DataError(f"{path}: holds a number of thousands of digits; the file is damaged") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply to be read") from None


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Images, categories and annotations of one split, with their original COCO ids.

    `boxes_xywh` (N, 4) and `areas` (N,) in pixels; `image_of`, `category_of` (N,) are ids; `is_crowd` (N,) bool.
    `left_out` counts annotations that cannot be scored: no usable box, or an image or category that is not listed.
    Annotation ids are not kept: scoring needs none, and pycocotools goes wrong on the id 0.
    """

    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    image_ids: npt.NDArray[np.int64]
    file_names: tuple[str, ...]
    image_of: npt.NDArray[np.int64]
    category_of: npt.NDArray[np.int64]
    boxes_xywh: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]
    is_crowd: npt.NDArray[np.bool_]
    left_out: int = 0

    @classmethod
    def from_file(cls, path: str | Path) -> "GroundTruth":
        """Raises DataError where the file is missing, not JSON, or not COCO annotations."""
        return cls.from_coco_dict(read_json(Path(path)), source=str(path))

    @classmethod
    def from_coco_dict(cls, content: Any, *, source: str = "annotations") -> "GroundTruth":
        """From the content of a COCO file, whose values mean what they mean in training.

        `info`, `area`, `iscrowd` may be missing; the area is then the box's.
        """
        images = _listed(content, "images", source)
        categories = _listed(content, "categories", source)
        if not categories:
            raise DataError(f"{source}: `categories` is empty, so there is nothing to score")
        image_ids = {_id_of(image, "images", i, source): i for i, image in enumerate(images)}
        category_ids = {_id_of(category, "categories", i, source): i for i, category in enumerate(categories)}
        annotations = _listed(content, "annotations", source)
        usable = [truth for annotation in annotations if (truth := _usable(annotation, image_ids, category_ids))]
        return cls(
            category_ids=tuple(category_ids),
            category_names=tuple(_name(categories[i], key) for key, i in category_ids.items()),
            image_ids=np.array(list(image_ids), dtype=np.int64),
            file_names=tuple(str(images[i].get("file_name", "")) for i in image_ids.values()),
            image_of=np.array([truth.image_id for truth in usable], dtype=np.int64),
            category_of=np.array([truth.category_id for truth in usable], dtype=np.int64),
            boxes_xywh=np.array([truth.box_xywh for truth in usable], dtype=np.float64).reshape(-1, 4),
            areas=np.array([truth.area for truth in usable], dtype=np.float64),
            is_crowd=np.array([truth.is_crowd for truth in usable], dtype=np.bool_),
            left_out=len(annotations) - len(usable),
        )

    def only(self, image_ids: Iterable[int]) -> "GroundTruth":
        """The same truths for some of the images, in the order of this object."""
        wanted = np.fromiter(image_ids, dtype=np.int64)
        images, annotations = np.isin(self.image_ids, wanted), np.isin(self.image_of, wanted)
        return replace(
            self,
            image_ids=self.image_ids[images],
            file_names=tuple(name for name, kept in zip(self.file_names, images, strict=True) if kept),
            image_of=self.image_of[annotations],
            category_of=self.category_of[annotations],
            boxes_xywh=self.boxes_xywh[annotations],
            areas=self.areas[annotations],
            is_crowd=self.is_crowd[annotations],
        )


def _listed(content: Any, key: str, source: str) -> list[dict[str, Any]]:
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise DataError(f"{source}: is not a COCO annotation file (it has no list `{key}`)")
    for i, entry in enumerate(content[key]):
        if not isinstance(entry, dict):
            raise DataError(f"{source}: {key}[{i}] is not an object with fields")
    return content[key]


def is_id(value: object) -> bool:
    """COCO ids are whole numbers (of 64 bits, as everyone stores them); JSON's true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_number(value: object) -> bool:
    """Finite, and small enough to be computed with; Python's JSON reader lets NaN and Infinity through."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e100 < value < 1e100


def _id_of(entry: Mapping[str, Any], key: str, i: int, source: str) -> int:
    number = coco_values.whole_number(entry.get("id"))
    if number is None:
        raise DataError(f"{source}: {key}[{i}] has no `id` that is a whole number")
    return number


def _name(category: Mapping[str, Any], number: int) -> str:
    return str(number if category.get("name") is None else category["name"])


def is_box(value: object) -> bool:
    """Four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


class _Truth(NamedTuple):
    image_id: int
    category_id: int
    box_xywh: list[float]
    area: float
    is_crowd: bool


def _usable(annotation: Mapping[str, Any], images: Mapping[int, int], categories: Mapping[int, int]) -> _Truth | None:
    image_id, category_id = (coco_values.whole_number(annotation.get(key)) for key in ("image_id", "category_id"))
    box = coco_values.box(annotation.get("bbox"))
    if image_id is None or category_id is None or box is None:
        return None
    if image_id not in images or category_id not in categories:
        return None
    area = coco_values.number(annotation.get("area"))
    crowd = coco_values.is_crowd(annotation.get("iscrowd"))
    return _Truth(image_id, category_id, box, box[2] * box[3] if math.isnan(area) else area, crowd)
