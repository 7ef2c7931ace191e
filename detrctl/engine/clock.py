"""How long a run takes: what is used up, what a time limit leaves, and when it will be done."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

CLOSING_SECONDS = 3.0
"""What the last checkpoint, the plots and the summary are given, besides the last evaluation."""


@dataclass
class Clock:
    """`before` are the seconds of the parts of the run before it was resumed. The clock starts when it is made."""

    before: float = 0.0
    now: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.now()

    @property
    def elapsed(self) -> float:
        """Seconds of training and evaluation, all parts of the run together."""
        return self.before + self.now() - self.started


@dataclass(frozen=True)
class TimeLimit:
    """`train.max_minutes`: training stops early enough for a last evaluation, a checkpoint and plots to fit in it.

    Training and the evaluations between count; reading the dataset and building the model before it do not. What is
    kept back is the time of one evaluation and one step, plus a few seconds, but never more than half the limit.
    """

    seconds: float

    def for_training(self, *, evaluation: float, step: float) -> float:
        return self.seconds - min(0.5 * self.seconds, 1.1 * evaluation + step + CLOSING_SECONDS)

    def share(self, elapsed: float, *, evaluation: float, step: float) -> float:
        """How much of the training time is used up, 0 to 1."""
        return min(1.0, elapsed / self.for_training(evaluation=evaluation, step=step))

    def has_room_for(self, evaluation: float, elapsed: float, *, step: float) -> bool:
        """Whether, after an evaluation now, some training and the last evaluation still fit."""
        return elapsed + evaluation < self.for_training(evaluation=evaluation, step=step)


class Pace:
    """Seconds per step, evaluations excluded: a running mean that forgets slowly."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now, self._last, self.step = now, now(), 0.0

    def start(self) -> None:
        """Steps follow from here on."""
        self._last = self._now()

    def step_done(self) -> float:
        """Returns the seconds that this step took, waiting for its images included."""
        taken = self._now() - self._last
        self._last += taken
        self.step = taken if self.step == 0 else 0.95 * self.step + 0.05 * taken
        return taken
