"""The images that the yardsticks train on and are scored on: the product's data path, cut into parts.

The one difference to a recipe with policy `square`: where it has several sizes, one is drawn per batch and not per
image, as the published RT-DETR draws them; neither opponent then sees padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Subset

from detrctl.data.batch import collate
from detrctl.data.coco import CocoIndex, find_splits
from detrctl.data.dataset import DetectionDataset, Transform
from detrctl.data.transforms import PLAIN, eval_transform, train_transform
from detrctl.errors import DataError, DetrctlError
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.structures import Batch

Loader = DataLoader[Batch | None]


@dataclass(frozen=True)
class Augmentation:
    """Fields of the same names in a recipe's `data.augment`; `sizes` are the sides that training draws from."""

    sizes: tuple[int, ...]
    flip: float
    vertical_flip: float
    photometric: bool
    zoom_out: float
    iou_crop: float

    def transform(self) -> Transform:
        """To the greatest of the sizes; `at_size` makes the others from it, batch by batch."""
        fields = {name: value for name, value in vars(self).items() if name != "sizes"}
        return train_transform(policy="square", sizes=[max(self.sizes)], **fields)

    def plain(self) -> Transform:
        """For the end of the training, as a recipe's `plain_end` has it."""
        return replace(self, **PLAIN).transform()


@dataclass(frozen=True)
class Split:
    """A split, or the part of it that `positions` names."""

    dataset: DetectionDataset
    positions: tuple[int, ...]
    truth: GroundTruth

    @classmethod
    def read(cls, root: Path, name: str, transform: Transform, *, plain: Transform | None = None, seed: int) -> "Split":
        files = find_splits(root).get(name)
        if files is None or files.annotations is None:
            raise DataError(f"{root}: no annotated split `{name}`; give a dataset that has one")
        index = CocoIndex.read(files.annotations)
        dataset = DetectionDataset(index, files.images, transform, plain=plain, seed=seed)
        return cls(dataset, tuple(range(len(index))), GroundTruth.from_file(files.annotations))

    def part(self, positions: Sequence[int]) -> "Split":
        """Only these positions, and the truths of only these images."""
        ids = [self.dataset.index.image(i).id for i in positions]
        return Split(self.dataset, tuple(positions), self.truth.only(ids))

    def loader(self, *, batch: int, workers: int, shuffle: bool, seed: int = 0) -> Loader:
        return DataLoader(
            Subset(self.dataset, self.positions),  # type: ignore[arg-type]
            batch_size=batch,
            shuffle=shuffle,
            # A last batch of one image would give batch norm little to go by.
            drop_last=shuffle and len(self.positions) > batch,
            num_workers=workers,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(seed),
            persistent_workers=workers > 0,
        )


@dataclass(frozen=True)
class Data:
    """`train` is augmented, `plain` holds the same images as evaluation sees them, `val` is for the end."""

    train: Split
    plain: Split
    val: Split

    @classmethod
    def read(cls, root: Path, *, augmentation: Augmentation, size: int, seed: int) -> "Data":
        plain = eval_transform(size=size, max_size=size, square=True)
        data = cls(
            Split.read(root, "train", augmentation.transform(), plain=augmentation.plain(), seed=seed),
            Split.read(root, "train", plain, seed=seed),
            Split.read(root, "val", plain, seed=seed),
        )
        if data.train.dataset.index.categories != data.val.dataset.index.categories:
            raise DataError(f"{root}: `train` and `val` do not have the same categories")
        return data

    @property
    def num_classes(self) -> int:
        return len(self.train.dataset.index.categories)

    def divided(self, *, limit: int | None, holdout: int) -> tuple[Split, Split]:
        """The first images of the training split, at most `limit`, to train on; its last `holdout`, to choose on."""
        positions = self.train.positions
        if not 0 <= holdout < len(positions):
            raise DetrctlError(f"--holdout {holdout}: the training split has {len(positions)} images")
        cut = len(positions) - holdout
        return self.train.part(positions[:cut][:limit]), self.plain.part(positions[cut:])


def at_size(batch: Batch, size: int) -> Batch:
    """A batch of equally large square images, at another size. Boxes are fractions and stay as they are."""
    if batch.images.is_padding.any():
        raise DetrctlError("the yardsticks take images of one size a batch: use policy `square`")
    if batch.images.pixels.shape[-1] == size:
        return batch
    pixels = interpolate(batch.images.pixels, (size, size), mode="bilinear", antialias=True)
    is_padding = torch.zeros(len(pixels), size, size, dtype=torch.bool)
    return replace(batch, images=replace(batch.images, pixels=pixels, is_padding=is_padding))
