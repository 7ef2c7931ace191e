"""Parts of the user's own, named in a recipe as `package.module:Name`."""

import importlib
import traceback
from pathlib import Path
from typing import Any, TypeVar

from detrctl.errors import DetrctlError

T = TypeVar("T")


def load_part(name: str, base: type[T]) -> type[T]:
    """The class that `name` stands for, imported from the user's Python path; it must be a `base`."""
    module_name, _, attribute = name.partition(":")
    if not all((module_name.strip("."), attribute)) or module_name.startswith("."):
        raise DetrctlError(f"{name}: is not of the form package.module:Name")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DetrctlError(f"{name}: cannot import {module_name!r} ({error}); is its folder on PYTHONPATH?") from error
    except Exception as error:  # the user's own code runs here
        raise DetrctlError(f"{name}: importing {module_name!r} fails: {_told(error)}") from error
    part = getattr(module, attribute, None)
    if part is None:
        raise DetrctlError(f"{name}: module {module_name!r} has no {attribute!r}")
    if not (isinstance(part, type) and issubclass(part, base)):
        raise DetrctlError(f"{name}: is not a subclass of {base.__module__}.{base.__qualname__}")
    return part


def _told(error: Exception) -> str:
    """`NameError: name 'x' is not defined (mine.py, line 3)`, for whoever wrote the module."""
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, SyntaxError):  # which says where it is by itself
        return said
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{said} ({Path(frame.filename).name}, line {frame.lineno})"


def build_part(name: str, base: type[T], *arguments: Any, **options: Any) -> T:
    """An object of the class that `name` stands for; what its constructor refuses becomes one line."""
    part = load_part(name, base)
    try:
        return part(*arguments, **options)
    except Exception as error:
        given = ", ".join([*map(str, arguments), *(f"{key}={value}" for key, value in options.items())])
        raise DetrctlError(f"{name}: cannot be built as {part.__name__}({given}): {error}") from error
