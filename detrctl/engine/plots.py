"""Loss and AP curves of a run, drawn from its metrics.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Row = Mapping[str, Any]

# Okabe & Ito's palette, told apart by readers of every colour vision; line styles tell them apart in print.
INK, MUTED, GRID = "#222222", "#666666", "#e4e4e4"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
TERMS = {"class": (BLUE, "-"), "l1": (ORANGE, "--"), "giou": (GREEN, "-.")}
RCNN_TERMS = {
    "roi.class": (BLUE, "-"),
    "roi.box": (ORANGE, "--"),
    "rpn.class": (GREEN, "-."),
    "rpn.box": (PURPLE, ":"),
}
SCORES = {
    "AP50": (MUTED, ":"),
    "AP": (BLUE, "-"),
    "APs": (ORANGE, "--"),
    "APm": (GREEN, "-."),
    "APl": (PURPLE, (0, (5, 1, 1, 1, 1, 1))),
}


def draw_run(rows: Sequence[Row], folder: Path, title: str) -> list[Path]:
    """Write `loss.png` and, where something was evaluated, `ap.png` into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    train, evaluated = ([row for row in rows if row["kind"] == kind] for kind in ("train", "eval"))
    drawn = []
    if train:
        drawn.append(_save(_loss_figure(train, title), folder / "loss.png"))
    if evaluated:
        drawn.append(_save(_score_figure(evaluated, title), folder / "ap.png"))
    return drawn


def _loss_figure(rows: Sequence[Row], title: str) -> Figure:
    figure = _figure(height=5.6)
    total, terms = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1, 1]})
    epochs = [row["epoch"] for row in rows]
    _line(total, epochs, [row["loss"] for row in rows], INK, "-", "total, all decoder layers")
    for name, (colour, style) in TERMS.items():
        _line(terms, epochs, [_last_layer(row["losses"], name) for row in rows], colour, style, name)
    for name, (colour, style) in RCNN_TERMS.items():
        _line(terms, epochs, [row["losses"].get(name) for row in rows], colour, style, name)
    of_rcnn = RCNN_TERMS.keys() & rows[0]["losses"].keys()
    said = "its terms, unweighted" + ("" if of_rcnn else ", last decoder layer")
    _dress(total, f"{title}: training loss")
    _dress(terms, said)
    terms.set_xlabel("epoch")
    return figure


def _score_figure(rows: Sequence[Row], title: str) -> Figure:
    figure = _figure(height=4.2)
    axes = figure.subplots()
    epochs = [row["epoch"] for row in rows]
    for name, (colour, style) in SCORES.items():
        _line(axes, epochs, [row["scores"].get(name) for row in rows], colour, style, name)
    scored = [(row["scores"]["AP"], row["epoch"]) for row in rows if row["scores"].get("AP") is not None]
    if scored:
        best, epoch = max(scored)
        axes.plot([epoch], [best], "o", color=BLUE, markersize=7, markeredgecolor="white", clip_on=False, zorder=4)
        axes.annotate(
            f"best AP {best:.3f}",
            (epoch, best),
            (0, 9),
            textcoords="offset points",
            ha="right",
            color=BLUE,
            weight="bold",
        )
    axes.set_ylim(bottom=0)
    _dress(axes, f"{title}: validation scores")
    axes.set_xlabel("epoch")
    return figure


def _last_layer(losses: Mapping[str, float | None], name: str) -> float | None:
    """The term of the decoder layer with the highest number: keys are `stage.layer.name`."""
    layers = [(int(key.split(".")[1]), value) for key, value in losses.items() if _is_term(key, name)]
    return max(layers, key=lambda layer: layer[0])[1] if layers else None


def _is_term(key: str, name: str) -> bool:
    return key.startswith("decoder.") and key.endswith(f".{name}")


def _line(axes: Axes, x: Sequence[float], y: Sequence[float | None], colour: str, style: Any, label: str) -> None:
    points = [(a, b) for a, b in zip(x, y, strict=True) if b is not None]
    if not points:
        return
    few = len(points) < 12
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, color=colour, linestyle=style, linewidth=1.8, label=label, marker="." if few else None)


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(7.2, height), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _dress(axes: Axes, title: str) -> None:
    dress(axes, title)
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, ncols=2)


def dress(axes: Axes, title: str) -> None:
    """The looks that all our curves share; no legend."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, weight="bold")
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.xaxis.label.set_color(MUTED)
    axes.margins(x=0.02)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path
