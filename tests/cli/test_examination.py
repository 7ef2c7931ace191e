"""`detrctl eval --errors --layers --nms --confusion --worst`: what it says, writes, and refuses."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from detrctl.cli.app import run
from tests.cli.test_eval import ROOT
from tests.cli.tiny import MODEL, make_dataset, make_run
from tests.evaluation.test_coco_metrics import random_case

QUESTIONS = ["--errors", "--nms", "--confusion", "--worst", "3"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A run, the dataset that it does well on, and a result file with its annotations and images."""
    folder = tmp_path_factory.mktemp("examination")
    checkpoint = make_run(folder / "runs" / "tiny", folder / "cells")
    make_dataset(folder / "cells", checkpoint, ["a.png", "b.png"])
    content, results = random_case(1)
    (folder / "gt.json").write_text(json.dumps(content))
    (folder / "r.json").write_text(json.dumps(results))
    (folder / "pictures" / "all").mkdir(parents=True)
    for image in content["images"]:
        Image.new("RGB", (400, 400), (90, 120, 90)).save(folder / "pictures" / "all" / image["file_name"])
    return folder


@pytest.fixture(autouse=True)
def in_workplace(workplace, monkeypatch):
    monkeypatch.chdir(workplace)


def of_file(*options):
    return run(["eval", "--predictions", "r.json", "--annotations", "gt.json", *options])


def test_a_model_is_told_in_80_columns_in_files_and_in_json(tmp_path, capsys):
    options = ["--device", "cpu", "--layers", *QUESTIONS, "--out", str(tmp_path / "out"), "--json", str(tmp_path / "j")]
    assert run(["eval", *options]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    told = lines[lines.index("errors by TIDE's definitions: what AP50 " + ap50(lines)) :]
    assert max(len(line) for line in told if not line.startswith("wrote ")) <= 80
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    numbers = {
        "evaluation.json",
        *(f"{name}.csv" for name in ("errors", "causes", "nms", "scores", "classes", "worst")),
    }
    assert set(names) >= {*numbers, "confusion.csv", "confusion.png", "errors.png", "nms.png"}
    assert (tmp_path / "out" / "evaluation.json").read_text() == (tmp_path / "j").read_text()
    assert [name for name in names if name.startswith("worst-")] == [
        f"worst-{n + 1:02d}-image-{i}.png" for n, i in enumerate(worst_ids(tmp_path / "j"))
    ]
    written = json.loads((tmp_path / "j").read_text())
    assert set(written) >= {"AP", "per_class", "checkpoint", "operating_score", "errors", "nms", "scores", "confusion"}
    assert written["errors"]["ap50"] == pytest.approx(written["AP50"])
    assert [row["layer"] for row in written["nms"]["layers"]] == [1, 1]


def ap50(lines):
    return next(line.split()[1] for line in lines if line.startswith("AP50")) + " would gain"


def worst_ids(file):
    return [image["image_id"] for image in json.loads(file.read_text())["worst"]["images"]]


def test_a_recipe_alone_is_told_with_random_weights(tmp_path, capsys):
    recipe = str(tmp_path / "tiny.yaml")
    content = {"model": MODEL, "data": {"eval_size": 64, "eval_max_size": 96, "workers": 0}}
    Path(recipe).write_text(yaml.safe_dump(content))
    options = ["--recipe", recipe, "--data", "cells", "--layers", "--no-pictures", "--out", str(tmp_path / "out")]
    assert run(["eval", *options, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"recipe {recipe} with random weights"
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (written["checkpoint"], written["recipe"]) == (None, recipe)
    assert [row["layer"] for row in written["nms"]["layers"]] == [1, 1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.json", "nms.csv"]


def test_a_result_file_answers_all_that_needs_no_model_with_pictures_from_data(tmp_path, capsys):
    options = [*QUESTIONS, "--data", "pictures", "--format", "svg", "--out", str(tmp_path / "out")]
    assert of_file(*options, "--json", str(tmp_path / "j")) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert max(len(line) for line in said.out.splitlines() if not line.startswith("wrote ")) <= 80
    names = {path.name for path in (tmp_path / "out").iterdir()}
    worst = {f"worst-{n + 1:02d}-image-{i}.svg" for n, i in enumerate(worst_ids(tmp_path / "j"))}
    assert {name for name in names if name.endswith(".svg")} == {"errors.svg", "nms.svg", "confusion.svg", *worst}
    assert len(worst) == 3
    causes = json.loads((tmp_path / "j").read_text())["errors"]["causes"]["causes"]
    assert set(causes) == {"low score", "duplicate"}


def test_without_data_the_worst_images_are_listed_without_pictures(tmp_path, capsys):
    assert of_file("--worst", "2", "--out", str(tmp_path / "out")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "no pictures of the worst images: say with --data DIR where the images are"
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.json", "worst.csv"}


def test_an_image_that_is_not_there_is_told_and_the_others_are_drawn(tmp_path, capsys, workplace):
    (tmp_path / "some").mkdir()
    for file in sorted((workplace / "pictures" / "all").iterdir())[:6]:
        (tmp_path / "some" / file.name).symlink_to(file)
    assert of_file("--worst", "12", "--data", str(tmp_path / "some"), "--out", str(tmp_path / "out")) == 0
    told = capsys.readouterr().err.splitlines()
    drawn = len(list((tmp_path / "out").glob("*.png")))
    assert drawn > 0
    assert len(told) > 0
    assert all(line.startswith(f"warning: {tmp_path / 'some'}: holds no image ") for line in told)


@pytest.mark.parametrize("answers", ["none", "some"])
@pytest.mark.parametrize("truths", ["none", "some"])
def test_nothing_there_or_nothing_said_is_no_trouble(tmp_path, monkeypatch, answers, truths, capsys):
    content, results = random_case(2)
    (tmp_path / "gt.json").write_text(json.dumps(content if truths == "some" else {**content, "annotations": []}))
    (tmp_path / "r.json").write_text(json.dumps(results if answers == "some" else []))
    monkeypatch.chdir(tmp_path)
    assert of_file(*QUESTIONS, "--out", "out", "--json", "j") == 0
    json.loads((tmp_path / "j").read_text())
    assert {"errors.png", "nms.png", "confusion.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_without_pictures_the_numbers_are_written_and_torch_is_not_loaded(tmp_path):
    out = tmp_path / "out"
    code = (
        "import sys; from detrctl.cli.app import run;"
        "assert run(['eval', '--predictions', 'r.json', '--annotations', 'gt.json', '--errors', '--nms',"
        f"'--confusion', '--worst', '2', '--no-pictures', '--out', {str(out)!r}]) == 0;"
        "print('torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.splitlines()[-1] == "False"
    tables = ("causes", "classes", "confusion", "errors", "nms", "scores", "worst")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*(f"{name}.csv" for name in tables), "evaluation.json"]
    )
    with (out / "errors.csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds = json.loads((out / "evaluation.json").read_text())["errors"]["kinds"]
    assert {row["kind"]: int(row["count"]) for row in rows} == {name: kind["count"] for name, kind in kinds.items()}
    assert {row["kind"]: row["small_count"] for row in rows}["background"] == ""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            "--predictions r.json --annotations gt.json --layers",
            "--layers: a result file does not hold the decoder layers' answers; it takes --ckpt",
        ),
        (
            "--predictions r.json --annotations gt.json --errors --data pictures",
            "--predictions scores a result file as it is: leave out --data",
        ),
        (
            "--predictions r.json --annotations gt.json --worst 2 --data none",
            "none: no such folder; give the one that holds the images",
        ),
        ("--errors --format gif", "--format gif: there are png, svg, pdf"),
        ("--errors --out cells", "cells: already holds files; choose a new --out, or remove it first"),
        ("--errors --score nan", "--score nan: a number is needed"),
        ("--score 0.3", "--score: to what? Add --errors, --layers, --nms, --confusion or --worst N"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(options, complaint, capsys):
    assert run(["eval", *options.split()]) == 2
    assert capsys.readouterr().err == complaint + "\n"


def test_a_score_of_ones_own_is_the_operating_score(tmp_path):
    options = ["--no-pictures", "--score", "0.9", "--json", str(tmp_path / "j"), "--out", str(tmp_path / "out")]
    assert of_file("--confusion", *options) == 0
    written = json.loads((tmp_path / "j").read_text())
    assert (written["operating_score"], written["confusion"]["score"]) == (0.9, 0.9)
