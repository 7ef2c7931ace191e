"""Pictures of matchings, drawn from the structs that the JSON is made of. G truths, L decoder layers."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from detrctl.boxes import cxcywh_to_xyxy
from detrctl.evaluation.drawing import place_labels
from detrctl.inspection.denoising import ImageDenoising, Mask
from detrctl.inspection.matching import NOBODY, SIZES, ImageMatching, LayerMatching
from detrctl.inspection.matching_report import DenoisingReport, MatchingReport, RunMatching, Shown, listed_queries
from detrctl.inspection.split_matching import SplitMatching
from detrctl.inspection.style import (
    INK,
    LINES,
    MUTED,
    ORANGE,
    SKY,
    cell_axes,
    draw_box,
    dress,
    explain,
    image_axes,
    label_at,
    new_figure,
    or_nan,
    save,
)
from detrctl.structures import Categories

PARTS = (("class_cost", "class"), ("l1", "L1"), ("giou", "GIoU"), ("total", "weighted sum"))
MOST_COLUMNS, MOST_ROWS = 16, 40
"""Queries and truths in a heat map; more could not be read. The pairs of all these truths are there, at least."""

MOST_NOISED = 4
PANEL, LETTER = 3.3, 6.5
"""The width of a picture in inches, and the size of its labels in points."""


def draw_report(report: MatchingReport, folder: Path, file_format: str) -> list[Path]:
    """Write every picture that the report has something for; returns their paths."""
    figures: dict[str, Figure] = {}
    if report.main.truths:
        figures["layers"] = split_figure(report.main)
    if any(run.steps for run in report.runs):
        figures["instability"] = curve_figure(report.runs)
    for shown in report.shown:
        if len(shown.matching.labels):
            name = f"image-{shown.matching.image_id}"
            figures[f"{name}-costs"] = cost_figure(shown.matching, report.categories)
            figures[f"{name}-layers"] = layers_figure(shown, report.categories)
    if report.denoising is not None:
        figures["denoising"] = denoising_figure(report.denoising, report.shown, report.categories)
    return [save(figure, folder / f"{name}.{file_format}") for name, figure in figures.items()]


# ---- one image ----


def cost_figure(image: ImageMatching, categories: Categories) -> Figure:
    """A row of heat maps per layer: the parts of the cost and their weighted sum, pairs and runners-up marked."""
    depth, truths = len(image.layers), min(len(image.labels), MOST_ROWS)
    columns = shown_queries(image)
    cells = 0.16 * len(columns) + 0.5
    figure = new_figure(4 * cells + 1.6, depth * (0.2 * truths + 0.45) + 1.1)
    grid = figure.subplots(depth, len(PARTS), squeeze=False, sharex=True, sharey=True)
    for column, (part, title) in enumerate(PARTS):
        tables = [getattr(layer.costs, part)[columns, :truths].T.numpy() for layer in image.layers]
        low, high = min(table.min() for table in tables), max(table.max() for table in tables)
        for index, (layer, table) in enumerate(zip(image.layers, tables, strict=True)):
            axes = grid[index, column]
            drawn = axes.imshow(table, aspect="auto", cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
            _mark(axes, columns, layer.matched[:truths], "o")
            _mark(axes, columns, layer.runner_up[:truths], "x")
            cell_axes(axes)
        bar = figure.colorbar(drawn, ax=grid[:, column].tolist(), location="top", shrink=0.9, pad=0.02)
        bar.set_label(f"{title} cost", fontsize=9, color=INK)
        bar.ax.tick_params(labelsize=7, colors=MUTED)
        grid[-1, column].set_xticks(range(len(columns)), [str(query) for query in columns], rotation=90)
        grid[-1, column].set_xlabel("query", fontsize=8, color=INK)
    names = [f"{truth} {categories.names[int(label)]}" for truth, label in enumerate(image.labels[:truths])]
    for index in range(depth):
        grid[index, 0].set_yticks(range(truths), names)
        grid[index, 0].set_ylabel(f"layer {index + 1}", color=INK)
    more = f", the first {truths} of {len(image.labels)} truths" if truths < len(image.labels) else ""
    some = f"{len(columns)} of {len(image.identity)} queries"
    if len(columns) < len(image.identity):
        some += " (chosen ones and runners-up, the last layer's first, then the cheapest)"
    explain(figure, f"{some}; image {image.image_id}{more}; ring: chosen pair, cross: runner-up; dark is cheap")
    return figure


def shown_queries(image: ImageMatching) -> list[int]:
    """Of the truths that are shown, by number: queries chosen in the last layer and its runners-up, then, as many as
    fit, those of earlier layers, then the cheapest of the last one.
    """
    order: dict[int, None] = {}
    asked = 0
    for layer in reversed(image.layers):
        for tensor in (layer.matched[:MOST_ROWS], layer.runner_up[:MOST_ROWS]):
            order.update(dict.fromkeys(query for query in tensor.tolist() if query != NOBODY))
        asked = asked or len(order)
    for rank in range(len(image.identity)):
        for truth in range(min(len(image.labels), MOST_ROWS)):
            cheapest = listed_queries(image.layers[-1], truth, rank + 1)
            order[cheapest[min(rank, len(cheapest) - 1)]] = None
        if len(order) >= MOST_COLUMNS:
            break
    return sorted(list(order)[: max(MOST_COLUMNS, asked)])


def _mark(axes: Axes, columns: Sequence[int], queries: Tensor, marker: str) -> None:
    places = [(columns.index(query), truth) for truth, query in enumerate(queries.tolist()) if query in columns]
    if not places:
        return
    x, y = zip(*places, strict=True)
    ring = marker == "o"
    axes.scatter(
        x,
        y,
        s=46 if ring else 22,
        marker=marker,
        facecolors="none" if ring else "black",
        edgecolors="black" if ring else None,
        linewidths=2.2,
    )
    axes.scatter(
        x,
        y,
        s=46 if ring else 22,
        marker=marker,
        facecolors="none" if ring else "white",
        edgecolors="white" if ring else None,
        linewidths=1.1,
    )


def layers_figure(shown: Shown, categories: Categories) -> Figure:
    """The image once per layer, with its truths (dashed) and the predictions matched to them, numbered alike."""
    image, (height, width) = shown.matching, shown.picture.shape[:2]
    across = min(3, len(image.layers))
    down = -(-len(image.layers) // across)
    figure = new_figure(PANEL * across + 0.2, down * (PANEL * height / width + 0.35) + 0.45)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for index, (axes, layer) in enumerate(zip(grid.flat, image.layers, strict=False)):
        axes.imshow(shown.picture.numpy(), interpolation="nearest")
        axes.set_title(f"layer {index + 1} of {len(image.layers)}", fontsize=9, color=INK)
        for truth, box in enumerate(image.boxes):
            colour, _, _ = LINES[truth % len(LINES)]
            draw_box(axes, box, (height, width), "white", "--", 1.6)
            query = int(layer.matched[truth])
            if query == NOBODY:
                continue
            draw_box(axes, layer.boxes[query], (height, width), colour, "-", 1.8)
        _label_pairs(axes, image, layer, categories, (height, width))
        image_axes(axes, (height, width))
    figure.supxlabel(
        f"image {image.image_id}; dashed: truths, solid: the predictions matched to them, with query number",
        fontsize=8,
        color=MUTED,
    )
    return figure


def _label_pairs(
    axes: Axes, image: ImageMatching, layer: LayerMatching, categories: Categories, size: tuple[int, int]
) -> None:
    """Truth and query at the box of each matched query, labels apart where there is room."""
    pairs = [(truth, query) for truth, query in enumerate(layer.matched.tolist()) if query != NOBODY]
    texts = [f"{truth} {categories.names[int(image.labels[truth])]}: q{query}" for truth, query in pairs]
    # In sixteenths of a point: places are whole numbers, and pixels of the image may be large.
    scale = 16 * 72 * PANEL / size[1]
    corners = cxcywh_to_xyxy(layer.boxes) * torch.tensor([size[1], size[0], size[1], size[0]]) * scale
    frames = [tuple(corners[query].tolist()) for _, query in pairs]
    extents = [(16 * (0.6 * LETTER * len(text) + 4), 16 * (1.2 * LETTER + 3)) for text in texts]
    places = place_labels(frames, extents, (round(size[1] * scale), round(size[0] * scale)))
    for (truth, _), text, (left, top, _, bottom) in zip(pairs, texts, places, strict=True):
        label_at(axes, (left + 32) / scale, (top + bottom) / 2 / scale, text, LINES[truth % len(LINES)][0], LETTER)


# ---- a split ----


def split_figure(split: SplitMatching) -> Figure:
    """By decoder layer: the parts of the cost, IoU and truths found, and how many truths change their query."""
    figure = new_figure(10.2, 3.1)
    costs, quality, changes = figure.subplots(1, 3)
    depth = range(1, len(split.layers) + 1)
    for (field, title), (colour, style, marker) in zip(_FIELDS, LINES, strict=False):
        costs.plot(
            depth,
            [getattr(layer.all, field) for layer in split.layers],
            color=colour,
            linestyle=style,
            marker=marker,
            label=title,
        )
    dress(costs, "cost of matched pairs", "decoder layer", beside="cost (mean)")
    for size, (colour, style, marker) in zip(SIZES, LINES, strict=False):
        values = [or_nan(layer.by_size[size].iou) for layer in split.layers]
        quality.plot(
            depth,
            values,
            color=colour,
            linestyle=style,
            marker=marker,
            label=f"{size} ({split.layers[-1].by_size[size].truths})",
        )
        moved = [or_nan(step.by_size[size].value) * 100 for step in split.between_layers]
        changes.plot(list(depth)[:-1], moved, color=colour, linestyle=style, marker=marker, label=size)
    dress(quality, "matched pairs by size", "decoder layer", beside="IoU (mean)")
    dress(changes, "truths that the next layer\ngives to another query", "decoder layer", beside="% of truths")
    quality.set_ylim(0, 1)
    changes.set_ylim(0, 105)
    changes.set_xlim(0.5, max(len(split.layers) - 0.5, 1.5))
    changes.set_xticks(list(depth)[:-1])
    for line in changes.lines:
        line.set_clip_on(False)  # a marker at 0 is seen whole
    figure.suptitle(f"{split.name}: {split.images} images, {split.truths} truths", fontsize=10, color=INK)
    return figure


_FIELDS = (("cost_total", "weighted sum"), ("cost_class", "class"), ("cost_l1", "L1"), ("cost_giou", "GIoU"))


def curve_figure(runs: Sequence[RunMatching]) -> Figure:
    """Over training, a line per run: DN-DETR's instability, truths that moved, and, of the last layer, what matched
    pairs cost and the truths that some query finds.

    Queries are known by encoder token, which is their slot where there is no second stage.
    """
    figure = new_figure(8.2, 6.0)
    (unstable, moved), (costs, found) = figure.subplots(2, 2)
    curves = [run for run in runs if run.steps]
    timed = all(split.epoch is not None for run in curves for split in run.checkpoints)
    for run, (colour, style, marker) in zip(curves, LINES * 9, strict=False):
        at = [split.epoch if timed else n for n, split in enumerate(run.checkpoints, 1)]
        last = [split.layers[-1].all if split.layers else None for split in run.checkpoints]
        for axes, places, values in (
            (unstable, at[1:], [step.by_token for step in run.steps]),
            (moved, at[1:], [100 * or_nan(step.moved.all.value) for step in run.steps]),
            (costs, at, [or_nan(None if terms is None else terms.cost_total) for terms in last]),
            (found, at, [100 * or_nan(None if terms is None else terms.found) for terms in last]),
        ):
            axes.plot(places, values, color=colour, linestyle=style, marker=marker, label=run.title)
        unstable.axhline(run.steps[-1].most, color=MUTED, linewidth=0.8, linestyle=":")
    proposed = any(run.two_stage for run in curves)
    how = "queries known by encoder token" if proposed else "Li et al. 2022, section 3.1"
    below = "epoch" if timed else "checkpoint, as given"
    dress(unstable, f"instability\n({how}; dotted: the most there can be)", below, beside="queries of an image")
    dress(moved, "truths with another query\nthan one checkpoint before", below, beside="% of truths")
    dress(costs, "matched pairs of the last layer", below, beside="cost (mean)")
    dress(found, "truths that some query finds\n(its class, IoU 0.5)", below, beside="% of truths")
    for axes in (unstable, moved, found):
        highest = axes.dataLim.y1
        axes.set_ylim(0, 1.08 * highest if 0 < highest < math.inf else None)  # markers at the top stay whole
    return figure


# ---- denoising ----


def denoising_figure(denoising: DenoisingReport, shown: Sequence[Shown], categories: Categories) -> Figure:
    """Noised truths and what the last layer made of them on one image; the averages by layer; the attention mask."""
    figure = new_figure(11.0, 3.6)
    picture, curves, mask = figure.subplots(1, 3, gridspec_kw={"width_ratios": [1.2, 1, 1.1]})
    pictures = {image.matching.image_id: image.picture for image in shown}
    told = next((image for image in denoising.images if image.labels), None)
    if told is None:
        picture.set_axis_off()
    else:
        _draw_noised(picture, told, pictures[told.image_id])
    layers = (denoising.summary.given, *denoising.summary.layers)
    ticks = ["given", *(str(layer.layer + 1) for layer in layers[1:])]
    series = {
        "IoU with the truth": [layer.iou for layer in layers],
        "class right": [layer.class_right for layer in layers],
        "score, to rebuild": [layer.score_rebuilt for layer in layers],
        "score, to refuse": [layer.score_refused for layer in layers],
    }
    for (name, values), (colour, style, marker) in zip(series.items(), LINES, strict=True):
        if any(value is not None for value in values):
            curves.plot(
                range(len(layers)),
                [or_nan(v) for v in values],
                color=colour,
                linestyle=style,
                marker=marker,
                label=name,
            )
    summary = denoising.summary
    said = f"{summary.rebuilt} noised truths of {summary.images} images"
    dress(curves, said, "decoder layer", beside="mean")
    curves.set_xticks(range(len(layers)), ticks)
    curves.set_ylim(0, 1.3)  # room for the legend above the curves
    curves.set_yticks(np.linspace(0, 1, 6))
    curves.legend(fontsize=7.5, frameon=False, ncols=2, loc="upper center")
    _draw_mask(mask, denoising.mask)
    return figure


def _draw_noised(axes: Axes, image: ImageDenoising, picture: Tensor) -> None:
    size = (picture.shape[0], picture.shape[1])
    axes.imshow(picture.numpy(), interpolation="nearest")
    for box in image.boxes:
        draw_box(axes, torch.tensor(box), size, "white", "--", 1.8)
    first = [query for query in image.queries if query.group == 0 and query.part == "rebuild"][:MOST_NOISED]
    for query in first:
        draw_box(axes, torch.tensor(query.box), size, ORANGE, ":", 1.6)
        draw_box(axes, torch.tensor(query.layers[-1].box), size, SKY, "-", 1.6)
    image_axes(axes, size)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("dashed: truth, dotted orange: given,\nsolid blue: rebuilt by the last layer", fontsize=8)
    axes.set_title(f"image {image.image_id}, first group", fontsize=9, color=INK)


def _draw_mask(axes: Axes, mask: Mask) -> None:
    table = mask_table(mask)
    axes.imshow(table, cmap=ListedColormap(["#f2f2f2", INK]), vmin=0, vmax=1, interpolation="nearest")
    for edge in (
        {mask.known, *range(mask.group, mask.known, mask.group)} if mask.known // mask.group <= 40 else {mask.known}
    ):
        axes.axhline(edge - 0.5, color=SKY, linewidth=0.6)
        axes.axvline(edge - 0.5, color=SKY, linewidth=0.6)
    axes.set_xlabel(
        f"is looked at: {mask.known} noised in {mask.known // mask.group} groups, then {mask.own} own", fontsize=8
    )
    axes.set_ylabel("looks", fontsize=8)
    axes.set_title("attention mask (dark: blocked)", fontsize=9, color=INK)
    axes.tick_params(labelsize=7, colors=MUTED)


def mask_table(mask: Mask) -> np.ndarray:
    """(Q, Q) bool, True: blocked; the runs written out again."""
    rows = []
    for count, runs in mask.rows:
        row = np.concatenate([np.full(length, index % 2 == 1) for index, length in enumerate(runs)])
        rows += [row] * count
    return np.stack(rows)
