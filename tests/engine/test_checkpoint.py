"""A checkpoint opens safely or not at all, and a failed write never costs the file that was there."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detrctl.engine import checkpoint as ckpt
from detrctl.engine.checkpoint import Checkpoint, find_checkpoint, load, save
from detrctl.errors import CheckpointError
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories


def example() -> Checkpoint:
    return Checkpoint(
        recipe=Recipe.model_validate({"train": {"lr": 3e-4}, "model": {"family": "detr", "queries": 7}}),
        categories=Categories(("red cell", "platelet"), (3, 90)),
        weights={"a.weight": torch.arange(6.0).reshape(2, 3)},
        ema={"a.weight": torch.ones(2, 3)},
        training={"step": 5, "rng": {"torch": torch.get_rng_state()}, "note": "x", "list": [1, 2.5, None]},
    )


class RunsCode:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def test_what_is_saved_comes_back_whole(tmp_path: Path) -> None:
    save(example(), tmp_path / "c.pt")
    back = load(tmp_path / "c.pt")
    assert back.recipe == example().recipe
    assert back.categories == example().categories
    assert torch.equal(back.weights["a.weight"], example().weights["a.weight"])
    assert torch.equal(back.evaluated["a.weight"], torch.ones(2, 3))
    assert back.training is not None
    assert back.training["list"] == [1, 2.5, None]
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_without_an_average_the_trained_weights_are_evaluated(tmp_path: Path) -> None:
    plain = replace(example(), ema=None, training=None)
    save(plain, tmp_path / "c.pt")
    assert torch.equal(load(tmp_path / "c.pt").evaluated["a.weight"], plain.weights["a.weight"])


def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"format": ckpt.FORMAT, "training": RunsCode(trap)}, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(RunsCode(trap)))
    assert message(tmp_path / "zip.pt") == (
        "refused: it holds more than tensors and plain values, and opening it could run code"
    )
    assert message(tmp_path / "bare.pt") == "not a detrctl checkpoint"
    assert not trap.exists()


def test_files_that_are_no_checkpoint_are_each_one_plain_line(tmp_path: Path) -> None:
    save(example(), tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "other.pt")
    assert message(tmp_path / "cut.pt") == "cut short: the end of the file is missing; copy or download it again"
    assert message(tmp_path / "text.pt") == "not a detrctl checkpoint"
    assert message(tmp_path / "empty.pt") == "not a detrctl checkpoint"
    assert message(tmp_path / "other.pt") == "not a detrctl checkpoint, but some other file of weights"
    assert message(tmp_path / "none.pt") == "no such file"
    assert message(tmp_path) == "a folder, not a checkpoint file"


def test_damaged_fields_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    good = {"format": ckpt.FORMAT, "version": ckpt.VERSION, "recipe": {}, "weights": {}, "ema": None, "training": None}
    good["categories"] = {"names": ["a"], "ids": [1]}
    for change, expected in [
        ({"version": 9}, "written in format 9; this detrctl reads format 1: use the version that wrote it"),
        ({"weights": {"a": 3}}, "damaged: its weights are not tensors by name"),
        ({"training": 3}, "damaged: its training state is not a table"),
        ({"categories": {"names": ["a"], "ids": []}}, "damaged: its classes are not pairs of a name and an id"),
        ({"categories": {"names": ["a"], "ids": ["x"]}}, "damaged: the ids of its classes are not whole numbers"),
        (
            {"categories": {"names": ["a"], "ids": [float("inf")]}},
            "damaged: the ids of its classes are not whole numbers",
        ),
        ({"categories": {"names": ["a"], "ids": [None]}}, "damaged: the ids of its classes are not whole numbers"),
        (
            {"recipe": {"model": {"family": "detr", "width": 16, "heads": 7}}},
            "damaged: its recipe contradicts itself: model.heads: found heads 7 with width 16, a remainder stays; "
            "heads 4 or width 28 would do",
        ),
        (
            {"recipe": {"train": {"lr": -1}}},
            "its recipe does not fit this version of detrctl: train.lr: Input should be greater than 0",
        ),
    ]:
        torch.save(good | change, path)
        assert message(path) == expected


def test_no_space_left_is_one_line_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    save(example(), path)
    before = path.read_bytes()

    def full_disk(content: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(CheckpointError) as caught:
        save(example(), path)
    assert str(caught.value) == (
        f"{path}: could not be written: No space left on device; the file that was there is untouched"
    )
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_really_full_device_is_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r": real_open(Path("/dev/full"), mode))
    with pytest.raises(CheckpointError, match=r"c\.pt: could not be written: No space left on device$"):
        save(example(), tmp_path / "c.pt")


def touch(path: Path, age: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    os.utime(path, (1_800_000_000 - age, 1_800_000_000 - age))
    return path


def test_a_run_folder_means_its_best_and_else_its_last(tmp_path: Path) -> None:
    last = touch(tmp_path / "run" / "checkpoints" / "last.pt", 0)
    assert find_checkpoint(tmp_path / "run") == last
    best = touch(tmp_path / "run" / "checkpoints" / "best.pt", 9)
    assert find_checkpoint(tmp_path / "run") == best
    assert find_checkpoint(tmp_path / "run" / "checkpoints") == best
    assert find_checkpoint(last) == last


def test_the_newest_run_is_told_by_the_time_in_its_name_not_by_file_dates(tmp_path: Path) -> None:
    touch(tmp_path / "detr-20260102-000000" / "checkpoints" / "best.pt", 0)
    newer = touch(tmp_path / "alpha-20260301-000000" / "checkpoints" / "last.pt", 1000)
    (tmp_path / "empty-20260901-000000").mkdir()
    assert find_checkpoint(None, tmp_path) == newer


def test_a_missing_checkpoint_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    for argument, expected in [
        (tmp_path / "no", f"{tmp_path}/no: no such checkpoint file or run folder"),
        (tmp_path, f"{tmp_path}: no checkpoint in this folder (looked for checkpoints/best.pt and last.pt)"),
        (
            None,
            f"no checkpoint under {tmp_path}/: train one (`detrctl train quickstart`) "
            "or name one with --ckpt FILE_OR_RUN",
        ),
    ]:
        with pytest.raises(CheckpointError) as caught:
            find_checkpoint(argument, tmp_path)
        assert str(caught.value) == expected
