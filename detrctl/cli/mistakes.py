"""A command line that makes no sense, answered in one line."""

from collections.abc import Sequence
from typing import Any

import typer

ClickError: Any = typer.BadParameter.__mro__[2]
"""What the mistakes in a command line derive from: click's ClickException, of the package or of Typer's own copy."""

EXPECTED = {
    "float_parsing": "a number",
    "greater_than_equal": "at least {ge:g}",
    "int_parsing": "a whole number",
    "less_than_equal": "at most {le:g}",
}
"""By pydantic's names, which judges values since Typer has left click."""


def is_help(error: Any) -> bool:
    """Whether nothing is wrong but that no command was given, which is answered with the help."""
    return type(error).__name__ == "NoArgsIsHelpError"


def mistake(error: Any, words: Sequence[str], commands: Sequence[str]) -> str:
    """`detrctl predict: --score: found 2, expected at most 1`; `words` are the command line's."""
    context = getattr(error, "ctx", None)
    first = [word for word in words[:1] if word in commands]
    command = " ".join(["detrctl", *first]) if context is None else context.command_path
    value = _value(error)
    if value is not None:
        return f"{command}: {value}"
    said = error.format_message().rstrip(".")
    return f"{command}: {said[:1].lower()}{said[1:]} (see {command} --help)"


def _value(error: Any) -> str | None:
    """What is wrong with the value of an option or argument, where pydantic has said it; click's words name it."""
    found: list[Any] = getattr(error.__cause__, "errors", list)()
    param = getattr(error, "param", None)
    if not found or param is None:
        return None
    name = param.opts[0] if param.opts[0].startswith("-") else param.metavar
    first = found[0]
    if first["type"] in EXPECTED:
        return f"{name}: found {first['input']}, expected {EXPECTED[first['type']].format(**first.get('ctx', {}))}"
    return f"{name}: {first['msg'].removeprefix('Value error, ').rstrip('.')}"
