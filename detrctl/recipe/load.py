"""A recipe by name or path -> `Loaded`, or one report on everything that is wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detrctl.errors import DetrctlError, Problem, RecipeError
from detrctl.recipe.document import ROOT, Document, FieldPath, Finding, Place, merged, read_document, report, show
from detrctl.recipe.lending import Lender, beneath, borrows, is_of_another_family, put_aside
from detrctl.recipe.locate import display, find_recipe
from detrctl.recipe.overrides import Override, apply_overrides
from detrctl.recipe.rules import Level
from detrctl.recipe.schema import Recipe
from detrctl.recipe.validate import Verdict, check_fields, check_rules

DEFAULT = "default"
INIT_MODEL = ("train", "init_model")
NO_CHECKPOINT = "found checkpoint, but none is named; --init-from FILE_OR_RUN would do"


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


def load_recipe(
    name: str,
    overrides: Sequence[str | Override] = (),
    *,
    from_checkpoint: bool = False,
    lender: Lender | None = None,
) -> Loaded:
    """The recipe of that name or path, on top of what it extends, under `overrides` ("train.lr=2e-4").

    Where it borrows its model (`train.init_model`), `lender` is the checkpoint; without it but `from_checkpoint`, what
    only the checkpoint could tell is left aside, and everything else is judged.

    Raises DetrctlError if there is no such recipe, RecipeError with all its problems if it does not hold together.
    """
    path = find_recipe(name)
    written = read_with_parents(path)
    document = apply_overrides(written, overrides)
    if borrows(document) and lender is not None:
        if not is_of_another_family(document, lender):
            document = apply_overrides(beneath(written, lender), overrides)
    elif borrows(document) and from_checkpoint:
        document = put_aside(document)
    return _judged(check_fields(document), document, path.stem)


def check_recipe(recipe: Recipe, name: str) -> Loaded:
    """The rules' verdict on a recipe that was made in Python, whose fields are valid each by itself."""
    return _judged(Verdict(recipe, [], frozenset()), Document({}, {ROOT: Place(name)}), name)


def _judged(verdict: Verdict, document: Document, name: str) -> Loaded:
    found = check_rules(verdict.recipe, document, verdict.doubtful) if verdict.recipe else []
    said = {level: [finding for at, finding in found if at is level] for level in Level}
    problems = report([*document.findings, *verdict.findings, *said[Level.ERROR]])
    if problems or verdict.recipe is None:
        raise RecipeError(problems)
    starts = said[Level.START]
    if verdict.recipe.train.init_model == "checkpoint":
        starts = [Finding(document.place(INIT_MODEL), ".".join(INIT_MODEL), NO_CHECKPOINT)]
    written = {path: place for path, place in document.places.items() if path != ROOT}
    return Loaded(verdict.recipe, name, tuple(report(said[Level.NOTE])), tuple(report(starts)), written)


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
    return read_document(read_text(path), source=display(path), rank=rank)


def read_text(path: Path) -> str:
    """A recipe file as it was written. DetrctlError, one line, where it cannot be one."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DetrctlError(f"{display(path)}: is not a text file in UTF-8, so not a recipe") from None
    except OSError as error:
        raise DetrctlError(f"{display(path)}: cannot be read ({error.strerror})") from None


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
