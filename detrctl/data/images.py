"""Image files to pixels, whatever their mode and orientation."""

import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from detrctl.errors import DataError

ORIENTATION_TAG = 0x0112
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises on files that are damaged or no images."""


def read_image(path: Path, *, size_wh: tuple[int, int] | None = None) -> Tensor:
    """The pixels of an image file: uint8 RGB (3, H, W).

    `size_wh` is the width and height that an annotation file gives, whose boxes refer to them. A photograph with an
    EXIF orientation is turned if that, and only that, gives this size. Where the size cannot tell (square images, turns
    by 180 degrees, mirrorings) the pixels stay as stored, as the published training reads them. Without `size_wh` (in
    prediction) the image is turned as a viewer would show it.

    Transparency is ignored: the colours are taken as stored. 16-bit grey is divided by 257, the full range to the full
    range, so that one grey value means the same in every image.

    Raises DataError, naming the file, if it is missing, cannot be decoded, or has another size than `size_wh`.
    """
    try:
        with Image.open(path) as file:
            pixels = _pixels(file, size_wh)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file") from None
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be decoded as an image ({_reason(error, path)})") from None
    height, width = pixels.shape[-2:]
    if size_wh is not None and (width, height) != size_wh:
        raise DataError(
            f"{path}: the image is {width} x {height}, its annotations say {size_wh[0]} x {size_wh[1]}; "
            "its boxes cannot be placed"
        )
    return pixels


def pixels_of(image: Image.Image) -> Tensor:
    """An image that Pillow has opened, as `read_image` decodes its file in prediction: uint8 RGB (3, H, W)."""
    try:
        return _pixels(image, None)
    except UNREADABLE as error:
        raise DataError(f"cannot be decoded as an image ({_reason(error)})") from None


def _pixels(image: Image.Image, size_wh: tuple[int, int] | None) -> Tensor:
    # A view, whose colours lie together as they are decoded: a resize of such an image takes less than half the time.
    return torch.from_numpy(np.array(_to_rgb(_upright(image, size_wh)))).permute(2, 0, 1)


def _reason(error: BaseException, path: Path | None = None) -> str:
    """Pillow's first line, without the path that it repeats."""
    first = (str(error).splitlines() or [""])[0].replace(f" {str(path)!r}", "")
    return first or type(error).__name__


def is_sideways(image: Image.Image) -> bool:
    """Whether the EXIF orientation swaps width and height. Reads no pixels."""
    # Pillow would decode a whole PNG in search of an EXIF chunk behind the pixels.
    if image.format == "PNG" and "exif" not in image.info:
        return False
    return image.getexif().get(ORIENTATION_TAG, 1) in SIDEWAYS


def _upright(image: Image.Image, size_wh: tuple[int, int] | None) -> Image.Image:
    if size_wh is not None and (image.size == size_wh or image.size[::-1] != size_wh or not is_sideways(image)):
        return image
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16 bits at 255. Mode "I" holds 16-bit files in 32 bits.
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode == "P":
        # By way of RGBA, which Pillow asks for where a palette has transparency.
        image = image.convert("RGBA")
    return image.convert("RGB")
