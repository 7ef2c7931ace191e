"""`shapes`: a built-in detection set, drawn on first use into a real COCO folder.

Six classes of plain figures on cluttered backgrounds, 0 to 8 in an image of 112 to 160 pixels a side. The set is
frozen: the version names exactly these pixels, and any change to the drawing is a new version in a new folder.

An annotation is the tight box of what can be *seen* of a figure: nothing outside the image, nothing under another
figure. Its `area` is the area of that box, so that COCO's small (< 32 x 32), medium and large (> 96 x 96) speak of
boxes.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from detrctl.data.shapes_drawing import draw_image
from detrctl.errors import DataError

VERSION = "shapes-v1"
SPLITS = {"train": 2000, "val": 300}
CATEGORY_IDS = {"circle": 1, "square": 2, "triangle": 3, "star": 5, "cross": 6, "ring": 8}
"""With gaps, as in COCO, so that the set goes through the same mapping."""


def _write_split(folder: Path, split: str, count: int, first_id: int) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    pictures = folder / "images" / split
    pictures.mkdir(parents=True)
    for index in range(count):
        pixels, figures = draw_image(split, index)
        name, image_id = f"{index:06d}.png", first_id + index
        Image.fromarray(pixels).save(pictures / name, compress_level=1)
        images.append({"id": image_id, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
        for figure, box in figures:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORY_IDS[figure],
                    "bbox": list(box),
                    "area": round(box[2] * box[3], 2),
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {"description": f"{VERSION}, {split}: drawn by detrctl"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in CATEGORY_IDS.items()],
    }
    target = folder / "annotations" / f"instances_{split}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(content), encoding="utf-8")


def write_shapes(folder: Path, counts: dict[str, int]) -> None:
    """Draw the first images of each split into an empty folder: images/SPLIT/ and annotations/instances_SPLIT.json."""
    first_id = 1
    for split, count in counts.items():
        _write_split(folder, split, count, first_id)
        first_id += SPLITS[split]


def cache_folder() -> Path:
    """Where generated files are kept: DETRCTL_CACHE, else XDG_CACHE_HOME/detrctl, else ~/.cache/detrctl."""
    own, common = os.environ.get("DETRCTL_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    return (Path(common) if common else Path.home() / ".cache") / "detrctl"


def ensure_shapes(folder: Path | None = None) -> Path:
    """The root of the shapes set, drawn first if it is not there yet (about half a minute).

    It is drawn beside its place and moved there whole, so that an interrupted or a second process leaves no half a set.
    Raises DataError where the cache folder cannot be written.
    """
    parent = cache_folder() if folder is None else folder
    final = parent / VERSION
    if final.is_dir():
        return final
    try:
        parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{VERSION}-unfinished-", dir=parent))
    except OSError as error:
        raise _not_writable(parent, error) from None
    try:
        write_shapes(unfinished, SPLITS)
        unfinished.chmod(0o755)
        unfinished.rename(final)
    except OSError as error:
        # Another process may have been first: its folder is the same, pixel by pixel.
        if not final.is_dir():
            raise _not_writable(parent, error) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return final


def _not_writable(parent: Path, error: OSError) -> DataError:
    return DataError(
        f"{parent}: the shapes set cannot be written here ({error.strerror}); set DETRCTL_CACHE to another folder"
    )


@dataclass(frozen=True)
class ShapesStatistics:
    """Shares from 0 to 1, of the images or of the boxes of one split."""

    images: int
    boxes: int
    boxes_per_class: dict[str, int]
    images_without_boxes: float
    small: float
    medium: float
    large: float
    overlapping: float
    """Boxes that meet another box of the image."""

    def lines(self) -> list[str]:
        classes = ", ".join(f"{name} {count}" for name, count in self.boxes_per_class.items())
        return [
            f"{self.images} images, {self.images_without_boxes:.1%} of them without objects",
            f"{self.boxes} boxes: {classes}",
            f"small {self.small:.1%}, medium {self.medium:.1%}, large {self.large:.1%}; "
            f"{self.overlapping:.1%} meet another box",
        ]


def statistics(root: Path, split: str) -> ShapesStatistics:
    """What the README says of the set, counted from its annotation file."""
    content = json.loads((root / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
    by_image: dict[int, list[list[float]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation["bbox"])
    areas = [annotation["area"] for annotation in content["annotations"]]
    labels = [annotation["category_id"] for annotation in content["annotations"]]
    overlapping = sum(
        any(_meet(box, other) for j, other in enumerate(boxes) if j != i)
        for boxes in by_image.values()
        for i, box in enumerate(boxes)
    )
    return ShapesStatistics(
        images=len(by_image),
        boxes=len(areas),
        boxes_per_class={name: labels.count(number) for name, number in CATEGORY_IDS.items()},
        images_without_boxes=sum(not boxes for boxes in by_image.values()) / len(by_image),
        small=sum(area < 32**2 for area in areas) / len(areas),
        medium=sum(32**2 <= area <= 96**2 for area in areas) / len(areas),
        large=sum(area > 96**2 for area in areas) / len(areas),
        overlapping=overlapping / len(areas),
    )


def _meet(a: list[float], b: list[float]) -> bool:
    return all(a[k] < b[k] + b[k + 2] and b[k] < a[k] + a[k + 2] for k in (0, 1))
