"""A document against the schema and the rules: a `Recipe`, or every problem with its place."""

import copy
import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from detrctl.recipe.document import NUMBER, Document, FieldPath, Finding, path_text, show
from detrctl.recipe.fields import (
    Node,
    choices,
    default_tag,
    expected,
    families,
    find_node,
    follow,
    schema_root,
    section_of,
    tag_field,
    takes_text,
    unknown_field,
)
from detrctl.recipe.locate import closest, did_you_mean
from detrctl.recipe.rules import RULES, Level, Rule
from detrctl.recipe.schema import Recipe, implied_kinds

WRONG_FAMILY = ("union_tag_invalid", "union_tag_not_found")
"""What pydantic calls an unknown or absent `family`."""


@dataclass(frozen=True)
class Verdict:
    """`recipe` is None if the fields do not make one. The rules must not trust the paths in `doubtful`."""

    recipe: Recipe | None
    findings: list[Finding]
    doubtful: frozenset[str]


def check_fields(document: Document) -> Verdict:
    """Every field against its type and bounds. The recipe of the verdict has defaults in place of invalid fields."""
    values = _with_tags(implied_kinds(copy.deepcopy(document.values)), schema_root())
    findings: dict[FieldPath, Finding] = {}
    doubtful = {finding.path for finding in document.findings}
    recipe = None
    for _ in range(10):  # taking one field out can uncover another, such as what a half-named split lacks
        try:
            recipe = Recipe.model_validate_json(json.dumps(values), strict=True)
            break
        except ValidationError as error:
            found = _errors(error, values)
        for path, kind in found.items():
            message, meant = _explain(path, kind, values)
            findings.setdefault(path, Finding(document.place(path), path_text(path), message))
            doubtful |= {meant, path_text(path)}
        for path, kind in found.items():
            _mend(values, path, kind)
    return Verdict(recipe, list(findings.values()), frozenset(doubtful))


def _with_tags(values: Any, node: Node) -> Any:
    """A union's section without its telling field gets the default one, as every other field does."""
    section = section_of(node, values)
    if section is None or not isinstance(values, dict):
        return values
    if families(follow(node)):
        values.setdefault(tag_field(follow(node)), default_tag(follow(node)))
    for name, child in section["properties"].items():
        if name in values:
            values[name] = _with_tags(values[name], child)
    return values


def _errors(error: ValidationError, values: Any) -> dict[FieldPath, str]:
    """The path of each wrong field, once, without the names that pydantic adds for the branches of unions."""
    found: dict[FieldPath, str] = {}
    for item in error.errors(include_url=False, include_input=False):
        path, kind = _path_of(item["loc"], values), item["type"]
        if kind in WRONG_FAMILY:
            path = (*path, tag_field(find_node(path) or {}))
        elif kind == "missing" and isinstance(path[-1], int):
            path, kind = path[:-1], "too_short"
        found.setdefault(path, kind)
    return found


def _path_of(location: tuple[str | int, ...], values: Any) -> FieldPath:
    path: FieldPath = ()
    node: Node | None = schema_root()
    for part in location:
        if node is None:
            break
        node = follow(node)
        variants = families(node)
        if part in variants:
            continue
        section = section_of(node, _value_at(values, path))
        if section is None and not isinstance(part, int):
            break
        path = (*path, part)
        node = find_node(path, values)
    return path


def _explain(path: FieldPath, kind: str, values: Any) -> tuple[str, str]:
    """What is wrong with one field and what would do; and the path that an unknown field probably meant."""
    if kind == "extra_forbidden":
        return unknown_field(path, values)
    node = find_node(path, values) or {}
    if kind in WRONG_FAMILY:
        node = {"enum": list(families(find_node(path[:-1]) or {}))}
    if kind == "missing":
        return f"is missing, expected {expected(node)}", ""
    value = _value_at(values, path)
    return f"found {show(value)}, expected {expected(node)}{_cure(value, node)}", ""


def _cure(value: Any, node: Node) -> str:
    if isinstance(value, str):
        hint = did_you_mean(value, choices(node))
        return f".{hint}" if hint else "; take the quotes off" if NUMBER.match(value) else ""
    return "; put it in quotes" if isinstance(value, (int, float)) and takes_text(node) else ""


def _value_at(values: Any, path: FieldPath) -> Any:
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _mend(values: Any, path: FieldPath, kind: str) -> None:
    """Take a wrong field out, so that its default stands in: of a list, the whole list.

    A family's name is mended to the one that it resembles, since what it means for the other fields depends on it;
    if it resembles none, the section goes.
    """
    if kind in WRONG_FAMILY:
        meant = closest(str(_value_at(values, path)), families(find_node(path[:-1]) or {}))
        if meant:
            _value_at(values, path[:-1])[path[-1]] = meant
            return
    if kind in WRONG_FAMILY or kind == "missing":
        path = path[:-1]
    while isinstance(path[-1], int):
        path = path[:-1]
    section = _value_at(values, path[:-1])
    if isinstance(section, dict):
        section.pop(path[-1], None)


# ---- rules ----


def check_rules(recipe: Recipe, document: Document, doubtful: frozenset[str]) -> list[tuple[Level, Finding]]:
    """What the rules say of a recipe, but for those that read a doubtful path."""
    found = []
    for rule in RULES:
        if any(_overlap(path, other) for path in rule.reads for other in doubtful):
            continue
        if "extends" in doubtful and not all(_key(path) in document.places for path in rule.reads):
            continue  # what the parent would have said is unknown
        if message := _asked(rule, recipe):
            found.append((rule.level, _rule_finding(rule, message, document)))
    return found


def model_problems(recipe: Recipe) -> list[str]:
    """Why the model of a recipe that nobody wrote, but that a file of weights brings or implies, cannot be built."""
    model_rules = [
        rule
        for rule in RULES
        if rule.level is Level.ERROR
        and all(path.startswith("model.") for path in rule.reads)
        and "model.smallest_anchor" not in rule.reads  # levels that propose nothing are a waste, and work
    ]
    return [f"{rule.reads[0]}: {message}" for rule in model_rules if (message := _asked(rule, recipe))]


def _asked(rule: Rule, recipe: Recipe) -> str | None:
    try:
        return rule.check(*(_attribute(recipe, path) for path in rule.reads))
    except AttributeError:  # another family, without this field
        return None


def _overlap(path: str, other: str) -> bool:
    """Whether one holds the other; a position in a list stands for the list."""
    path, other = f"{path}.", f"{other.split('[')[0]}."
    return other != "." and (path.startswith(other) or other.startswith(path))


def _attribute(recipe: Recipe, path: str) -> Any:
    value: Any = recipe
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _rule_finding(rule: Rule, message: str, document: Document) -> Finding:
    """Found where a field was written last: on the command line, in the recipe, in a parent, in this order."""
    places = {path: document.places[_key(path)] for path in rule.reads if _key(path) in document.places}
    at = max(places, key=lambda path: places[path].rank, default=rule.reads[0])
    place = document.place(_key(at))
    named = {path: other for path, other in places.items() if path.rsplit(".", 1)[-1] in message.split()}
    others = [f"{path}: {other}" for path, other in named.items() if other.source != place.source]
    return Finding(place, at, message + (f" ({', '.join(others)})" if others else ""))


def _key(path: str) -> FieldPath:
    return tuple(path.split("."))
