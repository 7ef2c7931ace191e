"""`detrctl train`: a recipe becomes a run folder."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrctl.engine import launch
from detrctl.errors import DetrctlError
from detrctl.recipe.locate import shipped

if TYPE_CHECKING:
    from detrctl.recipe.load import Loaded


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="Name of a shipped recipe, or a path; see `recipes list`.",
            autocompletion=lambda: list(shipped()),
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Dataset folder, or `shapes`; default: the recipe's data.root.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New run folder; default: runs/<recipe>-<time>.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, e.g. train.lr=2e-4.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with this run folder exactly where it stopped.")
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(metavar="FILE_OR_RUN", help="Take weights only from a checkpoint, class rows by class name."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    trust: Annotated[
        bool, typer.Option("--trust", help="Import parts of others that the run or the checkpoint names.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="The same as --set train.seed=N.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only try the largest batch: does it fit, and how long is a step?")
    ] = False,
) -> None:
    """Train a recipe on a dataset.

    Ctrl-C saves and says how to go on. On several GPUs: --set train.processes=N, or
    torchrun --nproc-per-node=N -m detrctl train ...
    """
    changes = [*(overrides or []), *([] if seed is None else [f"train.seed={seed}"])]
    if resume is None and recipe is None:
        raise DetrctlError("which recipe? `detrctl recipes list` shows them; `--resume RUN` goes on with a run")
    if dry_run and resume is not None:
        raise DetrctlError("--dry-run tries a recipe: leave --resume away")
    loaded = _loaded(recipe, changes, resume, init_from)
    if dry_run:
        _try(recipe, changes, data, init_from, device, trust)
    elif (processes := _processes(loaded, device)) > 1:
        _launch(
            recipe,
            changes,
            processes,
            data=data,
            out=out,
            resume=resume,
            init_from=init_from,
            device=device,
            trust=trust,
        )
    else:
        launch.end_with_launcher()
        _train(recipe, changes, data=data, out=out, resume=resume, init_from=init_from, device=device, trust=trust)


def _loaded(recipe: str | None, changes: list[str], resume: Path | None, init_from: Path | None) -> "Loaded":
    """The recipe, judged before torch is imported: its mistakes are answered at once."""
    from detrctl.engine.runs import existing_run
    from detrctl.recipe.load import load_recipe

    name = str(recipe) if resume is None else str(existing_run(resume).recipe)
    loaded = load_recipe(name, changes, from_checkpoint=init_from is not None)
    loaded.require_start(from_checkpoint=resume is not None or init_from is not None)
    return loaded


def _processes(loaded: "Loaded", device: str) -> int:
    """How many processes to start: the recipe's `train.processes`, unless this one is already one of several."""
    if launch.has_company():
        return 1
    from detrctl.cli import render

    wanted = loaded.recipe.train.processes
    fitting = launch.processes_that_fit(wanted, device)
    if fitting < wanted:
        render.warn(f"train.processes is {wanted}, but no GPU is shared: training with {fitting}")
    return fitting


def _launch(
    recipe: str | None,
    changes: list[str],
    processes: int,
    *,
    trust: bool,
    **options: str | Path | None,
) -> None:
    """This same command as several processes."""
    words = ([] if recipe is None else [recipe]) + (["--trust"] if trust else [])
    for name, value in options.items():
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    for change in changes:
        words += ["--set", change]
    done = launch.launch(["train", *words], processes)
    if done.said:
        sys.stderr.write(done.said)
    raise typer.Exit(done.code)


def _train(
    recipe: str | None,
    changes: list[str],
    *,
    data: str | None,
    out: Path | None,
    resume: Path | None,
    init_from: Path | None,
    device: str,
    trust: bool,
) -> None:
    from detrctl.cli import render
    from detrctl.cli.progress import Telling
    from detrctl.engine.distributed import ProcessGone
    from detrctl.engine.interrupt import Interrupted
    from detrctl.engine.train import train as train_recipe

    try:
        with render.live("training", time_left=False) as shown:
            train_recipe(
                recipe,
                overrides=changes,
                data=data,
                out=out,
                resume=resume,
                init_from=init_from,
                device=device,
                trust=trust,
                on_event=Telling(shown),
            )
    except Interrupted as stop:
        render.warn(str(stop))
        raise typer.Exit(stop.exit_code) from None
    except KeyboardInterrupt:
        render.warn("stopped at once; nothing more was saved")
        raise typer.Exit(130) from None
    except ProcessGone:
        if not launch.is_launched():
            raise
        raise typer.Exit(launch.GONE) from None  # the launcher knows which one it was, and what it said


def _try(
    recipe: str | None, changes: list[str], data: str | None, init_from: Path | None, device: str, trust: bool
) -> None:
    from detrctl.cli import render
    from detrctl.cli.progress import dry_run_lines
    from detrctl.engine.dry_run import dry_run

    tried = dry_run(recipe, overrides=changes, data=data, init_from=init_from, device=device, trust=trust)
    for line in dry_run_lines(tried):
        render.say(line)
