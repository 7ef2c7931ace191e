"""Every family by its name in recipes (`model.family`)."""

from collections.abc import Callable
from typing import Any

from detrctl.families.conditional import conditional
from detrctl.families.dab import dab
from detrctl.families.dab_deformable import dab_deformable
from detrctl.families.deformable import deformable
from detrctl.families.detr import detr
from detrctl.families.dino import dino
from detrctl.families.faster_rcnn import faster_rcnn
from detrctl.families.learner import Learner

FAMILIES: dict[str, Callable[[Any, Any, int], Learner]] = {
    "detr": detr,
    "conditional": conditional,
    "dab": dab,
    "dab_deformable": dab_deformable,
    "deformable": deformable,
    "dino": dino,
    "faster_rcnn": faster_rcnn,
}
"""(model section, objective section, number of classes) -> learner"""
