import csv
import json

import pytest

from detrctl.cli.app import run
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
