"""A dataset of the user's own, named in the recipe (`data.dataset: package.module:Name`), behind the same interface.

The class is a `torch.utils.data.Dataset`, built as `Name(root=..., split=...)` with `data.root` and `train` or `val`.
It has `class_names`, a length, and items `(image, boxes, labels)`: (3, H, W) uint8 RGB, (G, 4) xyxy in pixels, (G,)
counted from 0.
"""

import copy
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from detrctl.data.batch import Sample
from detrctl.data.dataset import Transform, random_numbers_from, to_sample
from detrctl.data.transforms import make_record
from detrctl.errors import DataError, DetrctlError
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.parts import build_part
from detrctl.structures import Categories

Item = tuple[Tensor, Tensor, Tensor]


class OwnData(Protocol):
    """What the user's class offers."""

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Item: ...


def load_own_data(part: str, *, root: str | None, split: str) -> OwnData:
    """Import and build it. DataError where that fails, or where it lacks what training needs."""
    try:
        own: Any = build_part(part, Dataset, root=root, split=split)
    except DetrctlError as error:
        raise DataError(f"data.dataset: {error}") from error
    for member in ("class_names", "__len__"):
        if not hasattr(own, member):
            raise DataError(f"data.dataset: {part} has no `{member}`")
    return cast(OwnData, own)


class OwnDataset(Dataset[Sample]):
    """The user's items, checked and transformed (by `plain` in plain epochs); image ids are positions."""

    def __init__(self, own: OwnData, transform: Transform, *, plain: Transform | None = None, seed: int):
        self._own, self._transform, self._plain, self._seed = own, transform, plain, seed
        # Shared, so that loader processes see a new epoch, and the main process what they left out or clipped.
        self._epoch, self._is_plain = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._left_out, self._clipped = torch.zeros(2, len(own), dtype=torch.int32).share_memory_()

    def through(self, transform: Transform) -> "OwnDataset":
        """The same items, transformed otherwise."""
        other = copy.copy(self)
        other._transform, other._plain = transform, None
        return other

    def set_epoch(self, epoch: int, *, plain: bool = False) -> None:
        self._epoch.fill_(epoch)
        self._is_plain.fill_(plain)

    def __len__(self) -> int:
        return len(self._own)

    def __getitem__(self, i: int) -> Sample:
        transform = self._plain if self._plain is not None and self._is_plain else self._transform
        with random_numbers_from(self._seed, int(self._epoch), i):
            image, boxes, labels = checked(self._own[i], i, len(self._own.class_names))
            height, width = image.shape[-2:]
            inside = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))
            keep = _has_area(boxes) & _has_area(inside)
            self._left_out[i] = int((~keep).sum())
            self._clipped[i] = int((inside != boxes).any(dim=1)[keep].sum())
            record = transform(make_record(image, inside[keep], labels[keep]))
        return to_sample(record, i, (int(height), int(width)))

    def pixels(self, i: int) -> Tensor:
        """Image i before the transforms, uint8 RGB (3, H, W)."""
        return checked(self._own[i], i, len(self._own.class_names))[0]

    def found(self) -> dict[str, dict[int, int]]:
        """What was wrong with the boxes of the items that were read so far: how many in which item."""
        counted = (
            ("boxes that are not finite or have no area inside the image, left out of training", self._left_out),
            ("boxes that leave their image, clipped in training", self._clipped),
        )
        return {
            what: {i: int(count[i]) for i in count.nonzero().flatten().tolist()}
            for what, count in counted
            if count.any()
        }


def checked(item: Any, i: int, classes: int) -> Item:
    """The item as it is; DataError, saying which and what, if it is not what the interface promises."""
    if not (isinstance(item, tuple) and len(item) == 3 and all(isinstance(part, Tensor) for part in item)):
        raise DataError(f"data.dataset: item {i}: (image, boxes, labels) as three tensors are needed")
    image, boxes, labels = item
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise DataError(f"data.dataset: item {i}: the image is {_said(image)}; uint8 (3, H, W) is needed")
    if boxes.shape != (len(labels), 4):
        raise DataError(f"data.dataset: item {i}: boxes are {_said(boxes)}; ({len(labels)}, 4) xyxy pixels are needed")
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise DataError(f"data.dataset: item {i}: a label is outside 0 to {classes - 1}")
    return image, boxes.float(), labels.long()


def _has_area(boxes: Tensor) -> Tensor:
    """(G, 4) xyxy -> (G,) bool; False where a number is not finite."""
    return boxes.isfinite().all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


def _said(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def own_categories(own: OwnData) -> Categories:
    return Categories(tuple(own.class_names), tuple(range(len(own.class_names))))


def own_ground_truth(own: OwnData) -> GroundTruth:
    """What evaluation scores against; every item is read once for it."""
    categories, annotations = own_categories(own), []
    for i in range(len(own)):
        _, boxes, labels = checked(own[i], i, len(categories))
        keep = _has_area(boxes)
        for (x0, y0, x1, y1), label in zip(boxes[keep].tolist(), labels[keep].tolist(), strict=True):
            annotations.append({"image_id": i, "category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    return GroundTruth.from_coco_dict(
        {
            "images": [{"id": i} for i in range(len(own))],
            "categories": [{"id": i, "name": name} for i, name in enumerate(categories.names)],
            "annotations": annotations,
        },
        source="data.dataset",
    )
