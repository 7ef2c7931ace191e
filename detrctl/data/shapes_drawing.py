"""The drawing of the shapes set: figures, backgrounds and clutter, from arithmetic alone.

Masks are taken on 3 x 3 sub-pixels and random numbers from PCG64's raw integers, whose stream NumPy promises to keep,
rather than by a drawing library whose antialiasing changes with its version. Any change here is another set.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 20200526
SPLIT_KEYS = {"train": 0, "val": 1}
SUB = 3
"""Sub-pixels per pixel and axis."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]
"""COCO's x, y, width, height in pixels."""


class Draws:
    """Random numbers from the raw 64-bit stream of PCG64; no method of numpy's Generator, whose streams may change."""

    def __init__(self, *key: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def uniforms(self, *shape: int) -> Floats:
        raw = self._bits.random_raw(math.prod(shape)).reshape(shape)
        return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(self.uniforms(1)[0])

    def integer(self, low: int, high: int) -> int:
        """low <= n <= high"""
        return low + int(self.uniform() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def weighted(self, weights: tuple[float, ...]) -> int:
        point, total = self.uniform() * sum(weights), 0.0
        for index, weight in enumerate(weights):
            total += weight
            if point < total:
                return index
        return len(weights) - 1


# ---- figures: who lies inside, in coordinates where the figure reaches from -1 to 1 (v points down) ----


def _circle(u: Floats, v: Floats) -> Mask:
    return u * u + v * v < 1


def _ring(u: Floats, v: Floats) -> Mask:
    r2 = u * u + v * v
    return (r2 < 1) & (r2 > 0.58**2)


def _square(u: Floats, v: Floats) -> Mask:
    return np.maximum(np.abs(u), np.abs(v)) < 0.92


def _triangle(u: Floats, v: Floats) -> Mask:
    return (v < 0.85) & (2 * np.abs(u) < v + 0.95)


def _star(u: Floats, v: Floats) -> Mask:
    """A pentagram is where at least four of the five half-planes through the inner pentagon's edges hold."""
    inside = np.zeros(u.shape, np.int8)
    for k in range(5):
        angle = math.pi * (0.5 + 0.4 * k)
        inside += u * math.cos(angle) + v * math.sin(angle) < 0.36
    return inside >= 4


def _cross(u: Floats, v: Floats) -> Mask:
    a, b = np.abs(u), np.abs(v)
    return (np.minimum(a, b) < 0.34) & (np.maximum(a, b) < 1)


FIGURES: dict[str, Callable[[Floats, Floats], Mask]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}


# ---- backgrounds ----


def _smooth_noise(draws: Draws, height: int, width: int, cells: int) -> Floats:
    """Random values on a grid of `cells` x `cells`, bilinear in between: (height, width, 3) in -1..1"""
    grid = draws.uniforms(cells + 1, cells + 1, 3) * 2 - 1
    y = (np.arange(height) + 0.5) * cells / height
    x = (np.arange(width) + 0.5) * cells / width
    y0, x0 = y.astype(np.int64), x.astype(np.int64)
    fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    top = grid[y0][:, x0] * (1 - fx) + grid[y0][:, x0 + 1] * fx
    bottom = grid[y0 + 1][:, x0] * (1 - fx) + grid[y0 + 1][:, x0 + 1] * fx
    return top * (1 - fy) + bottom * fy


def _waves(draws: Draws, height: int, width: int) -> Floats:
    """Stripes or a checkerboard of triangle waves: (height, width, 1) in -1..1"""
    angle, period = draws.uniform(0, math.pi), draws.uniform(7, 26)
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    along = (x * math.cos(angle) + y * math.sin(angle)) / period
    wave = 4 * np.abs(along - np.floor(along) - 0.5) - 1
    if draws.chance(0.35):
        across = (y * math.cos(angle) - x * math.sin(angle)) / period
        wave = wave * (4 * np.abs(across - np.floor(across) - 0.5) - 1)
    if draws.chance(0.5):
        wave = np.clip(3 * wave, -1, 1)
    return wave[:, :, None]


def _background(draws: Draws, height: int, width: int) -> Floats:
    """Colour, gradient, cloud, stripes and grain: (height, width, 3)"""
    base = 40 + 175 * draws.uniforms(3)
    canvas = np.broadcast_to(base, (height, width, 3)).copy()
    canvas += draws.uniform(8, 45) * _smooth_noise(draws, height, width, 1)
    canvas += draws.uniform(4, 24) * _smooth_noise(draws, height, width, draws.integer(3, 9))
    if draws.chance(0.5):
        canvas += draws.uniform(6, 22) * _waves(draws, height, width) * (0.4 + draws.uniforms(3))
    if draws.chance(0.6):
        canvas += draws.uniform(3, 10) * (2 * draws.uniforms(height, width, 1) - 1)
    return canvas


def _paint(canvas: Floats, cover: Floats, colour: Floats) -> None:
    canvas += cover[:, :, None] * (colour - canvas)


def _line(draws: Draws, height: int, width: int) -> Floats:
    """How much each pixel is covered by a straight or bowed line: (height, width)"""
    angle, bow = draws.uniform(0, 2 * math.pi), draws.uniform(-0.012, 0.012)
    y0, x0 = draws.uniform(0, height), draws.uniform(0, width)
    thickness, length = draws.uniform(0.7, 2.5), draws.uniform(15, 90)
    y, x = np.arange(height)[:, None] + 0.5 - y0, np.arange(width)[None, :] + 0.5 - x0
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    distance = np.abs(across - bow * along * along)
    return np.clip(thickness + 0.5 - distance, 0, 1) * np.clip(length / 2 + 0.5 - np.abs(along), 0, 1)


def _blob(draws: Draws, height: int, width: int) -> Floats:
    """A long blurred blob, at least 2.2 times as long as wide, so that no class looks like it: (height, width)"""
    angle, narrow = draws.uniform(0, math.pi), draws.uniform(4, 13)
    wide = narrow * draws.uniform(2.2, 4)
    y = np.arange(height)[:, None] + 0.5 - draws.uniform(0, height)
    x = np.arange(width)[None, :] + 0.5 - draws.uniform(0, width)
    u = (x * math.cos(angle) + y * math.sin(angle)) / wide
    v = (y * math.cos(angle) - x * math.sin(angle)) / narrow
    return np.clip(1.25 * (1 - u * u - v * v), 0, 1) * draws.uniform(0.4, 0.9)


def _clutter(draws: Draws, canvas: Floats) -> None:
    height, width, _ = canvas.shape
    for kind, most in ((_blob, 3), (_line, 6)):
        for _ in range(draws.integer(0, most)):
            _paint(canvas, kind(draws, height, width), 255 * draws.uniforms(3))


# ---- figures on the canvas ----


@dataclass(frozen=True)
class Pose:
    """Where a figure lies: centre and half sides in pixels, angle in radians."""

    name: str
    x: float
    y: float
    half_width: float
    half_height: float
    angle: float

    def stamp(self, height: int, width: int) -> tuple[Mask, float]:
        """Which sub-pixels the figure covers (height * SUB, width * SUB), and the share of it that the image holds."""
        reach = 1.31 * max(self.half_width, self.half_height)
        top, left = (math.floor(SUB * (c - reach)) for c in (self.y, self.x))
        side = math.ceil(2 * SUB * reach)
        y = ((np.arange(top, top + side) + 0.5) / SUB - self.y)[:, None]
        x = ((np.arange(left, left + side) + 0.5) / SUB - self.x)[None, :]
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        figure = FIGURES[self.name]((x * cos + y * sin) / self.half_width, (y * cos - x * sin) / self.half_height)
        cover = np.zeros((height * SUB, width * SUB), np.bool_)
        y0, x0 = max(top, 0), max(left, 0)
        part = figure[y0 - top : height * SUB - top, x0 - left : width * SUB - left]
        cover[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
        return cover, np.count_nonzero(part) / np.count_nonzero(figure)


SMALL, MEDIUM, LARGE = (13.0, 30.0), (33.0, 84.0), (104.0, 140.0)
"""Ranges of a figure's mean side in pixels, drawn with the chances in `_side`."""


def _side(draws: Draws) -> float:
    low, high = (SMALL, MEDIUM, LARGE)[draws.weighted((0.36, 0.54, 0.10))]
    return draws.log_uniform(low, high)


def _pose(draws: Draws, side: float, height: int, width: int) -> Pose:
    stretch = draws.log_uniform(0.8, 1.25)
    half_width, half_height = 0.5 * side * math.sqrt(stretch), 0.5 * side / math.sqrt(stretch)
    name = tuple(FIGURES)[draws.integer(0, len(FIGURES) - 1)]
    # Up to a sixth of the figure may leave the image; what does not fit at all is centred.
    room_x, room_y = (max(0.0, n / 2 - 0.67 * half) for n, half in ((width, half_width), (height, half_height)))
    x = width / 2 + draws.uniform(-room_x, room_x)
    y = height / 2 + draws.uniform(-room_y, room_y)
    return Pose(name, x, y, half_width, half_height, draws.uniform(-0.3, 0.3))


@dataclass(frozen=True)
class Placed:
    """A figure in an image: all sub-pixels that it `covers`, and those that later figures leave `visible`."""

    pose: Pose
    covers: Mask
    visible: Mask

    def under(self, other: Mask) -> "Placed":
        return Placed(self.pose, self.covers, self.visible & ~other)

    @property
    def share_visible(self) -> float:
        return np.count_nonzero(self.visible) / np.count_nonzero(self.covers)


def _place(draws: Draws, height: int, width: int, count: int) -> list[Placed]:
    """Up to `count` figures, large ones below small ones.

    A figure that would leave less than 45 % of another one visible, or that lies less than 70 % inside the image, is
    tried elsewhere and then left out: every figure in the picture is annotated.
    """
    placed: list[Placed] = []
    for side in sorted((_side(draws) for _ in range(count)), reverse=True):
        for _attempt in range(6):
            pose = _pose(draws, side, height, width)
            covers, share_inside = pose.stamp(height, width)
            below = [figure.under(covers) for figure in placed]
            if share_inside >= 0.7 and all(figure.share_visible >= 0.45 for figure in below):
                placed = [*below, Placed(pose, covers, covers)]
                break
    return placed


def _colour(draws: Draws, behind: Floats) -> Floats:
    """A colour that stands out from the mean colour behind the figure: (3,)"""
    best, farthest = behind, -1.0
    for _ in range(8):
        colour = 255 * draws.uniforms(3)
        distance = math.sqrt(float(((colour - behind) ** 2).sum()))
        if distance > farthest:
            best, farthest = colour, distance
        if distance >= 95:
            break
    return best


def _extent(mask: Mask) -> tuple[int, int, int, int]:
    """left, top, right, bottom (behind the last) of what is set."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _draw(draws: Draws, canvas: Floats, figure: Placed) -> None:
    """Paint a figure: shaded from one side to the other, now and then striped, on top of what is there."""
    left, top, right, bottom = _extent(figure.covers)
    left, top, right, bottom = left // SUB, top // SUB, -(-right // SUB), -(-bottom // SUB)
    window = canvas[top:bottom, left:right]
    height, width, _ = window.shape
    fine = figure.covers[top * SUB : bottom * SUB, left * SUB : right * SUB]
    cover = fine.reshape(height, SUB, width, SUB).mean(axis=(1, 3))
    behind = (window * cover[:, :, None]).sum(axis=(0, 1)) / cover.sum()
    shade = 2 * (np.arange(width)[None, :, None] + 0.5) / width - 1
    colour = _colour(draws, behind) + draws.uniform(-30, 30) * shade
    if draws.chance(0.2):
        colour = colour + draws.uniform(10, 28) * _waves(draws, height, width)
    _paint(window, cover, np.clip(colour, 0, 255))


def _visible_box(visible: Mask) -> Box:
    left, top, right, bottom = (round(edge / SUB, 2) for edge in _extent(visible))
    return left, top, round(right - left, 2), round(bottom - top, 2)


COUNTS = (0.13, 0.16, 0.19, 0.17, 0.13, 0.09, 0.06, 0.04, 0.03)
"""Chance of 0, 1, ... 8 figures in an image."""


def draw_image(split: str, index: int) -> tuple[NDArray[np.uint8], list[tuple[str, Box]]]:
    """Image `index` of a split: pixels (height, width, 3) and, for each figure, its class and box (x, y, w, h)."""
    draws = Draws(SEED, SPLIT_KEYS[split], index)
    height, width = 4 * draws.integer(28, 40), 4 * draws.integer(28, 40)
    count = draws.weighted(COUNTS)
    canvas = np.clip(_background(draws, height, width), 0, 255)
    _clutter(draws, canvas)
    placed = _place(draws, height, width, count)
    for figure in placed:
        _draw(draws, canvas, figure)
    pixels = np.floor(np.clip(canvas, 0, 255) + 0.5).clip(0, 255).astype(np.uint8)
    return pixels, [(figure.pose.name, _visible_box(figure.visible)) for figure in placed]
