"""What README.md shows, run or parsed, so that it stays true."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from detrctl.cli.app import app, run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"^ {4}(?:PYTHONPATH=\. )?(detrctl .+?)(?: +#.*)?$", README, flags=re.MULTILINE)))
TARGETS = re.findall(r"^ {4}make (\w+)", README, flags=re.MULTILINE)


def test_there_are_commands_and_targets_to_check() -> None:
    assert len(COMMANDS) >= 12
    assert len(TARGETS) >= 2


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_exists_with_its_options(line: str) -> None:
    command, name = typer.main.get_command(app), "detrctl"
    words = shlex.split(line)[1:]
    while hasattr(command, "commands"):
        name = words.pop(0)
        command = command.get_command(None, name)
        assert command is not None, f"{line}: no command {name!r}"
    command.make_context(name, words)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("detrctl recipes")])
def test_recipe_commands_answer(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_the_targets(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_mistakes_shown_are_reported_like_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = [line.strip() for line in README.splitlines() if line.startswith("    mine.yaml:")]
    assert len(shown) == 2
    mine = tmp_path / "mine.yaml"
    mine.write_text("model:\n  family: detr\n  querys: 50\n\ntrain:\n  epochs: 500\n  lr: -1\n")
    assert run(["recipes", "show", str(mine), "--resolved"]) == 2
    reported = capsys.readouterr().err.replace(f"{tmp_path}/", "")
    assert [line for line in reported.splitlines() if line.startswith("mine.yaml:")] == shown


def test_the_backbone_of_ones_own_trains(tmp_path: Path) -> None:
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "class Stripes" in block
    ]
    (tmp_path / "my_parts.py").write_text(code)
    (line,) = [line for line in COMMANDS if "my_parts" in line]
    words = [*shlex.split(line)[1:], "--dry-run", "--device", "cpu", "--set", "data.workers=0"]
    answer = subprocess.run(
        [sys.executable, "-m", "detrctl", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f".:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
