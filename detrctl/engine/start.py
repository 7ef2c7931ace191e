"""What a run begins with, out of what the user asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrctl.engine.build import require_trust, with_data
from detrctl.engine.checkpoint import Checkpoint, load
from detrctl.engine.initial import settled, with_lent_model
from detrctl.engine.runs import existing_run
from detrctl.errors import DetrctlError
from detrctl.recipe.load import Loaded, check_recipe, load_recipe
from detrctl.recipe.locate import expanded
from detrctl.recipe.schema import Data, Recipe, Split


@dataclass(frozen=True)
class Start:
    """`resumed` is the last checkpoint of the run that is gone on with, `init_from` where weights are taken from.

    `notes` are the recipe's, for the user to hear before training; `lent` says whose model is trained, if not its own.
    """

    name: str
    recipe: Recipe
    out: Path | None = None
    resumed: Checkpoint | None = None
    init_from: Path | None = None
    notes: tuple[str, ...] = ()
    lent: str = ""


def begin(
    recipe: str | Path | Recipe | Loaded | None,
    *,
    overrides: Sequence[str],
    data: str | Path | None,
    out: str | Path | None,
    resume: str | Path | None,
    init_from: str | Path | None,
    trust: bool = False,
) -> Start:
    """The arguments of `train`: a recipe by name or path, or as an object, to which the same rules apply; or a run."""
    root = None if data is None else str(data)
    if resume is not None:
        for name, value in {"the recipe": recipe, "--out": out, "--init-from": init_from}.items():
            if value is not None:
                raise DetrctlError(f"--resume goes on with a run as it is: leave {name} away")
        return _go_on(Path(resume), overrides, root, trust=trust)
    folder, source = (None if path is None else Path(path) for path in (out, init_from))
    loaded = _read(recipe, overrides, from_checkpoint=source is not None)
    lent = ""
    if source is not None and loaded.recipe.train.init_model == "checkpoint":
        if not isinstance(recipe, str | Path):
            raise DetrctlError(
                "train.init_model: checkpoint goes with a recipe's name or path; an object has its model"
            )
        loaded, lent = with_lent_model(str(recipe), overrides, source, trust=trust)
    plain, notes = settled(loaded.recipe), tuple(map(str, loaded.notes))
    return Start(loaded.name, placed(plain, root, overrides), folder, None, source, notes, lent)


def _read(recipe: str | Path | Recipe | Loaded | None, overrides: Sequence[str], *, from_checkpoint: bool) -> Loaded:
    if recipe is None:
        raise DetrctlError("which recipe? `detrctl recipes list` shows them; `--resume RUN` goes on with a run")
    if isinstance(recipe, Recipe | Loaded):
        if overrides:
            raise DetrctlError("overrides go with a recipe's name or path; change a Recipe with model_copy(update=...)")
        loaded = check_recipe(recipe, "recipe") if isinstance(recipe, Recipe) else recipe
    else:
        loaded = load_recipe(str(recipe), overrides, from_checkpoint=from_checkpoint)
    loaded.require_start(from_checkpoint=from_checkpoint)
    return loaded


def _go_on(run: Path, overrides: Sequence[str], data: str | None, *, trust: bool) -> Start:
    """The recipe in the run's folder, with what `overrides` change of it, and its last checkpoint.

    A run folder can come from somebody else, and be as little trusted as a checkpoint.
    """
    folder = existing_run(run)
    loaded = load_recipe(str(folder.recipe), overrides)
    require_trust(loaded.recipe, trust=trust)
    return Start(run.name, placed(loaded.recipe, data, overrides), run, load(folder.last))


# ---- where the data is ----


def placed(recipe: Recipe, root: str | None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe on the dataset `--data ROOT`, with absolute paths: a run is evaluated and resumed from anywhere.

    `--data` replaces what the recipe says of its data, but not what `--set data...` says beside it.
    """
    found = with_data(recipe, root).data
    if root is not None:
        found = found.model_copy(update=_set_beside(recipe.data, root, overrides))
    splits = {name: split and _absolute_split(split) for name, split in (("train", found.train), ("val", found.val))}
    where = found.root if found.root is None or _is_no_folder(found) else _absolute(found.root)
    return recipe.model_copy(update={"data": found.model_copy(update={"root": where, **splits})})


def _set_beside(data: Data, root: str, overrides: Sequence[str]) -> dict[str, Any]:
    named = {tuple(text.partition("=")[0].strip().split("."))[:2] for text in overrides}
    kept = {name: getattr(data, name) for name in ("train", "val", "dataset") if {("data", name), ("data",)} & named}
    if ("data", "root") in named:
        raise DetrctlError(f"--data {root} and --set data.root name two datasets: leave one of them away")
    if kept.get("train") and kept.get("val"):
        raise DetrctlError(
            f"--data {root} beside --set data.train and data.val, so that nothing is read from it: leave it away"
        )
    return kept


def _is_no_folder(data: Data) -> bool:
    """The built-in set, or what a dataset class of the user's own makes of a text."""
    return data.root == "shapes" or (data.dataset is not None and not expanded(str(data.root)).exists())


def _absolute_split(split: Split) -> Split:
    paths = {"images": split.images, "annotations": split.annotations}
    return split.model_copy(update={name: path and _absolute(path) for name, path in paths.items()})


def _absolute(path: str) -> str:
    return str(expanded(path).resolve())
