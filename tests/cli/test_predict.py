"""`detrctl predict`: pictures, tables, and what it says about images that it cannot read."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from detrctl.cli.app import run
from tests.cli.tiny import make_images, make_run

NO_WEIGHTS = "not a file of weights (.pth, .pt, .bin, .safetensors, or a .json index of parts)"
FIRST_LINE = "checkpoint runs/tiny/checkpoints/best.pt (the newest run's best; --ckpt takes another)"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    make_run(folder / "runs" / "tiny", folder)
    make_images(folder / "photos", ["a.png", "b.png", "c.jpg"])
    return folder


@pytest.fixture(autouse=True)
def here(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with runs/tiny and photos/, 3 images."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(*arguments: str) -> int:
    return run(["predict", *arguments, "--device", "cpu"])


def rows(folder: str = "predictions") -> list[dict]:
    return json.loads(Path(folder, "predictions.json").read_text())


def test_a_folder_becomes_pictures_and_a_result_file(capsys):
    assert predict("photos", "--score", "0") == 0
    said = capsys.readouterr()
    first, counts, last = said.out.splitlines()
    assert (first, said.err) == (FIRST_LINE, "")
    assert counts.startswith("3 images, 18 detections with score 0.00 or more: ")
    assert last == "predictions: 3 pictures, predictions.json"
    names = ["a.jpg", "b.jpg", "c.jpg", "predictions.json"]
    assert sorted(path.name for path in Path("predictions").iterdir()) == names
    for name, size in (("a", (60, 50)), ("b", (70, 53)), ("c", (80, 56))):
        with Image.open(f"predictions/{name}.jpg") as picture:
            assert picture.size == size
    assert [*rows()[0]] == ["image_id", "category_id", "bbox", "score", "file_name"]
    assert {row["category_id"] for row in rows()} <= {4, 9}
    assert [row["file_name"] for row in rows()] == ["photos/a.png"] * 6 + ["photos/b.png"] * 6 + ["photos/c.jpg"] * 6
    assert [row["image_id"] for row in rows()] == [1] * 6 + [2] * 6 + [3] * 6


def test_ids_of_a_dataset_s_file_are_taken(capsys):
    listed = [{"id": 40 + n, "file_name": name} for n, name in enumerate(("b.png", "c.jpg", "a.png"))]
    Path("test.json").write_text(json.dumps({"images": listed, "categories": []}))
    assert predict("photos", "--score", "0", "--ids", "test.json", "--no-pictures") == 0
    assert [row["image_id"] for row in rows()] == [42] * 6 + [40] * 6 + [41] * 6
    assert predict("photos", "--ids", "none.json") == 2
    assert capsys.readouterr().err == "none.json: no such annotation file\n"


def test_score_and_top_choose_and_csv_and_no_pictures_change_what_is_written(capsys):
    assert predict("photos/*.png", "--score", "0", "--top", "2", "--csv", "--no-pictures", "--out", "new/out") == 0
    assert sorted(path.name for path in Path("new/out").iterdir()) == ["predictions.csv", "predictions.json"]
    entries = rows("new/out")
    assert len(entries) == 4
    assert entries[0]["score"] >= entries[1]["score"]
    with Path("new/out/predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["file_name"] for row in table] == [row["file_name"] for row in entries]
    assert [float(row["score"]) for row in table] == [row["score"] for row in entries]
    assert capsys.readouterr().out.splitlines()[-1] == "new/out: predictions.json, predictions.csv"


def greatest_differences(these: list[dict], those: list[dict]) -> tuple[float, float]:
    """In score, and in pixels of a box, row by row."""
    pairs = list(zip(these, those, strict=True))
    boxes = [(one, other) for a, b in pairs for one, other in zip(a["bbox"], b["bbox"], strict=True)]
    return max(abs(a["score"] - b["score"]) for a, b in pairs), max(abs(one - other) for one, other in boxes)


def test_the_size_of_a_batch_changes_little_and_where_images_are_of_one_size_nothing():
    Path("same").mkdir()
    for name in "abc":
        with Image.open(next(Path("photos").glob(f"{name}.*"))) as photo:
            photo.resize((64, 48)).save(f"same/{name}.png")
    for folder, score, pixels in (("photos", 0.03, 1.0), ("same", 1e-4, 1e-3)):
        for batch in ("1", "3"):
            arguments = ["--score", "0", "--batch", batch, "--no-pictures", "--out", f"{folder}-{batch}"]
            assert predict(folder, *arguments) == 0
        one, three = rows(f"{folder}-1"), rows(f"{folder}-3")
        by_batch, by_image = greatest_differences(one, three), greatest_differences(one[:6], one[6:12])
        assert by_batch[0] < score < by_image[0] / 3
        assert by_batch[1] < pixels < by_image[1] / 2


def test_a_line_of_pixels_is_an_image_too():
    for name, size in (("wide", (3000, 1)), ("tall", (1, 3000))):
        Image.new("RGB", size, (200, 100, 50)).save(f"{name}.png")
    assert predict("wide.png", "tall.png", "--score", "0") == 0
    assert [row["file_name"] for row in rows()] == ["wide.png"] * 6 + ["tall.png"] * 6


def test_a_broken_image_is_named_and_skipped_and_the_exit_code_is_1(capsys):
    Path("photos/b.png").write_bytes(b"no image")
    assert predict("photos") == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "warning: photos/b.png: cannot be decoded as an image (cannot identify image file)",
        "warning: 1 of 3 files could not be read",
    ]
    assert said.out.splitlines()[-1] == "predictions: 2 pictures, predictions.json"
    assert {row["file_name"] for row in rows()} <= {"photos/a.png", "photos/c.jpg"}


def test_only_broken_images_still_end_in_good_order(capsys):
    for path in Path("photos").iterdir():
        path.write_bytes(b"")
    assert predict("photos") == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[1:] == [
        "0 images, 0 detections with score 0.20 or more",
        "predictions: 0 pictures, predictions.json",
    ]
    assert said.err.splitlines()[-1] == "warning: 3 of 3 files could not be read"
    assert rows() == []


def test_where_nothing_is_found_the_best_score_is_told(capsys):
    assert predict("photos", "--score", "1") == 0
    counts, hint, _ = capsys.readouterr().out.splitlines()[1:]
    assert counts == "3 images, 0 detections with score 1.00 or more"
    assert hint.startswith("the best score is 0.")
    assert " would show some" in hint
    score = hint.split("--score ")[1].split()[0]
    assert predict("photos", "--score", score) == 0
    assert len(rows("predictions-2")) > 0


def test_results_never_mix(capsys):
    assert predict("photos/a.png") == 0
    assert predict("photos/b.png") == 0
    assert sorted(path.name for path in Path("predictions-2").iterdir()) == ["b.jpg", "predictions.json"]
    capsys.readouterr()
    assert predict("photos/c.jpg", "--out", "predictions") == 2
    assert capsys.readouterr().err == "predictions: already holds files; choose a new --out, or remove it first\n"
    assert sorted(path.name for path in Path("predictions").iterdir()) == ["a.jpg", "predictions.json"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("none.jpg", "none.jpg: no such file or folder"),
        ("runs", "runs: no images in this folder; 'runs/**/*.jpg' looks in its subfolders"),
        ("photos --ckpt photos/a.png", f"photos/a.png: {NO_WEIGHTS}"),
        ("photos --ckpt photos", "photos: no checkpoint in this folder (looked for checkpoints/best.pt and last.pt)"),
        ("photos --out photos/a.png", "photos/a.png: cannot be made (File exists)"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments, complaint, capsys):
    assert predict(*arguments.split()) == 2
    assert capsys.readouterr().err == f"{complaint}\n"
    assert not Path("predictions").exists()


def test_without_any_run_it_is_one_line(capsys):
    shutil.rmtree("runs")
    assert predict("photos") == 2
    assert capsys.readouterr() == (
        "",
        "no checkpoint under runs/: train one (`detrctl train quickstart`) or name one with --ckpt FILE_OR_RUN\n",
    )
