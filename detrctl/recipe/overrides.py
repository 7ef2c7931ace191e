"""Values given on the command line: `--set train.lr=2e-4`, on top of every file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from detrctl.recipe.document import Document, FieldPath, Finding, Place, merged, read_value, show
from detrctl.recipe.fields import expected, find_node, section_of, takes_text

COMMAND_LINE_RANK = 1


@dataclass(frozen=True)
class Override:
    """One value for one field. `where` names the option that it came from, in messages."""

    path: str
    value: Any
    where: str = "--set"


def apply_overrides(document: Document, overrides: Sequence[str | Override]) -> Document:
    """The document with `a.b=c` texts and ready values on top, later ones over earlier ones."""
    for override in overrides:
        document = merged(document, _as_document(override, document.values))
    return document


def _as_document(override: str | Override, values: dict[str, Any]) -> Document:
    if isinstance(override, Override):
        return _nested(tuple(override.path.split(".")), override.value, override.where)
    name, equals, text = (part.strip() for part in override.partition("="))
    path: FieldPath = tuple(name.split("."))
    if not equals or not all(path):
        return _problem("", f"found {show(override)}, expected field=value, such as train.lr=0.0001")
    if path == ("extends",):
        return _problem(name, "a recipe extends another in its file, not on the command line")
    blocked = _leaf_above(path, values)
    if blocked:
        return _problem(name, f"no such field; `{blocked[0]}` is {blocked[1]}")
    node = find_node(path, values)
    if node is not None and takes_text(node) and text not in ("null", "~"):
        return _nested(path, _unquoted(text), "--set")
    try:
        return _nested(path, read_value(text), "--set")
    except ValueError as error:
        return _problem(name, f"found {show(text)}, which is not a YAML value: {error}")


def _leaf_above(path: FieldPath, values: dict[str, Any]) -> tuple[str, str] | None:
    """The first part of the path that is a field rather than a section, with what it holds."""
    for length in range(1, len(path)):
        node = find_node(path[:length], values)
        if node is not None and section_of(node) is None and node.get("type") != "object":
            return ".".join(map(str, path[:length])), expected(node)
    return None


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _nested(path: FieldPath, value: Any, where: str) -> Document:
    places = {path + below: Place(where, rank=COMMAND_LINE_RANK) for below in _paths(value)}
    for part in reversed(path):
        value = {part: value}
    return Document(value, places)


def _paths(value: Any) -> Iterator[FieldPath]:
    yield ()
    for key, child in value.items() if isinstance(value, dict) else ():
        yield from ((key, *below) for below in _paths(child))


def _problem(path: str, message: str) -> Document:
    return Document({}, {}, [Finding(Place("--set", rank=COMMAND_LINE_RANK), path, message)])
