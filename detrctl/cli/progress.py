"""What `detrctl train` shows of a run: lines that stay, and one that changes."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from detrctl.cli.render import Live, say, warn

if TYPE_CHECKING:
    from detrctl.engine import events
    from detrctl.engine.dry_run import DryRun

ROWS_SHOWN = 12
MEASURED = ("class_error", "cardinality_error", "matching_cost")
"""What stands among the losses without being one."""


class Telling:
    """Listens to a training. On a terminal there is a bar with what changes all the time, piped there is not."""

    def __init__(self, shown: Live):
        self._shown = shown
        self._done = self._total = 0
        self._unit = ""
        self._seconds = 0.0
        self._end: float | None = None
        self._step = self._measured = ""

    def __call__(self, event: "events.Event") -> None:
        heard = getattr(self, f"on_{type(event).__name__}", None)
        if heard is not None:
            heard(event)

    def on_RunStarted(self, event: "events.RunStarted") -> None:
        self._total = event.epochs * event.steps_per_epoch
        if event.max_minutes is not None:
            # Under a time limit the bar counts seconds: hardly any of the epochs may ever come.
            self._unit, self._total = "s", round(60 * event.max_minutes)
        lines(opening(event))

    def on_Warned(self, event: "events.Warned") -> None:
        warn(event.message)

    def on_WeightsTaken(self, event: "events.WeightsTaken") -> None:
        lines(weights_taken(event))

    def on_StepDone(self, event: "events.StepDone") -> None:
        self._seconds = event.seconds
        self._done = round(event.seconds) if self._unit else event.total_steps
        self._step = f"epoch {event.epoch} step {event.step}/{event.steps}"
        self._show(self._step, self._measured)

    def on_StepsLogged(self, event: "events.StepsLogged") -> None:
        self._end = self._seconds + event.seconds_left
        self._measured = "  ".join(
            [
                f"{event.images_per_second:.1f} images/s",
                loss_text(event.loss, event.losses),
                f"lr {main_rate(event.rates):.1e}",
                *([] if event.memory_mb is None else [memory(event.memory_mb)]),
            ]
        )
        self._show(self._step, self._measured)

    def on_StepSkipped(self, event: "events.StepSkipped") -> None:
        warn(f"step {event.total_steps} skipped: {event.reason}")

    def on_EvaluationProgress(self, event: "events.EvaluationProgress") -> None:
        self._show(f"evaluating {min(event.done, event.images)}/{event.images} images")

    def on_EpochDone(self, event: "events.EpochDone") -> None:
        self._seconds = 60 * event.minutes
        self._end = self._seconds + event.seconds_left
        lines([epoch_line(event)])

    def on_RunEnded(self, event: "events.RunEnded") -> None:
        lines(closing(event))

    def _show(self, *texts: str) -> None:
        left = "" if (seconds := self._seconds_left()) is None else f"{duration(seconds)} left"
        self._shown.bar(self._done, self._total, "  ".join(filter(None, (self._unit, left, *texts))))

    def _seconds_left(self) -> float | None:
        """By the run's own forecast, which counts evaluations; before its first one by what has been done so far."""
        if self._end is not None:
            return max(0.0, self._end - self._seconds)
        return max(0, self._total - self._done) * self._seconds / self._done if self._done else None


def lines(texts: Iterable[str]) -> None:
    """Whoever follows a piped log sees them at once."""
    for text in texts:
        say(text)
    sys.stdout.flush()


# ---- before ----


def opening(event: "events.RunStarted") -> Iterator[str]:
    """What is trained on what, and what will happen."""
    for split in event.splits:
        totals, *found = split.lines
        yield f"{split.name}: {totals}"
        yield from (f"  {line}" for line in found)
    yield f"classes: {shortened(event.classes)}"
    groups = ", ".join(f"{name} {millions(n)} at {event.rates[name]:.1e}" for name, n in event.parameters.items())
    yield f"model: {millions(event.parameters_total)} parameters; trained: {groups}"
    yield f"run folder: {event.run}"
    if event.resumed_at_step is not None:
        yield f"going on after step {event.resumed_at_step}"
    where = f"{event.device}, {event.precision}"
    if event.device == "cpu":
        where += f", {many(event.threads, 'thread')}"
    if event.processes > 1:
        where += f", {event.processes} processes"
    limit = "" if event.max_minutes is None else f", at most {event.max_minutes:g} min"
    yield (
        f"training: {many(event.epochs, 'epoch')} of {many(event.steps_per_epoch, 'step')} of "
        f"{many(event.batch_size, 'image')}{limit}, "
        f"on {where}; Ctrl-C saves and stops"
    )


def weights_taken(event: "events.WeightsTaken") -> Iterator[str]:
    """Whose model it is, the totals, and the first tensors that were not simply loaded."""
    if event.lent:
        yield event.lent
    yield f"weights from {event.source}: {event.summary}"
    rest = [row for row in event.rows if row[1] != "loaded"]
    yield from (f"  {kind}: {name}" + (f" ({detail})" if detail else "") for name, kind, detail in rest[:ROWS_SHOWN])
    if len(rest) > ROWS_SHOWN:
        yield f"  ... and {len(rest) - ROWS_SHOWN} more" + (f", all in {event.table}" if event.table else "")


# ---- while it goes on ----


def epoch_line(event: "events.EpochDone") -> str:
    """`epoch 3/50  loss 4.123 (class 0.51 l1 0.08 giou 0.62)  AP 0.123  AP50 0.321  best AP 0.130  ...`"""
    parts = [f"epoch {event.epoch}/{event.epochs}", loss_text(event.loss, event.losses)]
    if event.scores is not None:
        parts += [f"{name} {score(event.scores.get(name))}" for name in ("AP", "AP50")]
        parts += [f"best AP {score(event.best)}"]
    parts += [f"lr {main_rate(event.rates):.1e}", f"{event.images_per_second:.1f} images/s"]
    parts += [] if event.memory_mb is None else [memory(event.memory_mb)]
    parts += [f"{duration(60 * event.minutes)} done, {duration(event.seconds_left)} left"]
    return "  ".join(parts)


def loss_text(loss: float, losses: Mapping[str, float]) -> str:
    """The total, and the terms of the decoder layer that gives the answer."""
    layers = [int(name.split(".")[1]) for name in losses if name.startswith("decoder.")]
    last = f"decoder.{max(layers)}." if layers else "roi."
    # Faster R-CNN's first stage stands beside its second, `roi`.
    shown = {name.removeprefix(last): value for name, value in losses.items() if name.startswith((last, "rpn."))}
    said = " ".join(f"{name.replace('.', '_')} {value:.2f}" for name, value in shown.items() if name not in MEASURED)
    return f"loss {loss:.3f} ({said})" if said else f"loss {loss:.3f}"


def main_rate(rates: Mapping[str, float]) -> float:
    """The rate of all but the backbone, or of what is trained at all."""
    main = [rate for name, rate in rates.items() if name != "backbone"]
    return max(main or rates.values(), default=0.0)


# ---- afterwards ----


def closing(event: "events.RunEnded") -> Iterator[str]:
    why = {
        "epochs": "all epochs are done",
        "time": "the time is used up",
        "patience": "no better AP for as long as train.patience allows",
    }[event.ended_by]
    yield (
        f"{why}: {many(event.epochs, 'epoch')}, {event.images_seen} images in {duration(60 * event.minutes)}"
        + (f", {event.skipped_steps} steps skipped" if event.skipped_steps else "")
    )
    if event.scores is not None:
        yield f"at the end: {numbers(event.scores)}"
    if event.best_scores is not None and event.best_epoch is not None:
        yield f"best, after epoch {event.best_epoch:.4g}: {numbers(event.best_scores)}"
    yield f"checkpoint: {event.checkpoint}"
    ckpt = f"--ckpt {event.run}" + (" --trust" if event.own_parts else "")
    yield f"next: detrctl eval {ckpt}, detrctl predict IMAGES {ckpt}"


def numbers(scores: Mapping[str, float | None]) -> str:
    return "  ".join(f"{name} {score(scores.get(name))}" for name in ("AP", "AP50", "AP75"))


def dry_run_lines(tried: "DryRun") -> Iterator[str]:
    height, width = tried.canvas_hw
    micro = "" if tried.micro_batch == tried.images else f" in micro-batches of {tried.micro_batch}"
    batch = f"{tried.images} images of {height} x {width}{micro}"
    yield f"{millions(tried.parameters)} parameters; {batch}, on {tried.device}"
    used = "" if tried.memory_mb is None else f", {memory(tried.memory_mb)} of memory at most"
    epoch = duration(tried.seconds_per_step * tried.steps_per_epoch)
    yield f"{tried.seconds_per_step:.2f} s a step{used}"
    yield f"at most {epoch} for the {tried.steps_per_epoch} steps of an epoch, evaluation left aside"
    yield "it fits; nothing was written"


# ---- words ----


def shortened(names: tuple[str, ...], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def many(count: float, noun: str) -> str:
    return f"{count:.4g} {noun}{'s' * (count != 1)}" if count < 1e4 else f"{count:.0f} {noun}s"


def millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count / 1e3:.1f} k"


def memory(mb: float) -> str:
    return f"{mb / 1024:.1f} GB"


def score(value: float | None) -> str:
    return "no ground truth" if value is None else f"{value:.3f}"


def duration(seconds: float) -> str:
    """`4:05`, `1:02:03`"""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
