"""What happens while a model is trained, as plain facts. Whoever wants to show them listens; the engine prints nothing.

Scores are by COCO name (`AP`, `AP50`, ...), None where there is no ground truth. Losses and rates are by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class SplitSummary:
    """One split as it was read; `lines` are its totals and what was found, mended or left out."""

    name: str
    images: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class RunStarted:
    """Everything is built and the first step comes next. `parameters` counts the trained ones by group."""

    run: Path
    recipe: str
    splits: tuple[SplitSummary, ...]
    classes: tuple[str, ...]
    parameters: Mapping[str, int]
    parameters_total: int
    device: str
    precision: str
    processes: int
    threads: int
    epochs: int
    steps_per_epoch: int
    batch_size: int
    rates: Mapping[str, float]
    max_minutes: float | None
    resumed_at_step: int | None = None


@dataclass(frozen=True)
class Warned:
    """Something the user should know, once, in one sentence."""

    message: str


@dataclass(frozen=True)
class WeightsTaken:
    """What `--init-from` did with each tensor; `rows` as in `weights.transfer.Transfer`, also in the file `table`.

    `lent` says whose model is trained, where it is the checkpoint's.
    """

    source: Path
    summary: str
    rows: tuple[tuple[str, str, str], ...]
    lent: str = ""
    table: Path | None = None


@dataclass(frozen=True)
class StepDone:
    """One optimizer step: `epoch` and its `step` count from 1, `total_steps` and `seconds` from the run's start."""

    epoch: int
    step: int
    steps: int
    total_steps: int
    seconds: float


@dataclass(frozen=True)
class StepsLogged:
    """The mean over the steps since the last such event; `shares`: how much of the loss each of its terms was."""

    epoch: int
    total_steps: int
    images_seen: int
    loss: float
    losses: Mapping[str, float]
    rates: Mapping[str, float]
    gradient_norm: float
    images_per_second: float
    seconds_left: float
    memory_mb: float | None
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StepSkipped:
    """A step whose loss or gradient was NaN or infinite: the weights are as before it."""

    epoch: int
    total_steps: int
    reason: str
    image_ids: tuple[int, ...]


@dataclass(frozen=True)
class EvaluationStarted:
    epoch: float
    images: int


@dataclass(frozen=True)
class EvaluationProgress:
    """Comes after every batch; with several processes `done` is an estimate."""

    done: int
    images: int


@dataclass(frozen=True)
class EvaluationDone:
    """`best` is the best AP of the run so far, this evaluation included, and `best_epoch` when it was.

    `instability`: of the matching since the evaluation before (Li et al. 2022), None with nothing to compare.
    """

    epoch: float
    scores: Scores
    best: float | None
    best_epoch: float | None
    improved: bool
    seconds: float
    instability: float | None = None


@dataclass(frozen=True)
class EpochDone:
    """One epoch in one line; `loss` and `losses` are means over its steps, since the resumption where there was one."""

    epoch: int
    epochs: int
    loss: float
    losses: Mapping[str, float]
    rates: Mapping[str, float]
    images_per_second: float
    minutes: float
    seconds_left: float
    memory_mb: float | None
    scores: Scores | None = None
    best: float | None = None


@dataclass(frozen=True)
class CheckpointSaved:
    path: Path


@dataclass(frozen=True)
class RunEnded:
    """`ended_by`: `epochs`, `time` or `patience`. `own_parts` are imported again only with `--trust`."""

    run: Path
    checkpoint: Path
    ended_by: str
    epochs: float
    images_seen: int
    minutes: float
    scores: Scores | None
    best_scores: Scores | None
    best_epoch: float | None
    skipped_steps: int
    own_parts: tuple[str, ...] = ()


Event = (
    RunStarted
    | Warned
    | WeightsTaken
    | StepDone
    | StepsLogged
    | StepSkipped
    | EvaluationStarted
    | EvaluationProgress
    | EvaluationDone
    | EpochDone
    | CheckpointSaved
    | RunEnded
)
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listens to nothing."""
