"""How the learning rate moves with the optimizer steps and, under a time limit, with the clock.

`progress` runs from 0 to 1 over the whole training: the greater of the share of the steps and the share of the time
(`train.max_minutes`) that are used up. A time limit thus makes `step` and `cosine` fit into it, while warm-up always
counts real optimizer steps.
"""

import math
from collections.abc import Callable

from detrctl.recipe import schema

REFERENCE_POWER = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


def batch_size_factor(train: schema.Train) -> float:
    """What the recipe's rates are multiplied by, for its batch size and `scale_lr`."""
    return (train.batch_size / train.reference_batch_size) ** REFERENCE_POWER[train.scale_lr]


def warm_up(schedule: schema.Schedule, step: int) -> float:
    """The share of the rate at optimizer step `step`, counted from 0: 1/n, 2/n, ..., 1, 1, ... for n warm-up steps."""
    return min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0


def _step(schedule: schema.Schedule, progress: float, epochs: int) -> float:
    # The tolerance keeps a drop on its epoch when progress is a rounded quotient of steps.
    drops = sum(progress * epochs >= epoch - 1e-6 for epoch in schedule.drop_epochs)
    return float(schedule.drop_factor**drops)


def _cosine(schedule: schema.Schedule, progress: float, epochs: int) -> float:
    share = 0.5 * (1 + math.cos(math.pi * progress))
    return schedule.final_factor + (1 - schedule.final_factor) * share


def _constant(schedule: schema.Schedule, progress: float, epochs: int) -> float:
    return 1.0


SHAPES: dict[str, Callable[[schema.Schedule, float, int], float]] = {
    "step": _step,
    "cosine": _cosine,
    "constant": _constant,
}


def rate_factor(train: schema.Train, *, step: int, progress: float) -> float:
    """What every learning rate is multiplied by for optimizer step `step`, `progress` being what is done before it."""
    shape = SHAPES[train.schedule.kind](train.schedule, min(progress, 1.0), train.epochs)
    return warm_up(train.schedule, step) * shape
