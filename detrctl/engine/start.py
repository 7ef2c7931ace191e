"""What a run begins with, out of what the user asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detrctl.engine.build import with_data
from detrctl.engine.checkpoint import Checkpoint, load
from detrctl.engine.runs import existing_run
from detrctl.errors import DetrctlError
from detrctl.recipe.load import Loaded, load_recipe
from detrctl.recipe.schema import Recipe


@dataclass(frozen=True)
class Start:
    """`resumed` is the last checkpoint of the run that is gone on with, `init_from` where weights are taken from.

    `notes` are the recipe's, for the user to hear before training.
    """

    name: str
    recipe: Recipe
    out: Path | None = None
    resumed: Checkpoint | None = None
    init_from: Path | None = None
    notes: tuple[str, ...] = ()


def begin(
    recipe: str | Path | Recipe | Loaded | None,
    *,
    overrides: Sequence[str],
    data: str | Path | None,
    out: str | Path | None,
    resume: str | Path | None,
    init_from: str | Path | None,
) -> Start:
    """The arguments of `train`: a recipe by name or path, or as an object that is taken as it is; or a run."""
    root = None if data is None else str(data)
    if resume is not None:
        for name, value in {"the recipe": recipe, "--out": out, "--init-from": init_from}.items():
            if value is not None:
                raise DetrctlError(f"--resume goes on with a run as it is: leave {name} away")
        return _go_on(Path(resume), overrides, root)
    folder, source = (None if path is None else Path(path) for path in (out, init_from))
    name, plain, notes = _read(recipe, overrides, from_checkpoint=source is not None)
    return Start(name, with_data(plain, root), folder, None, source, notes)


def _read(
    recipe: str | Path | Recipe | Loaded | None, overrides: Sequence[str], *, from_checkpoint: bool
) -> tuple[str, Recipe, tuple[str, ...]]:
    if recipe is None:
        raise DetrctlError("which recipe? `detrctl recipes list` shows them; `--resume RUN` goes on with a run")
    if isinstance(recipe, Recipe | Loaded):
        if overrides:
            raise DetrctlError("overrides go with a recipe's name or path; change a Recipe with model_copy(update=...)")
        loaded = recipe
    else:
        loaded = load_recipe(str(recipe), overrides)
    if isinstance(loaded, Recipe):
        return "recipe", loaded, ()
    loaded.require_start(from_checkpoint=from_checkpoint)
    return loaded.name, loaded.recipe, tuple(str(note) for note in loaded.notes)


def _go_on(run: Path, overrides: Sequence[str], data: str | None) -> Start:
    """The recipe in the run's folder, with what `overrides` change of it, and its last checkpoint."""
    folder = existing_run(run)
    loaded = load_recipe(str(folder.recipe), overrides)
    return Start(run.name, with_data(loaded.recipe, data), run, load(folder.last))
