"""Pictures of where object queries start: learned points and anchors, proposals by rank, learned contents."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from detrctl.inspection.looks import paired_iou
from detrctl.inspection.queries import principal_plane
from detrctl.inspection.query_report import QueryReport
from detrctl.inspection.style import BLUE, INK, MUTED, ORANGE, SHARES, dress, explain, new_figure

BAND = (10, 90)
"""Per cent: the band around a median."""


def starts_figure(report: QueryReport) -> Figure | None:
    """Learned places, or proposals by rank; None for DETR, whose queries start nowhere."""
    if report.starts is not None:
        return _learned(report, report.starts)
    return None if report.records.proposals is None else _proposed(report, report.records.proposals)


# ---- learned points and anchors ----


def _learned(report: QueryReport, starts: np.ndarray) -> Figure:
    """(Q, 2 or 4): where they are, and how far the boxes end up from them."""
    are_boxes = starts.shape[1] == 4
    figure = new_figure(11.0 if are_boxes else 7.6, 4.3)
    places, moves, *sizes = figure.subplots(1, 3 if are_boxes else 2)
    if are_boxes:
        _rectangles(places, starts)
        sizes[0].scatter(starts[:, 2], starts[:, 3], s=9, color=BLUE, alpha=0.6, linewidths=0)
        _unit(sizes[0], "their sizes", "width", "height", downwards=False)
    places.scatter(starts[:, 0], starts[:, 1], s=9, color=BLUE, zorder=3, linewidths=0)
    _unit(places, f"{len(starts)} learned {'anchors' if are_boxes else 'points'}", "centre x", "centre y")
    _moves(moves, report, starts)
    figure.suptitle(f"{report.name}: where queries start", fontsize=10, color=INK)
    explain(
        figure,
        "In fractions of the image, and the same in every image. A line leads from each start to the mean centre of "
        f"the query's boxes: those with a score of at least {report.least:g} where there are any (orange point), "
        "otherwise all (grey point).",
    )
    return figure


def _rectangles(axes: Axes, boxes: np.ndarray) -> None:
    frames = [Rectangle((x - w / 2, y - h / 2), w, h) for x, y, w, h in boxes.tolist()]
    axes.add_collection(
        PatchCollection(frames, facecolor="none", edgecolor=BLUE, linewidth=0.7, alpha=min(0.6, 12 / len(boxes) + 0.1))
    )


def _moves(axes: Axes, report: QueryReport, starts: np.ndarray) -> None:
    ends, is_kept = mean_centres(report)
    lines = np.stack([starts[:, :2], ends], axis=1)
    axes.add_collection(LineCollection(list(lines), colors="#999999", linewidths=0.8))
    for which, colour in ((~is_kept, "#8a8a8a"), (is_kept, ORANGE)):
        axes.scatter(ends[which, 0], ends[which, 1], s=12, color=colour, zorder=3, linewidths=0)
    _unit(axes, "from start to mean centre of its boxes", "centre x", "centre y")


def mean_centres(report: QueryReport) -> tuple[np.ndarray, np.ndarray]:
    """By query, (Q, 2), of its kept boxes or, where there are none, of all; and which are of kept ones, (Q,) bool."""
    centres = [summary.kept.centre or summary.all.centre for summary in report.summaries]
    return np.array(centres, dtype=np.float64), np.array([s.kept.centre is not None for s in report.summaries])


def _unit(axes: Axes, title: str, below: str, beside: str, *, downwards: bool = True) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(*((1, 0) if downwards else (0, 1)))
    axes.set_box_aspect(1)
    dress(axes, title, below, whole_numbers=False)
    axes.set_ylabel(beside, fontsize=8, color=INK)


# ---- proposals ----


def _proposed(report: QueryReport, proposals: np.ndarray) -> Figure:
    """(N, Q, 4): where they lie, how large they are by rank, and how much the decoder moves them."""
    figure = new_figure(11.0, 3.9)
    places, sizes, moved = figure.subplots(1, 3)
    there = proposals[report.records.is_there]
    _density(figure, places, there)
    overlaps = np.where(report.records.is_there, paired_iou(proposals, report.records.boxes), np.nan)
    roots = np.sqrt(np.maximum(proposals[..., 2] * proposals[..., 3], 0))
    _by_rank(sizes, 100 * roots, "size of proposals by rank", "root of area, % of the image's")
    _by_rank(moved, overlaps, "what the decoder leaves of a proposal", "IoU of proposal and last box")
    moved.set_ylim(0, 1.02)
    figure.suptitle(f"{report.name}: the encoder's proposals that queries start from", fontsize=10, color=INK)
    explain(
        figure, f"Line: median over {report.images} images; band: {BAND[0]} to {BAND[1]} % of them. {report.caption}"
    )
    return figure


def _density(figure: Figure, axes: Axes, boxes: np.ndarray) -> None:
    counts, _, _ = np.histogram2d(
        np.clip(boxes[:, 1], 0, 1), np.clip(boxes[:, 0], 0, 1), bins=24, range=[[0, 1], [0, 1]]
    )
    share = 100 * counts / counts.sum()
    drawn = axes.imshow(share, extent=(0, 1, 1, 0), cmap=SHARES, vmin=0, interpolation="nearest")
    _unit(axes, "centres of proposals, all ranks", "centre x", "centre y")
    axes.grid(visible=False)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.02)
    bar.set_label("% of proposals in a cell", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=MUTED)


def _by_rank(axes: Axes, values: np.ndarray, title: str, beside: str) -> None:
    """(N, Q)"""
    low, middle, high = np.nanpercentile(values, (BAND[0], 50, BAND[1]), axis=0)
    ranks = range(values.shape[1])
    axes.fill_between(ranks, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(ranks, middle, color=BLUE, linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(beside, fontsize=8, color=INK)
    dress(axes, title, "query, by rank")


# ---- learned contents ----


def contents_figure(report: QueryReport) -> Figure | None:
    """What tells ranks apart in DINO; None elsewhere."""
    contents = report.contents
    if contents is None:
        return None
    figure = new_figure(8.6, 4.2)
    plane, table = figure.subplots(1, 2)
    places, share = principal_plane(contents)
    drawn = plane.scatter(places[:, 0], places[:, 1], c=range(len(places)), cmap="viridis", s=16, linewidths=0)
    dress(plane, f"contents on their principal plane\n({share:.0%} of the variance)", "first axis", whole_numbers=False)
    plane.set_ylabel("second axis", fontsize=8, color=INK)
    plane.set_box_aspect(1)
    _bar(figure, plane, drawn, "rank")
    heat = table.imshow(similarities(contents), cmap="PuOr_r", vmin=-1, vmax=1, interpolation="nearest")
    table.set_title("likeness of contents", fontsize=9, color=INK)
    table.set_xlabel("rank", fontsize=8, color=INK)
    table.set_ylabel("rank", fontsize=8, color=INK)
    table.tick_params(labelsize=8, colors=MUTED)
    _bar(figure, table, heat, "cosine")
    figure.suptitle(f"{report.name}: the content that each rank has learned", fontsize=10, color=INK)
    explain(figure, report.caption)
    return figure


def similarities(vectors: np.ndarray) -> np.ndarray:
    """Cosines, (Q, D) -> (Q, Q); 0 with a vector that is zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    even = vectors / np.where(lengths > 0, lengths, 1)
    return even @ even.T


def _bar(figure: Figure, axes: Axes, drawn: object, name: str) -> None:
    bar = figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.02)  # type: ignore[arg-type]
    bar.set_label(name, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=MUTED)
