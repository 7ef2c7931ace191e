"""`detrctl train` says what it does, stops when told to, and starts under torchrun with the same words."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from detrctl.cli.app import run
from detrctl.cli.progress import duration, loss_text, many, millions
from detrctl.engine.checkpoint import load
from detrctl.engine.runs import RunFolder
from tests.engine import tiny
from tests.engine.children import finish, start
from tests.engine.test_build import OwnImages

NO_WEIGHTS = "not a file of weights (.pth, .pt, .bin, .safetensors, or a .json index of parts)"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, `data/`, and a recipe, `tiny.yaml`, that trains on it."""
    folder = tmp_path_factory.mktemp("train")
    tiny.dataset(folder / "data")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny.fields(folder / "data")))
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> Path:
    assert run(["train", str(folder / "tiny.yaml"), "--out", str(folder / "done"), "--device", "cpu"]) == 0
    return folder / "done"


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a wrong command line is answered; one line, exit code 2."""
    assert run(["train", *map(str, arguments), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said.rstrip("\n")


# ---- what is said ----


def test_a_piped_training_is_one_plain_line_an_epoch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "piped"
    assert run(["train", str(folder / "tiny.yaml"), "--out", str(out), "--device", "cpu", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    patterns = [
        r"train: 8 images, 10 boxes of 2 classes: .*",
        r"  boxes by class: dark 7, light 3",
        r"  images without boxes, kept: 1",
        r"val: 4 images, 6 boxes of 2 classes: .*",
        r"  boxes by class: light 5, dark 1",
        r"classes: dark, light",
        r"model: [\d.]+ k parameters; trained: backbone [\d.]+ k at 1\.0e-03, transformer [\d.]+ k at 1\.0e-03",
        rf"run folder: {out}",
        r"training: 2 epochs of 2 steps of 4 images, on cpu, fp32, \d+ threads?; Ctrl-C saves and stops",
        *(
            rf"epoch {n}/2  loss [\d.]+ \(class [\d.]+ l1 [\d.]+ giou [\d.]+\)  AP [\d.]+  AP50 [\d.]+  best AP [\d.]+"
            r"  lr 1\.0e-03  [\d.]+ images/s  [\d.]+ GB  \d:\d\d done, \d:\d\d left"
            for n in (1, 2)
        ),
        r"all epochs are done: 2 epochs, 16 images in \d:\d\d",
        r"at the end: AP [\d.]+  AP50 [\d.]+  AP75 [\d.]+",
        r"best, after epoch [12]: AP [\d.]+  AP50 [\d.]+  AP75 [\d.]+",
        rf"checkpoint: {out}/checkpoints/best\.pt",
        rf"next: detrctl eval --ckpt {out} --trust, detrctl predict IMAGES --ckpt {out} --trust",
    ]
    assert len(said.splitlines()) == len(patterns), said
    for line, pattern in zip(said.splitlines(), patterns, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)
    assert load(out / "checkpoints" / "best.pt").recipe.train.seed == 3


def test_fields_are_set_and_data_replaced_from_the_command_line(folder: Path) -> None:
    out, other = folder / "set", folder / "other"
    tiny.dataset(other, train=4)
    words = ["--set", "train.epochs=1", "--set", "train.lr=1e-5", "--data", str(other), "--out", str(out)]
    assert run(["train", str(folder / "tiny.yaml"), *words, "--device", "cpu"]) == 0
    recipe = load(out / "checkpoints" / "last.pt").recipe
    assert (recipe.train.epochs, recipe.train.lr, recipe.data.root) == (1, 1e-5, str(other))


def test_weights_from_elsewhere_are_accounted_for(folder: Path, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--init-from", str(done), "--out", str(folder / "init"), "--set", "model.queries=6", "--device", "cpu"]
    assert run(["train", str(folder / "tiny.yaml"), *words]) == 0
    said = capsys.readouterr().out
    assert "loaded, 2 remapped, 1 fresh, 0 unused; 2 of 2 classes known by name\n" in said
    assert "  fresh: queries.position.weight (the checkpoint's is (5, 16), this one (6, 16))\n" in said
    assert "  remapped: decoder.heads.class_head.bias (2 of 2 classes taken over)\n" in said


def test_a_dry_run_tries_the_largest_batch_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--set", "train.accumulate=2", "--dry-run", "--device", "cpu"]
    assert run(["train", str(folder / "tiny.yaml"), *words]) == 0
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[\d.]+ k parameters; 4 images of 48 x 48 in micro-batches of 2, on cpu", first)
    assert re.fullmatch(r"[\d.]+ s a step, [\d.]+ GB of memory at most", second)
    assert re.fullmatch(r"at most \d:\d\d for the 2 steps of an epoch, evaluation left aside", third)
    assert last == "it fits; nothing was written"
    assert not list(tmp_path.iterdir())


def test_numbers_are_said_as_people_read_them() -> None:
    assert [duration(s) for s in (0, 65.4, 3723)] == ["0:00", "1:05", "1:02:03"]
    assert [millions(n) for n in (41_300_000, 4500)] == ["41.3 M", "4.5 k"]
    assert [many(n, "epoch") for n in (1, 2, 2.5, 100_000)] == ["1 epoch", "2 epochs", "2.5 epochs", "100000 epochs"]


def test_the_terms_shown_are_those_of_the_last_layer_without_errors() -> None:
    losses = {"decoder.0.l1": 9.0, "decoder.10.class": 1.0, "decoder.10.class_error": 50.0, "decoder.9.class": 2.0}
    assert loss_text(12.3456, losses) == "loss 12.346 (class 1.00)"
    assert loss_text(1.0, {}) == "loss 1.000"
    two_stages = {"roi.class": 0.5, "roi.box": 0.25, "rpn.class": 0.125, "rpn.box": 0.1}
    assert loss_text(1.0, two_stages) == "loss 1.000 (class 0.50 box 0.25 rpn_class 0.12 rpn_box 0.10)"


# ---- mistakes ----


def test_mistakes_are_one_line_each(folder: Path, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = folder / "tiny.yaml"
    assert mistake(capsys) == ("which recipe? `detrctl recipes list` shows them; `--resume RUN` goes on with a run")
    assert mistake(capsys, recipe, "--out", done) == (
        f"{done}: exists already and is never overwritten; choose another --out, "
        f"or go on with it: detrctl train --resume {done}"
    )
    assert mistake(capsys, "--resume", done, "--trust") == (
        f"--resume {done}: all 2 epochs are done; for more of them add --set train.epochs=4"
    )
    assert mistake(capsys, "--resume", done, "--trust", "--seed", "5", "--set", "train.epochs=4") == (
        f"--resume {done}: it was started with seed 42, which cannot change"
    )
    assert mistake(capsys, recipe, "--resume", done) == "--resume goes on with a run as it is: leave the recipe away"
    assert mistake(capsys, "--resume", done, "--dry-run") == "--dry-run tries a recipe: leave --resume away"
    assert mistake(capsys, "--resume", folder / "no") == f"--resume {folder}/no: no such run folder"
    assert mistake(capsys, recipe, "--init-from", recipe) == f"{recipe}: {NO_WEIGHTS}"
    assert "train.lr" in mistake(capsys, recipe, "--set", "train.lr=fast")


# ---- signals ----


class SlowImages(OwnImages):
    """Its third image takes far longer than a user waits."""

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.split == "train" and i == 2:
            print("asleep", flush=True)
            time.sleep(60)
        return super().__getitem__(i)


def command(*arguments: str) -> int:
    return run(["train", *arguments, "--device", "cpu"])


def until(condition: str, file: Path) -> None:
    end = time.monotonic() + 60
    while not (file.exists() and condition in file.read_text()):
        assert time.monotonic() < end, f"{condition!r} does not come into {file}"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(folder: Path, tmp_path: Path, number: int, code: int) -> None:
    """The signal goes to the whole group, loader workers included, as a terminal's Ctrl-C does."""
    out, said = tmp_path / "run", tmp_path / "said.txt"
    words = ["--set", "train.epochs=100000", "--set", "train.eval_every=100000", "--set", "data.workers=2"]
    child = start(command, str(folder / "tiny.yaml"), "--out", str(out), *words, output=said)
    until('"step": 3', out / "metrics.jsonl")
    os.killpg(child.pid or 0, number)
    assert finish(child) == code, said.read_text()
    last = said.read_text().splitlines()[-1]
    assert re.fullmatch(
        rf"warning: stopped after \d+ epochs and \d steps of the next; everything is saved\. "
        rf"Go on with: detrctl train --resume {out} --trust",
        last,
    )
    steps = RunFolder(out).rows("train")[-1]["step"]
    epochs = steps // 2 + 1
    assert run(["train", "--resume", str(out), "--trust", "--set", f"train.epochs={epochs}", "--device", "cpu"]) == 0
    assert [row["step"] for row in RunFolder(out).rows("train")] == list(range(1, 2 * epochs + 1))


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    fields = tiny.fields(None, batch_size=3, reference_batch_size=3)
    fields["data"]["dataset"] = "tests.cli.test_train:SlowImages"
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(fields))
    child = start(command, str(tmp_path / "slow.yaml"), "--out", str(tmp_path / "run"), output=said)
    until("asleep", said)
    os.kill(child.pid or 0, signal.SIGINT)
    child.join(0.5)
    assert child.is_alive()
    os.kill(child.pid or 0, signal.SIGINT)
    assert finish(child) == 130
    assert said.read_text().splitlines()[-1] == ("warning: stopped at once; nothing more was saved")


# ---- several processes ----


def test_torchrun_takes_the_same_command(folder: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["-m", "detrctl", "train", str(folder / "tiny.yaml"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    answer = subprocess.run([*torchrun, *words], cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("epoch 2/2") == 1
    assert ", 2 processes; Ctrl-C" in answer.stdout
    training = load(tmp_path / "run" / "checkpoints" / "last.pt").training
    assert training is not None
    assert len(training["random"]) == 2
    assert torch.is_tensor(training["random"][1]["torch"])
