"""What a value in a COCO file means, for training and for scoring alike. Exporters write numbers as text, too."""

import math
from typing import Any

NOT_CROWD = (None, 0, "0", "")
LARGEST = 1e100
"""Numbers from here on are no coordinates, and cannot be computed with."""


def whole_number(value: Any) -> int | None:
    """An id or a side: a whole number that fits 64 bits, also where a file has it as text or as 3.0; otherwise None."""
    if isinstance(value, bool):
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if (isinstance(value, str) or number == value) and abs(number) < 2**63 else None


def number(value: Any) -> float:
    """A coordinate or an area, also where a file has it as text; NaN where it cannot be computed with."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return found if abs(found) < LARGEST else math.nan


def box(value: Any) -> list[float] | None:
    """Four numbers, or None."""
    numbers = [number(part) for part in value] if isinstance(value, list) and len(value) == 4 else [math.nan]
    return None if any(map(math.isnan, numbers)) else numbers


def is_crowd(value: Any) -> bool:
    """`iscrowd`, which is often missing."""
    return value not in NOT_CROWD
