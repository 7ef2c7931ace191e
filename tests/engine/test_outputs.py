"""Pictures, JSON and CSV in a folder."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from detrctl.boxes import XyxyPx
from detrctl.engine.outputs import COLUMNS, PredictionFolder
from detrctl.engine.predict import FileResult, ImageResult
from detrctl.errors import DetrctlError
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.results import matched_by_file_name, read_results
from detrctl.structures import Categories, Detections

CATEGORIES = Categories(names=("cell", "cell, split"), ids=(4, 8))


def file_result(path: str, found: int = 2) -> FileResult:
    detections = Detections(
        scores=torch.tensor([0.9, 0.7])[:found],
        labels=torch.tensor([1, 0])[:found],
        boxes=XyxyPx(torch.tensor([[1.0, 2.0, 31.5, 22.0], [-3.0, 0.0, 10.0, 10.0]])[:found]),
        queries=torch.arange(found),
    )
    pixels = torch.full((3, 40, 60), 90, dtype=torch.uint8)
    return FileResult(Path(path), pixels, ImageResult(detections, CATEGORIES, (40, 60)))


def fill(folder: PredictionFolder, files: list[FileResult]) -> None:
    for image_id, file in enumerate(files, start=1):
        assert file.result is not None
        folder.add(file, file.result, image_id)


def test_json_is_the_coco_result_format_with_file_names_and_is_read_back(tmp_path: Path):
    folder = PredictionFolder(tmp_path, CATEGORIES.ids)
    fill(folder, [file_result("in/a.png"), file_result("in/ü.png", found=1), file_result("in/none.png", found=0)])
    assert folder.finish() == f"{tmp_path}: 3 pictures, predictions.json"
    entries = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert entries[0] == {
        "image_id": 1,
        "category_id": 8,
        "bbox": [1.0, 2.0, 30.5, 20.0],
        "score": 0.9,
        "file_name": "in/a.png",
    }
    assert [(entry["image_id"], entry["file_name"]) for entry in entries[1:]] == [(1, "in/a.png"), (2, "in/ü.png")]
    assert read_results(tmp_path / "predictions.json") == entries


def test_results_meet_annotations_that_number_the_images_otherwise(tmp_path: Path):
    folder = PredictionFolder(tmp_path, CATEGORIES.ids, pictures=False)
    fill(folder, [file_result("in/b.png", found=1), file_result("in/a.png", found=1)])
    folder.finish()
    names = {"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}], "annotations": []}
    truths = GroundTruth.from_coco_dict({**names, "categories": [{"id": 8, "name": "x"}]})
    matched = matched_by_file_name(read_results(tmp_path / "predictions.json"), truths)
    assert [entry["image_id"] for entry in matched] == [2, 1]


def test_without_detections_json_is_an_empty_list(tmp_path: Path):
    folder = PredictionFolder(tmp_path, CATEGORIES.ids, pictures=False)
    assert folder.finish() == f"{tmp_path}: predictions.json"
    assert json.loads((tmp_path / "predictions.json").read_text()) == []


def test_csv_has_the_same_rows_and_quotes_names(tmp_path: Path):
    folder = PredictionFolder(tmp_path, CATEGORIES.ids, pictures=False)
    fill(folder, [file_result("a,b.png")])
    assert folder.finish(as_csv=True) == f"{tmp_path}: predictions.json, predictions.csv"
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        header, first, second = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert first == ["a,b.png", "1", "8", "cell, split", "0.9", "1.0", "2.0", "30.5", "20.0"]
    assert second[3:5] == ["cell", "0.7"]


def test_images_of_one_name_get_pictures_of_their_own(tmp_path: Path):
    folder = PredictionFolder(tmp_path, CATEGORIES.ids)
    fill(folder, [file_result(path) for path in ("x/a.png", "y/a.png", "y/A.jpg", "a-2.png")])
    folder.finish()
    pictures = sorted(path.name for path in tmp_path.glob("*.jpg"))
    assert pictures == ["A-3.jpg", "a-2-2.jpg", "a-2.jpg", "a.jpg"]
    for name in pictures:
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (60, 40)


@pytest.mark.parametrize("name", ["a.jpg", "predictions.json", "predictions.csv"])
def test_what_cannot_be_written_is_one_line(tmp_path: Path, name):
    (tmp_path / name).mkdir()
    folder = PredictionFolder(tmp_path, CATEGORIES.ids)

    def use() -> None:
        fill(folder, [file_result("a.png")])
        folder.finish(as_csv=True)

    with pytest.raises(DetrctlError) as error:
        use()
    assert str(error.value) == f"{tmp_path / name}: cannot be written (Is a directory)"
