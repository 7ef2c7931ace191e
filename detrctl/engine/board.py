"""TensorBoard files beside metrics.jsonl, by choice (`train.tensorboard`)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from detrctl.engine import events
from detrctl.errors import DetrctlError


def require_tensorboard() -> None:
    """Before the work, not after it."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise DetrctlError("train.tensorboard: the tensorboard package is missing; pip install tensorboard") from None


@contextlib.contextmanager
def with_tensorboard(run: Path, on_event: events.OnEvent, *, after_step: int = 0) -> Iterator[events.OnEvent]:
    """A listener that writes scalars under `run` and passes every event on.

    Points of later steps than `after_step`, which a resumed run goes on from, are void: they will come again.
    """
    from torch.utils.tensorboard import SummaryWriter

    purge = after_step + 1 if after_step else None
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=purge)  # type: ignore[no-untyped-call]
    step = 0

    def listen(event: events.Event) -> None:
        nonlocal step
        on_event(event)
        if isinstance(event, events.StepsLogged):
            step = event.total_steps
            for name, value in {"loss": event.loss, "gradient_norm": event.gradient_norm, **event.losses}.items():
                writer.add_scalar(f"train/{name}", value, step)  # type: ignore[no-untyped-call]
            for name, value in event.shares.items():
                writer.add_scalar(f"share/{name}", value, step)  # type: ignore[no-untyped-call]
            for name, value in event.rates.items():
                writer.add_scalar(f"lr/{name}", value, step)  # type: ignore[no-untyped-call]
        elif isinstance(event, events.EvaluationDone):
            for name, score in event.scores.items():
                if score is not None:
                    writer.add_scalar(f"val/{name}", score, step)  # type: ignore[no-untyped-call]
            if event.instability is not None:
                writer.add_scalar("val/instability", event.instability, step)  # type: ignore[no-untyped-call]

    try:
        yield listen
    finally:
        writer.close()  # type: ignore[no-untyped-call]
