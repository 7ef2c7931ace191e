"""Where a run stands: everything that going on exactly needs besides weights, in tensors and plain values."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrctl.errors import CheckpointError


@dataclass
class Standing:
    """Counts since the run's first step, over all its processes and resumptions. The only thing that a run mutates.

    `closed_epochs` are those whose evaluation and saving are done: one less than the finished ones while evaluating.
    `share` is the schedule's progress, which never goes back; `plain` says whether the epoch has begun as one of
    `data.augment.plain_end`. `matched` is the state of the last evaluation's matching
    (`inspection.matched`), empty where there is none.
    """

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    share: float = 0.0
    plain: bool = False
    closed_epochs: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    crowded_images: int = 0
    evaluations: int = 0
    evaluations_since_best: int = 0
    evaluated_step: int = -1
    evaluation_seconds: float = 0.0
    scores: dict[str, float | None] = field(default_factory=dict)
    best_scores: dict[str, float | None] = field(default_factory=dict)
    best_epoch: float | None = None
    matched: dict[str, Tensor] = field(default_factory=dict)

    def count_step(self, images: int, *, skipped: bool) -> None:
        self.step += 1
        self.images += images
        self.skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def note_scores(self, scores: dict[str, float | None], *, epoch: float, seconds: float) -> bool:
        """Take in an evaluation; returns whether its AP is the best so far. No AP (no truths) is not a worse one."""
        ap, best = scores["AP"], self.best_scores.get("AP")
        improved = ap is not None and (best is None or ap > best)
        self.scores, self.evaluated_step, self.evaluation_seconds = scores, self.step, seconds
        self.evaluations += 1
        self.evaluations_since_best = 0 if improved else self.evaluations_since_best + (ap is not None)
        if improved:
            self.best_scores, self.best_epoch = scores, epoch
        return improved


def pack(
    standing: Standing,
    *,
    optimizer: torch.optim.Optimizer,
    ema_updates: int,
    random_states: Sequence[dict[str, Any]],
    data: dict[str, Any],
) -> dict[str, Any]:
    """The `training` part of a checkpoint. `data` tells a resumed run that its images are the same."""
    return {
        "standing": asdict(standing),
        "optimizer": optimizer.state_dict(),
        "ema_updates": ema_updates,
        "random": list(random_states),
        "data": data,
    }


PARTS = {"standing": dict, "optimizer": dict, "ema_updates": int, "random": list, "data": dict}
"""What `pack` writes."""


def unpack_standing(training: dict[str, Any]) -> Standing:
    """CheckpointError if this, or any other part of what `pack` wrote, is not there or is something else."""
    for name, kind in PARTS.items():
        if not isinstance(training.get(name), kind):
            raise CheckpointError(f"damaged: '{name}' of its training state is missing or is something else")
    try:
        standing = Standing(**training["standing"])
    except TypeError as error:
        raise CheckpointError("its training state is of another version of detrctl") from error
    for name, plain in asdict(Standing()).items():
        value = getattr(standing, name)
        numbers = (int, float) if isinstance(plain, float) else type(plain)
        if not isinstance(value, (int, float, type(None)) if plain is None else numbers):
            raise CheckpointError(f"damaged: '{name}' of its training state is {value!r}")
    return standing


def random_state(device: torch.device) -> dict[str, Any]:
    """All generators that this process draws from."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": [version, list(numbers), gauss],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["device"] is not None:
        torch.cuda.set_rng_state(state["device"], device)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
