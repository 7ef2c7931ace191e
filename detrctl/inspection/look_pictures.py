"""Pictures of what one query looks at on one image, drawn from a `LookReport`.

Places are fractions of the image; in the pictures they are pixels of the image as it is drawn, H x W.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from detrctl.inspection.look_report import LookReport
from detrctl.inspection.looks import AttentionMap, Looked, SampledPoints, Starts
from detrctl.inspection.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    draw_box,
    dress,
    explain,
    new_figure,
    save_drawn,
)
from detrctl.inspection.views import WHOLE, Window, corners, draw_place, show, window_of

LEVEL_LOOKS = ((SKY, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (BLUE, "v"))
"""Finest level first; more than five start over."""

HEAT = "inferno"
MOST_HEADS = 8
WEIGHT_AREA = 220.0
"""Area, in square points, of a sampled point that has all of a head's weight."""

LEAST_TOLD = 0.01
"""Of the weight on points outside a panel."""

LEGEND_WEIGHTS = (0.02, 0.1, 0.3)
MOST_FRAMES = 100
"""Starting boxes that are drawn with their sides; of the others, the centres."""


def draw_report(report: LookReport, folder: Path, file_format: str) -> list[Path]:
    """Write every picture that the report has something for; returns their paths."""
    figures: dict[str, Figure | None] = {
        "layers": layers_figure(report),
        "attention": attention_figure(report),
        "encoder": encoder_figure(report),
        "starts": starts_figure(report),
    }
    return save_drawn(figures, folder, file_format)


def title_of(report: LookReport) -> str:
    last = report.look.layers[-1]
    which = f"query {report.look.query}" + (", by rank" if report.by_rank else "")
    asked = f", detection {report.detection}" if report.detection is not None else ""
    return f"{report.name}, {report.file}: {which}{asked}: {report.categories.names[last.label]} {last.score:.2f}"


# ---- the box from layer to layer ----


def layers_figure(report: LookReport) -> Figure:
    """The boxes of all layers on the image and closer; score and overlap with the last box by layer."""
    layers, colours = report.look.layers, layer_colours(len(report.look.layers))
    height, width = report.picture.shape[:2]
    start = layers[0].attended
    window = window_of(corners([layer.box for layer in layers] + ([] if start is None else [start])))
    views = {"the image": WHOLE} | ({} if window == WHOLE else {"closer": window})
    figure = new_figure(3.9 * len(views) + 3.6, max(3.9 * height / width, 3.0) + 1.3)
    grid = figure.add_gridspec(2, len(views) + 1, width_ratios=[3.9] * len(views) + [3.0])
    panels = [figure.add_subplot(grid[:, column]) for column in range(len(views))]
    scores, overlaps = figure.add_subplot(grid[0, -1]), figure.add_subplot(grid[1, -1])
    lines = np.linspace(5.5, 1.3, len(layers)) if len(layers) > 1 else [1.8]  # so that none hides one beneath it
    for axes, (title, view) in zip(panels, views.items(), strict=True):
        show(axes, report.picture, view)
        if start is not None:
            draw_place(axes, start, (height, width), strong=True)
        for number, (layer, colour, line) in enumerate(zip(layers, colours, lines, strict=True)):
            box = torch.from_numpy(layer.box)
            draw_box(axes, box, (height, width), colour, "-", float(line), rim=number == 0)
        axes.set_title(title, fontsize=9, color=INK)
    _curve(scores, [layer.score for layer in layers], colours)
    asked = report.look.asked_class
    of_class = "the best class" if asked is None else report.categories.names[asked]
    dress(scores, f"score of {of_class}", "", beside="score")
    _label_layers(scores, [report.categories.names[layer.label] for layer in layers])
    _curve(overlaps, [layer.overlap for layer in layers], colours)
    dress(overlaps, "overlap with the last layer's box", "decoder layer", beside="IoU")
    _layer_bar(figure, panels, len(layers))
    figure.suptitle(title_of(report), fontsize=10, color=INK)
    explain(
        figure,
        "Solid: the box that each decoder layer answers with, later ones thinner. "
        + _words_of_start(report.look.starts)
        + (" Queries are numbered by rank of their proposals, since a slot has no place of its own." * report.by_rank),
    )
    return figure


def layer_colours(layers: int) -> list[str]:
    """From light to dark, one a layer."""
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps["plasma_r"](np.linspace(0.08, 0.92, layers))]


def _curve(axes: Axes, values: Sequence[float], colours: Sequence[str]) -> None:
    numbers = range(1, len(values) + 1)
    axes.plot(numbers, values, color=MUTED, linewidth=1, zorder=2)
    axes.scatter(numbers, values, c=colours, s=42, edgecolors=INK, linewidths=0.7, zorder=3)
    axes.set_ylim(0, 1.06)
    axes.set_xlim(0.6, len(values) + 0.4)


def _label_layers(axes: Axes, names: Sequence[str]) -> None:
    """The class below each layer, or once where it stays the same."""
    if len(set(names)) == 1:
        axes.set_xlabel(f"decoder layer; always {names[0]}", fontsize=8, color=INK)
        return
    axes.set_xticks(
        range(1, len(names) + 1),
        [f"{layer} {name[:12]}" for layer, name in enumerate(names, 1)],
        rotation=30,
        ha="right",
        rotation_mode="anchor",
        fontsize=7,
    )


def _layer_bar(figure: Figure, axes: Sequence[Axes], layers: int) -> None:
    norm, colours = BoundaryNorm(np.arange(0.5, layers + 1), layers), ListedColormap(layer_colours(layers))
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_ticks(list(range(1, layers + 1)))
    bar.minorticks_off()
    bar.set_label("decoder layer", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=MUTED, length=0)


def _words_of_start(starts: Starts | None) -> str:
    if starts is None:
        return "The model's queries start from no place."
    if starts.kind == "learned points":
        return "Cross: the learned point that the query starts from, in every image the same."
    if starts.kind == "learned anchors":
        return "Dashed, with a cross: the learned anchor that the query starts from, in every image the same."
    return "Dashed, with a cross: the encoder's proposal that the query starts from."


# ---- what it looks at ----


def attention_figure(report: LookReport) -> Figure:
    """A row for each decoder layer; all heads together, then each head."""
    layers = report.look.layers
    size = report.picture.shape[:2]
    heads = layers[0].looked.heads
    window = WHOLE
    if isinstance(layers[0].looked, SampledPoints):
        places = [corners([layer.box for layer in layers])]
        window = window_of(np.concatenate([*places, *(_heavy_points(layer.looked) for layer in layers)]))
    names = ["all heads", *(f"head {head + 1}" for head in range(min(heads, MOST_HEADS)))]
    figure, grid = _grid(report, window, [f"layer {number + 1}" for number in range(len(layers))], names)
    for row, layer in zip(grid, layers, strict=True):
        for column, axes in enumerate(row):
            _draw_look(axes, layer.looked, None if column == 0 else column - 1, size)
            if layer.attended is not None:
                draw_place(axes, layer.attended, size, strong=False)
            draw_box(axes, torch.from_numpy(layer.box), size, "white", "-", 1.0)
    words = "White: the box of the layer. "
    if layers[0].attended is not None:
        words += "Cross, and dashed box where it has sides: what the layer looks around. "
    left_out = f"{heads} heads, the first {MOST_HEADS} of them alone. " if heads > MOST_HEADS else ""
    _finish(figure, grid, layers[0].looked, f"{title_of(report)}, cross-attention", words + left_out)
    return figure


def encoder_figure(report: LookReport) -> Figure | None:
    """A row for each encoder layer: dense by head; deformable by level of the token that looks. None without layers."""
    encoder, size = report.encoder, report.picture.shape[:2]
    if not encoder.layers:
        return None
    first = encoder.layers[0][0]
    rows = [f"layer {number + 1}" for number in range(len(encoder.layers))]
    heads: list[int | None] = [None]
    window = WHOLE
    if isinstance(first, AttentionMap):
        heads += range(min(first.heads, MOST_HEADS))
        names = ["all heads", *(f"head {head + 1}" for head in range(len(heads) - 1))]
    else:
        names = [f"token of level {origin.level + 1}" for origin in encoder.origins]
        window = window_of(np.concatenate([_heavy_points(look) for looks in encoder.layers for look in looks]))
    figure, grid = _grid(report, window, rows, names)
    for row, looks in zip(grid, encoder.layers, strict=True):
        cells = [(look, head, origin) for look, origin in zip(looks, encoder.origins, strict=True) for head in heads]
        for axes, (look, head, origin) in zip(row, cells, strict=True):
            _draw_look(axes, look, head, size)
            draw_place(axes, origin.centre, size, strong=True)
    x, y = encoder.point
    _finish(
        figure,
        grid,
        first,
        f"{report.name}, {report.file}: the encoder's attention from ({x:.2f}, {y:.2f})",
        "Cross: the centre of the token that looks, the one nearest to the point, which is in fractions of the image. ",
    )
    return figure


def _grid(report: LookReport, window: Window, rows: Sequence[str], columns: Sequence[str]) -> tuple[Figure, np.ndarray]:
    """Panels that show the image, pale, so that what is drawn on it stands out."""
    height, width = report.picture.shape[:2]
    across = min(2.3 if len(columns) < 6 else 1.8, 13 / len(columns))
    figure = new_figure(max(across * len(columns) + 0.9, 6.4), (across * height / width + 0.08) * len(rows) + 1.2)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    pale = _pale(report.picture)
    for number, row in enumerate(grid):
        for column, axes in enumerate(row):
            show(axes, pale, window)
            if number == 0:
                axes.set_title(columns[column], fontsize=8, color=INK, pad=3)
        row[0].set_ylabel(rows[number], fontsize=8, color=INK)
    return figure, grid


def _pale(picture: np.ndarray) -> np.ndarray:
    grey = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.repeat((110 + 0.5 * grey)[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)


def _draw_look(axes: Axes, look: Looked, head: int | None, size: tuple[int, ...]) -> None:
    """Of one head, or of all of them: their mean, or all of their points."""
    if isinstance(look, AttentionMap):
        _draw_map(axes, look.weights.mean(0) if head is None else look.weights[head], size)
    else:
        draw_points(axes, look, head, size)


def _draw_map(axes: Axes, weights: np.ndarray, size: tuple[int, ...]) -> None:
    """(h, w): the more attention, the brighter and the less transparent; black-violet is none."""
    relative = weights / max(weights.max(), 1e-12)
    axes.imshow(
        relative,
        extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5),
        cmap=HEAT,
        vmin=0,
        vmax=1,
        alpha=0.35 + 0.6 * relative,
        interpolation="nearest",
        zorder=1,
    )
    _note(axes, f"{100 * weights.max():.3g} %")


def _note(axes: Axes, text: str) -> None:
    """In the lower right corner."""
    ground = {"facecolor": "black", "edgecolor": "none", "alpha": 0.55, "pad": 1}
    at = axes.transAxes
    axes.text(
        0.98, 0.03, text, fontsize=6.5, color="white", bbox=ground, transform=at, ha="right", va="bottom", zorder=5
    )


def draw_points(axes: Axes, look: SampledPoints, head: int | None, size: tuple[int, ...]) -> None:
    which = slice(None) if head is None else slice(head, head + 1)
    for level in range(look.points.shape[1]):
        colour, marker = LEVEL_LOOKS[level % len(LEVEL_LOOKS)]
        x, y = look.points[which, level].reshape(-1, 2).T
        axes.scatter(
            x * size[1] - 0.5,
            y * size[0] - 0.5,
            s=np.maximum(WEIGHT_AREA * look.weights[which, level].ravel(), 0.3),
            color=colour,
            marker=marker,
            edgecolors=INK,
            linewidths=0.35,
            alpha=0.85,
            zorder=3,
        )
    share = outside(look, which, axes, size)
    if share >= LEAST_TOLD:
        _note(axes, f"{share:.0%} outside")


def outside(look: SampledPoints, heads: slice, axes: Axes, size: tuple[int, ...]) -> float:
    """The part of some heads' weight that lies on points outside what is shown."""
    (x0, x1), (y1, y0) = axes.get_xlim(), axes.get_ylim()
    places = look.points[heads] * np.array([size[1], size[0]]) - 0.5
    is_shown = ((places >= (x0, y0)) & (places <= (x1, y1))).all(-1)
    return float(look.weights[heads][~is_shown].sum() / look.weights[heads].sum())


def _finish(figure: Figure, grid: np.ndarray, look: Looked, title: str, words: str) -> None:
    """What colours and sizes mean."""
    if isinstance(look, AttentionMap):
        bar = figure.colorbar(
            ScalarMappable(Normalize(0, 1), colormaps[HEAT]), ax=grid.ravel().tolist(), fraction=0.015, pad=0.01
        )
        bar.set_label("attention, of the panel's greatest", fontsize=8, color=INK)
        bar.ax.tick_params(labelsize=7, colors=MUTED)
        figure.suptitle(title, fontsize=10, color=INK)
        explain(figure, words + "A square is a cell of the feature map; the number is the greatest share of one cell.")
        return
    levels = look.points.shape[1]
    figure.legend(
        handles=[*_level_handles(levels), *_weight_handles()],
        loc="outside upper center",
        ncols=levels + len(LEGEND_WEIGHTS),
        fontsize=7.5,
        frameon=False,
        title=title,
        title_fontsize=10,
    )
    explain(
        figure,
        words
        + "Points are where a head samples, their area its weight there (1 in sum for each head); colour and shape "
        "tell the level sampled. Outside: the weight on points that lie beyond the panel, or the image.",
    )


def _level_handles(levels: int) -> list[Line2D]:
    looks = [LEVEL_LOOKS[level % len(LEVEL_LOOKS)] for level in range(levels)]
    return [
        Line2D(
            [], [], color=colour, marker=marker, linestyle="", markersize=5, markeredgecolor=INK, markeredgewidth=0.4,
            label=f"level {number + 1}" + (", finest" if number == 0 and levels > 1 else ""),
        )
        for number, (colour, marker) in enumerate(looks)
    ]  # fmt: skip


def _weight_handles() -> list[Line2D]:
    return [
        Line2D(
            [], [], color="white", marker="o", linestyle="", markersize=(WEIGHT_AREA * weight) ** 0.5,
            markeredgecolor=INK, markeredgewidth=0.7, label=f"weight {weight:.0%}",
        )
        for weight in LEGEND_WEIGHTS
    ]  # fmt: skip


# ---- where queries start ----


def starts_figure(report: LookReport) -> Figure | None:
    """All starts on the image, the query's own marked, and what tells them apart. None where there are none."""
    starts = report.look.starts
    if starts is None:
        return None
    height, width = report.picture.shape[:2]
    are_boxes = starts.places.shape[1] == 4
    figure = new_figure(9.4 if are_boxes else 6.2, max(5.2 * height / width, 3.2) + 1.2)
    panels = figure.subplots(
        1, 2 if are_boxes else 1, squeeze=False, gridspec_kw={"width_ratios": [5.2, 3.4][: 1 + are_boxes]}
    )[0]
    show(panels[0], report.picture, WHOLE)
    _draw_starts(panels[0], starts, (height, width))
    query = report.look.query
    draw_place(panels[0], starts.places[query], (height, width), strong=True)
    draw_box(panels[0], torch.from_numpy(report.look.layers[-1].box), (height, width), ORANGE, "-", 1.8)
    panels[0].set_title(f"{len(starts.places)} {starts.kind}", fontsize=9, color=INK)
    if are_boxes:
        _tell_starts_apart(panels[1], starts, query)
    figure.suptitle(title_of(report), fontsize=10, color=INK)
    some = f" Frames: the first {MOST_FRAMES} of them." if are_boxes and len(starts.places) > MOST_FRAMES else ""
    explain(
        figure, f"{_words_of_start(starts)} Orange: the box of the last decoder layer.{some}{_words_of_order(starts)}"
    )
    return figure


def _words_of_order(starts: Starts) -> str:
    """By rank alone scores never rise, so where they do, repetitions were put last (`EncoderProposals.max_iou`)."""
    if starts.scores is None or not (np.diff(starts.scores) > 0).any():
        return ""
    return " Where the scores rise again, the proposals begin that repeat a better one, which come after all others."


def _draw_starts(axes: Axes, starts: Starts, size: tuple[int, int]) -> None:
    height, width = size
    scale = np.array([width, height])
    centres = starts.places[:, :2] * scale - 0.5
    axes.scatter(centres[:, 0], centres[:, 1], s=10, color=SKY, edgecolors=INK, linewidths=0.4, zorder=3)
    if starts.places.shape[1] == 2:
        return
    sides = starts.places[:, 2:] * scale
    frames = [
        Rectangle((x - w / 2, y - h / 2), w, h)
        for (x, y), (w, h) in zip(centres[:MOST_FRAMES].tolist(), sides[:MOST_FRAMES].tolist(), strict=True)
    ]
    axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor=SKY, linewidth=0.7, alpha=0.7))


def _tell_starts_apart(axes: Axes, starts: Starts, query: int) -> None:
    """Proposals by their score, anchors by their size."""
    if starts.scores is None:
        widths, heights = starts.places[:, 2], starts.places[:, 3]
        axes.scatter(widths, heights, s=12, color=SKY, edgecolors=INK, linewidths=0.4)
        axes.scatter(widths[query], heights[query], s=60, color=ORANGE, marker="+", linewidths=2, zorder=4)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_box_aspect(1)
        below, beside = "width, fraction of the image's", "height, fraction of the image's"
        dress(axes, "sizes of the anchors", below, beside=beside, whole_numbers=False)
        return
    axes.plot(starts.scores, color=BLUE, linewidth=1.3)
    axes.scatter(query, starts.scores[query], s=60, color=ORANGE, marker="+", linewidths=2, zorder=4)
    axes.set_ylim(0, max(1.05 * float(starts.scores.max()), 0.01))
    dress(axes, "scores of the proposals", "query, by rank", beside="the encoder's score")


def _heavy_points(look: Looked) -> np.ndarray:
    """(K, 2), those with at least half of the mean weight."""
    assert isinstance(look, SampledPoints)
    least = 0.5 * look.heads / look.weights.size
    return look.points[look.weights >= least]
