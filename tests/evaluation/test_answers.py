"""Matching and average precision in arrays: pycocotools' numbers, and suppression by hand and by a slow loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from detrctl.evaluation.answers import COCO_THRESHOLDS, Answers, meet, overlaps, without_overlapping
from detrctl.evaluation.coco_metrics import score
from detrctl.evaluation.ground_truth import GroundTruth
from tests.evaluation.test_coco_metrics import random_case, result


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_dets", [3, 100])
def test_ap_and_ap50_are_those_of_pycocotools_with_crowds_and_ties(seed: int, max_dets: int):
    content, results = random_case(seed, empty_category=seed == 0)
    truths = GroundTruth.from_coco_dict(content)
    expected = score(truths, results, max_dets=max_dets)
    answers = Answers.from_results(results)
    every = meet(truths, answers, thresholds=COCO_THRESHOLDS, max_dets=max_dets)
    half = meet(truths, answers, max_dets=max_dets)
    assert every.mean_ap == pytest.approx(expected["AP"], abs=1e-12)
    assert half.mean_ap == pytest.approx(expected["AP50"], abs=1e-12)
    by_class = {row.id: row.AP50 for row in expected.per_class}
    for category, value in zip(truths.category_ids, half.average_precisions[0], strict=True):
        assert (None if np.isnan(value) else pytest.approx(value, abs=1e-12)) == by_class[category]


def test_overlaps_by_hand_and_a_crowd_counts_the_share_of_the_box():
    boxes, truths = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 10, 10], [0.0, 0, 40, 40], [50.0, 50, 9, 9]])
    assert overlaps(boxes, truths) == pytest.approx(np.array([[1 / 3, 100 / 1600, 0.0]]))
    assert overlaps(boxes, truths, np.array([False, True, False])) == pytest.approx(np.array([[1 / 3, 1.0, 0.0]]))


def slow_suppression(results, threshold):
    kept = []
    for entry in sorted(results, key=lambda entry: -entry["score"]):
        rivals = [k for k in kept if (k["image_id"], k["category_id"]) == (entry["image_id"], entry["category_id"])]
        boxes = [np.array([k["bbox"]], dtype=float) for k in rivals]
        if all(overlaps(np.array([entry["bbox"]], dtype=float), box)[0, 0] <= threshold for box in boxes):
            kept.append(entry)
    return kept


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_suppression_keeps_what_a_slow_loop_keeps(threshold: float):
    _, results = random_case(3)
    for i, entry in enumerate(results):
        entry["score"] = (i * 7919 % len(results)) / len(results)  # no ties
    kept = without_overlapping(Answers.from_results(results), threshold)
    expected = slow_suppression(results, threshold)
    assert sorted(kept.scores.tolist()) == sorted(entry["score"] for entry in expected)
    assert len(kept) < len(results)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_suppression_is_torchvisions_batched_nms_by_image_and_class(threshold: float):
    _, results = random_case(4)
    answers = Answers.from_results(results)
    answers = replace(answers, scores=np.random.default_rng(4).permutation(len(answers)) / len(answers))
    corners = np.concatenate([answers.boxes_xywh[:, :2], answers.boxes_xywh[:, :2] + answers.boxes_xywh[:, 2:]], 1)
    groups = torch.tensor(answers.image_of * 100 + answers.category_of)
    kept = batched_nms(torch.tensor(corners), torch.tensor(answers.scores), groups, threshold)
    assert 0 < len(kept) < len(answers)
    np.testing.assert_array_equal(without_overlapping(answers, threshold).scores, answers.scores[kept.numpy()])


def test_suppression_never_crosses_classes_or_images():
    box = [0.0, 0.0, 10.0, 10.0]
    results = [result(1, 1, box, 0.9), result(1, 2, box, 0.8), result(2, 1, box, 0.7), result(1, 1, box, 0.6)]
    assert without_overlapping(Answers.from_results(results), 0.5).scores.tolist() == [0.9, 0.8, 0.7]


def test_no_answers_are_no_trouble():
    truths = GroundTruth.from_coco_dict(random_case(1)[0])
    empty = Answers.from_results([])
    assert meet(truths, empty).mean_ap == 0.0
    assert len(without_overlapping(empty, 0.5)) == 0
    assert len(Answers.joined([])) == 0
