import csv
import json

import pytest

from detrctl.cli.app import run
from detrctl.cli.inspect_matching import _tell_queries_by_layer, shortened
from detrctl.inspection.matching import MatchRow
from tests.cli.tiny import make_dataset, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("matching")
    checkpoint = make_run(root / "run", root / "data")
    make_dataset(root / "data", checkpoint, ["a.png", "b.png"])
    return root


def inspect(made, out, *arguments):
    return run(["inspect-matching", "--ckpt", str(made / "run"), "--out", str(out), "--device", "cpu", *arguments])


def test_one_image_is_told_in_a_table_of_80_columns_and_in_files(made, tmp_path, capsys):
    assert inspect(made, tmp_path / "m", "--image-id", "51", "--no-pictures") == 0
    said = capsys.readouterr().out
    assert max(map(len, said.replace(str(tmp_path), "").replace(str(made), "").splitlines())) <= 80
    assert "run, image 51, last decoder layer:" in said
    content = json.loads((tmp_path / "m" / "matching.json").read_text())
    (image,) = content["images"]
    with (tmp_path / "m" / "matching.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["query"]) for row in rows] == [truth["query"] for truth in image["layers"][0]["truths"]]
    for row, truth in zip(rows, image["layers"][0]["truths"], strict=True):
        (entry,) = (entry for entry in truth["table"] if entry[0] == truth["query"])
        costs = [float(row[name]) for name in ("cost_class", "cost_l1", "cost_giou", "cost_total", "iou")]
        assert entry[1:] == pytest.approx(costs, abs=1e-4)
    with (tmp_path / "m" / "costs.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    queries = len(image["layers"][0]["queries"])
    assert len(table) == queries * sum(len(layer["truths"]) for layer in image["layers"])
    for number, truth in enumerate(image["layers"][0]["truths"]):
        mine = [line for line in table if (line["layer"], line["truth"]) == ("0", str(number))]
        assert [int(line["query"]) for line in mine] == list(range(queries))
        roles = {line["role"]: int(line["query"]) for line in mine if line["role"]}
        expected = {"match": truth["query"], "runner-up": truth["runner_up"]}
        assert roles == {role: query for role, query in expected.items() if query >= 0}
        for query, *costs in (entry[:5] for entry in truth["table"]):
            parts = [float(mine[query][f"cost_{part}"]) for part in ("class", "l1", "giou", "total")]
            assert parts == pytest.approx(costs, abs=1e-4)


def test_a_model_of_many_layers_and_queries_is_told_in_80_columns_too(capsys):
    rows = [
        MatchRow(
            7,
            truth,
            "cat",
            "small",
            layer,
            899 - layer,
            899 - layer,
            1.0,
            1.0,
            1.0,
            1.0,
            1.0,
            1.0,
            3,
            margin,
            0.5,
            True,
        )
        for truth, margin in enumerate((1234.5, 123.456, 12.345, 1.234, None))
        for layer in range(9)
    ]
    _tell_queries_by_layer(rows)
    said = capsys.readouterr().out.splitlines()
    assert max(map(len, said)) <= 80
    tables = [line.split() for line in said if line.lstrip().startswith("truth")]
    assert tables == [["truth", "1", "2", "3", "4", "5", "6"], ["truth", "7", "8", "9"]]
    cells = ["899 (1234)", "899 (123)", "899 (12.3)", "899 (1.23)", "899 (-)"]
    assert all(any(cell in line for line in said) for cell in cells)
    assert sum("(12.3)" in line for line in said) == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--image-id", "50", "--limit", "1"], "--image-id takes one image, --limit the first ones: give one of them"),
        (["--format", "gif"], "--format gif: there are png, svg, pdf"),
        (["--image-id", "1"], "--image-id 1: no such image in split 'val' (it has 50, 51, ...)"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(made, tmp_path, capsys, arguments, line):
    assert inspect(made, tmp_path / "m", *arguments) == 2
    assert capsys.readouterr().err == line + "\n"
    assert not (tmp_path / "m").exists()


def test_each_of_two_runs_has_its_line_and_an_image_without_objects_a_sentence(made, tmp_path, capsys):
    make_run(made / "another-run-with-quite-a-long-name-2026", made / "data", seed=1)
    annotations = made / "data" / "annotations" / "instances_val.json"
    whole = annotations.read_text()
    other = ["--ckpt", str(made / "another-run-with-quite-a-long-name-2026"), "--no-pictures"]
    assert inspect(made, tmp_path / "m", *other) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.replace(str(tmp_path), "").replace(str(made), "").splitlines())) <= 80
    table = said.split("last layer of each run's last checkpoint (means):")[1].splitlines()
    assert [line.split()[0] for line in table[1:4]] == ["run", "run", "another-run-with-quite-a-long-"]
    annotations.write_text(json.dumps(json.loads(whole) | {"annotations": []}))
    try:
        assert inspect(made, tmp_path / "none", "--image-id", "51", *other) == 0
    finally:
        annotations.write_text(whole)
    said = capsys.readouterr().out
    assert "This image has no object, so no query is matched" in said
    assert "last layer of each" not in said


def test_instability_is_told_image_by_image_where_there_are_several_checkpoints(made, tmp_path):
    for epoch in (1, 2):
        made_file = made / "run" / "checkpoints" / f"epoch-{epoch:04d}.pt"
        made_file.write_bytes((made / "run" / "checkpoints" / "best.pt").read_bytes())
    try:
        assert inspect(made, tmp_path / "m", "--no-pictures") == 0
    finally:
        for file in (made / "run" / "checkpoints").glob("epoch-*.pt"):
            file.unlink()
    with (tmp_path / "m" / "instability.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["before", "after", "image_id", "instability", "by_token", "most"]
    assert {row["image_id"] for row in rows} <= {"50", "51"}
    assert {(row["before"], row["after"], row["instability"]) for row in rows} == {("run epoch 1", "run epoch 2", "0")}
    (step,) = json.loads((tmp_path / "m" / "matching.json").read_text())["runs"][0]["steps"]
    assert "per_image" not in step


def test_names_of_checkpoints_keep_their_end_in_the_table_of_instability():
    assert shortened("epoch 12") == "epoch 12"
    assert shortened("deformable_two_stage-20261127-151500 best.pt") == "...51500 best.pt"
    assert len(shortened("x" * 99)) == 16
