"""Which recipes build the model that a file of weights is of."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from detrctl.recipe.load import load_recipe
from detrctl.recipe.locate import shipped
from detrctl.recipe.schema import Recipe

TRAINING_ONLY = frozenset(
    {
        "dropout",
        "detections",
        "backbone.weights",
        "backbone.norm",
        "backbone.frozen_stages",
        "backbone.drop_path",
        "backbone.options",
        "denoising.groups",
        "denoising.copies",
        "denoising.label_noise",
        "denoising.box_noise",
    }
)
"""Fields of a model that weights of another value fit just as well, and mean the same with."""


@dataclass(frozen=True)
class Fit:
    """A recipe, and the fields in which its model differs: `field: its value, the file's value`."""

    name: str
    recipe: Recipe
    differences: tuple[str, ...]


def differences(found: Any, wanted: Any) -> tuple[str, ...]:
    """Fields of two model sections that decide what weights mean, where they differ."""
    ours, theirs = dict(_flat(wanted.model_dump())), dict(_flat(found.model_dump()))
    if ours["family"] != theirs["family"]:
        return (f"model.family: {ours['family']}, not {theirs['family']}",)
    fields = [name for name in ours | theirs if name not in TRAINING_ONLY and ours.get(name) != theirs.get(name)]
    return tuple(f"model.{name}: {ours.get(name)}, not {theirs.get(name)}" for name in fields)


def _flat(section: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in section.items():
        here = f"{path}.{name}".removeprefix(".")
        if isinstance(value, dict) and here != "backbone.options":
            pairs += _flat(value, here)
        else:
            pairs.append((here, value))
    return pairs


def shipped_fits(model: Any) -> list[Fit]:
    """The shipped recipes of the model's family, those that differ least first, otherwise by name."""
    found = [
        Fit(name, recipe, differences(model, recipe.model))
        for name, recipe in _shipped_recipes().items()
        if recipe.model.family == model.family
    ]
    return sorted(found, key=lambda fit: len(fit.differences))


@cache
def _shipped_recipes() -> dict[str, Recipe]:
    return {name: load_recipe(name).recipe for name in shipped()}
