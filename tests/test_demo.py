"""`make demo`'s script, with hardly any training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_demo_trains_evaluates_predicts_and_names_what_came_out(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, words in (("python", ""), ("detrctl", "-m detrctl ")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        (folder / name).chmod(0o755)
    quickly = ["--set", "train.max_minutes=0.1", "--set", "train.eval_limit=20"]
    command = ["sh", str(ROOT / "tools" / "demo.sh"), str(folder), *quickly]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, checkpoint = lines = done.stdout.splitlines()
    steps = [line.split()[2] for line in lines if line.startswith("== detrctl ")]
    assert steps == ["train", "eval", "predict"]
    pictures = [line.removeprefix("Picture:    ") for line in lines if line.startswith("Picture:    ")]
    assert len(pictures) == 12
    for named in (*pictures, checkpoint.removeprefix("Checkpoint: ")):
        assert (tmp_path / named).is_file(), named
