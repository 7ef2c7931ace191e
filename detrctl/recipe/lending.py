"""A checkpoint that lends its model to a recipe (`train.init_model: checkpoint`).

Its model, its objective and how it sees images lie beneath the recipe, as a parent's fields would: what the recipe
writes of them is on top.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from detrctl.recipe.document import Document, FieldPath, Place, merged
from detrctl.recipe.schema import Recipe

LENT: tuple[tuple[str, ...], ...] = (
    ("model",),
    ("objective",),
    ("data", "augment"),
    ("data", "eval_size"),
    ("data", "eval_max_size"),
    ("data", "eval_square"),
)
"""What weights were trained with and go on best with: a model of 192 pixels is spoilt by images of 800."""
LOWEST = -1000


@dataclass(frozen=True)
class Lender:
    """`source` names the checkpoint in messages."""

    source: str
    recipe: Recipe


def borrows(document: Document) -> bool:
    """Whether the recipe wants the checkpoint's model."""
    train = document.values.get("train")
    return isinstance(train, dict) and train.get("init_model") == "checkpoint"


def put_aside(document: Document) -> Document:
    """Without the fields that cannot be judged before the checkpoint is known."""
    values = {name: dict(value) if isinstance(value, dict) else value for name, value in document.values.items()}
    for path in LENT:
        section = values if len(path) == 1 else values.get(path[0])
        if isinstance(section, dict):
            section.pop(path[-1], None)
    places = {path: place for path, place in document.places.items() if not any(_within(path, lent) for lent in LENT)}
    return replace(document, values=values, places=places)


def is_of_another_family(document: Document, lender: Lender) -> bool:
    """Whether the recipe names a family that the checkpoint's model is not of: what that lends would make no sense."""
    model = document.values.get("model")
    return isinstance(model, dict) and model.get("family", lender.recipe.model.family) != lender.recipe.model.family


def beneath(document: Document, lender: Lender) -> Document:
    """The document on top of what the checkpoint lends."""
    lent = lender.recipe.model_dump(mode="json")
    lent["model"]["backbone"]["weights"] = "none"  # the checkpoint brings them
    values: dict[str, Any] = {}
    for path in LENT:
        if len(path) == 1:
            values[path[0]] = lent[path[0]]
        else:
            values.setdefault(path[0], {})[path[1]] = lent[path[0]][path[1]]
    place = Place(lender.source, rank=LOWEST)
    return merged(Document(values, dict.fromkeys(_paths(values), place)), document)


def _within(path: FieldPath, section: FieldPath) -> bool:
    return path[: len(section)] == section


def _paths(values: Mapping[str, Any], above: FieldPath = ()) -> list[FieldPath]:
    """Of every field, those of sections not."""
    found: list[FieldPath] = []
    for name, value in values.items():
        here = (*above, name)
        found += _paths(value, here) if isinstance(value, dict) and value else [here]
    return found
