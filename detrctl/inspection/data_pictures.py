"""Pictures of a split: its classes, sizes, crowds and shapes, and samples before and after augmentation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from PIL import Image

from detrctl.evaluation.drawing import Mark, class_colour, draw
from detrctl.inspection.data_facts import (
    ASPECT_EDGES,
    LARGE,
    LONG,
    SIZE_EDGES,
    SMALL,
    TINY,
    DataFacts,
    PerImage,
    SizeCounts,
)
from detrctl.inspection.data_report import DataReport, ShownImage, View
from detrctl.inspection.style import BLUE, GREEN, INK, MUTED, ORANGE, SKY, dress, new_figure, save
from detrctl.structures import Categories

SIZES = (("small", SKY, "//"), ("medium", BLUE, ""), ("large", ORANGE, ".."))

SIZE_TICKS = (1, 2, 4, 8, 16, 32, 96, 192, 384, 768, 1536, 3072)

MOST_CLASSES = 40
"""Bars that can still be read; the CSV has them all."""

VIEW_INCHES, PIXELS = 1.9, 300
"""The width of a picture, and the longer side that it is drawn with: that of a PNG, where labels stay readable."""

ROWS_A_PAGE = 20

LABELLED = 12
"""Where an image has more boxes, their names would hide it: numbers stand at them, which are explained below."""


def draw_report(report: DataReport, categories: Categories, folder: Path, file_format: str) -> list[Path]:
    """Write every picture that there is something for; returns their paths."""
    figures = {}
    if report.facts.boxes:
        figures = {
            "classes": classes_figure(report.facts),
            "sizes": sizes_figure(report.facts),
            "aspects": aspects_figure(report.facts),
        }
    figures["boxes-per-image"] = per_image_figure(report.facts)
    for page, first in enumerate(range(0, len(report.shown), ROWS_A_PAGE), 1):
        rows = report.shown[first : first + ROWS_A_PAGE]
        figures["samples" if page == 1 else f"samples-{page}"] = samples_figure(rows, categories)
    return [save(figure, folder / f"{name}.{file_format}") for name, figure in figures.items()]


# ---- numbers ----


def classes_figure(facts: DataFacts) -> Figure:
    """A bar for each class, its parts by size."""
    shown = facts.classes[:MOST_CLASSES]
    figure = new_figure(7.2, 0.24 * len(shown) + 1.4)
    axes = figure.subplots()
    places = range(len(shown))
    left = np.zeros(len(shown))
    for name, colour, hatch in SIZES:
        widths = np.array([getattr(counted, name) for counted in shown], dtype=float)
        axes.barh(places, widths, left=left, height=0.72, color=colour, hatch=hatch, edgecolor="white", label=name)
        left += widths
    for place, counted in zip(places, shown, strict=True):
        said = f"{counted.boxes} in {counted.images} images"
        end = (counted.boxes, place)
        axes.annotate(said, end, (4, 0), textcoords="offset points", va="center", color=INK, fontsize=8)
    axes.set_yticks(places, [counted.name for counted in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * max(counted.boxes for counted in shown))
    more = f" (of {len(facts.classes)} the {MOST_CLASSES} most frequent)" if len(facts.classes) > MOST_CLASSES else ""
    dress(axes, f"{_name(facts)}: boxes by class{more}", "boxes")
    axes.grid(visible=False, axis="y")
    axes.legend(frameon=False, fontsize=8, loc="lower right", title="size in the file", title_fontsize=8)
    return figure


def sizes_figure(facts: DataFacts) -> Figure:
    """Shares of boxes by size, in the file and as the model sees them, over the limits of COCO."""
    figure = new_figure(7.2, 3.8)
    axes = figure.subplots()
    below = "size: square root of the box's area, in pixels"
    dress(axes, f"{_name(facts)}: {facts.boxes} boxes by size", below, whole_numbers=False)
    stages: list[tuple[str, SizeCounts, str, object]] = [
        ("in the files", facts.file, MUTED, ":"),
        (f"evaluation, {facts.limits.size}", facts.evaluated, BLUE, "-"),
    ]
    if facts.trained is not None:
        stages.append((f"training ({facts.trained.sizes.images} images)", facts.trained.sizes, ORANGE, "--"))
    highest = 1.0
    for name, found, colour, style in stages:
        shares = 100 * np.array(found.counts) / max(found.boxes, 1)
        highest = max(highest, float(shares.max()))
        axes.stairs(shares, SIZE_EDGES, color=colour, linestyle=style, linewidth=1.8, label=name)
    axes.set_ylim(0, 1.22 * highest)
    _sizes_axis(axes, [found for _, found, _, _ in stages])
    axes.set_ylabel("% of the boxes", color=MUTED)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=len(stages))
    return figure


def _sizes_axis(axes: Axes, stages: Sequence[SizeCounts]) -> None:
    used = [place for found in stages for place, count in enumerate(found.counts) if count]
    low, high = min(SIZE_EDGES[min(used)], 4.0), max(SIZE_EDGES[max(used) + 1], 128.0)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    axes.set_xticks([size for size in SIZE_TICKS if low <= size <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    for limit in (TINY, SMALL, LARGE):
        axes.axvline(limit, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    bounds = (low, TINY, SMALL, LARGE, high)
    for name, left, right in zip(("tiny", "small", "medium", "large"), bounds, bounds[1:], strict=False):
        middle, at_top = np.sqrt(left * right), axes.get_xaxis_transform()
        axes.text(middle, 0.97, name, transform=at_top, ha="center", va="top", color=MUTED, fontsize=9)


def per_image_figure(facts: DataFacts) -> Figure:
    """Images by their number of boxes, against the model's limits."""
    figure = new_figure(7.2, 3.4)
    axes = figure.subplots()
    per, limits = facts.per_image, facts.limits
    numbers, images = np.array(per.counts).T
    end = _right_end(per, limits.queries, limits.detections)
    if per.most <= 60:
        axes.bar(numbers, images, width=0.8, color=BLUE)
    else:
        axes.hist(numbers, bins=40, weights=images, color=BLUE)
    for name, limit, colour, style in (
        ("queries", limits.queries, ORANGE, "--"),
        ("detections", limits.detections, GREEN, ":"),
    ):
        if limit is not None and (name == "queries" or limit != limits.queries):
            far = " (far beyond this axis)" if limit + 0.5 > end else ""
            # Between two bars: what lies to the right is beyond.
            axes.axvline(limit + 0.5, color=colour, linestyle=style, linewidth=1.8, label=f"{limit} {name}{far}")
    axes.set_xlim(-0.6, end)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    said = f"{per.empty} without, mean {per.mean:.1f}, at most {per.most}"
    dress(axes, f"{_name(facts)}: boxes in an image ({said})", "boxes in the image")
    axes.set_ylabel("images", color=MUTED)
    return figure


def _right_end(per: PerImage, *limits: int | None) -> float:
    """All images, and every limit that is not many times as far away."""
    near = [limit for limit in limits if limit is not None and limit <= 8 * max(per.most, 1)]
    return 1.06 * max(per.most, 1, *near) + 0.6


def aspects_figure(facts: DataFacts) -> Figure:
    figure = new_figure(7.2, 3.2)
    axes = figure.subplots()
    axes.stairs(100 * np.array(facts.aspects.counts) / facts.boxes, ASPECT_EDGES, color=BLUE, fill=True)
    axes.set_xscale("log", base=2)
    used = [place for place, count in enumerate(facts.aspects.counts) if count]
    axes.set_xlim(min(ASPECT_EDGES[min(used)], 0.8 / LONG), max(ASPECT_EDGES[max(used) + 1], 1.25 * LONG))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}:1" if value >= 1 else f"1:{1 / value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    for limit in (1 / LONG, LONG):
        axes.axvline(limit, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    found = facts.aspects
    dress(
        axes,
        f"{_name(facts)}: shapes of boxes ({found.tall} taller than 1:{LONG:g}, {found.wide} wider than {LONG:g}:1)",
        "width : height, in the file",
        whole_numbers=False,
    )
    axes.set_ylabel("% of the boxes", color=MUTED)
    return figure


def _name(facts: DataFacts) -> str:
    return f"{Path(facts.data).name or facts.data}, {facts.split}"


# ---- samples ----


def samples_figure(shown: Sequence[ShownImage], categories: Categories) -> Figure:
    """A row for each image: the file, what evaluation sees, and what training sees in its first epochs."""
    columns = max(len(image.views) for image in shown)
    ratios = [max(view.picture.shape[0] / view.picture.shape[1] for view in image.views) for image in shown]
    heights = [VIEW_INCHES * min(ratio, 1.5) + 0.3 for ratio in ratios]
    figure = new_figure(VIEW_INCHES * columns, sum(heights))
    grid = figure.subplots(len(shown), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    named = all(len(view.labels) <= LABELLED for image in shown for view in image.views)
    words = categories.names if named else tuple(map(str, range(len(categories))))
    for row, image in enumerate(shown):
        for axes in grid[row]:
            axes.set_axis_off()
        for axes, view in zip(grid[row], image.views, strict=False):
            axes.imshow(marked(view, words), interpolation="antialiased")
            axes.set_title(view.title, fontsize=7, color=INK, pad=3)
        grid[row, 0].set_title(f"image {image.image_id}, {image.views[0].title}", fontsize=7, color=INK, pad=3)
    if not named:
        _explain_numbers(figure, shown, categories)
    return figure


def _explain_numbers(figure: Figure, shown: Sequence[ShownImage], categories: Categories) -> None:
    labels = sorted({int(label) for image in shown for view in image.views for label in view.labels})
    colours = {label: "#{:02x}{:02x}{:02x}".format(*class_colour(label)) for label in labels}
    patches = [Patch(facecolor=colour, label=f"{label} {categories.names[label]}") for label, colour in colours.items()]
    figure.legend(handles=patches, frameon=False, fontsize=8, loc="outside lower center", ncols=min(len(labels), 6))


def marked(view: View, words: Sequence[str]) -> NDArray[np.uint8]:
    """The picture with its boxes, enlarged or reduced to what a figure shows of it; `words` are told of each class."""
    picture = Image.fromarray(view.picture.numpy())
    scale = PIXELS / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    marks = [
        Mark((scale * x0, scale * y0, scale * x1, scale * y1), words[label], class_colour(label))
        for (x0, y0, x1, y1), label in zip(view.boxes.tolist(), view.labels.tolist(), strict=True)
    ]
    return np.asarray(draw(picture, marks))
