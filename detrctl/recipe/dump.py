"""A recipe as YAML with every field, in the schema's order; reading it back gives the same recipe."""

from collections.abc import Callable, Iterator
from typing import Any

import yaml

from detrctl.recipe.document import NUMBER
from detrctl.recipe.schema import Recipe, Section


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML version would take for a number."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))


def dump_recipe(recipe: Recipe, comment: Callable[[str], str] = lambda path: "") -> str:
    """The resolved recipe. `comment` gets "train.lr" and gives what to say behind that field, or ""."""
    return "\n".join(_lines(recipe, "", comment)) + "\n"


def flow(value: Any) -> str:
    """One value on one line, as it would stand in a recipe."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n...\n").rstrip("\n")


def leaves(section: Section, path: str = "") -> dict[str, Any]:
    """("train.lr", 0.0001) and its like, in the schema's order; lists and mappings as plain JSON values."""
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value, here = getattr(section, name), f"{path}.{name}".removeprefix(".")
        found |= leaves(value, here) if isinstance(value, Section) else {here: _plain(value)}
    return found


def _lines(section: Section, path: str, comment: Callable[[str], str]) -> Iterator[str]:
    indent = "  " * (path.count(".") + 1 if path else 0)
    for name in type(section).model_fields:
        value, here = getattr(section, name), f"{path}.{name}".removeprefix(".")
        if isinstance(value, Section):
            yield f"{indent}{name}:"
            yield from _lines(value, here, comment)
        else:
            said = comment(here)
            yield f"{indent}{name}: {flow(_plain(value))}" + (f"  # {said}" if said else "")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
