"""COCO annotation files as compact arrays that loader workers share.

Letters in shapes: N images, A annotations.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrctl.data.layouts import SplitFiles, find_splits
from detrctl.errors import DataError
from detrctl.structures import Categories

__all__ = ["CocoIndex", "CocoSummary", "ImageRecord", "SplitFiles", "find_splits"]


@dataclass(frozen=True)
class ImageRecord:
    """An image as the annotation file describes it; height and width are 0 where it does not say."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class CocoSummary:
    """What an annotation file holds, and what was mended or left out."""

    images: int
    annotations: int
    images_without_boxes: int
    crowds: int
    small: int
    medium: int
    large: int
    areas_derived: int
    outside_image: int
    without_area: int
    not_finite: int
    unknown_image: int
    unknown_category: int

    def lines(self) -> list[str]:
        """One line for each count that is not zero."""
        return [f"{name.replace('_', ' ')}: {count}" for name, count in vars(self).items() if count]


class CocoIndex:
    """One annotation file. Arrays are torch tensors, which loader processes share instead of copying."""

    def __init__(self, content: dict[str, Any], name: str):
        self._name = name
        categories = sorted(content["categories"], key=lambda category: int(category["id"]))
        self.categories = Categories(
            tuple(str(category["name"]) for category in categories),
            tuple(int(category["id"]) for category in categories),
        )
        images = content["images"]
        self.image_ids = torch.tensor([int(image["id"]) for image in images], dtype=torch.int64)
        self.sizes_hw = torch.tensor(
            [[int(image.get("height") or 0), int(image.get("width") or 0)] for image in images], dtype=torch.int32
        ).reshape(-1, 2)
        names = [str(image["file_name"]).encode() for image in images]
        self._names = torch.from_numpy(np.frombuffer(b"".join(names) or b" ", np.uint8).copy())
        self._name_ends = torch.tensor(np.cumsum([0] + [len(name) for name in names]))
        self._read_annotations(content.get("annotations", []))

    def _read_annotations(self, annotations: list[dict[str, Any]]) -> None:
        position = {int(image_id): index for index, image_id in enumerate(self.image_ids.tolist())}
        label = {category_id: index for index, category_id in enumerate(self.categories.ids)}
        counts: Counter[str] = Counter()
        rows = []
        for item in annotations:
            image, category = position.get(item["image_id"]), label.get(item["category_id"])
            box = [float(number) for number in item.get("bbox", ())]
            if image is None:
                counts["unknown_image"] += 1
            elif category is None:
                counts["unknown_category"] += 1
            elif len(box) != 4 or not np.isfinite(box).all():
                counts["not_finite"] += 1
            else:
                area = item.get("area")
                counts["areas_derived"] += area is None
                rows.append(
                    (image, category, bool(item.get("iscrowd", 0)), box[2] * box[3] if area is None else area, *box)
                )
        table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 8)
        table = table[torch.sort(table[:, 0], stable=True).indices]
        self.labels = table[:, 1].to(torch.int16)
        self.is_crowd = table[:, 2].bool()
        self.areas = table[:, 3].clone()
        self.boxes_xywh = table[:, 4:].clone()
        self._ends = torch.searchsorted(table[:, 0].contiguous(), torch.arange(len(self) + 1, dtype=torch.float64))
        self.summary = self._summarise(len(annotations), counts)

    def _summarise(self, annotations: int, counts: Counter[str]) -> CocoSummary:
        sides = self.boxes_xywh[:, 2:]
        return CocoSummary(
            images=len(self),
            annotations=annotations,
            images_without_boxes=int((self._ends.diff() == 0).sum()),
            crowds=int(self.is_crowd.sum()),
            small=int((self.areas < 32**2).sum()),
            medium=int(((self.areas >= 32**2) & (self.areas <= 96**2)).sum()),
            large=int((self.areas > 96**2).sum()),
            areas_derived=counts["areas_derived"],
            outside_image=0,
            without_area=int((sides <= 0).any(dim=1).sum()),
            not_finite=counts["not_finite"],
            unknown_image=counts["unknown_image"],
            unknown_category=counts["unknown_category"],
        )

    @classmethod
    def read(cls, annotations: Path) -> "CocoIndex":
        """Raises DataError if the file is missing, broken or no COCO detection file."""
        try:
            content = json.loads(annotations.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{annotations}: no such annotation file") from None
        except json.JSONDecodeError as error:
            raise DataError(f"{annotations}:{error.lineno}:{error.colno}: not valid JSON ({error.msg})") from None
        return cls(content, str(annotations))

    def __len__(self) -> int:
        return len(self.image_ids)

    def image(self, i: int) -> ImageRecord:
        start, end = self._name_ends[i : i + 2].tolist()
        height, width = self.sizes_hw[i].tolist()
        name = self._names[start:end].numpy().tobytes().decode()
        return ImageRecord(int(self.image_ids[i]), name, height, width)

    def targets(self, i: int, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Training truths of image i, of which `size_hw` is the true size: boxes (G, 4) xyxy in pixels, labels (G,).

        As the published training: crowds are dropped, boxes clamped to the image, and kept if any width and height is left.
        """
        start, end = self._ends[i : i + 2].tolist()
        boxes = self.boxes_xywh[start:end].clone()
        boxes[:, 2:] += boxes[:, :2]
        height, width = size_hw
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height], dtype=boxes.dtype))
        keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & ~self.is_crowd[start:end]
        return boxes[keep].float(), self.labels[start:end][keep].long()

    def ground_truth(self) -> dict[str, Any]:
        """What evaluation needs, as the content of a COCO file: original category ids, annotation ids from 1.

        Crowds and boxes outside the image are in it, as in the file.
        """
        ids, owners = self.categories.ids, torch.repeat_interleave(self.image_ids, self._ends.diff())
        columns = (owners, self.labels, self.is_crowd, self.areas, self.boxes_xywh)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return {
            "images": [
                {"id": image_id, "height": height, "width": width}
                for image_id, (height, width) in zip(self.image_ids.tolist(), self.sizes_hw.tolist(), strict=True)
            ],
            "annotations": [
                {
                    "id": n,
                    "image_id": owner,
                    "category_id": ids[label],
                    "iscrowd": int(crowd),
                    "area": area,
                    "bbox": box,
                }
                for n, (owner, label, crowd, area, box) in enumerate(rows, start=1)
            ],
            "categories": [
                {"id": number, "name": name} for number, name in zip(ids, self.categories.names, strict=True)
            ],
        }
