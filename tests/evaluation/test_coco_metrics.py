"""The twelve numbers, by hand and against pycocotools itself."""

import contextlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detrctl.errors import DataError, DetrctlError
from detrctl.evaluation.coco_metrics import NAMES, CocoScores, GroundTruth, score

Entry = dict[str, Any]
SIDES = (6, 20, 31, 32, 33, 60, 96, 97, 200)


def truth(i: int, image: int, category: int, box: list[float], **more: Any) -> Entry:
    area = box[2] * box[3]
    return {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": 0, **more}


def result(image: int, category: int, box: list[float], confidence: float) -> Entry:
    return {"image_id": image, "category_id": category, "bbox": box, "score": confidence}


def coco(annotations: list[Entry], images: int = 2, categories: int = 2) -> Entry:
    return {
        "info": {},
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 400, "width": 400} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1, categories + 1)],
        "annotations": annotations,
    }


def random_case(seed: int, *, empty_category: bool = False) -> tuple[Entry, list[Entry]]:
    """12 images and 4 categories with small, medium and large truths, crowds, near hits, misses, doubles and ties."""
    dice = random.Random(seed)
    annotations, results = [], []
    for image in range(1, 13):
        for _ in range(dice.randrange(9)):
            category = dice.randrange(1, 4 if empty_category else 5)
            w, h = dice.choice(SIDES), dice.choice(SIDES)
            box = [dice.randrange(200), dice.randrange(200), w, h]
            more = {"iscrowd": int(dice.random() < 0.15), "area": w * h * dice.choice([1.0, 1.0, 0.6])}
            annotations.append(truth(len(annotations) + 1, image, category, box, **more))
            for _ in range(dice.randrange(4)):
                near = [x + dice.gauss(0, 0.06 * max(w, h)) for x in box[:2]] + [w * dice.uniform(0.8, 1.2), h]
                results.append(result(image, category, near, round(dice.random(), 2)))
        for _ in range(dice.randrange(15)):
            noise = [dice.randrange(300), dice.randrange(300), dice.choice(SIDES), dice.choice(SIDES)]
            results.append(result(image, dice.randrange(1, 5), noise, round(0.6 * dice.random(), 2)))
    return coco(annotations, images=12, categories=4), results


def reference(content: Entry, results: list[Entry], limits: tuple[int, int, int] = (1, 10, 100)) -> COCOeval:
    """pycocotools as everybody calls it, up to `accumulate`."""
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO()
        annotations.dataset = json.loads(json.dumps(content))
        annotations.createIndex()
        evaluator = COCOeval(annotations, annotations.loadRes(json.loads(json.dumps(results))), "bbox")
        evaluator.params.maxDets = list(limits)
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def reference_twelve(content: Entry, results: list[Entry]) -> list[float]:
    evaluator = reference(content, results)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.summarize()
    return evaluator.stats.tolist()


def twelve(scores: CocoScores) -> list[float]:
    return [-1.0 if scores[name] is None else scores[name] for name in NAMES]


@pytest.mark.parametrize("seed", range(6))
def test_the_twelve_numbers_are_those_of_pycocotools(seed):
    content, results = random_case(seed, empty_category=seed % 2 == 0)
    expected = reference_twelve(content, results)
    assert 0 < expected[0] < 1  # neither trivial nor empty
    assert twelve(score(GroundTruth.from_coco_dict(content), results)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("limit", [3, 40, 300])
def test_another_limit_gives_the_numbers_of_pycocotools_accumulated_at_that_limit(limit):
    content, results = random_case(7)
    results = results * 40  # more than 100 of a category in one image
    per_category = reference(content, results, (1, min(10, limit), limit)).eval
    scores = score(GroundTruth.from_coco_dict(content), results, max_dets=limit)

    def mean(values):
        return values[values > -1].mean()

    last = per_category["params"].maxDets.index(limit)
    assert scores["AP"] == pytest.approx(mean(per_category["precision"][:, :, :, 0, last]), abs=1e-12)
    assert scores["APs"] == pytest.approx(mean(per_category["precision"][:, :, :, 1, last]), abs=1e-12)
    assert scores["ARl"] == pytest.approx(mean(per_category["recall"][:, :, 3, last]), abs=1e-12)
    assert scores.max_dets == limit


def test_ar_names_keep_their_meaning_under_another_limit():
    box = [10.0, 10.0, 50.0, 50.0]
    content = coco([truth(1, 1, 1, box)], images=1, categories=1)
    misses = [result(1, 1, [200.0, 200.0, 50.0, 50.0], 0.9)] * 150
    found_at_151 = [*misses, result(1, 1, box, 0.1)]
    truths = GroundTruth.from_coco_dict(content)
    at_100, at_300 = (score(truths, found_at_151, max_dets=n) for n in (100, 300))
    assert (at_100["AR100"], "AR300" in at_100.numbers) == (0.0, False)
    assert (at_300["AR1"], at_300["AR10"], at_300["AR100"], at_300["AR300"]) == (0.0, 0.0, 0.0, 1.0)
    assert at_300["ARm"] == 1.0
    assert at_100["AP"] == 0.0 < at_300["AP"]


def test_annotation_id_0_does_not_change_the_numbers_although_it_does_in_pycocotools_alone():
    box = [0.0, 0.0, 40.0, 40.0]
    content = coco([truth(0, 1, 1, box), truth(1, 2, 1, box)], categories=1)
    results = [result(1, 1, box, 0.9), result(2, 1, box, 0.8)]
    assert reference_twelve(content, results)[0] == pytest.approx(0.252, abs=1e-3)  # the first hit counts as a miss
    assert score(GroundTruth.from_coco_dict(content), results)["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(3))
def test_renumbering_from_0_changes_nothing(seed):
    content, results = random_case(seed)
    expected = reference_twelve(content, results)
    for annotation in content["annotations"]:
        annotation["id"] -= 1
    assert twelve(score(GroundTruth.from_coco_dict(content), results)) == pytest.approx(expected, abs=1e-12)


def test_repeated_annotation_ids_do_not_change_the_numbers():
    content, results = random_case(4)
    expected = reference_twelve(content, results)
    for annotation in content["annotations"]:
        annotation["id"] = 5
    assert twelve(score(GroundTruth.from_coco_dict(content), results)) == pytest.approx(expected, abs=1e-12)


def test_an_empty_result_list_scores_0():
    sides = (10.0, 50.0, 150.0)
    content = coco([truth(i, 1, 1, [0.0, 0.0, side, side]) for i, side in enumerate(sides)])
    scores = score(GroundTruth.from_coco_dict(content), [])
    assert twelve(scores) == [0.0] * 12
    assert (scores.per_class[0].AP, scores.per_class[1].AP) == (0.0, None)


def test_what_has_no_ground_truth_has_no_score():
    content = coco([truth(1, 1, 1, [0.0, 0.0, 20.0, 20.0])])
    scores = score(GroundTruth.from_coco_dict(content), [result(1, 1, [0.0, 0.0, 20.0, 20.0], 0.5)])
    assert [scores[name] for name in ("AP", "APs", "AR1")] == pytest.approx([1.0, 1.0, 1.0])
    assert [name for name in NAMES if scores[name] is None] == ["APm", "APl", "ARm", "ARl"]
    nothing = score(GroundTruth.from_coco_dict(coco([])), [result(1, 1, [0.0, 0.0, 20.0, 20.0], 0.5)])
    assert set(nothing.numbers.values()) == {None}


def test_a_hit_and_a_miss_by_hand():
    """Two truths, the better answer misses: precision 1/2 up to recall 1/2, so AP = 51 of 101 levels times 0.5."""
    content = coco([truth(1, 1, 1, [0.0, 0.0, 50.0, 50.0]), truth(2, 2, 1, [0.0, 0.0, 50.0, 50.0])], categories=1)
    results = [result(1, 1, [200.0, 200.0, 50.0, 50.0], 0.9), result(1, 1, [0.0, 0.0, 50.0, 50.0], 0.8)]
    scores = score(GroundTruth.from_coco_dict(content), results)
    assert scores["AP"] == pytest.approx(0.5 * 51 / 101, abs=1e-9)
    assert (scores["AR1"], scores["AR10"]) == (0.0, 0.5)


def test_categories_are_listed_in_the_order_of_the_file_with_counts_of_truths_and_images():
    box = [0.0, 0.0, 40.0, 40.0]
    content = coco([truth(1, 1, 7, box), truth(2, 1, 7, box), truth(3, 2, 7, box), truth(4, 2, 3, box, iscrowd=1)])
    content["categories"] = [{"id": 7, "name": "cell"}, {"id": 3, "name": "clump"}]
    scores = score(GroundTruth.from_coco_dict(content), [result(1, 7, box, 0.9), result(2, 7, box, 0.8)])
    cell, clump = scores.per_class
    assert (cell.id, cell.name, cell.truths, cell.images) == (7, "cell", 3, 2)
    assert pytest.approx(67 / 101) == cell.AP  # both answers right, 2 of 3 truths found
    assert (clump.name, clump.AP, clump.truths, clump.images) == ("clump", None, 0, 0)
    assert (scores.images, scores.truths, scores.truths_by_size) == (2, 3, {"small": 0, "medium": 3, "large": 0})


def test_a_category_without_truths_in_the_file_keeps_its_place_by_id():
    content, results = random_case(5)
    content["categories"].reverse()
    expected = reference(content, results).eval["precision"][:, :, :, 0, -1]
    rows = score(GroundTruth.from_coco_dict(content), results).per_class
    assert [row.id for row in rows] == [4, 3, 2, 1]
    assert [row.AP for row in rows] == pytest.approx([expected[:, :, row.id - 1].mean() for row in rows])


def test_missing_info_area_and_iscrowd_are_filled_in():
    content, results = random_case(2)
    for annotation in content["annotations"]:
        annotation["iscrowd"], annotation["area"] = 0, annotation["bbox"][2] * annotation["bbox"][3]
    expected = reference_twelve(content, results)
    del content["info"]
    for annotation in content["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    assert twelve(score(GroundTruth.from_coco_dict(content), results)) == pytest.approx(expected, abs=1e-12)


def test_unusable_annotations_are_counted_and_left_out():
    good = truth(1, 1, 1, [0.0, 0.0, 40.0, 40.0])
    bad = [
        {**good, "bbox": [0.0, 0.0, 40.0]},
        {**good, "bbox": [0.0, 0.0, float("nan"), 40.0]},
        {**good, "image_id": 99},
        {**good, "category_id": 99},
        {key: value for key, value in good.items() if key != "bbox"},
    ]
    truths = GroundTruth.from_coco_dict(coco([good, *bad]))
    assert (truths.left_out, len(truths.boxes_xywh)) == (5, 1)
    assert score(truths, [result(1, 1, good["bbox"], 0.5)])["AP"] == pytest.approx(1.0)


def test_some_images_are_scored_as_if_the_others_did_not_exist():
    content, results = random_case(6)
    few = {**content, "images": content["images"][:5]}
    few["annotations"] = [a for a in content["annotations"] if a["image_id"] <= 5]
    results = [r for r in results if r["image_id"] <= 5]
    part = GroundTruth.from_coco_dict(content).only([5, 4, 3, 2, 1])
    assert part.file_names == ("1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg")
    assert twelve(score(part, results)) == pytest.approx(reference_twelve(few, results), abs=1e-12)


def test_scoring_prints_nothing_and_changes_no_argument(capsys):
    content, results = random_case(1)
    before = json.dumps([content, results])
    truths = GroundTruth.from_coco_dict(content)
    first, second = score(truths, results), score(truths, results)
    assert first == second
    assert json.dumps([content, results]) == before
    assert capsys.readouterr() == ("", "")


def test_as_dict_is_json_with_the_twelve_names_first():
    content, results = random_case(1)
    plain = json.loads(json.dumps(score(GroundTruth.from_coco_dict(content), results).as_dict()))
    assert list(plain)[:12] == list(NAMES)
    assert [*plain["per_class"][0]] == ["id", "name", "AP", "AP50", "truths", "images"]


def test_unknown_images_categories_and_limits_are_named():
    truths = GroundTruth.from_coco_dict(coco([truth(1, 1, 1, [0.0, 0.0, 40.0, 40.0])]))
    box = [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(DataError) as error:
        score(truths, [result(1, 1, box, 0.5), result(9, 1, box, 0.5)], source="r.json")
    assert str(error.value) == "r.json: entry 1: image_id 9 is not in the annotations; are they of another dataset?"
    with pytest.raises(DataError) as error:
        score(truths, [result(1, 8, box, 0.5)], source="r.json")
    assert str(error.value) == "r.json: entry 0: category_id 8 is not in the annotations; are they of another dataset?"
    with pytest.raises(DetrctlError) as error:
        score(truths, [], max_dets=0)
    assert str(error.value) == "max_dets is 0, at least 1 is needed"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", ":1: is not a JSON file (Expecting property name enclosed in double quotes)"),
        ("[]", ": is not a COCO annotation file (it has no list `images`)"),
        ('{"images": [], "annotations": []}', ": is not a COCO annotation file (it has no list `categories`)"),
        ('{"images": [1], "categories": [], "annotations": []}', ": images[0] is not an object with fields"),
        (
            '{"images": [], "categories": [], "annotations": []}',
            ": `categories` is empty, so there is nothing to score",
        ),
        (
            '{"images": [{"id": "a"}], "categories": [{"id": 1, "name": "x"}], "annotations": []}',
            ": images[0] has no `id` that is a whole number",
        ),
    ],
)
def test_a_file_that_is_not_annotations_is_one_line(tmp_path: Path, text, complaint):
    path = tmp_path / "gt.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        GroundTruth.from_file(path)
    assert str(error.value) == f"{path}{complaint}"


def test_a_missing_annotation_file_and_a_folder_are_one_line(tmp_path: Path):
    with pytest.raises(DataError) as error:
        GroundTruth.from_file(tmp_path / "none.json")
    assert str(error.value) == f"{tmp_path / 'none.json'}: no such file"
    with pytest.raises(DataError) as error:
        GroundTruth.from_file(tmp_path)
    assert str(error.value) == f"{tmp_path}: is a folder, a JSON file is needed"


def test_ground_truth_is_kept_as_arrays():
    truths = GroundTruth.from_coco_dict(random_case(0)[0])
    assert truths.boxes_xywh.dtype == truths.areas.dtype == np.float64
    assert truths.boxes_xywh.shape == (len(truths.areas), 4)
