import csv
import json

import pytest

from detrctl.cli.app import run
from detrctl.inspection import query_pictures
from tests.cli.tiny import make_dataset, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("queries")
    checkpoint = make_run(root / "runs" / "run", root / "data")
    make_dataset(root / "data", checkpoint, ["a.png", "b.png"])
    return root


def test_without_an_argument_the_newest_run_is_told(made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    assert run(["visualize-queries"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0] == "checkpoint runs/run/checkpoints/best.pt (the newest run's best; --ckpt takes another)"
    assert max(map(len, lines[1:])) <= 80
    assert "\x1b" not in said
    names = ["queries.json", "queries.csv", "boxes.csv"]
    names += [f"{name}.png" for name in ("overview", "boxes-kept", "boxes-all", "details", "mix")]
    assert lines[-len(names) :] == [f"wrote queries/{name}" for name in names]
    assert sorted(path.name for path in (made / "queries").iterdir()) == sorted(names)
    content = json.loads((made / "queries" / "queries.json").read_text())
    table = lines[lines.index("") + 1 :]
    assert table[0].split() == ["query", "kept", "match", "x", "y", "w", "h", "place", "class", "mostly"]
    for line, query in zip(table[1:], content["chosen"]):
        entry = content["queries"][query]
        assert line.split()[:3] == [str(query), str(entry["detections"]), str(entry["matched"])]
    with (made / "queries" / "queries.csv").open(newline="") as file:
        assert [row["query"] for row in csv.DictReader(file)] == list("012345")
    with (made / "queries" / "boxes.csv").open(newline="") as file:
        assert [row["query"] for row in csv.DictReader(file)] == [
            str(query) for query in content["chosen"] for _ in range(content["images"])
        ]


def test_one_image_is_told_layer_by_layer(made, tmp_path, capsys):
    image = str(made / "data" / "images" / "a.png")
    arguments = ["--ckpt", str(made / "runs" / "run"), "--image", image, "--query", "2", "--point", "0.5,0.5"]
    assert run(["visualize-queries", *arguments, "--out", str(tmp_path / "q"), "--format", "svg"]) == 0
    said = capsys.readouterr().out.replace(str(tmp_path), "").replace(str(made), "")
    assert max(map(len, said.splitlines())) <= 80
    assert "query 2, by decoder layer:" in said
    files = ["attention.svg", "encoder.svg", "layers.svg", "query.csv", "query.json"]
    assert sorted(path.name for path in (tmp_path / "q").iterdir()) == files
    content = json.loads((tmp_path / "q" / "query.json").read_text())
    with (tmp_path / "q" / "query.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (content["query"], content["encoder"]["point"]) == (2, [0.5, 0.5])
    assert float(row["score"]) == pytest.approx(content["layers"][0]["score"], abs=1e-5)
    assert [float(row[name]) for name in ("x", "y", "width", "height")] == pytest.approx(
        content["layers"][0]["box"], abs=1e-5
    )
    assert row["attended_x"] == ""


def test_ctrl_c_leaves_nothing_half_written(made, tmp_path, monkeypatch):
    def interrupted(report, folder, file_format):
        assert (folder / "queries.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(query_pictures, "draw_report", interrupted)
    monkeypatch.chdir(tmp_path)
    assert run(["visualize-queries", "--ckpt", str(made / "runs" / "run")]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--format", "gif"], "--format gif: there are png, svg, pdf"),
        (["--queries", "0,x"], "--queries 0,x: numbers such as 0,5,7 or 3-6 are needed"),
        (["--queries", "5-3"], "--queries 5-3: numbers such as 0,5,7 or 3-6 are needed"),
        (["--queries", "3-6"], "--queries 6: this model has queries 0 to 5"),
        (["--queries", "0", "--all"], "--queries and --all: give one of them"),
        (["--all", "--most-used", "3"], "--all and --most-used: give one of them"),
        (["--query", "3"], "--query: needs --image FILE"),
        (["--point", "3,4"], "--point: needs --image FILE"),
        (["--image", "a.png", "--query", "3", "--detection", "1"], "--query and --detection: give one of them"),
        (["--image", "a.png", "--point", "3"], "--point 3: two numbers such as 320,240 or 0.5,0.5 are needed"),
        (["--image", "a.png", "--all"], "--all: is for a split; leave it or --image away"),
        (["--image", "no.png"], "no.png: no such image file"),
        (["--split", "test"], "{data}: no split 'test'; there is val"),
        (
            ["--data", "nowhere"],
            "nowhere: no such folder; give the folder that holds a dataset's images and annotations",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(made, tmp_path, capsys, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    assert run(["visualize-queries", "--ckpt", str(made / "runs" / "run"), *arguments]) == 2
    assert capsys.readouterr().err == line.format(data=made / "data") + "\n"
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_queries_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["visualize-queries", "--recipe", "faster_rcnn_r50"]) == 2
    assert capsys.readouterr().err == (
        "Faster R-CNN has no object queries to look at; any other family of the recipes has\n"
    )
