"""Pictures of the worst images: truths, found, missed and false ones told apart by colour and by line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from detrctl.evaluation.drawing import place_labels
from detrctl.evaluation.worst import Drawn, WorstImage
from detrctl.inspection.style import GREEN, INK, MUTED, ORANGE, PURPLE, SKY, image_axes, ink_on, new_figure, save

Pixels = npt.NDArray[np.uint8]
POINTS = 8.0
"""Size of the labels; a letter of DejaVu Sans is about 0.62 of it wide."""

LABELLED = 40
"""More labels in one picture could not be read; the surest come first."""


@dataclass(frozen=True)
class Pen:
    """`style` is a pattern of points, drawn and left out; empty for a solid line."""

    colour: str
    style: tuple[float, ...]
    width: float
    meaning: str

    @property
    def line(self) -> Any:
        """As matplotlib takes it."""
        return (0, self.style) if self.style else "-"


PENS = {
    "truth": Pen(SKY, (1, 1), 1.6, "truth that was found"),
    "found": Pen(GREEN, (), 1.8, "right answer"),
    "missed": Pen(ORANGE, (5, 2), 2.3, "missed truth"),
    "false": Pen(PURPLE, (3, 1.2, 1, 1.2), 2.1, "false answer"),
}


def draw_worst(
    images: Sequence[WorstImage], pixels: Callable[[int], Pixels | None], folder: Path, file_format: str
) -> list[Path]:
    """One picture an image, numbered from the worst; those whose pixels (H, W, 3) are not there get none."""
    files = []
    for rank, image in enumerate(images, 1):
        shown = pixels(image.image_id)
        if shown is not None:
            figure = worst_figure(image, shown, rank)
            files.append(save(figure, folder / f"worst-{rank:02d}-image-{image.image_id}.{file_format}"))
    return files


def worst_figure(image: WorstImage, pixels: Pixels, rank: int) -> Figure:
    """The image with its boxes, a title with the counts, and what each line means below."""
    height, width = pixels.shape[:2]
    across = 6.4 if width >= height else max(4.6, 6.4 * width / height)
    columns = 4 if across >= 5.5 else 2
    figure = new_figure(across, across * height / width + (1.0 if columns == 4 else 1.25))
    axes = figure.subplots()
    axes.imshow(pixels, interpolation="nearest")
    axes.set_axis_off()
    scale = width / (across * 72)  # image pixels to a point
    for one in image.drawn:
        _box(axes, one, PENS[one.role])
    _labels(axes, [one for one in image.drawn if one.role != "truth"], (width, height), scale)
    image_axes(axes, (height, width))
    name = image.file_name.rsplit("/", 1)[-1][:40] or f"image {image.image_id}"
    axes.set_title(
        f"{rank}. {name}: costs {image.cost:.4f} AP50\n"
        f"{image.found} of {image.truths} found, {image.missed} missed, {image.false} false",
        fontsize=9,
        color=INK,
    )
    used = [pen for role, pen in PENS.items() if any(one.role == role for one in image.drawn)]
    handles = [Line2D([], [], color=pen.colour, linestyle=pen.line, linewidth=pen.width) for pen in used]
    figure.legend(
        handles,
        [pen.meaning for pen in used],
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
        labelcolor=MUTED,
        handlelength=3.2,
    )
    return figure


def _box(axes: Axes, one: Drawn, pen: Pen) -> None:
    """With a dark rim below, so that it shows on any ground."""
    x, y, width, height = one.box
    for colour, line, style in (("black", pen.width + 1.2, "-"), (pen.colour, pen.width, pen.line)):
        axes.add_patch(
            Rectangle(
                (x - 0.5, y - 0.5),
                width,
                height,
                fill=False,
                edgecolor=colour,
                linewidth=line,
                linestyle=style,
                alpha=0.8 if colour == "black" else 1,
            )
        )


def _labels(axes: Axes, drawn: Sequence[Drawn], size_wh: tuple[int, int], scale: float) -> None:
    """Missed ones first, since nothing else tells their class; then answers, the surest first."""
    order = sorted(drawn, key=lambda one: (one.role != "missed", -(one.score or 0.0)))[:LABELLED]
    texts = [_text(one) for one in order]
    frames = [(x, y, x + width, y + height) for x, y, width, height in (one.box for one in order)]
    sizes = [((0.62 * len(text) + 0.7) * POINTS * scale, 1.5 * POINTS * scale) for text in texts]
    for one, text, place in zip(order, texts, place_labels(frames, sizes, size_wh), strict=True):
        pen = PENS[one.role]
        axes.text(
            place[0] + 0.35 * POINTS * scale,
            (place[1] + place[3]) / 2,
            text,
            fontsize=POINTS,
            color=ink_on(pen.colour),
            va="center_baseline",
            bbox={"facecolor": pen.colour, "edgecolor": "none", "pad": 1.4, "alpha": 0.92},
        )


def _text(one: Drawn) -> str:
    if one.role == "missed":
        return f"{one.name[:24]} missed"
    score = f"{one.score:.2f}" if one.score is not None else ""
    return f"{one.name[:24]} {score} {one.what}".rstrip()
