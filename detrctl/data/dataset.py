"""Datasets: an index, image files and transforms become samples for the model."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detrctl.boxes import Cxcywh, Xyxy, xyxy_to_cxcywh
from detrctl.data.batch import Sample
from detrctl.data.coco import CocoIndex
from detrctl.data.images import read_image
from detrctl.data.transforms import Record, make_record
from detrctl.errors import DataError
from detrctl.structures import Targets

Transform = Callable[[Record], Record]


@contextmanager
def random_numbers_from(*key: int) -> Iterator[None]:
    """Torch's CPU, Python's and NumPy's global random numbers from a key; their former states come back afterwards.

    So a sample depends on its key alone, not on the process or on what was drawn before. The accelerators' generators,
    which `torch.manual_seed` would also set, are left alone.
    """
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    states = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


def to_sample(record: Record, image_id: int, original_size_hw: tuple[int, int]) -> Sample:
    """What the transforms returned as plain tensors, boxes as fractions of the image that the model sees."""
    pixels = record["image"].as_subclass(Tensor)
    height, width = pixels.shape[-2:]
    fractions = record["boxes"].as_subclass(Tensor).float() / torch.tensor([width, height, width, height])
    boxes: Cxcywh = xyxy_to_cxcywh(Xyxy(fractions))
    return Sample(pixels, Targets(record["labels"], boxes, image_id), original_size_hw, image_id)


class DetectionDataset(Dataset[Sample | None]):
    """Item i is image i of the index, transformed; None if its file is broken and `broken` is "skip".

    The same seed, epoch and image give the same sample in whichever process.
    """

    def __init__(
        self,
        index: CocoIndex,
        images: Path,
        transform: Transform,
        *,
        seed: int = 0,
        broken: Literal["fail", "skip"] = "fail",
        cache: bool = False,
    ):
        self.index = index
        self.images = images
        self.transform = transform
        self.seed = seed
        self.broken = broken
        self._kept: dict[int, Tensor] | None = {} if cache else None
        # Shared, so that loader processes that live through several epochs see the change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Sample | None:
        try:
            pixels = self._pixels(i)
        except DataError:
            if self.broken == "fail":
                raise
            return None
        image = self.index.image(i)
        height, width = pixels.shape[-2:]
        with random_numbers_from(self.seed, int(self._epoch), image.id & 0xFFFFFFFFFFFFFFFF):
            record = self.transform(make_record(pixels, *self.index.targets(i, (height, width))))
        return to_sample(record, image.id, (height, width))

    def _pixels(self, i: int) -> Tensor:
        if self._kept is not None and i in self._kept:
            return self._kept[i]
        image = self.index.image(i)
        size_wh = (image.width, image.height) if image.width and image.height else None
        pixels = read_image(self.images / image.file_name, size_wh=size_wh)
        if self._kept is not None:
            self._kept[i] = pixels
        return pixels


class ImageFiles(Dataset[Sample | None]):
    """Images without truths, for prediction. Item i is None if file i is broken; `reason(i)` then says why."""

    def __init__(self, paths: Sequence[Path], transform: Transform):
        self.paths = tuple(paths)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Sample | None:
        try:
            pixels = read_image(self.paths[i])
        except DataError:
            return None
        height, width = pixels.shape[-2:]
        empty: tuple[Any, Any] = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return to_sample(self.transform(make_record(pixels, *empty)), i, (height, width))

    def reason(self, i: int) -> str | None:
        """Why file i cannot be read, in one line that names it; None if it can."""
        try:
            read_image(self.paths[i])
        except DataError as error:
            return str(error)
        return None
