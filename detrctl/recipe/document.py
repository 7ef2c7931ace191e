"""YAML text to plain values, with the place of every one of them kept.

Scalars are read by YAML 1.2's core rules, not PyYAML's 1.1: `1e-4` is a number, `yes`, `off` and dates are text.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from detrctl.errors import Problem

FieldPath = tuple[str | int, ...]
"""("data", "augment", "sizes", 3): keys of sections, positions in lists."""

ROOT: FieldPath = ()


@dataclass(frozen=True)
class Place:
    """Where a value was written. A higher `rank` overrides a lower one: parents, recipe, command line."""

    source: str
    line: int | None = None
    rank: int = 0

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Finding:
    """A problem with the place that it was found at, until all of them are sorted into one report."""

    place: Place
    path: str
    message: str


def report(findings: Iterable[Finding]) -> list[Problem]:
    """Each problem once: those of the command line, then of the recipe from top to bottom, then of its parents."""
    ordered = sorted(dict.fromkeys(findings), key=lambda finding: (-finding.place.rank, finding.place.line or 0))
    return [Problem(str(finding.place), finding.path, finding.message) for finding in ordered]


@dataclass(frozen=True)
class Document:
    """The values of a recipe, the place of each path that was written, and what was wrong on the way."""

    values: dict[str, Any]
    places: dict[FieldPath, Place]
    findings: list[Finding] = field(default_factory=list)

    def place(self, path: FieldPath) -> Place:
        """Where `path`, or else something inside it, or else the section that holds it, was written."""
        for length in range(len(path), 0, -1):
            above = path[:length]
            if above in self.places:
                return self.places[above]
            for other, place in self.places.items():
                if other[:length] == above:
                    return place
        return self.places[ROOT]


def path_text(path: FieldPath) -> str:
    """("data", "augment", "sizes", 3) -> "data.augment.sizes[3]" """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


DEEPEST = 50
"""Levels of sections and lists within each other: recipes need a handful, and Python's own limit is far from here."""


class _Loader(yaml.SafeLoader):
    """Composes nodes; resolves plain scalars by the table below; knows no aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own interface; filled below
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise self._refusal(f"recipes know no aliases (*{self.peek_event().anchor}): write the value out")
        if self._depth == DEEPEST:
            raise self._refusal("nested too deeply for a recipe")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def _refusal(self, problem: str) -> yaml.MarkedYAMLError:
        return yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)


NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$")
_TAG = "tag:yaml.org,2002:"
for _kind, _pattern, _first in (
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"[-+]?[0-9][0-9_]*$"), list("-+0123456789")),
    ("float", NUMBER, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + _kind, _pattern, _first)


def read_document(text: str, *, source: str, rank: int = 0) -> Document:
    """The one mapping of a recipe's text. Mistakes of syntax, double keys and odd tags stand in `findings`."""
    reader = _Reader(source, rank)
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return reader.failed(mark.line + 1 if mark else None, f"not valid YAML: {_said(error)}")
    except (yaml.YAMLError, ValueError) as error:
        return reader.failed(None, f"not valid YAML: {str(error).splitlines()[0]}")
    if node is None:
        return reader.failed(1, "the recipe is empty; `extends: NAME` alone would do")
    values = reader.value(node, ROOT)
    if not isinstance(values, dict):
        return reader.failed(reader.line(node), f"found {show(values)}, expected fields such as `model:` and `train:`")
    return Document(values, {**reader.places, ROOT: Place(source, 1, rank)}, reader.findings)


def read_value(text: str) -> Any:
    """One value in YAML's flow style, as `--set` takes it. Raises ValueError with what is wrong."""
    reader = _Reader("", 0)
    try:
        node = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        raise ValueError(_said(error) if isinstance(error, yaml.MarkedYAMLError) else str(error)) from error
    value = None if node is None else reader.value(node, ROOT)
    if reader.findings:
        raise ValueError(reader.findings[0].message)
    return value


def merged(base: Document, top: Document) -> Document:
    """`top` over `base`: sections merge field by field, everything else replaces."""
    places = dict(base.places)
    values = _overlaid(base.values, top.values, ROOT, places)
    return Document(values, {**places, **top.places}, [*base.findings, *top.findings])


def _overlaid(
    base: Mapping[str, Any], top: Mapping[str, Any], path: FieldPath, places: dict[FieldPath, Place]
) -> dict[str, Any]:
    """`top` over `base`; the places of what it replaces are taken out of `places`."""
    values = dict(base)
    for key, value in top.items():
        here = (*path, key)
        below = values.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            values[key] = _overlaid(below, value, here, places)
            continue
        for old in [place for place in places if place[: len(here)] == here]:
            del places[old]
        values[key] = value
    return values


def show(value: Any, *, limit: int = 60) -> str:
    """A value as a message names it: 'text' in quotes, numbers bare, sections by name."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"[{', '.join(map(show, value))}]" if isinstance(value, list) else repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _said(error: yaml.MarkedYAMLError) -> str:
    said = " ".join(part.strip() for part in (error.context, error.problem) if part)
    return f"{said}; indent with spaces, not tabs" if "\\t" in said else said


class _Reader:
    """Turns composed nodes into values, noting places and problems."""

    def __init__(self, source: str, rank: int):
        self.source, self.rank = source, rank
        self.places: dict[FieldPath, Place] = {}
        self.findings: list[Finding] = []

    def failed(self, line: int | None, message: str) -> Document:
        place = Place(self.source, line, self.rank)
        return Document({}, {ROOT: place}, [Finding(place, "", message)])

    @staticmethod
    def line(node: yaml.Node) -> int:
        return int(node.start_mark.line) + 1

    def value(self, node: yaml.Node, path: FieldPath) -> Any:
        self.places.setdefault(path, Place(self.source, self.line(node), self.rank))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        return self.scalar(node, path)

    def mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(key_node, path, "a field's name must be plain text")
                continue
            here = (*path, str(key_node.value))
            if key_node.value in values:
                self.problem(key_node, here, f"stands here twice, first at line {self.places[here].line}; keep one")
                continue
            self.places[here] = Place(self.source, self.line(key_node), self.rank)
            values[key_node.value] = self.value(value_node, here)
        return values

    def scalar(self, node: yaml.Node, path: FieldPath) -> Any:
        text, kind = str(node.value), str(node.tag).removeprefix(_TAG)
        if kind not in _READ:
            self.problem(node, path, f"found the YAML tag {node.tag!r}; recipes hold plain values only")
            return None
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            self.problem(node, path, f"found {text!a}, half of a pair of surrogates; write the letter itself")
            return None
        try:
            return _READ[kind](text)
        except (KeyError, ValueError):
            self.problem(node, path, f"found {show(text)}, which cannot be read as {kind}")
            return None

    def problem(self, node: yaml.Node, path: FieldPath, message: str) -> None:
        place = Place(self.source, self.line(node), self.rank)
        self.findings.append(Finding(place, path_text(path), message))


_READ: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "float": float,
    "int": int,
    "null": lambda text: None,
    "str": str,
}
