"""`detrctl inspect-data` tells a split in 80 columns and leaves numbers and pictures behind."""

import csv
import json
from pathlib import Path

import pytest

from detrctl.cli.app import run
from tests.engine import tiny


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"), train=9)


def inspect(root: Path, out: Path, *arguments: str) -> int:
    return run(["inspect-data", "--data", str(root), "--out", str(out), *arguments])


def test_a_split_is_told_in_80_columns_and_in_files(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(root, tmp_path / "d", "--set", "model.queries=1", "--set", "data.eval_size=16", "--show", "2") == 0
    said = capsys.readouterr()
    lines = said.out.replace(str(tmp_path), "").replace(str(root), "").splitlines()
    assert max(map(len, lines)) <= 80
    facts = json.loads((tmp_path / "d" / "data.json").read_text())
    assert lines[0] == f", split train, recipe small_data: 9 images, {facts['boxes']} boxes"
    assert f"images with more boxes than the model's 1 queries: {facts['per_image']['over_queries']}" in lines
    assert "tiny: below 8, and small as well; small: below 32; large: above 96" in lines
    assert facts["per_image"]["over_queries"] == 3  # every other image has two boxes, but the fourth has none
    warned = [line.removeprefix("warning: ") for line in said.err.splitlines()]
    assert [line for line in warned if line in facts["warnings"]] == facts["warnings"]
    assert len(facts["warnings"]) == 3
    assert {path.name for path in (tmp_path / "d").iterdir()} == {
        *("data.json", "classes.csv", "images.csv"),
        *("classes.png", "sizes.png", "aspects.png", "boxes-per-image.png", "samples.png"),
    }


def test_the_tables_hold_what_the_json_says(root: Path, tmp_path: Path) -> None:
    assert inspect(root, tmp_path / "d", "--no-pictures", "--sample", "0", "--limit", "5") == 0
    facts = json.loads((tmp_path / "d" / "data.json").read_text())
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"data.json", "classes.csv", "images.csv"}
    with (tmp_path / "d" / "classes.csv").open(newline="") as file:
        classes = list(csv.DictReader(file))
    assert [(row["class"], int(row["boxes"])) for row in classes] == [(c["name"], c["boxes"]) for c in facts["classes"]]
    assert sum(float(row["share"]) for row in classes) == pytest.approx(1.0, abs=1e-5)
    with (tmp_path / "d" / "images.csv").open(newline="") as file:
        images = list(csv.DictReader(file))
    assert len(images) == facts["images"] == 5
    assert sum(int(row["boxes"]) for row in images) == facts["boxes"]
    empty = images[3]
    assert (empty["image_id"], empty["file_name"], empty["boxes"], empty["smallest"]) == ("13", "3.png", "0", "")
    full = images[0]
    assert (full["width"], full["height"]) == ("48", "40")
    assert float(full["smallest"]) == pytest.approx((16 * 14) ** 0.5, rel=1e-5)
    assert facts["trained"] is None


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--format", "gif"], "--format gif: there are png, svg, pdf"),
        (["--split", "nowhere"], None),
        (["--recipe", "nothing_like_that"], None),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str | None
) -> None:
    assert inspect(root, tmp_path / "d", *arguments) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
    assert line is None or said.err == line + "\n"
    assert not (tmp_path / "d").exists()


def test_old_results_are_not_overwritten(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine.txt").write_text("x")
    assert inspect(root, tmp_path / "d", "--no-pictures") == 2
    assert "already holds files" in capsys.readouterr().err
