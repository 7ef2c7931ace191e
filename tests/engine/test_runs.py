"""A run folder is made once, never overwritten, and can be read after a crash."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from detrctl.engine.runs import RunFolder, environment, existing_run, git_state, new_run
from detrctl.errors import DetrctlError
from detrctl.recipe.load import load_recipe
from tests.engine import tiny


def test_a_run_is_named_by_recipe_and_time_and_two_in_a_second_differ(tmp_path: Path) -> None:
    first, second = (new_run(None, "small", runs=tmp_path).path for _ in range(2))
    assert re.fullmatch(r"small-\d{8}-\d{6}", first.name)
    assert first != second
    assert (second / "checkpoints").is_dir()


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    new_run(tmp_path / "run", "x")  # an empty folder will do
    with pytest.raises(DetrctlError) as caught:
        new_run(tmp_path / "run", "x")
    assert str(caught.value) == (
        f"{tmp_path}/run: exists already and is never overwritten; choose another --out, "
        f"or go on with it: detrctl train --resume {tmp_path}/run"
    )


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DetrctlError, match=r"file/run: this run folder cannot be made: Not a directory$"):
        new_run(tmp_path / "file" / "run", "x")


def test_resuming_needs_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DetrctlError, match=r"^--resume .*/none: no such run folder$"):
        existing_run(tmp_path / "none")
    with pytest.raises(DetrctlError, match=r"^--resume .*: nothing to go on from \(checkpoints/last\.pt is missing\)$"):
        existing_run(tmp_path)


def test_the_resolved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    setting = tiny.recipe("somewhere", lr=3e-5)
    run = new_run(tmp_path / "run", "x")
    run.write_recipe(setting)
    assert load_recipe(str(run.recipe)).recipe == setting


def test_metrics_are_json_lines_without_nan(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.append("metrics.jsonl", {"kind": "train", "step": 1, "loss": float("nan"), "losses": {"a": float("inf")}})
    assert json.loads(run.metrics.read_text()) == {"kind": "train", "step": 1, "loss": None, "losses": {"a": None}}


def test_what_was_logged_after_the_checkpoint_is_dropped_and_a_torn_line_does_no_harm(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.append("metrics.jsonl", {"kind": "train", "step": step})
    with run.metrics.open("a") as file:
        file.write('{"kind": "tr')
    run.forget_after(2)
    assert [row["step"] for row in run.rows("train")] == [1, 2]
    assert run.rows("eval") == []


def test_the_environment_names_versions_and_machine() -> None:
    found = environment(3, "cpu")
    assert found["threads"] == 3
    assert found["packages"]["torch"]
    assert found["python"].startswith("3.")


def test_git_state_tells_commit_and_changes_and_is_none_elsewhere(tmp_path: Path) -> None:
    assert git_state(tmp_path, tmp_path / "code.py") is None

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("1")
    assert git_state(tmp_path, tmp_path / "code.py") is None  # not tracked: somebody else's repository
    git("add", "code.py")
    git("commit", "-m", "x")
    state = git_state(tmp_path, tmp_path / "code.py")
    assert state is not None
    assert re.fullmatch(r"[0-9a-f]{40}", state["commit"])
    assert state["changed"] is False
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path, tmp_path / "code.py") == state | {"changed": True}
