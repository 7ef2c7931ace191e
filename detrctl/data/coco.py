"""COCO annotation files as compact arrays that loader workers share.

Letters in shapes: N images, A annotations, C categories, G true boxes of an image.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detrctl.coco_values import LARGEST, box, is_crowd, number, whole_number
from detrctl.data.annotation_file import AnnotationFile, Category, ImageEntry, read_annotation_file
from detrctl.data.layouts import SplitFiles, find_splits
from detrctl.data.summary import CocoSummary, ImageRecord
from detrctl.errors import DataError
from detrctl.structures import Categories

__all__ = ["CocoIndex", "CocoSummary", "ImageRecord", "SplitFiles", "find_splits"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class CocoIndex:
    """One annotation file, image by image.

    Category ids are mapped to 0, 1, ... in ascending order; `categories` keeps names and ids. Everything else is held
    in torch tensors: processes started by fork or by spawn share their memory instead of copying it. Not `labelled`:
    the file has no `annotations`, its images can only be predicted.
    """

    def __init__(self, content: AnnotationFile, source: str):
        self.source = source
        self.categories = _categories(content.categories, source)
        if not content.images:
            raise DataError(f"{source}: the split is empty, `images` lists nothing")
        self.image_ids = torch.from_numpy(_image_ids(content.images, source))
        self.sizes_hw = torch.tensor([[_side(entry.height), _side(entry.width)] for entry in content.images])
        self._names, self._name_ends = _packed_names(content.images, source)
        self._take_annotations(content)

    @classmethod
    def read(cls, annotations: Path) -> "CocoIndex":
        """Raises DataError if the file is missing, broken, empty, no COCO detection file, or repeats an id."""
        return cls(read_annotation_file(annotations), str(annotations))

    def _take_annotations(self, content: AnnotationFile) -> None:
        self.labelled = content.annotations is not None
        entries = content.annotations or []
        images, image_known = _positions([entry.image_id for entry in entries], self.image_ids.numpy())
        labels, label_known = _positions(
            [entry.category_id for entry in entries], np.array(self.categories.ids, dtype=np.int64)
        )
        boxes = _boxes([entry.bbox for entry in entries])
        finite = np.isfinite(boxes).all(axis=1)
        good = image_known & label_known & finite
        order = np.flatnonzero(good)[np.argsort(images[good], kind="stable")]
        areas = _areas([entry.area for entry in entries])
        derived = ~np.isfinite(areas)
        areas[derived] = boxes[derived, 2] * boxes[derived, 3]
        crowd = np.array([is_crowd(entry.iscrowd) for entry in entries], dtype=np.bool_)

        self.labels = torch.from_numpy(labels[order].astype(np.int32))
        self.boxes_xywh = torch.from_numpy(boxes[order])
        self.areas = torch.from_numpy(areas[order])
        self.is_crowd = torch.from_numpy(crowd[order])
        self._ends = torch.from_numpy(np.searchsorted(images[order], np.arange(len(self) + 1)))
        self.summary = self._summarise(
            annotations=len(entries),
            areas_derived=int((derived & good).sum()),
            iscrowd_missing=sum(entry.iscrowd is None for entry in entries),
            unknown_image=int((~image_known).sum()),
            unknown_category=int((image_known & ~label_known).sum()),
            unusable_boxes=int((image_known & label_known & ~finite).sum()),
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def image(self, i: int) -> ImageRecord:
        start, end = self._name_ends[i : i + 2].tolist()
        height, width = self.sizes_hw[i].tolist()
        return ImageRecord(int(self.image_ids[i]), self._names[start:end].numpy().tobytes().decode(), height, width)

    def targets(self, i: int, size_hw: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Training truths of image i: boxes (G, 4) float32 xyxy in pixels, labels (G,) int64 from 0.

        As in the published training: crowds are dropped, boxes clamped to the image (`size_hw`, or the size in the
        file), and kept if their width and height are then above zero.
        """
        start, end = self._ends[i : i + 2].tolist()
        height, width = size_hw or self.sizes_hw[i].tolist()
        # NumPy's view of the same memory: torch needs several times as long for operations on so few numbers.
        boxes = self.boxes_xywh[start:end].numpy()
        limits = np.array([width or math.inf, height or math.inf])
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        low, high = np.minimum(np.maximum(low, 0), limits), np.minimum(np.maximum(high, 0), limits)
        keep = (high > low).all(axis=1) & ~self.is_crowd[start:end].numpy()
        corners = np.concatenate([low, high], axis=1)[keep].astype(np.float32)
        return torch.from_numpy(corners), torch.from_numpy(self.labels[start:end].numpy()[keep].astype(np.int64))

    def ground_truth(self) -> dict[str, Any]:
        """What evaluation needs, as the content of a COCO file: original category ids, annotation ids from 1.

        Crowds, boxes without area and boxes that leave the image are in it, as they are in the file.
        """
        ids = self.categories.ids
        columns = (self._owners(), self.labels, self.is_crowd, self.areas, self.boxes_xywh)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        image_ids = self.image_ids.tolist()
        return {
            "images": [
                {"id": image_id, "height": height, "width": width}
                for image_id, (height, width) in zip(image_ids, self.sizes_hw.tolist(), strict=True)
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": image_ids[owner],
                    "category_id": ids[label],
                    "iscrowd": int(crowd),
                    "area": area,
                    "bbox": box,
                }
                for number, (owner, label, crowd, area, box) in enumerate(rows, start=1)
            ],
            "categories": [{"id": n, "name": name} for n, name in zip(ids, self.categories.names, strict=True)],
        }

    def _owners(self) -> Tensor:
        """(A,): the position of each annotation's image."""
        return torch.repeat_interleave(torch.arange(len(self)), self._ends.diff())

    def _summarise(self, **found_on_reading: int) -> CocoSummary:
        owners = self._owners()
        sizes = self.sizes_hw[owners].double()
        sizes[sizes == 0] = math.inf
        boxes = self.boxes_xywh
        clamped = _corners(boxes, sizes)
        has_area = (clamped[:, 2:] > clamped[:, :2]).all(dim=1)
        # Exporters round: a hundredth of a pixel beyond the edge is not worth a line.
        outside = ((boxes[:, :2] + boxes[:, 2:] > sizes.flip(1) + 0.01) | (boxes[:, :2] < -0.01)).any(dim=1)
        trained = has_area & ~self.is_crowd
        per_image = torch.bincount(owners[trained], minlength=len(self))
        areas = self.areas[trained]
        return CocoSummary(
            images=len(self),
            boxes=int(trained.sum()),
            boxes_per_class=tuple(torch.bincount(self.labels[trained], minlength=len(self.categories)).tolist()),
            small=int((areas < 32**2).sum()),
            medium=int(((areas >= 32**2) & (areas <= 96**2)).sum()),
            large=int((areas > 96**2).sum()),
            most_boxes_in_an_image=int(per_image.max()),
            images_without_boxes=int((per_image == 0).sum()),
            images_without_size=int((self.sizes_hw == 0).any(dim=1).sum()),
            crowds=int(self.is_crowd.sum()),
            leaving_the_image=int((outside & trained).sum()),
            without_area=int((~has_area & ~self.is_crowd).sum()),
            **found_on_reading,
        )


def _corners(boxes_xywh: Tensor, sizes_hw: Tensor) -> Tensor:
    """(G, 4), (2,) or (G, 2) -> (G, 4) xyxy, clamped to the image."""
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    limits = sizes_hw.to(boxes_xywh.dtype).flip(-1)
    return torch.cat([torch.minimum(corner.clamp(min=0), limits) for corner in (low, high)], dim=1)


def _side(value: Any) -> int:
    """A height or width, 0 where the file does not say."""
    return max(0, whole_number(value) or 0)


def _positions(values: list[Any], known: Ints) -> tuple[Ints, Mask]:
    """Where each value stands in `known`, and whether it does: (A,) int64, (A,) bool"""
    wanted, valid = _whole_numbers(values)
    order = np.argsort(known)
    place = np.searchsorted(known[order], wanted).clip(max=len(known) - 1)
    found = order[place]
    return found, valid & (known[found] == wanted)


def _whole_numbers(values: list[Any]) -> tuple[Ints, Mask]:
    """(A,) int64, and (A,) bool: which of the values are whole numbers."""
    if all(type(value) is int for value in values):
        try:
            return np.array(values, dtype=np.int64), np.ones(len(values), np.bool_)
        except OverflowError:
            pass
    numbers = [whole_number(value) for value in values]
    valid = np.array([found is not None for found in numbers], dtype=np.bool_)
    return np.array([found or 0 for found in numbers], dtype=np.int64), valid


def _boxes(values: list[Any]) -> Floats:
    """(A, 4), NaN where a value is not a list of four numbers."""
    try:
        boxes = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        boxes = np.empty(0)
    if boxes.shape == (len(values), 4):
        return np.where(np.abs(boxes) < LARGEST, boxes, math.nan)
    return np.array([box(value) or [math.nan] * 4 for value in values], dtype=np.float64).reshape(-1, 4)


def _areas(values: list[Any]) -> Floats:
    """(A,), NaN where a value is not a number."""
    return np.array([number(value) for value in values], dtype=np.float64)


def _refuse_repeated(ids: list[int], what: str, source: str) -> None:
    repeated = [repeated for repeated, count in Counter(ids).items() if count > 1]
    if repeated:
        listed = ", ".join(map(str, repeated[:5])) + (", ..." if len(repeated) > 5 else "")
        raise DataError(
            f"{source}: {len(repeated)} {what} ids stand for more than one entry: {listed}; give every entry its own id"
        )


def _ids(values: list[Any], what: str, source: str) -> list[int]:
    ids: list[int] = []
    for position, value in enumerate(values):
        found = whole_number(value)
        if found is None:
            raise DataError(f"{source}: {what}[{position}].id: {value!r} is not a whole number")
        ids.append(found)
    return ids


def _categories(entries: list[Category], source: str) -> Categories:
    if not entries:
        raise DataError(f"{source}: `categories` lists nothing; a detector needs at least one class")
    ids = _ids([entry.id for entry in entries], "categories", source)
    _refuse_repeated(ids, "category", source)
    pairs = sorted(zip(ids, entries, strict=True), key=lambda pair: pair[0])
    names = tuple(str(number if entry.name is None else entry.name) for number, entry in pairs)
    return Categories(names, tuple(number for number, _ in pairs))


def _image_ids(entries: list[ImageEntry], source: str) -> Ints:
    ids = _ids([entry.id for entry in entries], "images", source)
    _refuse_repeated(ids, "image", source)
    return np.array(ids, dtype=np.int64)


def _packed_names(entries: list[ImageEntry], source: str) -> tuple[Tensor, Tensor]:
    """All file names as one run of bytes, and where each ends (N + 1,): a list of texts could not be shared."""
    for position, entry in enumerate(entries):
        if not isinstance(entry.file_name, str) or not entry.file_name:
            raise DataError(f"{source}: images[{position}].file_name: {entry.file_name!r} is not the name of a file")
    names = [entry.file_name.encode(errors="replace") for entry in entries]  # half a pair of surrogates names no file
    ends = np.cumsum([0] + [len(name) for name in names])
    return torch.from_numpy(np.frombuffer(b"".join(names), np.uint8).copy()), torch.from_numpy(ends)
