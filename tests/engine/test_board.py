"""TensorBoard gets the same numbers as metrics.jsonl, and its absence is said before the work."""

import sys
import types
from pathlib import Path

import pytest

from detrctl.engine import events
from detrctl.engine.board import with_tensorboard
from detrctl.engine.runs import RunFolder
from detrctl.engine.train import train
from detrctl.errors import DetrctlError
from tests.engine import tiny


class Writer:
    """Stands for tensorboard's: the package is an extra."""

    written: list[tuple[str, float, int]]
    folder = ""
    closed = False

    def __init__(self, folder: str, purge_step: int | None = None):
        Writer.folder, Writer.written, Writer.closed = folder, [], False

    def add_scalar(self, name: str, value: float, step: int) -> None:
        Writer.written.append((name, value, step))

    def close(self) -> None:
        Writer.closed = True


def test_scalars_are_written_by_step_and_events_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    heard: list[events.Event] = []
    evaluated = events.EvaluationDone(1.0, {"AP": 0.5, "APl": None}, 0.5, 1.0, True, 2.0, instability=3.5)
    losses, shares = {"decoder.0.l1": 0.2}, {"decoder.0.l1": 0.25}
    logged = events.StepsLogged(1, 7, 28, 3.0, losses, {"transformer": 1e-4}, 0.3, 4.0, 5.0, None, shares)
    with with_tensorboard(tmp_path, heard.append) as listen:
        listen(logged)
        listen(evaluated)
    assert heard == [logged, evaluated]
    assert Writer.folder == str(tmp_path / "tensorboard")
    assert Writer.closed
    assert Writer.written == [
        ("train/loss", 3.0, 7),
        ("train/gradient_norm", 0.3, 7),
        ("train/decoder.0.l1", 0.2, 7),
        ("share/decoder.0.l1", 0.25, 7),
        ("lr/transformer", 1e-4, 7),
        ("val/AP", 0.5, 7),
        ("val/instability", 3.5, 7),
    ]


def test_a_resumed_run_writes_no_point_twice(tmp_path: Path) -> None:
    """It crashed after 3 of 6 steps, the last of which is not in the checkpoint that it goes on from."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    setting = tiny.recipe(tiny.dataset(tmp_path / "data"), tensorboard=True, epochs=3)

    def crash(event: events.Event) -> None:
        if isinstance(event, events.StepDone) and event.total_steps == 4:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        train(setting, out=run, device="cpu", on_event=crash)
    train(resume=run, device="cpu", trust=True)
    found = reading.EventAccumulator(str(run / "tensorboard")).Reload()
    rows = {kind: RunFolder(run).rows(kind) for kind in ("train", "eval")}
    losses = [(point.step, point.value) for point in found.Scalars("train/loss")]
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in losses] == pytest.approx([row["loss"] for row in rows["train"]])
    scores = [(point.step, point.value) for point in found.Scalars("val/AP")]
    assert [step for step, _ in scores] == [2, 4, 6]
    assert [value for _, value in scores] == pytest.approx([row["scores"]["AP"] for row in rows["eval"]])
    assert {"train/gradient_norm", "lr/transformer", "share/decoder.1.l1"} <= set(found.Tags()["scalars"])


def test_a_missing_package_is_one_line_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    setting = tiny.recipe(tiny.dataset(tmp_path / "data"), tensorboard=True)
    with pytest.raises(DetrctlError) as caught:
        train(setting, out=tmp_path / "run", device="cpu")
    assert str(caught.value) == "train.tensorboard: the tensorboard package is missing; pip install tensorboard"
    assert not (tmp_path / "run").exists()
