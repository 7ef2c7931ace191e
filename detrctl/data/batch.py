"""Samples to one padded batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrctl.structures import Batch, ImageBatch, Targets


@dataclass(frozen=True)
class Sample:
    """One image, ready for the model: `pixels` (3, H, W), normalised; its truths; the original size and id."""

    pixels: Tensor
    targets: Targets
    original_size_hw: tuple[int, int]
    image_id: int


def pad_images(samples: Sequence[Sample]) -> ImageBatch:
    """Each image in the top-left corner of a canvas of the greatest height and the greatest width, zeros elsewhere."""
    height = max(sample.pixels.shape[1] for sample in samples)
    width = max(sample.pixels.shape[2] for sample in samples)
    pixels = torch.zeros(len(samples), 3, height, width)
    is_padding = torch.ones(len(samples), height, width, dtype=torch.bool)
    for index, sample in enumerate(samples):
        _, h, w = sample.pixels.shape
        pixels[index, :, :h, :w] = sample.pixels
        is_padding[index, :h, :w] = False
    sizes = torch.tensor([sample.original_size_hw for sample in samples])
    return ImageBatch(pixels, is_padding, sizes, tuple(sample.image_id for sample in samples))


def collate(samples: Sequence[Sample | None]) -> Batch | None:
    """The samples that could be read as one batch (broken images come as None); None if there is not one."""
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        return None
    return Batch(pad_images(readable), tuple(sample.targets for sample in readable))
