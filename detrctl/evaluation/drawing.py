"""Pictures with boxes and readable labels: lines and type scale with the image, labels stay inside and apart.

Pixels are counted from the top-left corner; a `Frame` is (left, top, right, bottom).
"""

import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Frame = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

OKABE_ITO: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
"""Colours that people with any common colour blindness tell apart (Okabe and Ito 2008), brightest pairs first."""

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
LIGHTNESS = (0.78, 0.62, 0.86, 0.70)
DARK: Colour = (0, 0, 0)
LIGHT: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Mark:
    """One box to draw, (x0, y0, x1, y1) in pixels, with its label; it may leave the image."""

    box: Frame
    text: str
    colour: Colour


def class_colour(label: int) -> Colour:
    """The colour of class `label`, always the same: seven chosen ones, then hues a golden angle apart."""
    if label < len(OKABE_ITO):
        return OKABE_ITO[label]
    n = label - len(OKABE_ITO)
    return _from_oklch(LIGHTNESS[n % len(LIGHTNESS)], 0.13, n * GOLDEN_ANGLE)


def _from_oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """Even lightness for the eye. Source of the matrices: Ottosson 2020, "A perceptual color space" (Oklab)."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    return _to_byte(red), _to_byte(green), _to_byte(blue)


def _to_byte(linear: float) -> int:
    linear = min(max(linear, 0.0), 1.0)
    encoded = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return round(255 * encoded)


def contrast(a: Colour, b: Colour) -> float:
    """From 1 (equal) to 21 (black on white); readable from 4.5. Source: WCAG 2.1, contrast ratio."""
    bright, dim = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: Colour) -> float:
    shares = (x / 255 for x in colour)
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink_on(ground: Colour) -> Colour:
    """Black or white, whichever reads better: their contrast is at least 4.58 on any colour."""
    return max((DARK, LIGHT), key=lambda ink: contrast(ink, ground))


def draw(image: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    """A copy of `image` in RGB with the marks on it. Give the most important mark first: its label is placed first.

    A mark with an empty text is a box without a label.
    """
    picture = image.convert("RGB").copy()
    pen = ImageDraw.Draw(picture, "RGBA")
    line = max(2, round(math.sqrt(picture.width * picture.height) / 200))
    for mark in sorted(marks, key=lambda mark: -_area(mark.box)):  # small boxes stay visible on large ones
        _draw_box(pen, clip(mark.box, picture.size), mark.colour, line)
    font = _font(font_size(picture.size, len(marks)))
    named = [mark for mark in marks if mark.text]
    labels = place_labels([mark.box for mark in named], [_text_size(font, mark.text) for mark in named], picture.size)
    for mark, label in reversed(list(zip(named, labels, strict=True))):
        _draw_label(pen, label, mark, font)
    return picture


def _font(size: float) -> Font:
    """DejaVu Sans, which knows most alphabets, from matplotlib's files; Pillow's own font knows plain ASCII."""
    found = importlib.util.find_spec("matplotlib")
    place = Path(found.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if found and found.origin else None
    if place is None or not place.is_file():
        return ImageFont.load_default(size)
    return ImageFont.truetype(place, size)


def font_size(size_wh: tuple[int, int], marks: int) -> float:
    """In pixels: about a 28th of the image's side, smaller where many labels must fit, never below what can be read."""
    return max(10.0, math.sqrt(size_wh[0] * size_wh[1]) / (28 if marks <= 12 else 36))


def clip(box: Frame, size_wh: tuple[int, int]) -> Frame:
    """The part of the box inside the image, whole pixels; at least one pixel is left."""
    width, height = size_wh
    x0, x1 = sorted(min(max(x, 0), width - 1) for x in (box[0], box[2]))
    y0, y1 = sorted(min(max(y, 0), height - 1) for y in (box[1], box[3]))
    return round(x0), round(y0), round(x1), round(y1)


def _area(box: Frame) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _draw_box(pen: ImageDraw.ImageDraw, box: Frame, colour: Colour, line: int) -> None:
    """The class's colour between two thin dark lines, so that it shows on any background."""
    edge = max(1, line // 3)
    pen.rectangle((box[0] - edge, box[1] - edge, box[2] + edge, box[3] + edge), outline=(*DARK, 110), width=edge)
    pen.rectangle(box, outline=colour, width=line)
    inner = (box[0] + line, box[1] + line, box[2] - line, box[3] - line)
    if inner[2] > inner[0] and inner[3] > inner[1]:
        pen.rectangle(inner, outline=(*DARK, 110), width=edge)


def _padding(font: Font) -> tuple[int, int]:
    size = getattr(font, "size", 10)
    return max(2, round(size * 0.28)), max(1, round(size * 0.14))


def _text_size(font: Font, text: str) -> tuple[float, float]:
    """Width and height of a label: the text and its padding; every label of one font is equally high."""
    x, y = _padding(font)
    left, _, right, _ = font.getbbox(text)
    _, top, _, bottom = font.getbbox("Hgjy")
    return right - left + 2 * x, bottom - top + 2 * y


def _draw_label(pen: ImageDraw.ImageDraw, frame: Frame, mark: Mark, font: Font) -> None:
    x, y = _padding(font)
    pen.rounded_rectangle((frame[0], frame[1], frame[2] - 1, frame[3] - 1), radius=y + 1, fill=(*mark.colour, 235))
    _, top, _, _ = font.getbbox("Hgjy")
    pen.text(
        (frame[0] + x - font.getbbox(mark.text)[0], frame[1] + y - top), mark.text, fill=ink_on(mark.colour), font=font
    )


def place_labels(boxes: Sequence[Frame], sizes: Sequence[tuple[float, float]], size_wh: tuple[int, int]) -> list[Frame]:
    """A place for every label: inside the image, at its box, and where possible on no label placed before."""
    placed: list[Frame] = []
    for box, size in zip(boxes, sizes, strict=True):
        places = [_inside(place, size_wh) for place in _places(clip(box, size_wh), size)]
        placed.append(min(places, key=lambda place: sum(_shared(place, other) for other in placed)))
    return placed


def _places(box: Frame, size: tuple[float, float]) -> Iterator[Frame]:
    """Best first: on top of the box, inside it, below it; from its left, then from its right; then along its sides."""
    width, height = size
    lefts = (box[0], box[2] - width + 1)
    tops = (box[1] - height, box[1], box[3] + 1, box[3] - height + 1)
    for top in tops:
        for left in lefts:
            yield left, top, left + width, top + height
    for top in (box[1], (box[1] + box[3] - height) / 2, box[3] - height + 1):
        for left in (box[2] + 1, box[0] - width):
            yield left, top, left + width, top + height


def _inside(frame: Frame, size_wh: tuple[int, int]) -> Frame:
    """Shifted into the image, whole pixels; a label wider than the image starts at its left edge."""
    left = round(max(0, min(frame[0], size_wh[0] - (frame[2] - frame[0]))))
    top = round(max(0, min(frame[1], size_wh[1] - (frame[3] - frame[1]))))
    return left, top, left + round(frame[2] - frame[0]), top + round(frame[3] - frame[1])


def _shared(a: Frame, b: Frame) -> float:
    """The area that two frames have in common."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)
