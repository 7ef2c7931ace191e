"""Parts of the user's own, named in a recipe as `package.module:Name`."""

import importlib
from typing import Any, TypeVar

from detrctl.errors import DetrctlError

T = TypeVar("T")


def load_part(name: str, base: type[T]) -> type[T]:
    """The class that `name` stands for, imported from the user's Python path; it must be a `base`."""
    module_name, _, attribute = name.partition(":")
    try:
        part = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise DetrctlError(f"{name}: cannot import {module_name!r} ({error}); is its folder on PYTHONPATH?") from error
    except (TypeError, ValueError) as error:
        raise DetrctlError(f"{name}: is not of the form package.module:Name") from error
    except AttributeError as error:
        raise DetrctlError(f"{name}: module {module_name!r} has no {attribute!r}") from error
    if not (isinstance(part, type) and issubclass(part, base)):
        raise DetrctlError(f"{name}: is not a subclass of {base.__module__}.{base.__qualname__}")
    return part


def build_part(name: str, base: type[T], *arguments: Any, **options: Any) -> T:
    """An object of the class that `name` stands for; what its constructor refuses becomes one line."""
    part = load_part(name, base)
    try:
        return part(*arguments, **options)
    except Exception as error:
        given = ", ".join([*map(str, arguments), *(f"{key}={value}" for key, value in options.items())])
        raise DetrctlError(f"{name}: cannot be built as {part.__name__}({given}): {error}") from error
