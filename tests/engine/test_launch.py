"""`train.processes`: one command becomes several processes that start, speak and stop like one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from detrctl.cli.app import run
from detrctl.engine import launch
from detrctl.engine.checkpoint import load
from detrctl.engine.launch import Crew, Launched, processes_that_fit
from tests.engine import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    tiny.dataset(folder / "data")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny.fields(folder / "data", processes=2)))
    return folder


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "detrctl", "train", *map(str, arguments), "--device", "cpu"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# ---- the command ----


def test_a_users_mistake_inside_the_processes_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From another folder, with detrctl on the path of this process only."""
    monkeypatch.chdir(folder)
    assert run(["train", "tiny.yaml", "--data", "none", "--out", "mistaken", "--device", "cpu"]) == 2
    said, errors = capfd.readouterr()
    assert said == ""
    assert errors == f"{folder}/none: no such folder; give the folder that holds a dataset's images and annotations\n"


def test_a_ctrl_c_saves_what_the_same_command_goes_on_with(folder: Path) -> None:
    out = folder / "run"
    endless = ["train.epochs=100000", "train.eval_every=100000", "train.save_every=100000"]
    child = start(folder / "tiny.yaml", "--out", out, *(word for field in endless for word in ("--set", field)))
    end = time.monotonic() + 100
    while not (out / "metrics.jsonl").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    said, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert ", 2 processes; Ctrl-C" in said
    assert errors.splitlines()[-1].endswith(f"everything is saved. Go on with: detrctl train --resume {out} --trust")
    training = load(out / "checkpoints" / "last.pt").training
    assert training is not None
    assert len(training["random"]) == 2
    epochs = training["standing"]["step"] // 2 + 1
    again = start("--resume", out, "--trust", "--set", f"train.epochs={epochs}")
    said, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert said.count(f"epoch {epochs}/{epochs}") == 1
    assert errors == ""


# ---- processes that fail ----


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Crew]]:
    monkeypatch.setattr(launch, "PATIENCE", 0.5)
    made: list[Crew] = []
    yield made
    for one in made:
        one.close()


@pytest.fixture
def patient(crew: list[Crew], monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher ends nobody because another was done before."""
    monkeypatch.setattr(launch, "PATIENCE", 30.0)
    monkeypatch.setattr(launch, "PATIENCE_WITHOUT_FIRST", 30.0)


def outcome(made: list[Crew], *, first: str, second: str, number: signal.Signals | None = None) -> Launched:
    """Of two Python processes, one for each rank."""
    program = f"import os, signal, sys, time\nif os.environ['RANK'] == '0':\n {first}\nelse:\n {second}\n"
    made.append(Crew([sys.executable, "-S", "-c", program], 2))
    made[0].start()
    if number is not None:
        time.sleep(2.0)  # until they listen
        made[0].pass_on(number, None)
        time.sleep(0.3)  # were it sent again by `wait`, the two would not be heard as one
    made[0].wait()
    return made[0].outcome()


SLEEP = "time.sleep(60)"
GONE = f"time.sleep(0.3); sys.exit({launch.GONE})"


@pytest.mark.parametrize("first", [SLEEP, GONE], ids=["the first waits", "the first hears of it"])
def test_what_another_process_says_is_shown_where_the_first_cannot(crew: list[Crew], first: str) -> None:
    assert outcome(crew, first=first, second="sys.exit('the reason')") == Launched(1, "the reason\n")


def test_a_process_that_was_killed_is_named(crew: list[Crew]) -> None:
    killed = "os.kill(os.getpid(), signal.SIGKILL)"
    assert outcome(crew, first=GONE, second=killed) == Launched(137, "process 2 of 2 was ended by SIGKILL\n")


def test_when_the_first_says_why_nothing_is_added_and_the_rest_is_ended(crew: list[Crew]) -> None:
    deaf = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); print('noise', flush=True); {SLEEP}"
    assert outcome(crew, first="sys.exit(2)", second=deaf) == Launched(2)


def test_the_first_may_save_for_longer_than_the_others(crew: list[Crew]) -> None:
    assert outcome(crew, first="time.sleep(2); sys.exit(130)", second="sys.exit(130)") == Launched(130)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_ends_all(crew: list[Crew], number: signal.Signals) -> None:
    waiting = f"signal.signal(signal.SIGINT, signal.SIG_DFL); {SLEEP}"
    found = outcome(crew, first=waiting, second=waiting, number=number)
    assert found == Launched(128 + number, "warning: stopped at once; nothing more was saved\n")


COUNTING = """heard = []
 signal.signal(signal.SIGTERM, lambda *a: heard.append(1))
 end = time.monotonic() + 30
 while not heard and time.monotonic() < end: time.sleep(0.1)
 time.sleep(3.0); sys.exit(10 + len(heard))"""


def test_each_process_hears_a_signal_once(crew: list[Crew], patient: None) -> None:
    assert outcome(crew, first=COUNTING, second=COUNTING, number=signal.SIGTERM) == Launched(11)
    assert [child.returncode for child in crew[0]._children] == [11, 11]


def test_a_signal_between_two_starts_is_heard_once_by_both(
    crew: list[Crew], patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = subprocess.Popen

    def interrupted(*args: Any, env: dict[str, str], **options: Any) -> "subprocess.Popen[bytes]":
        if env["RANK"] == "1":
            crew[0].pass_on(signal.SIGTERM, None)
        child = popen(*args, env=env, **options)
        time.sleep(2.0)  # until it listens
        return child

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    assert outcome(crew, first=COUNTING, second=COUNTING) == Launched(11)
    assert [child.returncode for child in crew[0]._children] == [11, 11]


def test_nohup_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_command", lambda arguments: [sys.executable, "-S", "-c", *arguments])
    program = (
        "import os, signal, time\n"
        "if os.environ['RANK'] == '0':\n os.kill(os.getppid(), signal.SIGHUP)\n"
        "time.sleep(0.5)\nraise SystemExit(0)\n"
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert launch.launch([program], 2) == Launched(0)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert launch.launch([program.replace("SIGHUP", "SIGTERM")], 2).code == 128 + signal.SIGTERM


# ---- how many ----


def test_a_cpu_takes_as_many_as_wanted_and_a_gpu_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [processes_that_fit(3, device) for device in ("cpu", "cuda")] == [3, 2]
    monkeypatch.setattr(launch, "GPU_FILES", ("/",))
    assert processes_that_fit(3, "auto") == 2
    monkeypatch.setattr(launch, "GPU_FILES", ())
    assert processes_that_fit(3, "auto") == (3 if sys.platform == "linux" else 2)


def test_processes_that_torchrun_started_start_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not launch.has_company()
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    assert launch.has_company()
