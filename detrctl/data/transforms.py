"""What happens to an image and its boxes before the model sees them.

Every step is a `torchvision.transforms.v2` transform of a sample: a dict of `image` (tv_tensors.Image, uint8),
`boxes` (tv_tensors.BoundingBoxes, xyxy in pixels) and `labels` (G,). Images are resized as uint8 tensors, bilinear
with antialiasing; the published training resizes with Pillow, whose rounding differs by at most one grey level.

The published augmentation is that of DETR (Carion et al. 2020, appendix A.4, and its code): a horizontal flip with
probability 0.5; then with equal chances a resize of the shortest side, or a resize, a random crop and a resize.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, which the published backbones were trained with."""

Record = dict[str, Any]


def make_record(image: Tensor, boxes: Tensor, labels: Tensor) -> Record:
    """(3, H, W) uint8, (G, 4) xyxy pixels, (G,) -> what the transforms work on."""
    height, width = image.shape[-2:]
    on_canvas = tv_tensors.BoundingBoxes(boxes.reshape(-1, 4), format="XYXY", canvas_size=(height, width))
    return {"image": tv_tensors.Image(image), "boxes": on_canvas, "labels": labels}


def shortest_side_size(height: int, width: int, size: int, max_size: int | None) -> tuple[int, int]:
    """Height and width after the shortest side becomes `size`, or less where the longest would exceed `max_size`.

    As published: the longer side is cut to an integer, not rounded, and `size` itself is rounded where `max_size` rules
    (so that the longest side can miss `max_size` by a pixel or two).
    """
    short, long = min(height, width), max(height, width)
    if max_size is not None and long / short * size > max_size:
        size = round(max_size * short / long)
    if short == size:
        return height, width
    if width < height:
        return int(size * height / width), size
    return size, int(size * width / height)


def _size_hw(record: Record) -> tuple[int, int]:
    height, width = record["image"].shape[-2:]
    return height, width


def _pick(choices: Sequence[int]) -> int:
    return choices[int(torch.randint(len(choices), ()))]


def _between(low: int, high: int) -> int:
    """low <= n <= high"""
    return int(torch.randint(low, high + 1, ()))


def _resize(record: Record, size_hw: tuple[int, int]) -> Record:
    if size_hw == _size_hw(record):
        return record
    size = list(size_hw)
    image = F.resize(record["image"], size, interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
    return {**record, "image": image, "boxes": F.resize(record["boxes"], size)}


def crop(record: Record, top: int, left: int, height: int, width: int) -> Record:
    """Cut a window out. Boxes are clipped to it, and kept if anything of them is left: any area above zero."""
    image = F.crop(record["image"], top, left, height, width)
    boxes = record["boxes"].as_subclass(Tensor) - torch.tensor([left, top, left, top])
    limits = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    boxes = torch.minimum(boxes, limits).clamp(min=0)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return make_record(image, boxes[keep], record["labels"][keep])


class ResizeShortest(v2.Transform):
    """Resize so that the shortest side has one of `sizes`, drawn evenly, and the longest at most `max_size`."""

    def __init__(self, sizes: Sequence[int], max_size: int | None = None):
        super().__init__()
        self.sizes = tuple(sizes)
        self.max_size = max_size

    def forward(self, record: Record) -> Record:
        return _resize(record, shortest_side_size(*_size_hw(record), _pick(self.sizes), self.max_size))


class ResizeSquare(v2.Transform):
    """Resize to a square with one of `sizes` as its side, drawn evenly; the aspect ratio is not kept."""

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        self.sizes = tuple(sizes)

    def forward(self, record: Record) -> Record:
        side = _pick(self.sizes)
        return _resize(record, (side, side))


class RandomSizeCrop(v2.Transform):
    """Crop a window whose width and height are drawn evenly and apart from `min_size` to `max_size` or the image's side."""

    def __init__(self, min_size: int, max_size: int):
        super().__init__()
        self.min_size = min_size
        self.max_size = max_size

    def forward(self, record: Record) -> Record:
        full_height, full_width = _size_hw(record)
        width = self._side(full_width)
        height = self._side(full_height)
        top, left = _between(0, full_height - height), _between(0, full_width - width)
        return crop(record, top, left, height, width)

    def _side(self, full: int) -> int:
        # The published code fails on images smaller than min_size; here they stay whole.
        return _between(min(self.min_size, full), min(self.max_size, full))


class LargeScaleJitter(v2.Transform):
    """Fit into a square of `size`, times a scale drawn evenly, then crop what exceeds the square.

    Source: Ghiasi et al. 2021, "Simple Copy-Paste", section 3. Images that come out smaller are not padded here: a
    batch pads and masks.
    """

    def __init__(self, size: int, scale: tuple[float, float]):
        super().__init__()
        self.size = size
        self.scale = scale

    def forward(self, record: Record) -> Record:
        height, width = _size_hw(record)
        low, high = self.scale
        factor = (low + (high - low) * float(torch.rand(()))) * self.size / max(height, width)
        record = _resize(record, (max(1, int(height * factor)), max(1, int(width * factor))))
        height, width = _size_hw(record)
        new_height, new_width = min(height, self.size), min(width, self.size)
        top, left = _between(0, height - new_height), _between(0, width - new_width)
        return crop(record, top, left, new_height, new_width)


class IouCrop(v2.Transform):
    """SSD's crop (Liu et al. 2016, section 2.2), as v2 draws it: keeps the boxes whose centre stays inside, clipped."""

    def __init__(self) -> None:
        super().__init__()
        self.draw = v2.RandomIoUCrop()

    def forward(self, record: Record) -> Record:
        if not len(record["boxes"]):
            return record
        image, boxes, labels = self.draw(record["image"], record["boxes"], record["labels"])
        # v2 leaves the boxes that the crop loses as empty ones.
        keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        return make_record(image, boxes.as_subclass(Tensor)[keep], labels[keep])


class OneOf(v2.Transform):
    """The first with probability `p`, else the second."""

    def __init__(self, first: v2.Transform, second: v2.Transform, *, p: float = 0.5):
        super().__init__()
        self.first = first
        self.second = second
        self.p = p

    def forward(self, record: Record) -> Record:
        chosen: v2.Transform = self.first if float(torch.rand(())) < self.p else self.second
        return chosen(record)


class Sometimes(v2.Transform):
    """A transform with probability `p`, else nothing."""

    def __init__(self, transform: v2.Transform, *, p: float):
        super().__init__()
        self.inner = transform
        self.p = p

    def forward(self, record: Record) -> Record:
        return self.inner(record) if float(torch.rand(())) < self.p else record


class Normalise(v2.Transform):
    """uint8 pixels to float, less ImageNet's mean, over its standard deviation."""

    def forward(self, record: Record) -> Record:
        mean = torch.tensor(MEAN)[:, None, None] * 255
        scale = torch.tensor(STD)[:, None, None] * 255
        pixels = record["image"].as_subclass(Tensor).float().sub_(mean).div_(scale)
        return {**record, "image": tv_tensors.Image(pixels)}


def eval_transform(*, size: int, max_size: int, square: bool = False) -> v2.Transform:
    """Shortest side `size` and longest at most `max_size`, or `size` x `size`; then normalised. Nothing is random."""
    resize = ResizeSquare([size]) if square else ResizeShortest([size], max_size)
    return v2.Compose([resize, Normalise()])


def _detr_geometry(
    sizes: Sequence[int], max_size: int, crop_first: Sequence[int], crop_size: tuple[int, int]
) -> v2.Transform:
    resize = ResizeShortest(sizes, max_size)
    if not crop_first:
        return resize
    return OneOf(resize, v2.Compose([ResizeShortest(crop_first), RandomSizeCrop(*crop_size), resize]), p=0.5)


def train_transform(
    *,
    policy: str = "detr",
    sizes: Sequence[int] = tuple(range(480, 801, 32)),
    max_size: int = 1333,
    crop_first: Sequence[int] = (400, 500, 600),
    crop_size: tuple[int, int] = (384, 600),
    scale: tuple[float, float] = (0.1, 2.0),
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    photometric: bool = False,
    zoom_out: float = 0.0,
    iou_crop: float = 0.0,
    eval_size: int = 800,
    eval_max_size: int = 1333,
    eval_square: bool = False,
) -> v2.Transform:
    """Colours, canvas, flips, then the policy's geometry, then normalised; the defaults are the published ones.

    Names are those of the recipe's `data.augment`. Policy `none` resizes as evaluation does, by the `eval_...` sizes;
    `large_scale_jitter` works on a square of the greatest of `sizes`.
    """
    geometry = {
        "detr": lambda: _detr_geometry(sizes, max_size, crop_first, crop_size),
        "square": lambda: ResizeSquare(sizes),
        "large_scale_jitter": lambda: LargeScaleJitter(max(sizes), scale),
        "none": lambda: ResizeSquare([eval_size]) if eval_square else ResizeShortest([eval_size], eval_max_size),
    }[policy]()
    steps: list[v2.Transform] = [v2.RandomPhotometricDistort(p=0.5)] if photometric else []
    if zoom_out:
        grey = tuple(round(255 * mean) for mean in MEAN)
        steps.append(v2.RandomZoomOut(fill=list(grey), side_range=(1.0, 4.0), p=zoom_out))
    if iou_crop:
        steps.append(Sometimes(IouCrop(), p=iou_crop))
    steps += [v2.RandomHorizontalFlip(flip)] if flip else []
    steps += [v2.RandomVerticalFlip(vertical_flip)] if vertical_flip else []
    return v2.Compose([*steps, geometry, Normalise()])
