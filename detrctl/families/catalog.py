"""Every family by its name in recipes (`model.family`)."""

from collections.abc import Callable
from typing import Any

from detrctl.families.deformable import deformable
from detrctl.families.detr import detr
from detrctl.families.learner import Learner

FAMILIES: dict[str, Callable[[Any, Any, int], Learner]] = {
    "detr": detr,
    "deformable": deformable,
}
"""(model section, objective section, number of classes) -> learner"""
