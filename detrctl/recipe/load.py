"""A recipe by name or path -> `Loaded`, or one report on everything that is wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detrctl.errors import DetrctlError, Problem, RecipeError
from detrctl.recipe.document import ROOT, Document, FieldPath, Finding, Place, merged, read_document, report, show
from detrctl.recipe.locate import display, find_recipe
from detrctl.recipe.overrides import Override, apply_overrides
from detrctl.recipe.rules import Level
from detrctl.recipe.schema import Recipe
from detrctl.recipe.validate import check_fields, check_rules

DEFAULT = "default"


@dataclass(frozen=True)
class Loaded:
    """A recipe that holds together.

    `notes` are worth a line to the user. `start_problems` make training from scratch senseless, and are mended by a
    checkpoint to start from.
    """

    recipe: Recipe
    name: str
    notes: tuple[Problem, ...]
    start_problems: tuple[Problem, ...]
    places: dict[FieldPath, Place]

    def where(self, path: str) -> str:
        """`file:line`, or the option, that `data.root` and its like come from; DEFAULT if nobody wrote them."""
        place = self.places.get(tuple(path.split(".")))
        return str(place) if place else DEFAULT

    def require_start(self, *, from_checkpoint: bool) -> None:
        """Raise RecipeError if training would start from random weights that it then never trains."""
        if self.start_problems and not from_checkpoint:
            raise RecipeError(list(self.start_problems))


def load_recipe(name: str, overrides: Sequence[str | Override] = ()) -> Loaded:
    """The recipe of that name or path, on top of what it extends, under `overrides` ("train.lr=2e-4").

    Raises DetrctlError if there is no such recipe, RecipeError with all its problems if it does not hold together.
    """
    path = find_recipe(name)
    document = apply_overrides(read_with_parents(path), overrides)
    verdict = check_fields(document)
    found = check_rules(verdict.recipe, document, verdict.doubtful) if verdict.recipe else []
    said = {level: [finding for at, finding in found if at is level] for level in Level}
    problems = report([*document.findings, *verdict.findings, *said[Level.ERROR]])
    if problems or verdict.recipe is None:
        raise RecipeError(problems)
    written = {path: place for path, place in document.places.items() if path != ROOT}
    notes, start_problems = tuple(report(said[Level.NOTE])), tuple(report(said[Level.START]))
    return Loaded(verdict.recipe, path.stem, notes, start_problems, written)


def read_with_parents(path: Path, *, children: tuple[Path, ...] = ()) -> Document:
    """The document of a file merged over those that it extends. What is wrong with any of them stands in it."""
    document = _read(path, rank=-len(children))
    if "extends" not in document.values:
        return document
    chain = (*children, path)
    fields = {key: value for key, value in document.values.items() if key != "extends"}
    try:
        parent = _parent(document.values["extends"], chain)
    except DetrctlError as error:
        finding = Finding(document.places["extends",], "extends", str(error))
        return replace(document, values=fields, findings=[*document.findings, finding])
    return merged(read_with_parents(parent, children=chain), replace(document, values=fields))


def _read(path: Path, *, rank: int) -> Document:
    source = display(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DetrctlError(f"{source}: is not a text file in UTF-8, so not a recipe") from None
    except OSError as error:
        raise DetrctlError(f"{source}: cannot be read ({error.strerror})") from None
    return read_document(text, source=source, rank=rank)


def _parent(name: object, chain: tuple[Path, ...]) -> Path:
    """The file that the last of the chain extends."""
    if not isinstance(name, str):
        raise DetrctlError(f"found {show(name)}, expected the name of one shipped recipe or the path of one file")
    parent = find_recipe(name, beside=chain[-1].parent)
    known = [link.resolve() for link in chain]
    if parent.resolve() in known:
        circle = [*chain[known.index(parent.resolve()) :], parent]
        raise DetrctlError(f"{' -> '.join(map(display, circle))} goes round in a circle; take one `extends` out")
    return parent
