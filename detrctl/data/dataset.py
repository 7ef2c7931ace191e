"""Datasets: an index, image files and transforms become samples for the model."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator
from torch import Tensor
from torch.utils.data import Dataset

from detrctl.boxes import Xyxy, xyxy_to_cxcywh
from detrctl.data.batch import Sample
from detrctl.data.cache import ImageCache
from detrctl.data.coco import CocoIndex
from detrctl.data.images import read_image
from detrctl.data.transforms import Record, make_record
from detrctl.errors import DataError
from detrctl.structures import Targets

Transform = Callable[[Record], Record]

_LENT = np.random.MT19937(0)


@contextmanager
def random_numbers_from(*key: int) -> Iterator[None]:
    """Torch's CPU, Python's and NumPy's global random numbers from a key; their former states come back afterwards.

    So a sample depends on its key alone, not on the process or on what was drawn before. The accelerators' generators,
    which `torch.manual_seed` would set as well, are left alone: they serve the model.
    """
    seeds = np.random.SeedSequence([number % 2**64 for number in key]).generate_state(2, np.uint64).tolist()
    states = torch.default_generator.get_state(), random.getstate(), get_bit_generator()
    torch.default_generator.manual_seed(seeds[0] >> 1)
    random.seed(seeds[1])
    # NumPy takes 80 microseconds to give its state and take it back, and next to nothing to lend another generator.
    set_bit_generator(_LENT)
    np.random.seed(seeds[1] % 2**32)
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        random.setstate(states[1])
        set_bit_generator(states[2])


def to_sample(record: Record, image_id: int, original_size_hw: tuple[int, int]) -> Sample:
    """What the transforms returned as plain tensors, boxes as fractions of the image that the model sees."""
    pixels = record["image"].as_subclass(Tensor)
    height, width = pixels.shape[-2:]
    fractions = record["boxes"].as_subclass(Tensor).float() / torch.tensor([width, height, width, height])
    targets = Targets(record["labels"], xyxy_to_cxcywh(Xyxy(fractions)), image_id)
    return Sample(pixels, targets, original_size_hw, image_id)


class DetectionDataset(Dataset[Sample | None]):
    """Item i is image i of the index, transformed.

    The same seed, epoch and image give the same sample in whichever process. In epochs that are said to be plain,
    `plain` transforms them, if there is one. A file that cannot be read raises
    DataError, or with `broken="skip"` gives None and is listed by `unreadable()`. With `cache`, decoded images stay in
    memory where all of them fit into 512 MB.
    """

    def __init__(
        self,
        index: CocoIndex,
        images: Path,
        transform: Transform,
        *,
        plain: Transform | None = None,
        seed: int = 0,
        broken: Literal["fail", "skip"] = "fail",
        cache: bool = False,
    ):
        self.index = index
        self.images = images
        self.transform, self.plain = transform, plain
        self.seed = seed
        self.broken = broken
        self._cache = ImageCache(index.sizes_hw, **({} if cache else {"limit_bytes": 0}))
        # Shared, so that loader processes see a new epoch, and the main process what they could not read.
        self._epoch, self._is_plain = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._unreadable = torch.zeros(len(index), dtype=torch.bool).share_memory_()

    def through(self, transform: Transform) -> "DetectionDataset":
        """The same images, transformed otherwise."""
        other = copy.copy(self)
        other.transform, other.plain = transform, None
        return other

    def set_epoch(self, epoch: int, *, plain: bool = False) -> None:
        """Call it before the loader's iterator is made."""
        self._epoch.fill_(epoch)
        self._is_plain.fill_(plain)

    def unreadable(self) -> list[Path]:
        """The files that were skipped so far, by any loader process."""
        return [self._path(i) for i in self._unreadable.nonzero().flatten().tolist()]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Sample | None:
        try:
            pixels = self.pixels(i)
        except DataError:
            if self.broken == "fail":
                raise
            self._unreadable[i] = True
            return None
        image_id = self.index.image(i).id
        height, width = pixels.shape[-2:]
        transform = self.plain if self.plain is not None and self._is_plain else self.transform
        with random_numbers_from(self.seed, int(self._epoch), image_id):
            record = transform(make_record(pixels, *self.index.targets(i, (height, width))))
        return to_sample(record, image_id, (height, width))

    def _path(self, i: int) -> Path:
        return self.images / self.index.image(i).file_name

    def pixels(self, i: int) -> Tensor:
        """Image i before the transforms, uint8 RGB (3, H, W). Raises DataError if it cannot be read."""
        pixels = self._cache.get(i)
        if pixels is None:
            image = self.index.image(i)
            known = image.width > 0 and image.height > 0
            pixels = read_image(self._path(i), size_wh=(image.width, image.height) if known else None)
            self._cache.put(i, pixels)
        return pixels
