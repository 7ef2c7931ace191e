"""Curves of a run, drawn from its metrics.jsonl: losses and what share each has, scores, the matching."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from detrctl.inspection.words import without_formulas

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


STAGES = {"decoder": ("", 1.0), "denoising": ("//", 0.55), "encoder": ("..", 0.3)}
"""Hatch and opacity of what a stage adds to a stack."""


def draw_run(rows: Sequence[Row], folder: Path, title: str) -> list[Path]:
    """Write those of `loss.png`, `shares.png`, `ap.png` and `matching.png` that there are numbers for into `folder`.

    Lines that an older version wrote have no shares and no matching.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, evaluated = ([row for row in rows if row["kind"] == kind] for kind in ("train", "eval"))
    shared = [row for row in train if row.get("shares")]
    matched = any(_costs(row) for row in train) or any(_instability(row) is not None for row in evaluated)
    figures = {
        "loss": _loss_figure(train, title) if train else None,
        "shares": _share_figure(shared, title) if shared else None,
        "ap": _score_figure(evaluated, title) if evaluated else None,
        "matching": _matching_figure(train, evaluated, title) if matched else None,
    }
    return [_save(figure, folder / f"{name}.png") for name, figure in figures.items() if figure is not None]


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
    _dress(total, f"{title}: training loss", "loss")
    _dress(terms, said, "loss")
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
    _dress(axes, f"{title}: validation scores", "AP")
    axes.set_xlabel("epoch")
    return figure


# ---- shares of the losses ----


def _share_figure(rows: Sequence[Row], title: str) -> Figure:
    """Stacks that fill the whole: by term, and by the layer that it belongs to."""
    names = list(dict.fromkeys(name for row in rows for name in row["shares"]))
    terms, layers = _grouped(names, _term_of), _grouped(names, _layer_of)
    figure = _figure(height=5.6 if len(layers) > 1 else 3.4)
    panels = figure.subplots(2 if len(layers) > 1 else 1, 1, sharex=True, squeeze=False)[:, 0]
    epochs = [row["epoch"] for row in rows]
    _stack(panels[0], epochs, rows, terms, [_term_look(name) for name in terms])
    _title(panels[0], f"{title}: share of each loss in the total, as weighted", "% of the loss")
    if len(layers) > 1:
        _stack(panels[1], epochs, rows, layers, _layer_looks(list(layers)))
        _title(panels[1], "the same by layer", "% of the loss")
    panels[-1].set_xlabel("epoch")
    return figure


def _grouped(names: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _term_of(name: str) -> str:
    """`decoder.5.giou` is `giou`, `denoising.5.giou` is `denoising giou`, `roi.class` is `roi class`."""
    stage, *_, term = name.split(".")
    return term if stage == "decoder" else f"{stage} {term}"


def _layer_of(name: str) -> str:
    """`decoder.0.giou` is `decoder 1`; what has no layer is its stage."""
    stage, *rest = name.split(".")
    return f"{stage} {int(rest[0]) + 1}" if len(rest) == 2 else stage


def _term_look(name: str) -> tuple[str, float, str]:
    """Colour, opacity and hatch of a band."""
    *stage, term = name.split()
    colours = {"class": BLUE, "l1": ORANGE, "giou": GREEN, "box": ORANGE}
    hatch, opacity = STAGES.get(stage[0] if stage else "decoder", ("//" if stage == ["rpn"] else "", 1.0))
    return colours.get(term, PURPLE), opacity, hatch


def _layer_looks(names: Sequence[str]) -> list[tuple[str, float, str]]:
    """Layers of one stage go from dark to light."""
    looks = []
    for name in names:
        stage = name.split()[0]
        alike = [other for other in names if other.split()[0] == stage]
        shade = 0.15 + 0.75 * alike.index(name) / max(len(alike) - 1, 1)
        looks.append((to_hex(colormaps["cividis"](shade)), 1.0, STAGES.get(stage, ("", 1.0))[0]))
    return looks


def _stack(
    axes: Axes,
    epochs: Sequence[float],
    rows: Sequence[Row],
    groups: Mapping[str, Sequence[str]],
    looks: Sequence[tuple[str, float, str]],
) -> None:
    heights = [
        [100 * sum(row["shares"].get(name) or 0.0 for name in names) for row in rows] for names in groups.values()
    ]
    x = [epochs[0] - 1e-6, *epochs] if len(epochs) == 1 else list(epochs)  # one line of metrics still has a width
    bands = axes.stackplot(x, [h * 2 if len(h) == 1 else h for h in heights], labels=list(groups))
    for band, (colour, opacity, hatch) in zip(bands, looks, strict=True):
        band.set(facecolor=(*to_rgb(colour), opacity), hatch=hatch, edgecolor="white", linewidth=0.4)
    axes.set_ylim(0, 100)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        labels[::-1],
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )


# ---- the matching ----


def _matching_figure(train: Sequence[Row], evaluated: Sequence[Row], title: str) -> Figure:
    """What matched pairs cost by layer, and how much the matching has moved since the evaluation before."""
    stages = list(dict.fromkeys(stage for row in train for stage in _costs(row)))
    steady = [row for row in evaluated if _instability(row) is not None]
    figure = _figure(height=5.6 if stages and steady else 3.4)
    panels = list(figure.subplots(bool(stages) + bool(steady), 1, squeeze=False)[:, 0])
    if stages:
        axes = panels.pop(0)
        epochs = [row["epoch"] for row in train]
        for stage, (colour, _, hatch) in zip(stages, _layer_looks(stages), strict=True):
            style = ":" if hatch else "-"
            _line(axes, epochs, [_costs(row).get(stage) for row in train], colour, style, stage)
        _title(axes, f"{title}: cost of a matched pair, by layer", "cost")
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.set_xlabel("epoch")
    if steady:
        _instability_panel(panels[0], steady)
    return figure


def _instability_panel(axes: Axes, rows: Sequence[Row]) -> None:
    epochs = [row["epoch"] for row in rows]
    by_token = any(row["matching"].get("by_token") is not None for row in rows)
    name = "queries by rank" if by_token else "instability"
    _line(
        axes, epochs, [_instability(row) for row in rows], ORANGE if by_token else BLUE, "--" if by_token else "-", name
    )
    _line(axes, epochs, [row["matching"].get("by_token") for row in rows], BLUE, "-", "queries by encoder token")
    _line(axes, epochs, [row["matching"]["most"] for row in rows], MUTED, ":", "the most there can be")
    axes.set_ylim(bottom=0)
    said = "matching of validation images: queries with another truth\nthan at the evaluation before"
    _dress(axes, said, "queries of an image")
    axes.set_xlabel("epoch")


def _costs(row: Row) -> dict[str, float | None]:
    """`decoder 1` -> what a matched pair cost, in the order of the layers."""
    ending = ".matching_cost"
    return {_layer_of(name): value for name, value in row["losses"].items() if name.endswith(ending)}


def _instability(row: Row) -> float | None:
    return (row.get("matching") or {}).get("instability")


# ---- parts ----


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


def _dress(axes: Axes, title: str, beside: str) -> None:
    dress(axes, title, beside)
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, ncols=2)


def _title(axes: Axes, title: str, beside: str) -> None:
    dress(axes, title, beside)
    axes.margins(x=0)


def dress(axes: Axes, title: str, beside: str = "") -> None:
    """The looks that all our curves share; no legend. `beside` names the y axis."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, weight="bold")
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.set_ylabel(beside, color=MUTED)
    axes.xaxis.label.set_color(MUTED)
    axes.margins(x=0.02)


def _save(figure: Figure, path: Path) -> Path:
    without_formulas(figure).savefig(path)
    return path
