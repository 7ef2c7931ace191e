"""`detrctl compare`: what it says, what it writes, and how it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from detrctl.cli.app import run
from tests.cli.made_runs import learning, make_run


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """slow (AP 0.1 to 0.3) and fast (0.2 to 0.4, two minutes an epoch), each of three epochs."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "slow", [0.1, 0.2, 0.3])
    make_run(tmp_path / "fast", [0.2, 0.41, 0.4], minutes_per_epoch=2.0, changed={"model": {"family": "dino"}})


def test_two_runs_give_two_tables_and_the_name_of_the_picture(capsys):
    assert run(["compare", "slow", "fast", "--reach", "0.2,0.35"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        "run      AP  best AP   AP50    APs    APm    APl  epochs  minutes  images  images/s  M parameters",
        "slow  0.300    0.300  0.600  0.150  0.300  0.450     3.0      3.0    3000      18.5          0.69",
        "fast  0.400    0.410  0.800  0.200  0.400  0.600     3.0      6.0    3000       8.8          0.69",
        "",
        "first evaluation with  AP 0.2: epochs  AP 0.2: minutes  AP 0.35: epochs  AP 0.35: minutes",
        "slow                              2.0              2.0                -                 -",
        "fast                              1.0              2.0              2.0               4.0",
        "",
        "picture: comparison.png",
    ]


def test_best_judges_by_the_best_evaluation(capsys):
    assert run(["compare", "slow", "fast", "--best"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["run", "AP", "AP50"]
    assert [line.split()[1] for line in lines[1:3]] == ["0.300", "0.410"]


def test_seeds_of_one_recipe_are_one_row_with_mean_and_range(capsys, tmp_path: Path):
    for seed, aps in ((0, [0.1, 0.3]), (1, [0.25, 0.4])):
        command = ("detrctl", "train", "--data", "shapes", "own/detr.yaml", "--trust")
        make_run(tmp_path / f"detr-s{seed}", aps, command=command, changed={"train": {"seed": seed, "lr": 1.0}})
    assert run(["compare", "slow", "detr-s0", "detr-s1", "--reach", "0.2,0.35"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert rows[0][:3] == ["run", "AP", "range"]
    assert rows[2][:6] == ["detr (2 runs)", "0.350", "0.300 to 0.400", "0.700", "0.175", "0.350"]
    assert rows[6] == ["detr (2 runs)", "1.5 (1.0 to 2.0)", "1.5 (1.0 to 2.0)", "1 of 2 runs", "1 of 2 runs"]
    assert run(["compare", "detr-s0", "detr-s1", "--group", "none"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:3]] == ["detr-s0", "detr-s1"]


def test_the_json_file_holds_every_number(tmp_path: Path):
    assert run(["compare", "slow", "fast", "--reach", "0.2", "--json", "all.json"]) == 0
    written = json.loads((tmp_path / "all.json").read_text())
    assert (written["judged_by"], written["thresholds"], written["bootstrap"]) == ("final", [0.2], None)
    assert [one["name"] for one in written["runs"]] == ["slow", "fast"]
    slow = written["runs"][0]
    assert (slow["seed"], slow["state"], slow["parameters"], slow["images"]) == (42, "finished", 687_211, 3000)
    assert [point["scores"]["AP"] for point in slow["evaluations"]] == [0.1, 0.2, 0.3]
    assert slow["images_per_second"] == pytest.approx(3000 / (180 - 3 * 6))
    fast = written["groups"][1]
    assert fast["scores"]["APs"] == {"mean": 0.2, "low": 0.2, "high": 0.2}
    assert fast["reached"] == [
        {
            "ap": 0.2,
            "epochs": {"mean": 1, "low": 1, "high": 1},
            "minutes": {"mean": 2, "low": 2, "high": 2},
            "images": {"mean": 1000, "low": 1000, "high": 1000},
            "reached": 1,
        }
    ]


def test_the_picture_has_two_panels_and_as_many_rows_as_scores():
    assert run(["compare", "slow", "fast", "--out", "one.png"]) == 0
    assert run(["compare", "slow", "fast", "--out", "two.png", "--scores", "AP,APs"]) == 0
    with Image.open("one.png") as one, Image.open("two.png") as two:
        assert one.width > 2 * one.height
        assert two.width == one.width
        assert two.height > 1.7 * one.height
        colours = {colour for _, colour in one.convert("RGB").getcolors(1 << 20)}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours


def test_runs_that_go_on_are_marked_and_said(capsys, tmp_path: Path):
    make_run(tmp_path / "going", [0.1], finished=False)
    make_run(tmp_path / "ended", [0.1, 0.2], summary={"ended_by": "signal"}, changed={"train": {"lr": 1.0}})
    make_run(tmp_path / "resumed", [0.1, 0.2], summary={"steps": 100}, changed={"train": {"lr": 2.0}})
    assert run(["compare", "slow", "going", "ended", "resumed", "--group", "none"]) == 0
    said = capsys.readouterr()
    assert said.err == "warning: not finished, shown as far as they are: going, ended, resumed\n"
    names = [line.split("  ")[0] for line in said.out.splitlines()[1:5]]
    assert names == ["slow", "going (unfinished)", "ended (unfinished)", "resumed (unfinished)"]


def test_runs_on_different_data_are_told_apart_and_get_no_bootstrap(capsys, tmp_path: Path):
    make_run(tmp_path / "cells", [0.5], changed={"data": {"root": "/data/cells"}})
    make_run(tmp_path / "few", [0.5], changed={"train": {"eval_limit": 20}, "evaluate": {"max_dets": 300}}, gpu="H200")
    assert run(["compare", "slow", "cells", "few"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "warning: scored on different data, so that these APs do not compare: shapes (slow, few); /data/cells (cells)",
        "warning: scored on different numbers of validation images (train.eval_limit): "
        "no limit (slow, cells); 20 (few)",
        "warning: scored with different limits on detections per image (evaluate.max_dets): "
        "100 (slow, cells); 300 (few)",
        "warning: trained on different machines, so that minutes do not compare: "
        "cpu, 2 cores (slow, cells); H200 (few)",
    ]
    Path("comparison.png").unlink()
    assert run(["compare", "slow", "cells", "--bootstrap", "10"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "--bootstrap needs runs on one validation split, but these are of several: shapes (slow); /data/cells (cells); "
        "leave it away, compare the runs of one, or name the dataset for all with --data"
    )
    assert not Path("comparison.png").exists()


def test_a_copy_of_the_dataset_is_the_same_data(capsys, tmp_path: Path):
    for name, content in (("here", "{}"), ("there", "{}"), ("other", "[]")):
        (tmp_path / name / "annotations").mkdir(parents=True)
        (tmp_path / name / "images").mkdir()
        (tmp_path / name / "annotations" / "instances_val.json").write_text(content)
        make_run(tmp_path / f"on-{name}", [0.5], changed={"data": {"root": str(tmp_path / name)}})
    assert run(["compare", "on-here", "on-there"]) == 0
    assert capsys.readouterr().err == ""
    assert run(["compare", "on-here", "on-other"]) == 0
    assert capsys.readouterr().err.startswith("warning: scored on different data, so that these APs do not compare: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such run folder"),
        (["a.txt"], "a.txt: a file, not a run folder"),
        (["empty"], "empty: not a run folder (recipe.yaml is missing)"),
        (["started"], "started: not evaluated yet; compare it when its first evaluation is done (train.eval_every)"),
        (["unscored"], "unscored: nothing was evaluated in this run, so there is nothing to compare"),
        (["boxless"], "boxless: no evaluation in it has an AP: its validation split has no boxes"),
        (["odd"], "odd/metrics.jsonl: not as `detrctl train` writes it; is it of another program or version?"),
        (["slow", "./slow/"], "slow: named twice"),
        (["slow", "--reach", "0.1;2"], "--reach 0.1;2: APs between 0 and 1 are needed, with commas between them, "
         "e.g. 0.1,0.2"),
        (["slow", "--reach", "20"], "--reach 20: APs between 0 and 1 are needed, with commas between them, "
         "e.g. 0.1,0.2"),
        (["slow", "--scores", "APx"], "no run has a score 'APx'; there is AP, AP50, AP75, APs, APm, APl"),
        (["slow", "--out", "a.gif"], "a.gif: a picture is written as .png, .svg, .pdf"),
        (["slow", "--out", "x/a.png"], "x/a.png: its folder does not exist; make it first"),
        (["slow", "--json", "x/a.json"], "x/a.json: its folder does not exist; make it first"),
        (["slow", "--data", "d", "--trust"], "only --bootstrap evaluates checkpoints: add it, or leave out "
         "--data, --trust"),
        (["slow", "--bootstrap", "9"], "--bootstrap compares with the first run: name two at least that are not "
         "seeds of one recipe"),
        (["slow", "fast", "--bootstrap", "9"], "slow: has no checkpoint any more, so that --bootstrap cannot "
         "evaluate it"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_line(words, said, capsys, tmp_path: Path):
    Path("a.txt").touch()
    Path("empty").mkdir()
    (make_run(tmp_path / "started", [0.1], finished=False) / "metrics.jsonl").unlink()
    (make_run(tmp_path / "unscored", [0.1]) / "metrics.jsonl").unlink()
    make_run(tmp_path / "boxless", [None])
    (make_run(tmp_path / "odd", [0.1]) / "metrics.jsonl").write_text('{"step": 1, "kind": "eval", "scores": 3}\n')
    assert run(["compare", *words]) == 2
    assert capsys.readouterr() == ("", f"{said}\n")
    assert not Path("comparison.png").exists()


def test_without_bootstrap_torch_stays_out(tmp_path: Path):
    make_run(tmp_path / "third", learning(0.4, slowness=2))
    code = (
        "import sys; from detrctl.cli.app import run; code = run(['compare', 'slow', 'third']); "
        "exit(code or ('torch' in sys.modules) * 3)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={"PYTHONPATH": str(root)}, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
