"""Parts of the user's own, named in a recipe as `package.module:Name`."""

import importlib
from typing import TypeVar

from detrctl.errors import DetrctlError

T = TypeVar("T")


def load_part(name: str, base: type[T]) -> type[T]:
    """The class that `name` stands for, imported from the user's Python path; it must be a `base`."""
    module_name, _, attribute = name.partition(":")
    try:
        part = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise DetrctlError(f"{name}: cannot import {module_name!r} ({error}); is its folder on PYTHONPATH?") from error
    except AttributeError as error:
        raise DetrctlError(f"{name}: module {module_name!r} has no {attribute!r}") from error
    if not (isinstance(part, type) and issubclass(part, base)):
        raise DetrctlError(f"{name}: is not a subclass of {base.__module__}.{base.__qualname__}")
    return part
