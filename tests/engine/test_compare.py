"""Runs are read, grouped and counted as they are."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from detrctl.engine.compare import Spread, compare, grouped, suitable_thresholds
from detrctl.engine.compare_plot import mean_curve
from detrctl.engine.run_records import read_run, read_runs, without_stamp
from detrctl.errors import DetrctlError
from tests.cli.made_runs import make_run


def test_a_run_is_read_with_where_it_stands(tmp_path: Path):
    run = read_run(make_run(tmp_path / "a", [None, 0.3, 0.2], minutes_per_epoch=0.5))
    assert [point.epoch for point in run.evaluations] == [2.0, 3.0]
    assert (run.epochs, run.minutes, run.images, run.seed) == (3.0, 1.5, 3000, 42)
    assert (run.best.ap, run.final.ap) == (0.3, 0.2)
    assert run.images_per_second == pytest.approx(3000 / (90 - 18))
    assert (run.fields["data.root"], run.fields["model.queries"], run.machine) == ("shapes", 25, "cpu, 2 cores")


def test_a_last_line_that_a_crash_cut_short_is_no_line(tmp_path: Path):
    folder = make_run(tmp_path / "a", [0.1, 0.2], finished=False)
    whole = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(whole[:-30])
    assert [point.ap for point in read_run(folder).evaluations] == [0.1]
    for extra in ("environment.json", "recipe.yaml"):
        assert (folder / extra).is_file()
    (folder / "environment.json").write_text("{")
    assert read_run(folder).machine == "cpu, None cores"


def test_an_ap_is_reached_by_the_first_evaluation_that_has_it(tmp_path: Path):
    run = read_run(make_run(tmp_path / "a", [0.1, 0.25, 0.2, 0.3]))
    epochs = [None if point is None else point.epoch for point in map(run.reached, (0.1, 0.2, 0.25, 0.26, 0.31))]
    assert epochs == [1, 2, 2, 4, None]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["detrctl", "train", "quickstart", "--seed", "3"], "quickstart"),
        (["x", "train", "--data", "shapes", "own/dino.yaml"], "dino"),
        (["x", "train", "--trust", "--set=train.lr=1", "--set", "a=b", "detr_r50"], "detr_r50"),
        (["x", "train", "--resume", "runs/folder-s3"], "folder"),
        ([], "folder"),
    ],
)
def test_the_recipe_has_the_name_that_it_was_trained_by(words, name, tmp_path: Path):
    assert read_run(make_run(tmp_path / "folder-s3", [0.1], command=words)).recipe == name


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("dino-20260801-120000", "dino"),
        ("dino-20260801-120000-2", "dino"),
        ("dino_seed2", "dino"),
        ("dino-s1", "dino"),
        ("detr_r50", "detr_r50"),
        ("demo-3", "demo"),
        ("classes", "classes"),
    ],
)
def test_time_and_seed_are_no_part_of_a_name(folder, name):
    assert without_stamp(folder) == name


def test_runs_of_one_name_in_several_folders_are_told_apart(tmp_path: Path):
    runs = read_runs([make_run(tmp_path / place / "detr", [0.1]) for place in ("a", "b")])
    assert [run.name for run in runs] == [str(Path("a/detr")), str(Path("b/detr"))]


def test_runs_that_differ_in_the_seed_only_are_a_group(tmp_path: Path):
    def made(name: str, **changed: object) -> Path:
        return make_run(tmp_path / name, [0.1], changed={"train": changed})

    paths = [made("a-s0", seed=0), made("b-s0", seed=0, lr=0.2), made("a-s1", seed=1), made("b-s1", seed=1, lr=0.2)]
    runs = read_runs([*paths, made("c", seed=0, lr=0.3)])
    groups = {group.name: [run.name for run in group.runs] for group in grouped(runs, "seed")}
    assert groups == {"a": ["a-s0", "a-s1"], "b": ["b-s0", "b-s1"], "c": ["c"]}
    assert len(grouped(runs, "none")) == 5
    compared = compare(runs, by="recipe")
    assert [(group.name, len(group.runs)) for group in compared.groups] == [("quickstart", 5)]
    assert compared.notes == ("quickstart: grouped by name, but its recipes differ in train.lr",)


def test_a_mean_over_some_of_the_runs_is_none():
    assert Spread.of([1.0, 3.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1.0, None]) is None
    assert Spread.of([None]) is None


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ([0.52], (0.25, 0.35, 0.5)),
        ([0.12, 0.52], (0.1, 0.25, 0.35)),
        ([0.5, 0.5], (0.25, 0.35, 0.5)),
        ([0.03, 0.1], (0.03, 0.05, 0.07)),
        ([0.0, 0.3], (0.15, 0.2)),
        ([0.001], ()),
    ],
)
def test_thresholds_suit_the_runs(peaks, expected, tmp_path: Path):
    runs = [read_run(make_run(tmp_path / str(n), [0.0, peak])) for n, peak in enumerate(peaks)]
    assert suitable_thresholds(runs) == expected
    assert all(any(run.reached(ap) for run in runs) for ap in expected)
    assert math.isclose(sum(expected), sum(set(expected)))


def test_the_mean_curve_is_where_all_curves_are():
    one = (np.array([1.0, 2.0, 4.0]), np.array([0.1, 0.2, 0.4]))
    two = (np.array([2.0, 3.0, 5.0]), np.array([0.4, 0.5, 0.7]))
    places, mean = mean_curve([one, two])
    assert places.tolist() == [2.0, 3.0, 4.0]
    assert mean == pytest.approx([0.3, 0.4, 0.5])
    assert [len(part) for part in mean_curve([(one[0][:1], one[1][:1]), two])] == [0, 0]


def test_what_is_written_by_others_is_refused_by_name(tmp_path: Path):
    folder = make_run(tmp_path / "a", [0.1])
    (folder / "recipe.yaml").write_text("a: [")
    with pytest.raises(DetrctlError) as caught:
        read_run(folder)
    assert str(caught.value) == f"{folder / 'recipe.yaml'}: cannot be read as YAML"
    folder = make_run(tmp_path / "b", [0.1])
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "kind": "eval", "scores": {"AP": 0.1}}) + "\n")
    with pytest.raises(DetrctlError) as caught:
        read_run(folder)
    assert str(caught.value) == (
        f"{folder / 'metrics.jsonl'}: not as `detrctl train` writes it; is it of another program or version?"
    )
