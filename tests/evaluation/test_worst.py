"""Which images cost how much, against AP50 computed anew with one image answered perfectly."""

import json

import pytest

from detrctl.evaluation.answers import Answers, meet
from detrctl.evaluation.errors import find_errors
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.worst import image_costs, worst_images
from tests.evaluation.test_coco_metrics import coco, random_case, result, truth

BOXES = [[10.0, 10.0, 40.0, 40.0], [100.0, 100.0, 50.0, 50.0]]


def worst(annotations, results, most=20, **counts):
    truths = GroundTruth.from_coco_dict(coco(annotations, **counts))
    return worst_images(find_errors(truths, Answers.from_results(results)), 0.5, most)


@pytest.mark.parametrize("seed", range(3))
def test_an_image_costs_what_answering_it_perfectly_gains(seed):
    content, results = random_case(seed, empty_category=seed == 0)
    truths = GroundTruth.from_coco_dict(content)
    meeting = meet(truths, Answers.from_results(results))
    costs = image_costs(meeting)
    crowds = [entry for entry in content["annotations"] if entry["iscrowd"]]
    assert crowds, "the cases hold crowds"
    for image, cost in zip(truths.image_ids.tolist(), costs, strict=True):
        mine = [e for e in content["annotations"] if e["image_id"] == image and not e["iscrowd"]]
        perfect = [result(image, e["category_id"], e["bbox"], 2.0) for e in mine]
        rest = [entry for entry in results if entry["image_id"] != image]
        mended = meet(truths, Answers.from_results([*perfect, *rest])).mean_ap50
        assert cost == pytest.approx(mended - meeting.mean_ap50, abs=1e-12)
    told = worst_images(find_errors(truths, Answers.from_results(results)), 0.5, 5)
    assert [one.cost for one in told] == pytest.approx(sorted(costs, reverse=True)[:5])


def test_perfect_images_are_none_of_the_worst():
    annotations = [truth(1, 1, 1, BOXES[0]), truth(2, 2, 1, BOXES[1])]
    good = [result(e["image_id"], 1, e["bbox"], 0.9) for e in annotations]
    assert worst(annotations, good) == ()
    assert [one.image_id for one in worst(annotations, good[:1])] == [2]


def test_what_is_drawn_says_what_was_found_missed_and_wrong():
    annotations = [truth(1, 1, 1, BOXES[0]), truth(2, 1, 2, BOXES[1])]
    results = [
        result(1, 1, BOXES[0], 0.9),
        result(1, 1, BOXES[0], 0.8),
        result(1, 2, BOXES[1], 0.3),  # below the operating score: missed
        result(1, 2, [300.0, 300.0, 30.0, 30.0], 0.2),
    ]
    (one,) = worst([*annotations, truth(3, 1, 1, [250.0, 250.0, 90.0, 90.0], iscrowd=1)], results)
    assert (one.truths, one.found, one.missed, one.false) == (2, 1, 1, 1)
    assert [(d.role, d.name, d.score, d.what) for d in one.drawn] == [
        ("truth", "c1", None, ""),
        ("missed", "c2", None, ""),
        ("found", "c1", 0.9, ""),
        ("false", "c1", 0.8, "duplicate"),
    ]
    assert one.drawn[0].box == tuple(BOXES[0])
    json.dumps(one.as_dict(), allow_nan=False)


def test_of_equal_costs_the_image_with_more_mistakes_comes_first():
    annotations = [truth(1, 2, 1, BOXES[0]), truth(2, 3, 1, BOXES[1]), truth(3, 1, 1, BOXES[1])]
    late = [result(1, 1, BOXES[1], 0.95), *(result(3, 2, [5.0 * i, 300.0, 9.0, 9.0], 0.9) for i in range(3))]
    told = worst(annotations, late, images=3)
    assert [one.image_id for one in told] == [3, 2]
    assert told[0].cost == pytest.approx(told[1].cost)


def test_no_answers_no_truths_and_a_limit():
    annotations = [truth(i, i, 1, BOXES[0]) for i in (1, 2)]
    assert [one.missed for one in worst(annotations, [])] == [1, 1]
    assert len(worst(annotations, [], most=1)) == 1
    (one,) = worst([], [result(1, 1, BOXES[0], 0.9)])
    assert (one.cost, one.truths, one.false) == (0, 0, 1)
    assert worst([], []) == ()
