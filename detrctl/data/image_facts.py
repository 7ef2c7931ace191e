"""What kinds of image files a split has, from their headers alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from detrctl.data.coco import CocoIndex
from detrctl.data.images import UNREADABLE, is_sideways
from detrctl.data.summary import ImageRecord

KINDS = {
    "1": "grey",
    "L": "grey",
    "LA": "grey",
    "I": "16-bit grey",
    "I;16": "16-bit grey",
    "I;16B": "16-bit grey",
    "I;16L": "16-bit grey",
    "P": "palette",
    "PA": "palette",
    "RGBA": "transparent",
    "RGBX": "transparent",
    "CMYK": "CMYK",
}
"""Pillow's modes that are not plain RGB."""


@dataclass(frozen=True)
class ImageFacts:
    """Counts by kind of file, and the names of those that reading will refuse."""

    looked_at: int
    kinds: dict[str, int]
    turned: int
    """Files whose EXIF orientation is followed, since the annotated size asks for it."""
    unreadable: tuple[str, ...]
    other_size: tuple[str, ...]

    def facts(self) -> list[str]:
        """One line for every kind that was found."""
        lines = [f"{kind} images, read as RGB: {count}" for kind, count in sorted(self.kinds.items())]
        return lines + ([f"images turned as their EXIF orientation says: {self.turned}"] if self.turned else [])


def look_into(index: CocoIndex, images: Path, positions: Sequence[int]) -> ImageFacts:
    """Opens, without decoding them, the files at these positions of the index."""
    kinds: Counter[str] = Counter()
    turned, unreadable, other_size = 0, [], []
    for i in positions:
        image = index.image(i)
        try:
            with Image.open(images / image.file_name) as file:
                kinds[KINDS.get(file.mode, "")] += 1
                as_stored, as_turned = _fits(file, image)
        except UNREADABLE:
            unreadable.append(image.file_name)
            continue
        turned += as_turned and not as_stored
        if not (as_stored or as_turned):
            other_size.append(image.file_name)
    del kinds[""]
    return ImageFacts(len(positions), dict(kinds), turned, tuple(unreadable), tuple(other_size))


def _fits(file: Image.Image, image: ImageRecord) -> tuple[bool, bool]:
    """Whether the file has the annotated size as it is stored, and as a viewer shows it."""
    if not (image.width and image.height):
        return not is_sideways(file), is_sideways(file)
    wanted = (image.width, image.height)
    return file.size == wanted, file.size[::-1] == wanted and is_sideways(file)
