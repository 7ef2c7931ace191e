"""Figures of an examination, drawn from the structs that the JSON is made of."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from detrctl.evaluation.answers import SIZES
from detrctl.evaluation.causes import Causes
from detrctl.evaluation.confusion import BACKGROUND, Confusion
from detrctl.evaluation.errors import ErrorReport, ErrorRow
from detrctl.evaluation.examination import Examination
from detrctl.evaluation.score_curves import ClassPoint, ScoreReport
from detrctl.evaluation.suppression import USUAL, Suppressed, Suppression
from detrctl.inspection.style import BLUE, GRID, INK, LINES, MUTED, ORANGE, SKY, dress, new_figure, or_nan, save

CLASSES_SHOWN = 20
NUMBERED_CLASSES = 16
"""Up to so many classes the cells of a confusion matrix have their numbers written in."""

PALE = "#b9c4cc"


def draw_examination(found: Examination, folder: Path, file_format: str) -> list[Path]:
    """A figure for each question that has one; returns their paths."""
    figures: dict[str, Figure] = {}
    if found.errors is not None and found.causes is not None:
        figures["errors"] = errors_figure(found.errors, found.causes)
    if found.suppression is not None and found.questions.nms:
        figures["nms"] = nms_figure(found.suppression, found.scores)
    elif found.suppression is not None:
        figures["layers"] = layers_figure(found.suppression)
    if found.confusion is not None:
        figures["confusion"] = confusion_figure(found.confusion)
    return [save(figure, folder / f"{name}.{file_format}") for name, figure in figures.items()]


# ---- errors ----


def errors_figure(report: ErrorReport, causes: Causes) -> Figure:
    """What each kind of mistake costs, overall (bars) and by size (marks); and what DETR's causes cost."""
    figure = new_figure(10.4, 4.3)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.45, 1], height_ratios=[6, 2.4])
    kinds, special, why = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[:, 1])
    _kind_bars(kinds, report.rows, SKY)
    dress(kinds, "what each kind of mistake costs (in brackets: how many)", "")
    _kind_bars(special, (report.false_positives, report.false_negatives), PALE)
    dress(special, "", "AP50 gained by mending it alone")
    if (legend := special.get_legend()) is not None:
        legend.remove()
    _bars(
        why,
        [row.name for row in causes.rows],
        [row.count for row in causes.rows],
        [r.lost_ap for r in causes.rows],
        BLUE,
    )
    dress(
        why,
        f"why truths are lost or doubled, at score {causes.score:.2f}\n({causes.lost} of {causes.truths} are lost)",
        "AP50 gained by mending it alone",
    )
    for axes in (kinds, special, why):
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.grid(False)
    return figure


def _kind_bars(axes: Axes, rows: Sequence[ErrorRow], colour: str) -> None:
    _bars(axes, [row.kind for row in rows], [row.all.count for row in rows], [row.all.lost_ap for row in rows], colour)
    axes.patches[0].set_label("all sizes")
    for size, (ink, _, marker) in zip(SIZES, LINES[1:], strict=True):
        x, y = zip(*((row.by_size[size].lost_ap, i) for i, row in enumerate(rows) if row.by_size), strict=True)
        axes.scatter(x, y, marker=marker, s=26, color=ink, edgecolors="white", linewidths=0.6, zorder=3, label=size)


def _bars(axes: Axes, names: Sequence[str], counts: Sequence[int], values: Sequence[float], colour: str) -> None:
    """Values are written at the ends, counts behind the names."""
    axes.barh(range(len(values)), values, color=colour, height=0.6)
    axes.set_yticks(range(len(values)), [f"{name} ({count})" for name, count in zip(names, counts, strict=True)])
    axes.invert_yaxis()
    axes.set_xlim(0, max([*values, 0.01]) * 1.25)
    for place, value in enumerate(values):
        axes.annotate(
            f"{value:.3f}",
            (value, place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )


# ---- NMS, layers and scores ----


def layers_figure(study: Suppression) -> Figure:
    """AP, AP50 and duplicates by decoder layer, without and with NMS (Carion et al. 2020, figure 4)."""
    figure = new_figure(7.6, 3.1)
    left, right = figure.subplots(1, 2)
    _by_layer(left, study)
    _duplicates_by_layer(right, study)
    return figure


def nms_figure(study: Suppression, scores: ScoreReport) -> Figure:
    """Everything about NMS and scores in one figure; the panels by layer only where there are layers."""
    panels: list[Callable[[Axes], None]] = [
        lambda axes: _by_threshold(axes, study),
        lambda axes: _false_per_image(axes, scores),
        lambda axes: _precision_recall(axes, scores),
        lambda axes: _f1(axes, scores),
        lambda axes: _reliability(axes, scores),
        lambda axes: _best_by_class(axes, scores.by_class),
    ]
    if study.layers:
        panels = [
            lambda axes: _by_layer(axes, study),
            lambda axes: _duplicates_by_layer(axes, study),
            *panels,
        ]
    across = len(panels) // 2
    figure = new_figure(3.3 * across, 6.1)
    for letter, axes, panel in zip("abcdefgh", figure.subplots(2, across).flat, panels, strict=False):
        panel(axes)
        axes.set_title(f"({letter}) {axes.get_title()}", fontsize=9, color=INK)
    return figure


def _by_layer(axes: Axes, study: Suppression) -> None:
    depth = range(1, len(study.pairs) + 1)
    for name, attribute, colour, marker in (("AP50", "ap50", ORANGE, "s"), ("AP", "ap", BLUE, "o")):
        for which, (style, text, fill) in enumerate((("-", "", colour), ("--", f", NMS at {USUAL:g}", "white"))):
            values = [or_nan(getattr(pair[which], attribute)) for pair in study.pairs]
            axes.plot(depth, values, style, color=colour, marker=marker, markerfacecolor=fill, label=f"{name}{text}")
    axes.set_ylim(0, _head_room([row.ap50 for row in study.layers]))
    dress(axes, "without and with NMS", "decoder layer", beside="AP")
    _legend_on_top(axes)


def _head_room(values: Sequence[float | None]) -> float:
    return max([0.05, *(value for value in values if value is not None)]) * 1.4


def _duplicates_by_layer(axes: Axes, study: Suppression) -> None:
    depth = range(1, len(study.pairs) + 1)
    plain = [pair[0] for pair in study.pairs]
    for (attribute, text), (colour, style, marker) in zip(
        (("duplicates", "of any score"), ("sure_duplicates", "from the score of the best F1 up")), LINES, strict=False
    ):
        values = [or_nan(getattr(row, attribute)) for row in plain]
        axes.plot(depth, values, style, color=colour, marker=marker, label=text)
    axes.set_ylim(0, max([0.1, *(row.duplicates or 0.0 for row in plain)]) * 1.3)
    dress(axes, "duplicates, without NMS", "decoder layer", beside="per truth")


def _by_threshold(axes: Axes, study: Suppression) -> None:
    tried: list[Suppressed] = [row for row in study.last if row.threshold is not None]
    for name, attribute, colour, marker in (("AP50", "ap50", ORANGE, "s"), ("AP", "ap", BLUE, "o")):
        values = [or_nan(getattr(row, attribute)) for row in tried]
        x = [row.threshold or 0.0 for row in tried]
        axes.plot(x, values, "--", color=colour, marker=marker, markerfacecolor="white", label=f"{name}, NMS")
        axes.axhline(or_nan(getattr(study.plain, attribute)), color=colour, linewidth=1.4, label=f"{name}, none")
    axes.set_ylim(0, _head_room([row.ap50 for row in study.last]))
    axes.invert_xaxis()
    below = "IoU above which NMS removes (stricter to the right)"
    dress(axes, "NMS on the answers", below, beside="AP", whole_numbers=False)
    _legend_on_top(axes)


def _legend_on_top(axes: Axes) -> None:
    """Where `_head_room` leaves place."""
    axes.legend(fontsize=7.5, frameon=False, ncols=2, loc="upper center")


def _false_per_image(axes: Axes, scores: ScoreReport) -> None:
    curve, best = scores.curve, scores.curve.best
    if best is not None:
        axes.step(curve.score, curve.false_per_image, where="post", color=BLUE, label="false positives")
        axes.axvline(best.score, color=MUTED, linestyle=":", linewidth=1.2)
        axes.plot(
            best.score,
            max(best.false_per_image, 1e-3),
            "s",
            color=ORANGE,
            label=f"{best.false_per_image:.2f} at the best F1",
        )
        axes.set_yscale("log")
        axes.set_ylim(max(1e-3, 0.3 / max(1.0, len(curve.score))), None)
        _plain_decades(axes)
    _score_axis(axes, curve.score)
    dress(axes, "false positives", "score threshold", beside="per image", whole_numbers=False)


def _plain_decades(axes: Axes) -> None:
    """Ticks without formulas, which `save` would not draw: powers of ten, and 2 and 5 of them in a short range."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 50 * low else (1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _precision_recall(axes: Axes, scores: ScoreReport) -> None:
    curve, best = scores.curve, scores.curve.best
    if best is not None:
        axes.plot(
            np.append(0.0, curve.recall), np.append(curve.precision[0], curve.precision), color=BLUE, linewidth=1.6
        )
        axes.plot(best.recall, best.precision, "s", color=ORANGE, label=f"best F1, at score {best.score:.2f}")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
    dress(axes, "precision and recall, all classes", "recall (IoU 0.5)", beside="precision", whole_numbers=False)


def _f1(axes: Axes, scores: ScoreReport) -> None:
    curve, best = scores.curve, scores.curve.best
    if best is not None:
        for name, (colour, style, _) in zip(("f1", "precision", "recall"), LINES, strict=False):
            axes.plot(curve.score, getattr(curve, name), style, color=colour, label="F1" if name == "f1" else name)
        axes.axvline(best.score, color=MUTED, linestyle=":", linewidth=1.2)
        axes.annotate(
            f"best F1 {best.f1:.2f}",
            (best.score, 1.1),
            xytext=(3 if best.score < 0.6 else -3, 0),
            textcoords="offset points",
            ha="left" if best.score < 0.6 else "right",
            fontsize=7.5,
            color=MUTED,
        )
    axes.set_ylim(0, 1.18)
    _score_axis(axes, curve.score)
    dress(axes, "F1 against score, all classes", "score threshold", beside="F1 and its parts", whole_numbers=False)


def _score_axis(axes: Axes, score: np.ndarray) -> None:
    """From 0 to 1, unless the scores of a file go beyond."""
    if len(score) == 0 or (score.min() >= 0 and score.max() <= 1):
        axes.set_xlim(0, 1)


def _reliability(axes: Axes, scores: ScoreReport) -> None:
    calibration = scores.calibration
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1.2, label="honest scores")
    if calibration is not None:
        bins = [one for one in calibration.bins if one.count]
        axes.bar(
            [one.low + 0.05 for one in bins],
            [or_nan(one.right) for one in bins],
            width=0.092,
            color=SKY,
            label=f"answers (ECE {calibration.error:.3f})",
        )
        axes.plot([or_nan(one.score) for one in bins], [or_nan(one.right) for one in bins], "o", ms=3.5, color=BLUE)
        for one in bins:
            axes.text(one.low + 0.05, 1.04, _short(one.count), fontsize=6, ha="center", color=INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.36)
    dress(axes, "calibration (numbers: answers)", "score", beside="share that is right", whole_numbers=False)


def _short(count: int) -> str:
    return str(count) if count < 1000 else f"{count / 1000:.0f}k" if count >= 9500 else f"{count / 1000:.1f}k"


def _best_by_class(axes: Axes, rows: Sequence[ClassPoint]) -> None:
    """The classes with most truths, where there are too many to be read."""
    shown = sorted((row for row in rows if row.best is not None), key=lambda row: -row.truths)[:CLASSES_SHOWN]
    for place, row in enumerate(shown):
        assert row.best is not None
        axes.plot([row.best.score, row.best.f1], [place, place], color=GRID, linewidth=2, zorder=1)
    axes.plot(
        [or_nan(row.best.f1 if row.best else None) for row in shown],
        range(len(shown)),
        "o",
        color=BLUE,
        label="best F1",
    )
    axes.plot(
        [or_nan(row.best.score if row.best else None) for row in shown],
        range(len(shown)),
        "s",
        color=ORANGE,
        label="at score",
    )
    axes.set_yticks(range(len(shown)), [row.name[:16] for row in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6 - 0.2 * max(1, len(shown)))
    axes.set_xlim(0, 1.02)
    text = "best F1 by class" if len(shown) == len(rows) else f"best F1, {len(shown)} commonest classes"
    dress(axes, text, "F1 and its score threshold", whole_numbers=False)
    axes.tick_params(axis="y", labelsize=8 if len(shown) <= 10 else 6)
    if shown:
        axes.legend(fontsize=7.5, frameon=False, ncols=2, loc="upper center")


# ---- confusion ----


def confusion_figure(confusion: Confusion) -> Figure:
    """Rows sum to 1; a cell is dark where much of its row is; numbers are counts."""
    names = [*confusion.names, BACKGROUND]
    numbered = len(names) <= NUMBERED_CLASSES + 1
    side = 0.52 if numbered else max(0.1, 8.5 / len(names))
    figure = new_figure(side * len(names) + 2.6, side * len(names) + 1.9)
    axes = figure.subplots()
    shares = confusion.shares
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    labels = 8.5 if numbered else max(3.5, 60 * side)
    axes.set_xticks(
        range(len(names)),
        [*confusion.names, "missed"],
        rotation=45 if numbered else 90,
        ha="right",
        va="top" if numbered else "center",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(names)), [*confusion.names, "nothing there"])
    axes.tick_params(labelsize=labels, colors=INK, length=0)
    axes.spines[:].set_visible(False)
    for edge in (len(names) - 1.5,):  # what is no class stands apart
        axes.axhline(edge, color="white", linewidth=3)
        axes.axvline(edge, color="white", linewidth=3)
    if numbered:
        for (row, column), count in np.ndenumerate(confusion.counts):
            ink = "white" if shares[row, column] > 0.55 else INK if count else PALE
            axes.text(column, row, _short(int(count)), ha="center", va="center", fontsize=8, color=ink)
    axes.set_xlabel("answered", fontsize=9, color=INK)
    axes.set_ylabel("true", fontsize=9, color=INK)
    axes.set_title(f"answers from score {confusion.score:.2f} up, IoU 0.5", fontsize=9.5, color=INK)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02, aspect=30, format=PercentFormatter(1, decimals=0))
    bar.set_label("share of the row", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7.5, colors=MUTED)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure
