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
    pixels, is_padding = _on_one_canvas([sample.pixels for sample in samples])
    sizes = torch.tensor([sample.original_size_hw for sample in samples])
    return ImageBatch(pixels, is_padding, sizes, tuple(sample.image_id for sample in samples))


def _on_one_canvas(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W), (B, H, W)"""
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    if all(image.shape == (3, height, width) for image in images):
        return torch.stack(list(images)), torch.zeros(len(images), height, width, dtype=torch.bool)
    pixels = torch.zeros(len(images), 3, height, width)
    is_padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for index, image in enumerate(images):
        _, h, w = image.shape
        pixels[index, :, :h, :w] = image
        is_padding[index, :h, :w] = False
    return pixels, is_padding


def collate(samples: Sequence[Sample | None]) -> Batch | None:
    """The samples that could be read as one batch (broken images come as None); None if there is not one."""
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        return None
    return Batch(pad_images(readable), tuple(sample.targets for sample in readable))
