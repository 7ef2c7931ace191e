"""Two real processes do what one does, and never wait for each other for ever."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detrctl.data import dataset
from detrctl.data.batch import Sample
from detrctl.engine import events
from detrctl.engine.build import TrainingOrder
from detrctl.engine.checkpoint import load
from detrctl.engine.distributed import Alone, choose_device, connected, emulates_bf16
from detrctl.engine.interrupt import Interrupted
from detrctl.engine.runs import RunFolder
from detrctl.engine.train import train
from detrctl.errors import DetrctlError
from tests.engine import tiny
from tests.engine.children import finish, group, run_group

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"), empty=(3, 4, 5))


def said(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("out-*.txt")))


# ---- training ----


def train_child(root: Path, out: Path, fields: dict[str, Any]) -> None:
    heard: list[str] = []
    train(
        tiny.recipe(root, **fields),
        out=out,
        device="cpu",
        on_event=lambda event: heard.append(type(event).__name__),
    )
    print(f"heard {len(heard)} events")


def some_process_gets_no_objects(root: Path, seed: int) -> bool:
    """Whether one of two processes has a batch of nothing but images without objects in the first epoch."""
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    occupied = {annotation["image_id"] - 10 for annotation in content["annotations"]}
    orders = [TrainingOrder(8, 4, 1, seed, rank, 2) for rank in (0, 1)]
    return any(not occupied & set(part) for order in orders for part in order)


def test_two_processes_train_as_one_with_the_same_batches(root: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"seed": 43, "epochs": 2, "ema": 0.9, "ema_warmup": 3, "clip_norm": 0.1}
    assert some_process_gets_no_objects(root, seed=43)
    codes = run_group(2, train_child, root, tmp_path / "two", fields, folder=tmp_path)
    assert codes == [0, 0], said(tmp_path)
    assert (tmp_path / "out-1.txt").read_text() == "heard 0 events\n"  # only the first process speaks
    train_child(root, tmp_path / "one", fields)
    one, two = (load(tmp_path / name / "checkpoints" / "last.pt") for name in ("one", "two"))
    for name, value in one.weights.items():
        torch.testing.assert_close(two.weights[name], value, rtol=1e-4, atol=1e-5)
    assert two.training is not None
    assert len(two.training["random"]) == 2
    losses = [[row["loss"] for row in RunFolder(tmp_path / name).rows("train")] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for name in ("losses", "shares"):
        ones, twos = ([row[name] for row in RunFolder(tmp_path / run).rows("train")] for run in ("one", "two"))
        for alone, together in zip(ones, twos, strict=True):
            adding_up = [key for key in alone if not key.endswith("_error")]
            assert len(adding_up) >= 6
            assert [together[key] for key in adding_up] == pytest.approx([alone[k] for k in adding_up], rel=1e-3)
    matchings = [[row["matching"] for row in RunFolder(tmp_path / name).rows("eval")] for name in ("one", "two")]
    assert matchings[0] == matchings[1]
    assert matchings[1][1]["instability"] is not None
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["images_seen"] == 16


def resume_child(run: Path, epochs: int) -> None:
    train(trust=True, resume=run, overrides=[f"train.epochs={epochs}"], device="cpu")


def test_two_processes_resume_bit_by_bit(root: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"epochs": 1}
    codes = run_group(2, train_child, root, tmp_path / "whole", {"epochs": 2}, folder=tmp_path)
    codes += run_group(2, train_child, root, tmp_path / "half", fields, folder=tmp_path)
    codes += run_group(2, resume_child, tmp_path / "half", 2, folder=tmp_path)
    assert codes == [0] * 6, said(tmp_path)
    whole, half = (load(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "half"))
    assert all(torch.equal(half.weights[name], value) for name, value in whole.weights.items())
    matchings = [[row["matching"] for row in RunFolder(tmp_path / name).rows("eval")] for name in ("whole", "half")]
    assert matchings[0] == matchings[1]
    assert [row["gap"] for row in matchings[0]] == ["nothing was evaluated before", None]


def broken_child(root: Path, out: Path) -> None:
    def tell(event: events.Event) -> None:
        if isinstance(event, events.Warned):
            print(event.message)

    train(tiny.recipe(root, data={"broken_images": "skip"}, epochs=1), out=out, device="cpu", on_event=tell)


def test_files_that_only_the_second_process_read_are_named_by_the_first(tmp_path: Path) -> None:
    root = tiny.dataset(tmp_path / "data")
    read_by_second = next(iter(TrainingOrder(8, 4, 1, 42, 1, 2)))[0]
    for file in (f"train/{read_by_second}.png", "val/1.png"):  # validation images are dealt out in turn
        path = root / "images" / file
        path.write_bytes(path.read_bytes()[:-2000])
    codes = run_group(2, broken_child, root, tmp_path / "run", folder=tmp_path)
    assert codes == [0, 0], said(tmp_path)
    lines = [line for line in (tmp_path / "out-0.txt").read_text().splitlines() if "could not be read" in line]
    assert lines == [
        f"train: image files that could not be read, skipped: 1 ({root}/images/train/{read_by_second}.png)",
        f"val: image files that could not be read, skipped: 1 ({root}/images/val/1.png)",
    ]


def nan_child(root: Path, out: Path, broken_rank: str) -> None:
    plain = dataset.to_sample

    def spoilt(*arguments: Any) -> Sample:
        sample = plain(*arguments)
        return replace(sample, pixels=sample.pixels * float("nan")) if os.environ["RANK"] == broken_rank else sample

    dataset.to_sample = spoilt
    train(tiny.recipe(root), out=out, device="cpu")


def test_a_nan_on_one_process_skips_the_step_on_both(tmp_path: Path) -> None:
    root = tiny.dataset(tmp_path / "data", val=0)
    codes = run_group(2, nan_child, root, tmp_path / "run", "1", folder=tmp_path)
    assert codes == [0, 0], said(tmp_path)
    skipped = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert [row["step"] for row in skipped] == [1, 2, 3, 4]
    assert all(row["reason"].startswith("image ") and len(row["image_ids"]) == 4 for row in skipped)


def test_a_mistake_on_the_first_process_ends_all_of_them(root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    codes = run_group(2, mistake_child, root, tmp_path / "run", folder=tmp_path)
    assert codes == [2, 2], said(tmp_path)
    assert said(tmp_path).count("exists already and is never overwritten") == 2


def mistake_child(root: Path, out: Path) -> int:
    try:
        train(tiny.recipe(root), out=out, device="cpu")
    except DetrctlError as error:
        print(error)
        return 2
    return 0


def endless_child(root: Path, out: Path) -> int:
    try:
        train(tiny.recipe(root, epochs=100_000, eval_every=100_000, save_every=100_000), out=out, device="cpu")
    except Interrupted as stop:
        print(stop)
        return stop.exit_code
    return 0


@pytest.mark.parametrize("told", [[1], [0, 1]], ids=["one of them", "both"])
def test_a_signal_stops_both_processes_at_the_same_step(root: Path, tmp_path: Path, told: list[int]) -> None:
    run = tmp_path / "run"
    with group(2, endless_child, root, run, folder=tmp_path) as children:
        wait_for(run / "metrics.jsonl")
        for rank in told:
            os.kill(children[rank].pid or 0, signal.SIGTERM)
        codes = [finish(child) for child in children]
    assert codes == [143, 143], said(tmp_path)
    texts = [(tmp_path / f"out-{rank}.txt").read_text() for rank in (0, 1)]
    assert texts[0] == texts[1]
    assert texts[0].endswith(f"everything is saved. Go on with: detrctl train --resume {run} --trust\n")
    assert load(run / "checkpoints" / "last.pt").training is not None


def test_when_one_process_dies_the_other_says_so_and_ends(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with group(2, endless_or_error, root, run, folder=tmp_path) as children:
        wait_for(run / "metrics.jsonl")
        children[1].kill()
        assert finish(children[0]) == 2, said(tmp_path)
    assert (tmp_path / "out-0.txt").read_text().splitlines()[-1] == (
        "another process of this run has ended; its own message says why"
    )


def endless_or_error(root: Path, out: Path) -> int:
    try:
        return endless_child(root, out)
    except DetrctlError as error:
        print(error)
        return 2


def wait_for(file: Path) -> None:
    until = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < until, f"{file} does not come"
        time.sleep(0.02)


# ---- what processes say together ----


def collectives_child() -> None:
    with connected(CPU) as processes:
        rank = processes.rank
        mine = torch.tensor([1.0 + rank], dtype=torch.float64)
        assert processes.sum(mine).tolist() == [3.0]
        assert mine.tolist() == [1.0 + rank]
        assert processes.gather(f"from {rank}") == ["from 0", "from 1"]
        assert processes.from_first(rank) == 0
        tensor = torch.full((2,), rank)
        processes.copy_from_first([tensor])
        assert tensor.tolist() == [0, 0]
        both, one, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
        both.grad = torch.tensor([1.0, 3.0]) * (1 + rank)
        if rank == 1:
            one.grad = torch.ones(2)
        assert processes.average_gradients([both, one, none], fine=True)
        assert both.grad.tolist() == [1.5, 4.5]
        assert one.grad is not None
        assert one.grad.tolist() == [0.5, 0.5]
        assert none.grad is None
        assert not processes.average_gradients([both, one, none], fine=rank == 0)


def test_collectives_are_the_sums_and_means_of_both(tmp_path: Path) -> None:
    assert run_group(2, collectives_child, folder=tmp_path) == [0, 0], said(tmp_path)


def test_one_process_alone_keeps_what_it_has() -> None:
    alone, parameter = Alone(), nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    assert alone.gather(3) == [3]
    assert alone.average_gradients([parameter], fine=True)
    assert not alone.average_gradients([parameter], fine=False)
    assert parameter.grad.tolist() == [1.0, 1.0]


def test_a_cpu_without_bf16_is_known_and_an_unknown_one_is_not_accused() -> None:
    plain = {"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": False}
    assert emulates_bf16(CPU, plain)
    assert not emulates_bf16(CPU, plain | {"amx_bf16": True})
    assert not emulates_bf16(CPU, plain | {"avx512_bf16": True})
    assert not emulates_bf16(CPU, {})
    assert not emulates_bf16(torch.device("cuda"), plain)


def test_a_device_that_is_not_there_is_one_line() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(
            DetrctlError, match=r"^--device cuda: not available on this machine; use --device cpu, or auto$"
        ):
            choose_device("cuda")
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


def test_processes_that_cannot_meet_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DetrctlError) as error, connected(torch.device("cpu")):
        pass
    assert str(error.value).startswith("the 2 processes that WORLD_SIZE tells of cannot meet (Error initializing")
    assert str(error.value).endswith("); start them with torchrun, or unset WORLD_SIZE for one process")
