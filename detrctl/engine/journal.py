"""What is told while training: events for whoever listens, lines of metrics.jsonl for later."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from detrctl.engine import events
from detrctl.engine.distributed import Processes
from detrctl.engine.runs import RunFolder
from detrctl.engine.state import Standing
from detrctl.engine.step import Means, Meter, Outcome, Skip
from detrctl.inspection.matched import Moved


@dataclass
class Window:
    """What was measured over some steps."""

    meter: Meter = field(default_factory=Meter)
    images: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome, seconds: float) -> None:
        self.meter.add(outcome)
        self.images += outcome.images
        self.seconds += seconds

    def close(self, processes: Processes) -> tuple[Means, float]:
        """Losses, and images per second, and start anew. Called on every process."""
        speed = self.images / self.seconds if self.seconds else 0.0
        self.images, self.seconds = 0, 0.0
        return self.meter.read(processes), speed


class Journal:
    """Speaks on the first process only; the others take part in the sums."""

    def __init__(
        self,
        run: RunFolder,
        standing: Standing,
        *,
        steps_per_epoch: int,
        device: torch.device,
        processes: Processes,
        on_event: events.OnEvent,
    ):
        self._run, self._standing, self._steps = run, standing, steps_per_epoch
        self._device, self._processes, self._on_event = device, processes, on_event
        self._recent, self._epoch = Window(), Window()
        self._norm = float("nan")

    def say(self, event: events.Event) -> None:
        if self._processes.first:
            self._on_event(event)

    def _write(self, kind: str, row: Mapping[str, Any]) -> None:
        standing = self._standing
        where = {
            "kind": kind,
            "step": standing.step,
            "epoch": standing.step / self._steps,
            "images": standing.images,
            "minutes": standing.seconds / 60,
        }
        if self._processes.first:
            self._run.append("metrics.jsonl", where | dict(row))

    def step(self, outcome: Outcome, seconds: float) -> None:
        """Note one step; `seconds` is what it took."""
        for window in (self._recent, self._epoch):
            window.add(outcome, seconds)
        if outcome.skip is not None:
            self._skipped(outcome.skip)
        else:
            self._norm = outcome.gradient_norm
        epoch, step = divmod(self._standing.step - 1, self._steps)
        now = self._standing
        self.say(events.StepDone(epoch + 1, step + 1, self._steps, now.step, now.seconds))

    def _skipped(self, skip: Skip) -> None:
        standing = self._standing
        row = {"step": standing.step, "reason": skip.reason, "image_ids": list(skip.image_ids)}
        if self._processes.first:
            self._run.append("skipped.jsonl", row)
        self.say(events.StepSkipped(standing.closed_epochs + 1, standing.step, skip.reason, skip.image_ids))

    def log(self, rates: Mapping[str, float], seconds_left: float) -> None:
        """A line and an event for the steps since the last ones."""
        means, speed = self._recent.close(self._processes)
        memory, standing = memory_mb(self._device), self._standing
        row = {"loss": means.loss, "losses": means.losses, "shares": means.shares, "lr": dict(rates)}
        row |= {"gradient_norm": self._norm, "images_per_second": speed, "memory_mb": memory}
        row |= {"skipped_steps": standing.skipped}
        self._write("train", row)
        self.say(
            events.StepsLogged(
                epoch=standing.closed_epochs + 1,
                total_steps=standing.step,
                images_seen=standing.images,
                loss=means.loss,
                losses=means.losses,
                rates=rates,
                gradient_norm=self._norm,
                images_per_second=speed,
                seconds_left=seconds_left,
                memory_mb=memory,
                shares=means.shares,
            )
        )

    def evaluated(self, *, improved: bool, moved: Moved | None = None) -> None:
        """A line and an event for the evaluation that the standing holds; `moved` where something is matched."""
        standing = self._standing
        best = standing.best_scores.get("AP")
        row = {"scores": standing.scores, "best_AP": best, "seconds": standing.evaluation_seconds}
        self._write("eval", row if moved is None else row | {"matching": asdict(moved)})
        self.say(
            events.EvaluationDone(
                epoch=standing.step / self._steps,
                scores=standing.scores,
                best=best,
                best_epoch=standing.best_epoch,
                improved=improved,
                seconds=standing.evaluation_seconds,
                instability=None if moved is None else moved.instability,
            )
        )

    def epoch_done(self, epochs: int, rates: Mapping[str, float], seconds_left: float, *, evaluated: bool) -> None:
        standing = self._standing
        means, speed = self._epoch.close(self._processes)
        self.say(
            events.EpochDone(
                epoch=standing.closed_epochs,
                epochs=epochs,
                loss=means.loss,
                losses=means.losses,
                rates=rates,
                images_per_second=speed,
                minutes=standing.seconds / 60,
                seconds_left=seconds_left,
                memory_mb=memory_mb(self._device),
                scores=standing.scores if evaluated else None,
                best=standing.best_scores.get("AP"),
            )
        )


def memory_mb(device: torch.device) -> float | None:
    """The most that was in use so far: GPU memory, or this process's memory; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
