"""One picture of several runs: a score against epochs and against wall-clock, a colour for each group of runs."""

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from detrctl.engine.compare import Comparison, Group
from detrctl.engine.plots import BLUE, GREEN, INK, ORANGE, PURPLE, dress
from detrctl.engine.run_records import RunRecord, Scored
from detrctl.errors import DetrctlError
from detrctl.inspection.words import without_formulas

# Okabe & Ito's palette without its yellow, which is lost on white; then the same colours in other line styles.
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, "#56b4e9", "#e69f00", INK)
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
SUFFIXES = (".png", ".svg", ".pdf")
HOURS_FROM = 240
"""Minutes from which the axis counts hours."""

Axis = Callable[[Scored], float]
Look = tuple[str, Any]


def draw_comparison(comparison: Comparison, file: Path, *, scores: Sequence[str] = ("AP",)) -> None:
    """Write `file`: a row of two panels for each of `scores`. DetrctlError as of `require_drawable`."""
    require_drawable(comparison, file, scores)
    groups = comparison.groups
    figure = Figure(figsize=(10.4, 3.5 * len(scores) + 0.25 * (len(groups) + 2) // 2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(scores), 2, squeeze=False, sharey="row")
    looks = list(islice(((colour, style) for style in cycle(STYLES) for colour in PALETTE), len(groups)))
    longest = max(run.minutes for group in groups for run in group.runs)
    unit, name = (60.0, "hours") if longest > HOURS_FROM else (1.0, "minutes")
    for row, score in zip(panels, scores, strict=True):
        _panel(row[0], groups, looks, score, lambda scored: scored.epoch)
        _panel(row[1], groups, looks, score, lambda scored: scored.minutes / unit)
        dress(row[0], f"{score} against epochs", score)
        dress(row[1], f"{score} against {name}")
    panels[-1][0].set_xlabel("epochs of training")
    panels[-1][1].set_xlabel(f"{name} of training and evaluation")
    _legend(figure, comparison, looks, scores[0])
    try:
        without_formulas(figure).savefig(file, facecolor="white")
    except OSError as error:
        raise DetrctlError(f"{file}: cannot be written ({error.strerror or error})") from None


def require_drawable(comparison: Comparison, file: Path, scores: Sequence[str]) -> None:
    """DetrctlError if the file's name says no format that is known, or no run has one of the scores."""
    if file.suffix.lower() not in SUFFIXES:
        raise DetrctlError(f"{file}: a picture is written as {', '.join(SUFFIXES)}")
    points = (point for group in comparison.groups for run in group.runs for point in run.evaluations)
    known = dict.fromkeys(name for point in points for name in point.scores)
    if unknown := [score for score in scores if score not in known]:
        raise DetrctlError(f"no run has a score '{unknown[0]}'; there is {', '.join(known)}")


def _panel(axes: Axes, groups: Sequence[Group], looks: Sequence[Look], score: str, axis: Axis) -> None:
    for group, (colour, style) in zip(groups, looks, strict=True):
        curves = [curve for run in group.runs if len((curve := _curve(run, score, axis))[0])]
        for xs, ys in curves:
            thin = len(curves) > 1
            width, strength = (0.9, 0.45) if thin else (1.9, 1.0)
            (line,) = axes.plot(xs, ys, color=colour, linestyle=style, linewidth=width, alpha=strength)
            if len(xs) < 12:
                line.set(marker="o", markersize=7 if len(xs) == 1 else 3.5)
        if len(curves) > 1:
            axes.plot(*mean_curve(curves), color=colour, linestyle=style, linewidth=2.2)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, 1.02 * max(axis(run.final) for group in groups for run in group.runs))


Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def _curve(run: RunRecord, score: str, axis: Axis) -> Curve:
    points = [(axis(scored), value) for scored in run.evaluations if (value := scored.scores.get(score)) is not None]
    xs, ys = np.array(points, dtype=float).reshape(-1, 2).T
    return xs, ys


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of curves that were measured at different places, as far as all of them go."""
    start, end = max(xs[0] for xs, _ in curves), min(xs[-1] for xs, _ in curves)
    places = np.unique(np.concatenate([xs for xs, _ in curves]))
    places = places[(places >= start) & (places <= end)]
    return places, np.mean([np.interp(places, xs, ys) for xs, ys in curves], axis=0)


def _legend(figure: Figure, comparison: Comparison, looks: Sequence[Look], score: str) -> None:
    """Below the panels, the highest first, each with its score."""
    entries = []
    for row, (colour, style) in zip(comparison.rows, looks, strict=True):
        spread, runs = row.scores.get(score), row.group.runs
        said = [row.group.name] + ([f"(mean of {len(runs)})"] if len(runs) > 1 else [])
        said += [] if spread is None else [f" {score} {spread.mean:.3f}"]
        said += ["(not finished)"] if any(run.state != "finished" for run in runs) else []
        handle = Line2D([], [], color=colour, linestyle=style, linewidth=2.2, label=" ".join(said))
        entries.append((-1.0 if spread is None else spread.mean, handle))
    handles = [handle for _, handle in sorted(entries, key=lambda entry: -entry[0])]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9, labelcolor=INK, handlelength=3
    )
