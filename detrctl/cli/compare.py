"""`detrctl compare`: several runs side by side, as a table and a picture."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detrctl.cli.eval import check_writable, write_json
from detrctl.errors import DetrctlError

if TYPE_CHECKING:
    from detrctl.engine.compare import Comparison, Group, Reached, Row, Spread
    from detrctl.engine.compare_detections import Bootstrap
    from detrctl.engine.run_records import RunRecord
    from detrctl.evaluation.bootstrap import Interval

NONE = "-"
PICTURE = Path("comparison.png")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; the first is compared with.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the picture goes (.png, .svg, .pdf); an older one is replaced.")
    ] = PICTURE,
    reach: Annotated[
        str | None, typer.Option(metavar="AP,AP,...", help="APs to be reached, e.g. 0.1,0.2; default: three that suit.")
    ] = None,
    group: Annotated[
        Literal["seed", "recipe", "none"],
        typer.Option(help="Make one of runs that differ in train.seed only, or that share the recipe's name."),
    ] = "seed",
    best: Annotated[bool, typer.Option("--best", help="Each run's best evaluation instead of its last.")] = False,
    scores: Annotated[
        str, typer.Option(metavar="NAME,...", help="Scores to draw, e.g. AP,APs for small objects as well.")
    ] = "AP",
    bootstrap: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Intervals from N draws of images (1000); evaluates checkpoints first."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="With --bootstrap: where the dataset is now, if not as in training."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda|mps", help="With --bootstrap: where to compute; default: auto.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="With --bootstrap: import model parts of others that a checkpoint names.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all numbers to this JSON file.")
    ] = None,
) -> None:
    """Final scores, how soon given APs were reached, and AP over epochs and minutes, of several runs."""
    from detrctl.cli import render
    from detrctl.engine.compare import compare as compare_runs
    from detrctl.engine.compare import require_bootstrap
    from detrctl.engine.compare_plot import draw_comparison, require_drawable
    from detrctl.engine.run_records import read_runs

    for file in (out, json_file):
        if file is not None:
            check_writable(file)
    if bootstrap is None:
        _refuse({"--data": data, "--device": device, "--trust": trust or None})
    compared = compare_runs(read_runs(runs), by=group, reach=_thresholds(reach), best=best)
    wanted = list(dict.fromkeys(name.strip() for name in scores.split(",")))
    require_drawable(compared, out, wanted)
    for note in compared.notes:
        render.warn(note)
    if bootstrap is not None:
        require_bootstrap(compared.groups, other_data=data is not None)
    drawn = _bootstrapped(compared, bootstrap, data=data, device=device or "auto", trust=trust)
    draw_comparison(compared, out, scores=wanted)
    show(compared)
    if drawn is not None:
        show_bootstrap(drawn, compared.groups)
    render.say("")
    render.say(f"picture: {out}")
    if json_file is not None:
        write_json(json_file, as_dict(compared, drawn))


def _refuse(options: dict[str, object]) -> None:
    if given := [name for name, value in options.items() if value is not None]:
        raise DetrctlError(f"only --bootstrap evaluates checkpoints: add it, or leave out {', '.join(given)}")


def _thresholds(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value <= 1 for value in values):
        raise DetrctlError(f"--reach {text}: APs between 0 and 1 are needed, with commas between them, e.g. 0.1,0.2")
    return values


def _bootstrapped(
    compared: "Comparison", resamples: int | None, *, data: str | None, device: str, trust: bool
) -> "Bootstrap | None":
    if resamples is None:
        return None
    from detrctl.cli import render
    from detrctl.engine.compare_detections import bootstrap

    with render.live("bootstrap") as shown:
        found = bootstrap(
            compared.groups,
            resamples=resamples,
            best=compared.best,
            data=data,
            device=device,
            trust=trust,
            on_progress=lambda what, done, total: shown.bar(done, total, what),
        )
    for note in found.notes:
        render.warn(note)
    return found


# ---- tables ----


def show(compared: "Comparison") -> None:
    """The final scores, and how soon the APs were reached."""
    from detrctl.cli import render

    columns = [(title, cell) for title, cell, wanted in _score_columns(compared) if wanted]
    render.table(
        ("run", *(title for title, _ in columns)),
        [(_label(row.group), *(cell(row) for _, cell in columns)) for row in compared.rows],
    )
    if not compared.thresholds:
        return
    render.say("")
    titles = [f"AP {ap:g}: {unit}" for ap in compared.thresholds for unit in ("epochs", "minutes")]
    render.table(("first evaluation with", *titles), [_reach_row(row) for row in compared.rows])


def _score_columns(compared: "Comparison") -> list[tuple[str, "Callable[[Row], str]", bool]]:
    """Title, what stands in it, and whether these runs need the column."""
    several = any(len(group.runs) > 1 for group in compared.groups)
    fell = any(row.best and row.scores["AP"] and row.best.mean - row.scores["AP"].mean >= 5e-4 for row in compared.rows)

    def score(name: str) -> "Callable[[Row], str]":
        return lambda row: _mean(row.scores[name], "{:.3f}")

    def number(of: "Callable[[RunRecord], float | None]", form: str) -> "Callable[[Row], str]":
        return lambda row: _mean(row.group.spread(of), form)

    return [
        ("AP", score("AP"), True),
        ("range", lambda row: _range(row.scores["AP"]), several),
        ("best AP", lambda row: _mean(row.best, "{:.3f}"), fell and not compared.best),
        *((name, score(name), True) for name in ("AP50", "APs", "APm", "APl")),
        ("epochs", number(lambda run: run.epochs, "{:.1f}"), True),
        ("minutes", number(lambda run: run.minutes, "{:.1f}"), True),
        ("images", number(lambda run: run.images, "{:.0f}"), True),
        ("images/s", number(lambda run: run.images_per_second, "{:.1f}"), True),
        ("M parameters", number(lambda run: run.parameters and run.parameters / 1e6, "{:.2f}"), True),
    ]


def _label(group: "Group") -> str:
    going = sum(run.state != "finished" for run in group.runs)
    said = [f"{len(group.runs)} runs"] if len(group.runs) > 1 else []
    said += [] if not going else ["unfinished"] if len(group.runs) == 1 else [f"{going} unfinished"]
    return group.name + (f" ({', '.join(said)})" if said else "")


def _mean(spread: "Spread | None", form: str) -> str:
    return NONE if spread is None else form.format(spread.mean)


def _range(spread: "Spread | None") -> str:
    return NONE if spread is None or spread.low == spread.high else f"{spread.low:.3f} to {spread.high:.3f}"


def _reach_row(row: "Row") -> list[str]:
    cells = [cell for reached in row.reached for cell in _reach_cells(reached, len(row.group.runs))]
    return [_label(row.group), *cells]


def _reach_cells(reached: "Reached", runs: int) -> list[str]:
    if reached.epochs is None or reached.minutes is None:
        return [f"{reached.reached} of {runs} runs" if reached.reached else NONE] * 2
    return [_with_range(reached.epochs), _with_range(reached.minutes)]


def _with_range(spread: "Spread") -> str:
    mean, low, high = (f"{value:.1f}" for value in (spread.mean, spread.low, spread.high))
    return mean if low == high else f"{mean} ({low} to {high})"


def show_bootstrap(found: "Bootstrap", groups: "Sequence[Group]") -> None:
    """The scores on all images, and the differences to the first run."""
    from detrctl.cli import render

    names = list(dict.fromkeys(name for scores in found.scores for name in scores))
    by_group = [{}, *(one.intervals for one in found.differences)]
    rows = [
        [_label(group), *(cell for name in names for cell in (_number(scores.get(name)), _interval(apart.get(name))))]
        for group, scores, apart in zip(groups, found.scores, by_group, strict=True)
    ]
    render.say("")
    titles = [title for name in names for title in (f"{name}, {found.images} images", "to the first run")]
    render.table(("run", *titles), rows)
    render.say(
        f"In brackets: {found.level:.0%} of {found.resamples} draws of the images. "
        "What another training run would give is not in it: that takes several seeds."
    )


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _interval(found: "Interval | None") -> str:
    return NONE if found is None else f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


# ---- JSON ----


def as_dict(compared: "Comparison", found: "Bootstrap | None") -> dict[str, Any]:
    """Everything that the tables and the picture show, by name."""
    return {
        "judged_by": "best" if compared.best else "final",
        "thresholds": list(compared.thresholds),
        "notes": list(compared.notes),
        "runs": [_run_dict(run) for group in compared.groups for run in group.runs],
        "groups": [_row_dict(row) for row in compared.rows],
        "bootstrap": None if found is None else _bootstrap_dict(found, compared.groups),
    }


def _run_dict(run: "RunRecord") -> dict[str, Any]:
    names = (
        "name",
        "recipe",
        "seed",
        "state",
        "machine",
        "epochs",
        "minutes",
        "images",
        "images_per_second",
        "parameters",
    )
    evaluations = [asdict(scored) for scored in run.evaluations]
    return {
        "path": str(run.path),
        **{name: getattr(run, name) for name in names},
        "final": asdict(run.final),
        "best": asdict(run.best),
        "evaluations": evaluations,
    }


def _row_dict(row: "Row") -> dict[str, Any]:
    return {
        "name": row.group.name,
        "runs": [run.name for run in row.group.runs],
        "scores": {name: spread and asdict(spread) for name, spread in row.scores.items()},
        "best_AP": row.best and asdict(row.best),
        "reached": [asdict(reached) for reached in row.reached],
    }


def _bootstrap_dict(found: "Bootstrap", groups: "Sequence[Group]") -> dict[str, Any]:
    return {
        **{name: getattr(found, name) for name in ("images", "resamples", "seed", "level", "max_dets")},
        "scores": {group.name: scores for group, scores in zip(groups, found.scores, strict=True)},
        "against": groups[0].name,
        "differences": {
            one.group.name: {name: asdict(interval) for name, interval in one.intervals.items()}
            for one in found.differences
        },
    }
