"""Pictures of what object queries predict over a split, drawn from a `QueryReport`. K boxes, Q queries."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from detrctl.inspection.queries import AREA_EDGES, KINDS, LONG_SIDES, SMALL_SIDE, Kind, QuerySummary, kinds_of
from detrctl.inspection.query_report import QueryReport
from detrctl.inspection.start_pictures import contents_figure, starts_figure
from detrctl.inspection.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SHARES,
    dress,
    explain,
    new_figure,
    save_drawn,
)

KIND_LOOKS: dict[Kind, tuple[str, str]] = {
    "small": (GREEN, "o"),
    "wide": (ORANGE, "_"),
    "tall": (BLUE, "|"),
    "large": (PURPLE, "s"),
}
KIND_WORDS: dict[Kind, str] = {
    "small": f"small: root of area below {SMALL_SIDE:.0%} of the image's",
    "wide": f"wide: width at least {LONG_SIDES:g} heights",
    "tall": f"tall: height at least {LONG_SIDES:g} widths",
    "large": "large: the others",
}
READABLE = 60
"""Panels of a grid that have room for words; with more, they hold their number only."""

DETAILED = 12
"""Queries, a row each, of which everything is drawn: the most used of those chosen."""

NAMED = 20
"""Queries left out of these that a caption names."""

CLASSES_SHOWN = 5
MANY_POINTS = 20_000
"""From here on, points are pixels in vector files, too, which would grow beyond use."""


def draw_report(report: QueryReport, folder: Path, file_format: str) -> list[Path]:
    """Write every picture that the report has something for; returns their paths."""
    figures: dict[str, Figure | None] = {
        "overview": overview_figure(report),
        "boxes-kept": grid_figure(report, kept=True) if report.detections else None,
        "boxes-all": grid_figure(report, kept=False),
        "details": details_figure(report),
        "mix": mix_figure(report),
        "starts": starts_figure(report),
        "contents": contents_figure(report),
    }
    return save_drawn(figures, folder, file_format)


# ---- the grid of the paper's figure ----


def grid_figure(report: QueryReport, *, kept: bool) -> Figure:
    """The chosen queries' boxes as points at their centres, coloured by size and shape, a unit square for each query.

    As figure 7 of Carion et al. 2020, all of whose boxes are `kept=False`. Many panels in one pair of axes, since 900
    pairs would take minutes to lay out.
    """
    queries = report.chosen
    columns, rows = grid_shape(len(queries))
    words = len(queries) <= READABLE
    side = 1.25 if len(queries) <= 30 else 0.95 if words else max(0.3, 12 / columns)
    across, down = 1.14, 1.3 if words else 1.34
    figure = new_figure(max(side * across * columns + 0.75, 6.0), side * down * rows + 1.4)
    axes = figure.subplots()
    corners = np.array([(place % columns * across, place // columns * down) for place in range(len(queries))])
    axes.add_collection(
        PatchCollection(
            [Rectangle((float(x), float(y)), 1, 1) for x, y in corners], facecolor="#f8f8f8", edgecolor="#bbbbbb"
        )
    )
    boxes = [report.records.boxes_of(query, kept=kept) for query in queries]
    placed = np.concatenate([found[:, :2] + corner for found, corner in zip(boxes, corners, strict=True)])
    kinds = kinds_of(np.concatenate(boxes))
    _scatter_kinds(axes, placed, kinds, size=side * (9 if len(placed) < 400 * len(queries) else 4))
    for query, found, (x, y) in zip(queries, boxes, corners, strict=True):
        axes.text(x, y - 0.05, f"query {query}" if words else str(query), fontsize=7.5 if words else 5.5, va="bottom")
        if words:
            axes.text(x + 1, y - 0.05, str(len(found)), fontsize=6.5, color=MUTED, va="bottom", ha="right")
    _grid_axes(axes, columns, rows, across, down)
    which = f"with a score of at least {report.least:g}" if kept else "of any score"
    told = ", their number at the right" if words else ""
    _legend_of_kinds(figure, kinds, f"{report.name}: boxes {which}, {report.chosen_as}")
    explain(
        figure,
        f"One square for each query; a point is the centre of a box on one of {report.images} images{told}. "
        + report.caption,
    )
    return figure


def grid_shape(panels: int) -> tuple[int, int]:
    """Columns and rows, somewhat wider than high, with few places empty."""
    ideal = math.sqrt(1.6 * panels)
    options = [n for n in range(1, panels + 1) if 0.75 * ideal <= n <= 1.3 * ideal] or [panels]
    best = min(options, key=lambda columns: (-(-panels // columns) * columns - panels, abs(columns - ideal)))
    return best, -(-panels // best)


def _grid_axes(axes: Axes, columns: int, rows: int, across: float, down: float) -> None:
    axes.set_xlim(-0.05, (columns - 1) * across + 1.05)
    axes.set_ylim((rows - 1) * down + 1.05, -0.3)
    axes.set_aspect("equal")
    axes.set_xticks([column * across + end for column in range(columns) for end in (0, 1)], ["0", "1"] * columns)
    axes.set_yticks([row * down + end for row in range(rows) for end in (0, 1)], ["0", "1"] * rows)
    axes.tick_params(labelsize=6, colors=MUTED, length=0, pad=2)
    if columns * rows > 2 * READABLE:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("centre x, fraction of the image's width", fontsize=8, color=INK)
    axes.set_ylabel("centre y, fraction of its height", fontsize=8, color=INK)


def _scatter_kinds(axes: Axes, places: np.ndarray, kinds: np.ndarray, *, size: float) -> None:
    """(K, 2), (K,)"""
    for kind, (colour, marker) in KIND_LOOKS.items():
        mine = places[kinds == kind]
        is_line = marker in "_|"
        axes.scatter(
            mine[:, 0],
            mine[:, 1],
            s=size * (2.2 if is_line else 1),
            color=colour,
            marker=marker,
            linewidths=1.1 if is_line else 0,
            alpha=0.7,
            rasterized=len(places) > MANY_POINTS,
            zorder=2,
        )


def _legend_of_kinds(figure: Figure, kinds: np.ndarray, title: str) -> None:
    """The title is the legend's, since a figure's own would lie on it."""
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            linestyle="",
            markersize=6 if marker in "_|" else 4,
            markeredgewidth=1.4,
        )
        for colour, marker in KIND_LOOKS.values()
    ]
    words = [f"{KIND_WORDS[kind]} ({int((kinds == kind).sum())})" for kind in KINDS]
    figure.legend(
        handles, words, loc="outside upper center", ncols=2, fontsize=7.5, frameon=False, title=title, title_fontsize=10
    )


# ---- everything about some queries ----


def details_figure(report: QueryReport) -> Figure:
    """A row for each of the most used of the chosen queries: centres, size against centre, areas, classes."""
    chosen = set(report.chosen)
    used = [query for query in report.records.most_used if query in chosen]
    queries = used[:DETAILED]
    figure = new_figure(11.2, 1.62 * len(queries) + 1.5)
    grid = figure.subplots(len(queries), 5, squeeze=False, gridspec_kw={"width_ratios": [1, 1, 1, 1.15, 1.15]})
    kinds = []
    for number, query in enumerate(queries):
        summary = report.summaries[query]
        everything, kept = (report.records.boxes_of(query, kept=which) for which in (False, True))
        kinds.append(kinds_of(kept))
        _centres(grid[number, 0], everything, kept)
        _size_against_centre(grid[number, 1], everything, kept, 0)
        _size_against_centre(grid[number, 2], everything, kept, 1)
        _areas(grid[number, 3], summary)
        _classes(grid[number, 4], report, summary)
        for column, beside in enumerate(("centre y", "width", "height")):
            grid[number, column].set_ylabel(beside, fontsize=7.5, color=INK)
        words = f"query {query}\n{summary.detections} kept\n{summary.matched} matched"
        grid[number, 0].text(
            -0.42, 0.5, words, transform=grid[number, 0].transAxes, ha="right", va="center", fontsize=8
        )
    titles = ("centres", "width against centre x", "height against centre y", "areas", "classes")
    belows = ("centre x", "centre x", "centre y", "area, % of the image", "% of the detections, or answers")
    for column in range(5):
        grid[0, column].set_title(titles[column], fontsize=9, color=INK)
        grid[-1, column].set_xlabel(belows[column], fontsize=8, color=INK)
    _legend_of_kinds(figure, np.concatenate(kinds), f"{report.name}: {len(queries)} queries in detail")
    explain(
        figure,
        "Centres and sides in fractions of the image; dotted: the largest box that stays inside it. In colour or blue: "
        f"boxes with a score of at least {report.least:g}; grey: one box on each of {report.images} images, of any "
        f"score. {_words_of_left_out(used)}{report.caption}",
    )
    return figure


def _words_of_left_out(used: Sequence[int]) -> str:
    """Of the chosen queries, most used first."""
    left_out = sorted(used[DETAILED:])
    if not left_out:
        return ""
    numbers = ", ".join(map(str, left_out[:NAMED])) + (", ..." if len(left_out) > NAMED else "")
    return f"Left out, since used less: {len(left_out)} of {len(used)} chosen queries ({numbers}). "


def _centres(axes: Axes, everything: np.ndarray, kept: np.ndarray) -> None:
    _clouds(axes, everything[:, :2], kept[:, :2], kept)
    axes.invert_yaxis()


def _size_against_centre(axes: Axes, everything: np.ndarray, kept: np.ndarray, side: int) -> None:
    """`side` 0: width and x, 1: height and y. A box with centre c stays inside up to a side of 2 min(c, 1 - c)."""
    axes.plot([0, 0.5, 1], [0, 1, 0], color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
    _clouds(axes, everything[:, [side, side + 2]], kept[:, [side, side + 2]], kept)


def _clouds(axes: Axes, everything: np.ndarray, kept: np.ndarray, boxes: np.ndarray) -> None:
    axes.scatter(
        everything[:, 0],
        everything[:, 1],
        s=5,
        color="#bdbdbd",
        linewidths=0,
        zorder=1,
        rasterized=len(everything) > MANY_POINTS,
    )
    _scatter_kinds(axes, kept, kinds_of(boxes), size=10)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_box_aspect(1)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    _plain(axes)


def _areas(axes: Axes, summary: QuerySummary) -> None:
    draw_areas(axes, summary.all.areas, "#9a9a9a", filled=True)
    draw_areas(axes, summary.kept.areas, BLUE, filled=False)
    _plain(axes)


def draw_areas(
    axes: Axes, counts: Sequence[int], colour: str, *, filled: bool, label: str | None = None, style: str = "-"
) -> None:
    """Shares in % of a histogram over `AREA_EDGES`; nothing where nothing was counted."""
    total = sum(counts)
    if not total:
        return
    edges = np.array(AREA_EDGES) * 100
    shares = 100 * np.array(counts) / total
    axes.stairs(
        shares,
        edges,
        color=colour,
        fill=filled,
        alpha=0.45 if filled else 1,
        linewidth=1.5,
        label=label,
        linestyle=style,
    )
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    axes.minorticks_off()
    axes.set_ylabel("% of boxes", fontsize=7.5, color=INK)


def _classes(axes: Axes, report: QueryReport, summary: QuerySummary) -> None:
    """The most frequent ones, others together."""
    kept = np.array(summary.kept.classes)
    counts, colour = (kept, BLUE) if kept.sum() else (np.array(summary.all.classes), "#b5b5b5")
    order = np.argsort(-counts, kind="stable")[:CLASSES_SHOWN]
    shares = [*(100 * counts[order] / counts.sum()), 100 * (1 - counts[order].sum() / counts.sum())]
    names = [*(textwrap.shorten(report.categories.names[label], 14, placeholder="…") for label in order), "others"]
    shown = len(names) if len(counts) > CLASSES_SHOWN else len(names) - 1
    axes.barh(range(shown), shares[:shown], color=colour, height=0.7)
    for place, share in enumerate(shares[:shown]):
        axes.text(share + 2, place, f"{share:.0f}", va="center", fontsize=6.5, color=MUTED)
    axes.set_yticks(range(shown), names[:shown])
    axes.set_xlim(0, 115)
    axes.set_xticks([0, 50, 100])
    axes.invert_yaxis()
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7, colors=INK, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")


# ---- all chosen queries in two tables ----


def mix_figure(report: QueryReport) -> Figure:
    """Heat maps, a row for each chosen query: shares of areas and of classes among its kept boxes, and among all."""
    summaries = [report.summaries[query] for query in report.chosen]
    height = min(max(0.17 * len(summaries), 1.6), 9)
    figure = new_figure(11.2, height + 1.9)
    classes = len(report.categories)
    widths = [1, min(max(classes / 12, 0.6), 1.6)] * 2
    panels = figure.subplots(1, 4, gridspec_kw={"width_ratios": widths}, sharey=True)
    for axes in panels[1:]:
        axes.tick_params(axis="y", length=0)
    for place, which in enumerate(("kept", "all")):
        found = [getattr(summary, which) for summary in summaries]
        words = f"score at least {report.least:g}" if which == "kept" else "any score"
        _heat(panels[2 * place], shares([boxes.areas for boxes in found]), f"areas, {words}")
        drawn = _heat(panels[2 * place + 1], shares([boxes.classes for boxes in found]), f"classes, {words}")
        panels[2 * place].set_xticks([-0.5, 3.5, 7.5, 11.5, 15.5], ["0.01", "0.1", "1", "10", "100"])
        panels[2 * place].set_xlabel("area, % of the image", fontsize=8, color=INK)
        _class_ticks(panels[2 * place + 1], report.categories.names)
    if len(summaries) <= 50:
        panels[0].set_yticks(range(len(summaries)), [str(query) for query in report.chosen])
    else:
        panels[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    in_order = report.chosen == tuple(range(len(report.chosen)))
    panels[0].set_ylabel("query" if len(summaries) <= 50 or in_order else "place among the chosen", fontsize=8)
    bar = figure.colorbar(drawn, ax=panels.tolist(), fraction=0.02, pad=0.01)
    bar.set_label("% of the query's boxes", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=MUTED)
    figure.suptitle(f"{report.name}: areas and classes, {report.chosen_as}", fontsize=10, color=INK)
    explain(figure, f"A row adds up to 100 %; hatched: nothing to count. {report.caption}")
    return figure


def shares(counts: Sequence[Sequence[int]]) -> np.ndarray:
    """Each row's in %, (rows, columns); NaN where a row counts nothing."""
    table = np.array(counts, dtype=np.float64)
    total = table.sum(1, keepdims=True)
    return np.where(total > 0, 100 * table / np.where(total > 0, total, 1), np.nan)


def _heat(axes: Axes, table: np.ndarray, title: str) -> AxesImage:
    axes.set_facecolor("#f2f2f2")
    axes.add_patch(
        Rectangle((0, 0), 1, 1, transform=axes.transAxes, hatch="////", facecolor="none", edgecolor="#cccccc", zorder=0)
    )
    drawn = axes.imshow(table, aspect="auto", cmap=SHARES, vmin=0, vmax=100, interpolation="nearest", zorder=1)
    axes.set_title(title, fontsize=9, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    return drawn


def _class_ticks(axes: Axes, names: Sequence[str]) -> None:
    if len(names) <= 25:
        axes.set_xticks(range(len(names)), [textwrap.shorten(name, 14, placeholder="…") for name in names], rotation=90)
    else:
        axes.set_xlabel("class, by number", fontsize=8, color=INK)


# ---- all queries at once ----


def overview_figure(report: QueryReport) -> Figure:
    """How unevenly queries are used, how specialised each is, and how large its boxes are, all together."""
    figure = new_figure(11.0, 3.9)
    use, entropies, areas = figure.subplots(1, 3)
    _use(use, report)
    _entropies(entropies, report)
    _pooled_areas(areas, report)
    figure.suptitle(
        f"{report.name}: {report.images} images, {len(report.summaries)} queries, {len(report.dead)} of them dead, "
        f"{report.detections} detections with a score of at least {report.least:g}",
        fontsize=10,
        color=INK,
    )
    explain(figure, report.caption)
    return figure


def _use(axes: Axes, report: QueryReport) -> None:
    order = range(len(report.summaries)) if report.by_rank else report.records.most_used
    kept = [report.summaries[query].detections for query in order]
    matched = [report.summaries[query].matched for query in order]
    axes.stairs(kept, color=BLUE, fill=True, alpha=0.4, label="detections kept")
    axes.stairs(matched, color=ORANGE, linewidth=1.4, label="times matched")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("count over all images", fontsize=8, color=INK)
    dress(axes, "use of the queries", "query, by rank" if report.by_rank else "queries, most used first")


def _entropies(axes: Axes, report: QueryReport) -> None:
    used = [summary for summary in report.summaries if summary.kept.place_entropy is not None]
    sizes = np.array([summary.detections for summary in used], dtype=np.float64)
    axes.scatter(
        [summary.kept.place_entropy for summary in used],  # type: ignore[arg-type]
        [summary.kept.class_entropy for summary in used],  # type: ignore[arg-type]
        s=6 + 60 * sizes / max(sizes.max(initial=1), 1),
        color=BLUE,
        alpha=0.6,
        linewidths=0.5,
        edgecolors="white",
    )
    axes.set_xlim(-0.2, 6.2)
    axes.set_ylim(-0.1, max(np.log2(len(report.categories)), 1) * 1.04)
    axes.set_ylabel("entropy of the class, bits", fontsize=8, color=INK)
    dress(axes, "kept boxes; large: many of them", "entropy of the place, bits")
    if not used:
        axes.text(3, 0.5 * axes.get_ylim()[1], "no detection is kept", ha="center", fontsize=9, color=MUTED)


def _pooled_areas(axes: Axes, report: QueryReport) -> None:
    everything, kept = (
        np.sum([getattr(summary, which).areas for summary in report.summaries], axis=0).tolist()
        for which in ("all", "kept")
    )
    draw_areas(axes, everything, "#9a9a9a", filled=True, label="any score")
    draw_areas(axes, kept, BLUE, filled=False, label=f"score at least {report.least:g}")
    dress(axes, "areas of boxes", "area, % of the image", whole_numbers=False)
