"""COCO result entries: made from detections, read from files, checked."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from detrctl.boxes import XyxyPx
from detrctl.errors import DataError
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.results import coco_results, matched_by_file_name, read_results
from detrctl.structures import Detections


def detections(image_id: int = 4) -> Detections:
    return Detections(
        scores=torch.tensor([0.9, 0.1]),
        labels=torch.tensor([1, 0]),
        boxes=XyxyPx(torch.tensor([[10.0, 20.0, 40.0, 25.0], [-1.5, 0.0, 3.0, 1.1]])),
        queries=torch.tensor([0, 1]),
        image_id=image_id,
    )


def test_detections_become_xywh_with_the_original_category_ids():
    assert coco_results([detections()], category_ids=(17, 90)) == [
        {"image_id": 4, "category_id": 90, "bbox": [10.0, 20.0, 30.0, 5.0], "score": 0.9},
        {"image_id": 4, "category_id": 17, "bbox": [-1.5, 0.0, 4.5, 1.1], "score": 0.1},
    ]


def test_the_query_is_named_where_it_is_asked_for():
    assert [entry["query"] for entry in coco_results([detections()], category_ids=(17, 90), queries=True)] == [0, 1]


def test_a_class_without_an_id_is_left_out():
    assert [entry["score"] for entry in coco_results([detections()], category_ids=(None, 5))] == [0.9]


def test_an_image_without_detections_gives_no_entries():
    nothing = detections().keep(torch.zeros(2, dtype=torch.bool))
    assert coco_results([nothing], category_ids=(1, 2)) == []


def test_numbers_are_written_short_and_lose_nothing():
    noise = torch.rand(50, generator=torch.Generator().manual_seed(0))
    many = Detections(
        scores=noise,
        labels=torch.zeros(50, dtype=torch.int64),
        boxes=XyxyPx(torch.zeros(50, 4)),
        queries=torch.arange(50),
    )
    written = [entry["score"] for entry in json.loads(json.dumps(coco_results([many], category_ids=(1,))))]
    assert np.array(written, dtype=np.float32).tolist() == noise.tolist()
    assert max(len(repr(value)) for value in written) <= 14


GOOD = {"image_id": 1, "category_id": 1, "bbox": [0, 0.5, 3, 4], "score": 0.25}


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    return path


def test_a_good_file_comes_back_whole(tmp_path: Path):
    assert read_results(write(tmp_path, [GOOD, {**GOOD, "file_name": "a.jpg"}]))[1]["file_name"] == "a.jpg"
    assert read_results(write(tmp_path, [])) == []


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (3, "is not an object with image_id, category_id, bbox, score"),
        ({"image_id": 1, "bbox": [0, 0, 1, 1]}, "has no category_id, score"),
        ({**GOOD, "image_id": "a"}, "image_id is 'a', a whole number is needed"),
        ({**GOOD, "category_id": 1.5}, "category_id is 1.5, a whole number is needed"),
        ({**GOOD, "bbox": [0, 1, 2]}, "bbox is [0, 1, 2], four finite numbers [x, y, width, height] are needed"),
        (
            {**GOOD, "bbox": [0, 1, 2, float("nan")]},
            "bbox is [0, 1, 2, nan], four finite numbers [x, y, width, height] are needed",
        ),
        ({**GOOD, "score": float("inf")}, "score is inf, a finite number is needed"),
        ({**GOOD, "score": None}, "score is None, a finite number is needed"),
        ({**GOOD, "score": True}, "score is True, a finite number is needed"),
    ],
)
def test_the_first_bad_entry_is_named(tmp_path: Path, entry, complaint):
    path = write(tmp_path, [GOOD, entry, {}])
    with pytest.raises(DataError) as error:
        read_results(path)
    assert str(error.value) == f"{path}: entry 1: {complaint}"


def test_a_file_that_is_not_a_list_is_one_line(tmp_path: Path):
    path = write(tmp_path, {"annotations": [GOOD]})
    with pytest.raises(DataError) as error:
        read_results(path)
    assert str(error.value) == f"{path}: is not a COCO result file (a list of detections is needed)"


def ground_truth(*names: str) -> GroundTruth:
    images = [{"id": 10 + i, "file_name": name} for i, name in enumerate(names)]
    return GroundTruth.from_coco_dict({"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]})


def matched(truths: GroundTruth, *names: str) -> list[int]:
    entries = [{**GOOD, "file_name": name} for name in names]
    return [entry["image_id"] for entry in matched_by_file_name(entries, truths, source="r.json")]


def test_file_names_lead_to_the_image_ids_of_the_annotations():
    truths = ground_truth("train/a.jpg", "b.jpg", "one/twice.jpg", "two/twice.jpg")
    assert matched(truths, "elsewhere/b.jpg", "a.jpg", "x/two/twice.jpg") == [11, 10, 13]
    assert matched_by_file_name([GOOD], truths) == [GOOD]


def test_files_that_the_annotations_do_not_name_once_are_an_error():
    truths = ground_truth("a.jpg", "one/twice.jpg", "two/twice.jpg")
    with pytest.raises(DataError) as error:
        matched(truths, "a.jpg", "c.jpg")
    assert str(error.value) == "r.json: entry 1: file 'c.jpg' is not in the annotations"
    with pytest.raises(DataError) as error:
        matched(truths, "twice.jpg")
    assert str(error.value) == "r.json: entry 0: file 'twice.jpg' is more than once in the annotations"


def test_annotations_without_file_names_leave_ids_as_they_are():
    assert matched(ground_truth("", ""), "a.jpg") == [1]


def test_results_are_read_and_scored_without_torch():
    code = (
        "import sys; from detrctl.evaluation import coco_metrics, ground_truth, results;"
        "t = ground_truth.GroundTruth.from_coco_dict({'images': [{'id': 1}], 'categories': [{'id': 1}],"
        " 'annotations': [{'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 9, 9]}]});"
        "assert coco_metrics.score(t, [])['AP'] == 0.0; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "False False\n"
