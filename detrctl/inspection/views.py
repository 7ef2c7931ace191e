"""Which part of an image a picture shows, and places marked on it. K places, (x, y) in fractions of the image."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes

from detrctl.inspection.style import draw_box

SMALLEST_VIEW, LARGEST_VIEW = 0.1, 0.75
"""Of an image's sides: a close view shows at least so much; the whole image where it would show more."""

Window = tuple[float, float, float, float]
"""x0, y0, x1, y1 in fractions of the image: what is shown of it."""

WHOLE: Window = (0.0, 0.0, 1.0, 1.0)


def window_of(places: np.ndarray) -> Window:
    """Around places (K, 2), with a margin, inside the image and of its shape; the whole image if that is not much more.

    Places outside the image are left away.
    """
    inside = places[((places >= 0) & (places <= 1)).all(1)]
    if not len(inside):
        return WHOLE
    low, high = inside.min(0), inside.max(0)
    side = max(SMALLEST_VIEW, 1.2 * float((high - low).max()))
    if side > LARGEST_VIEW:
        return WHOLE
    x0, y0 = np.clip((low + high - side) / 2, 0, 1 - side).tolist()
    return x0, y0, x0 + side, y0 + side


def corners(places: Sequence[np.ndarray]) -> np.ndarray:
    """Of boxes (4,), clipped to the image, and points (2,) as they are: (K, 2)"""
    found = []
    for place in places:
        half = place[2:] / 2 if len(place) == 4 else np.zeros(2)
        found += [np.clip(place[:2] - half, 0, 1), np.clip(place[:2] + half, 0, 1)]
    return np.stack(found)


def show(axes: Axes, picture: np.ndarray, window: Window) -> None:
    height, width = picture.shape[:2]
    axes.imshow(picture, interpolation="bilinear", zorder=0)
    x0, y0, x1, y1 = window
    axes.set_xlim(x0 * width - 0.5, x1 * width - 0.5)
    axes.set_ylim(y1 * height - 0.5, y0 * height - 0.5)
    axes.set_autoscale_on(False)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_place(axes: Axes, place: np.ndarray, size: tuple[int, ...], *, strong: bool) -> None:
    """A cross at a point (2,) or a box's centre (4,), whose sides are dashed."""
    height, width = size
    x, y = float(place[0]) * width - 0.5, float(place[1]) * height - 0.5
    for colour, line in (("black", 3.0), ("white", 1.5)):
        scale = 1.0 if strong else 0.7
        axes.scatter(x, y, s=(70 if strong else 34), marker="+", color=colour, linewidths=line * scale, zorder=4)
    if len(place) == 4:
        draw_box(axes, torch.from_numpy(place), (height, width), "white", "--", 1.4 if strong else 0.8)
