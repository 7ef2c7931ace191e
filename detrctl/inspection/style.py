"""The look that all pictures of this folder share: palette, frames, boxes on images. Boxes are cxcywh fractions.

Colours are Okabe and Ito's or an even scale; what a colour says, a line's style or a label says as well.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from detrctl.evaluation import drawing
from detrctl.inspection.words import without_formulas

INK, MUTED, GRID = "#222222", "#666666", "#dddddd"
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
"""Of Okabe and Ito's palette."""

SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#9ecae1", BLUE, "#08204a"])
"""White is 0; its lightness falls evenly."""

LINES = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, "-.", "^"), (PURPLE, ":", "D"))


def new_figure(width: float, height: float) -> Figure:
    """In inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    without_formulas(figure).savefig(path, dpi=160)
    return path


def save_drawn(figures: Mapping[str, Figure | None], folder: Path, file_format: str) -> list[Path]:
    """Each into a file of its name; what had nothing to show is None."""
    return [save(figure, folder / f"{name}.{file_format}") for name, figure in figures.items() if figure is not None]


def explain(figure: Figure, text: str) -> None:
    """A caption below everything, broken to the figure's width."""
    size = 7.5
    letters = int(figure.get_figwidth() * 72 / (0.5 * size)) - 4
    figure.supxlabel("\n".join(textwrap.wrap(text, letters)), fontsize=size, color=MUTED)


def or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


# ---- axes ----


def cell_axes(axes: Axes) -> None:
    """Of a heat map."""
    axes.tick_params(labelsize=7, colors=INK, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def dress(axes: Axes, title: str, below: str, *, beside: str = "", whole_numbers: bool = True) -> None:
    """Of curves; `below` names the x axis, which `whole_numbers` ticks at these only, and `beside` the y axis."""
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_xlabel(below, fontsize=8, color=INK)
    if beside:
        axes.set_ylabel(beside, fontsize=8, color=INK)
    if whole_numbers:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7.5, frameon=False)


# ---- boxes on images ----


def image_axes(axes: Axes, size: tuple[int, int]) -> None:
    """Limits at the borders of an image of height and width `size`, whatever was drawn beyond."""
    axes.set_xlim(-0.5, size[1] - 0.5)
    axes.set_ylim(size[0] - 0.5, -0.5)


def draw_box(
    axes: Axes, box: Tensor, size: tuple[int, int], colour: str, style: str, width: float, *, rim: bool = True
) -> None:
    """With a dark rim, so that it shows on any ground; `size` is the image's height and width in pixels."""
    height, across = size
    cx, cy, w, h = (float(value) for value in box)
    place = ((cx - w / 2) * across, (cy - h / 2) * height)
    for ink, line in (("black", width + 1.4), (colour, width))[not rim :]:
        axes.add_patch(
            Rectangle(place, w * across, h * height, fill=False, edgecolor=ink, linewidth=line, linestyle=style)
        )


def ink_on(colour: str) -> str:
    """Black or white letters, whichever read better on a colour."""
    red, green, blue = (round(255 * part) for part in to_rgb(colour))
    return "#{:02x}{:02x}{:02x}".format(*drawing.ink_on((red, green, blue)))


def label_at(axes: Axes, x: float, middle: float, text: str, colour: str, points: float) -> None:
    """Letters of that size on a colour, from `x` to the right, `middle` being half their height."""
    ground = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
    axes.text(x, middle, text, fontsize=points, color=ink_on(colour), va="center", clip_on=True, bbox=ground)
