"""Structs become plain values, as JSON and CSV hold them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

DIGITS = 4


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """Floats with so many digits after the point, arrays and tensors as lists, however deep they lie."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, np.ndarray | Tensor):
        return rounded(value.tolist(), digits)
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value


def cell(value: Any) -> Any:
    """Of a CSV; None is written as an empty cell by the writer."""
    return f"{value:.6g}" if isinstance(value, float) else value


def write_json(content: Any, path: Path) -> None:
    """On one line; NaN and infinity, which JSON does not have, are our bug."""
    path.write_text(json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
