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

GREY = torch.tensor([round(255 * mean) for mean in MEAN], dtype=torch.uint8)
"""Nearly zero after normalising, as padding is."""

PLAIN = {"zoom_out": 0.0, "iou_crop": 0.0}
"""What `train_transform` is given instead in the epochs of `data.augment.plain_end`."""

Record = dict[str, Any]


def make_record(image: Tensor, boxes: Tensor, labels: Tensor) -> Record:
    """(3, H, W) uint8, (G, 4) xyxy pixels, (G,) -> what the transforms work on."""
    height, width = image.shape[-2:]
    on_canvas = tv_tensors.BoundingBoxes(boxes.reshape(-1, 4), format="XYXY", canvas_size=(height, width))
    return {"image": tv_tensors.Image(image), "boxes": on_canvas, "labels": labels}


def shortest_side_size(height: int, width: int, size: int, max_size: int | None) -> tuple[int, int]:
    """Height and width after the shortest side becomes `size`, or less where the longest would exceed `max_size`.

    As published: the longer side is cut to an integer, not rounded, and `size` itself is rounded where `max_size` rules
    (so that the longest side can miss `max_size` by a pixel or two). No side becomes less than one pixel.
    """
    short, long = min(height, width), max(height, width)
    if max_size is not None and long / short * size > max_size:
        size = round(max_size * short / long)
        if size < 1:
            return (max_size, 1) if width < height else (1, max_size)
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
    height, width = _size_hw(record)
    if size_hw == (height, width):
        return record
    image = F.resize(record["image"], list(size_hw), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
    ratio_y, ratio_x = size_hw[0] / height, size_hw[1] / width
    boxes = record["boxes"].as_subclass(Tensor) * torch.tensor([ratio_x, ratio_y, ratio_x, ratio_y])
    return {**record, **make_record(image, boxes, record["labels"])}


def crop(record: Record, top: int, left: int, height: int, width: int, *, only: Tensor | None = None) -> Record:
    """Cut a window out. Boxes are clipped to it, and kept if anything of them is left: any area above zero.

    `only` (G,) bool: the boxes that may stay.
    """
    image = F.crop(record["image"], top, left, height, width)
    boxes = record["boxes"].as_subclass(Tensor) - torch.tensor([left, top, left, top])
    boxes = torch.minimum(boxes, torch.tensor([width, height, width, height])).clamp(min=0)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    keep = keep if only is None else keep & only
    return {**record, **make_record(image, boxes[keep], record["labels"][keep])}


class HorizontalFlip(v2.Transform):
    """Mirror left and right."""

    def forward(self, record: Record) -> Record:
        width = _size_hw(record)[1]
        boxes = record["boxes"].as_subclass(Tensor)[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1])
        return {
            **record,
            **make_record(F.hflip(record["image"]), boxes + torch.tensor([width, 0, width, 0]), record["labels"]),
        }


class VerticalFlip(v2.Transform):
    """Mirror top and bottom."""

    def forward(self, record: Record) -> Record:
        height = _size_hw(record)[0]
        boxes = record["boxes"].as_subclass(Tensor)[:, [0, 3, 2, 1]] * torch.tensor([1, -1, 1, -1])
        return {
            **record,
            **make_record(F.vflip(record["image"]), boxes + torch.tensor([0, height, 0, height]), record["labels"]),
        }


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
    """Crop a window whose width and height are each drawn evenly from `min_size` to `max_size` or the image's side."""

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


class ZoomOut(v2.Transform):
    """Place the image anywhere on a grey canvas of 1 to `most` times its sides (SSD: Liu et al. 2016, section 3.6).

    v2's own enlarges without bound. Here the canvas, and the image with it, is scaled down where its longest side would
    exceed `limit`, which no later step does: the same picture for a fraction of the time.
    """

    def __init__(self, *, limit: int, most: float = 4.0):
        super().__init__()
        self.limit = limit
        self.most = most

    def forward(self, record: Record) -> Record:
        height, width = _size_hw(record)
        zoom = 1 + (self.most - 1) * float(torch.rand(()))
        shrink = min(1.0, self.limit / (max(height, width) * zoom))
        record = _resize(record, (max(1, int(height * shrink)), max(1, int(width * shrink))))
        height, width = _size_hw(record)
        canvas_height, canvas_width = int(height * zoom), int(width * zoom)
        top, left = _between(0, canvas_height - height), _between(0, canvas_width - width)
        canvas = GREY[:, None, None].repeat(1, canvas_height, canvas_width)
        canvas[:, top : top + height, left : left + width] = record["image"]
        boxes = record["boxes"].as_subclass(Tensor) + torch.tensor([left, top, left, top])
        return {**record, **make_record(canvas, boxes, record["labels"])}


class IouCrop(v2.Transform):
    """SSD's crop (Liu et al. 2016, section 2.2), drawn as v2 draws it: the boxes whose centre is inside stay, clipped.

    Images without boxes, and those of a few pixels, which v2 cannot handle, stay whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draw = v2.RandomIoUCrop()

    def forward(self, record: Record) -> Record:
        if not len(record["boxes"]) or min(_size_hw(record)) < 8:
            return record
        drawn = self.draw.make_params([record["image"], record["boxes"]])
        if not drawn:
            return record
        window = (drawn["top"], drawn["left"], drawn["height"], drawn["width"])
        return crop(record, *window, only=drawn["is_within_crop_area"])


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


class ImageOnly(v2.Transform):
    """A transform of pixels, spared the search of the whole sample for what it could change."""

    def __init__(self, transform: v2.Transform):
        super().__init__()
        self.inner = transform

    def forward(self, record: Record) -> Record:
        # Colour by colour: an image as it is decoded has them interleaved, which is slower for this.
        return {**record, "image": self.inner(record["image"].contiguous())}


class Normalise(v2.Transform):
    """uint8 pixels to float, less ImageNet's mean, over its standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = 255 * torch.tensor(MEAN)[:, None, None]
        self.deviation = 255 * torch.tensor(STD)[:, None, None]

    def forward(self, record: Record) -> Record:
        pixels = record["image"].as_subclass(Tensor).contiguous().float().sub_(self.mean).div_(self.deviation)
        return {**record, "image": tv_tensors.Image(pixels)}


def photometric_distortion() -> v2.Transform:
    """SSD's ranges (Liu et al. 2016): brightness, contrast, saturation and hue, each with probability 0.5."""
    jitters = ({"brightness": 0.125}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.05})
    return v2.Compose([Sometimes(ImageOnly(v2.ColorJitter(**jitter)), p=0.5) for jitter in jitters])


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
    """Canvas, IoU crop and flips, then the policy's geometry and the colours, then normalised.

    The defaults are the published ones, and the names those of the recipe's `data.augment`. Policy `none` resizes as
    evaluation does, by the `eval_...` sizes; `large_scale_jitter` works on a square of the greatest of `sizes`.
    """
    evaluation = ResizeSquare([eval_size]) if eval_square else ResizeShortest([eval_size], eval_max_size)
    geometry, longest = {
        "detr": (_detr_geometry(sizes, max_size, crop_first, crop_size), max_size),
        "square": (ResizeSquare(sizes), max(sizes)),
        "large_scale_jitter": (LargeScaleJitter(max(sizes), scale), int(max(sizes) * max(1.0, scale[1]))),
        "none": (evaluation, eval_size if eval_square else eval_max_size),
    }[policy]
    # Colours come after the resize: small images, less work.
    steps = [
        (zoom_out, Sometimes(ZoomOut(limit=longest), p=zoom_out)),
        (iou_crop, Sometimes(IouCrop(), p=iou_crop)),
        (flip, Sometimes(HorizontalFlip(), p=flip)),
        (vertical_flip, Sometimes(VerticalFlip(), p=vertical_flip)),
        (True, geometry),
        (photometric, photometric_distortion()),
        (True, Normalise()),
    ]
    return v2.Compose([step for wanted, step in steps if wanted])
