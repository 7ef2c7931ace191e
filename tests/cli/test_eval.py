"""`detrctl eval`: what it says, what it writes, and how it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import detrctl
from detrctl.cli.app import run
from detrctl.cli.eval import meaning, small_against_large
from detrctl.evaluation.coco_metrics import NAMES, CocoScores, score
from detrctl.evaluation.ground_truth import GroundTruth
from tests.cli.tiny import make_dataset, make_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, runs/tiny, and the dataset that it was trained on, cells."""
    folder = tmp_path_factory.mktemp("eval")
    checkpoint = make_run(folder / "runs" / "tiny", folder / "cells")
    make_dataset(folder / "cells", checkpoint, ["a.png", "b.png", "c.png"])
    return folder


@pytest.fixture(autouse=True)
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def test_without_ckpt_the_newest_run_is_named_on_the_first_line_and_scored(capsys, tmp_path: Path):
    assert run(["eval", "--device", "cpu", "--json", str(tmp_path / "scores.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "checkpoint runs/tiny/checkpoints/best.pt (the newest run's best; --ckpt takes another)"
    assert lines[2:4] == [
        "  annotations without iscrowd, taken as single objects: 6",
        "  annotations without area, taken as width x height of the box: 6",
    ]
    lines = lines[[line.startswith("  ") for line in lines].index(False, 1) :]
    assert lines[0].startswith(f"{Path.cwd() / 'cells'}, split val: 3 images, 6 truths, ")
    assert [line.split()[0] for line in lines[3:15]] == list(NAMES)
    written = json.loads((tmp_path / "scores.json").read_text())
    expected = detrctl.evaluate("runs/tiny", device="cpu").scores
    assert {name: written[name] for name in NAMES} == expected.numbers
    assert 0.1 < written["AP"] <= 1
    assert [(row["name"], row["truths"]) for row in written["per_class"]] == [
        (row.name, row.truths) for row in expected.per_class
    ]
    assert (written["checkpoint"], written["split"]) == ("runs/tiny/checkpoints/best.pt", "val")


def test_max_dets_counts_so_many_detections_in_both_modes(tmp_path: Path, capsys):
    """With one per image and class, a second truth of the class is missed; files and the model agree."""
    assert run(["eval", "--device", "cpu", "--results", str(tmp_path / "found.json")]) == 0
    files = ["--predictions", str(tmp_path / "found.json"), "--annotations", ANNOTATIONS]
    truths, rows = GroundTruth.from_file(ANNOTATIONS), json.loads((tmp_path / "found.json").read_text())
    recalls = {}
    for limit in (1, 30, 300):
        for name, options in (("model", ["--device", "cpu"]), ("file", files)):
            capsys.readouterr()
            words = ["--max-dets", str(limit), "--json", str(tmp_path / f"{name}.json")]
            assert run(["eval", *options, *words]) == 0
            said = f"Counting at most {limit} detections per image and class, where COCO counts 100."
            assert said in capsys.readouterr().out.splitlines()
        model, file = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("model", "file"))
        expected = score(truths, rows, max_dets=limit).numbers
        assert {name: model[name] for name in expected} == {name: file[name] for name in expected} == expected
        recalls[limit] = [expected[name] for name in ("ARs", "ARm", "ARl")]
    assert recalls[1] != recalls[30]
    assert ("AR300" in expected, run(["eval", *files, "--max-dets", "0"])) == (True, 2)


def test_the_detections_are_written_as_a_result_file_that_scores_the_same(tmp_path: Path, capsys):
    found = tmp_path / "found.json"
    assert run(["eval", "--device", "cpu", "--results", str(found), "--json", str(tmp_path / "a.json")]) == 0
    truths = next(Path("cells").rglob("*val*.json"))
    files = ["--predictions", str(found), "--annotations", str(truths)]
    assert run(["eval", *files, "--json", str(tmp_path / "b.json")]) == 0
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert first["AP"] > 0
    assert {name: first[name] for name in NAMES} == {name: second[name] for name in NAMES}


def test_what_is_odd_about_the_split_is_said_and_a_missing_image_stops_before_the_run(tmp_path: Path, capsys):
    shutil.copytree("cells", tmp_path / "cells")
    images = tmp_path / "cells" / "images"
    with Image.open(images / "a.png") as image:
        image.convert("L").save(images / "a.png")
    assert run(["eval", "--data", str(tmp_path / "cells"), "--split", "valid", "--device", "cpu"]) == 0
    assert "  grey images, read as RGB: 1" in capsys.readouterr().out.splitlines()
    (images / "b.png").unlink()
    assert run(["eval", "--data", str(tmp_path / "cells"), "--device", "cpu"]) == 2
    assert capsys.readouterr().err == f"{images}: of the 3 image files these are missing: 1 (b.png)\n"


def test_a_named_run_is_said_without_a_remark_and_limit_takes_the_first_images(capsys):
    assert run(["eval", "--ckpt", "runs/tiny", "--limit", "2", "--batch", "1", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "checkpoint runs/tiny/checkpoints/best.pt"
    assert any("split val: 2 images, 4 truths" in line for line in lines)


def test_predictions_scored_by_file_name_give_the_scores_of_the_model(tmp_path: Path):
    """`predict` numbers the images from 1, the annotations from 50."""
    arguments = ["--score", "0", "--device", "cpu", "--no-pictures", "--out", str(tmp_path / "out")]
    assert run(["predict", "cells/images", *arguments]) == 0
    for name, options in (
        ("model", ["--device", "cpu"]),
        ("file", ["--predictions", str(tmp_path / "out/predictions.json"), "--annotations", ANNOTATIONS]),
    ):
        assert run(["eval", *options, "--json", str(tmp_path / f"{name}.json")]) == 0
    model, file = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("model", "file"))
    assert [file[name] for name in NAMES] == [model[name] for name in NAMES]
    assert file["per_class"] == model["per_class"]


ANNOTATIONS = "cells/annotations/instances_val.json"
BOX = [10.0, 10.0, 50.0, 50.0]
TRUTHS = {
    "images": [{"id": 1}, {"id": 2}],
    "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "clump"}, {"id": 3, "name": "blob"}],
    "annotations": [{"image_id": i, "category_id": k, "bbox": BOX} for i, k in ((1, 1), (2, 1), (2, 3))],
}
REPORT = """\
r.json: 1 detection; gt.json: 2 images, 3 truths

score                   meaning
AP               0.252  mean over IoU 0.50 to 0.95
AP50             0.252  IoU 0.50
AP75             0.252  IoU 0.75
APs    no ground truth  small: area up to 32 x 32 pixels
APm              0.252  medium: between small and large
APl    no ground truth  large: area from 96 x 96 pixels
AR1              0.250  recall with 1 per image and class
AR10             0.250  recall with 10 per image and class
AR100            0.250  recall with 100 per image and class
ARs    no ground truth  recall, small
ARm              0.250  recall, medium
ARl    no ground truth  recall, large

class               AP             AP50  truths  images with it
cell             0.505            0.505       2               2
clump  no ground truth  no ground truth       0               0
blob             0.000            0.000       1               1

Sizes: there are no small and large objects here, so small and large cannot be compared.
"""


def score_files(folder: Path, monkeypatch: pytest.MonkeyPatch, results: Any, truths: Any = TRUTHS) -> int:
    monkeypatch.chdir(folder)
    (folder / "gt.json").write_text(json.dumps(truths))
    (folder / "r.json").write_text(json.dumps(results))
    return run(["eval", "--predictions", "r.json", "--annotations", "gt.json", "--json", "scores.json"])


def test_a_result_file_gets_the_same_report(tmp_path: Path, monkeypatch, capsys):
    results = [{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.5}]
    assert score_files(tmp_path, monkeypatch, results) == 0
    assert capsys.readouterr() == (REPORT, "")
    assert json.loads((tmp_path / "scores.json").read_text())["APs"] is None


def test_an_empty_result_file_scores_0(tmp_path: Path, monkeypatch):
    assert score_files(tmp_path, monkeypatch, []) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["AP"] == 0.0


def test_annotations_that_cannot_be_scored_are_told(tmp_path: Path, monkeypatch, capsys):
    spoilt = {**TRUTHS, "annotations": [*TRUTHS["annotations"], {"image_id": 1, "category_id": 1}]}
    assert score_files(tmp_path, monkeypatch, [], spoilt) == 0
    assert capsys.readouterr().err == (
        "warning: gt.json: 1 annotation left out (no usable box, unknown image or category)\n"
    )


def test_a_result_file_is_scored_without_torch(tmp_path: Path, monkeypatch):
    assert score_files(tmp_path, monkeypatch, []) == 0
    code = (
        "import sys; from detrctl.cli.app import run;"
        "assert run(['eval', '--predictions', 'r.json', '--annotations', 'gt.json']) == 0;"
        "print('torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert answer.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--ckpt none", "none: no such checkpoint file or run folder"),
        ("--split tset", "{here}/cells: no split 'tset'; there is val"),
        ("--data none", "none: no such folder; give the folder that holds a dataset's images and annotations"),
        ("--device tpu", "--device tpu: no such device; choose auto, cpu, cuda or mps"),
        ("--json none/x.json", "none/x.json: its folder does not exist; make it first"),
        ("--results none/x.json", "none/x.json: its folder does not exist; make it first"),
        ("--json cells", "cells: is a folder, a file name is needed"),
        (
            "--predictions r.json",
            "--predictions and --annotations belong together: give a result file and its COCO annotations",
        ),
        (
            "--predictions r.json --annotations a.json --limit 3",
            "--predictions scores a result file as it is: leave out --limit",
        ),
        (
            "--predictions r.json --annotations a.json --split val --device cpu --trust --results x.json",
            "--predictions scores a result file as it is: leave out --split, --device, --trust, --results",
        ),
        ("--predictions r.json --annotations a.json", "a.json: no such file"),
        (f"--predictions r.json --annotations {ANNOTATIONS}", "r.json: no such file"),
        (
            f"--predictions {ANNOTATIONS} --annotations {ANNOTATIONS}",
            f"{ANNOTATIONS}: is not a COCO result file (a list of detections is needed)",
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(options, complaint, capsys):
    assert run(["eval", *options.split()]) == 2
    assert capsys.readouterr().err == complaint.format(here=Path.cwd()) + "\n"


def test_without_any_run_it_is_one_line(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["eval"]) == 2
    assert capsys.readouterr() == (
        "",
        "no checkpoint under runs/: train one (`detrctl train quickstart`) or name one with --ckpt FILE_OR_RUN\n",
    )


def test_annotations_and_results_with_a_byte_order_mark_are_read_as_training_reads_them(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.5}
    for name, content in (("gt.json", TRUTHS), ("r.json", [row])):
        Path(name).write_text(json.dumps(content), encoding="utf-8-sig")
    assert run(["eval", "--predictions", "r.json", "--annotations", "gt.json"]) == 0


def test_a_dataset_of_other_categories_is_one_line(tmp_path: Path, workplace: Path, capsys):
    content = json.loads((workplace / ANNOTATIONS).read_text())
    content["categories"] = [{"id": 4, "name": "cat"}, {"id": 9, "name": "dog"}]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(workplace / "cells" / "images")
    assert run(["eval", "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "the dataset's categories do not match the checkpoint's: dataset cat, dog; checkpoint cell, clump\n"
    )


def scores(small: float | None, large: float | None) -> CocoScores:
    sizes = {"small": 7, "medium": 0, "large": 900}
    return CocoScores({"APs": small, "APl": large}, (), images=1, truths=907, truths_by_size=sizes)


@pytest.mark.parametrize(
    ("small", "large", "sentences"),
    [
        (None, 0.5, ["Sizes: there are no small objects here, so small and large cannot be compared."]),
        (
            0.2,
            0.5,
            [
                "Sizes: AP 0.200 on small objects (7 truths), 0.500 on large ones (900 truths).",
                "Small ones suffer; more pixels help most: raise data.eval_size, and data.augment.sizes in training.",
            ],
        ),
        (
            0.5,
            0.2,
            [
                "Sizes: AP 0.500 on small objects (7 truths), 0.200 on large ones (900 truths).",
                "Large ones suffer, which more pixels do not mend; look at some pictures with `detrctl predict`.",
            ],
        ),
        (
            0.45,
            0.5,
            [
                "Sizes: AP 0.450 on small objects (7 truths), 0.500 on large ones (900 truths).",
                "Size makes little difference.",
            ],
        ),
        (0.0, 0.0, ["Sizes: AP 0.000 on small objects (7 truths), 0.000 on large ones (900 truths)."]),
    ],
)
def test_small_against_large_is_said_in_one_or_two_sentences(small, large, sentences):
    assert list(small_against_large(scores(small, large))) == sentences


def test_recall_says_how_many_detections_it_counts():
    assert meaning("AR100", 30) == "recall with 30 per image and class"
    assert meaning("AR10", 300) == "recall with 10 per image and class"
