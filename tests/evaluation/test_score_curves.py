"""Precision, recall, F1, false positives and calibration by score: by hand, and against a slow loop."""

import json
import random

import numpy as np
import pytest

from detrctl.evaluation.answers import Answers, meet
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.score_curves import Point, calibrate, report_scores, score_curve
from tests.evaluation.test_coco_metrics import coco, random_case, result, truth


def made(content, results):
    return report_scores(meet(GroundTruth.from_coco_dict(content), Answers.from_results(results)))


def test_a_curve_by_hand_counts_equal_scores_together():
    curve = score_curve(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]), 4, images=2)
    assert curve.score.tolist() == [0.9, 0.5, 0.1]
    assert curve.precision.tolist() == pytest.approx([1, 2 / 3, 0.5])
    assert curve.recall.tolist() == pytest.approx([0.25, 0.5, 0.5])
    assert curve.f1.tolist() == pytest.approx([0.4, 4 / 7, 0.5])
    assert curve.false_per_image.tolist() == pytest.approx([0, 0.5, 1])
    assert curve.best == Point(0.5, 2 / 3, 0.5, pytest.approx(4 / 7), 0.5)


def test_of_equal_f1_the_highest_score_is_taken():
    curve = score_curve(np.array([0.9, 0.4, 0.3]), np.array([True, False, True]), 2, images=1)
    assert curve.f1.tolist() == pytest.approx([2 / 3, 0.5, 0.8])
    even = score_curve(np.array([0.9, 0.4, 0.3, 0.2, 0.1]), np.array([True, False, False, False, True]), 2, images=1)
    assert even.best.score == 0.9


@pytest.mark.parametrize("seed", range(3))
def test_every_point_is_that_of_a_slow_count_without_crowds_and_what_lies_in_them(seed):
    content, results = random_case(seed)
    truths, report = GroundTruth.from_coco_dict(content), made(content, results)
    meeting = meet(truths, Answers.from_results(results))
    assert meeting.ignored.any()
    rows = list(zip(meeting.answers.scores.tolist(), meeting.right, meeting.ignored[0], strict=True))
    wanted = sum(not entry["iscrowd"] for entry in content["annotations"])
    dice = random.Random(seed)
    for place in dice.sample(range(len(report.curve.score)), 20):
        point = report.curve.at(place)
        said = [right for score, right, ignored in rows if score >= point.score and not ignored]
        hits = sum(bool(right) for right in said)
        assert point.precision == pytest.approx(hits / len(said))
        assert point.recall == pytest.approx(hits / wanted)
        precision, recall = hits / len(said), hits / wanted
        assert point.f1 == pytest.approx(2 * precision * recall / (precision + recall) if hits else 0.0)
        assert point.false_per_image == pytest.approx((len(said) - hits) / 12)
    assert report.curve.best.f1 == max(report.curve.f1)


def test_each_class_has_the_threshold_of_its_own_best_f1():
    box, far = [0.0, 0.0, 40.0, 40.0], [200.0, 200.0, 40.0, 40.0]
    truths = [truth(1, 1, 1, box), truth(2, 1, 2, far)]
    results = [result(1, 1, box, 0.3), result(1, 1, far, 0.2), result(1, 2, box, 0.9), result(1, 2, far, 0.8)]
    rows = made(coco(truths, categories=3), results).by_class
    assert [(row.name, row.truths) for row in rows] == [("c1", 1), ("c2", 1), ("c3", 0)]
    assert rows[0].best == Point(0.3, 1.0, 1.0, 1.0, 0.0)
    assert rows[1].best == Point(0.8, 0.5, 1.0, pytest.approx(2 / 3), 0.5)
    assert rows[2].best is None


def test_calibration_by_hand():
    found = calibrate(np.array([0.95, 0.85, 0.85, 0.25, 1.0]), np.array([True, True, False, False, True]))
    assert [(row.low, row.count) for row in found.bins if row.count] == [(0.2, 1), (0.8, 2), (0.9, 2)]
    assert found.bins[8].score == pytest.approx(0.85)
    assert found.bins[8].right == 0.5
    assert found.error == pytest.approx((2 * 0.025 + 2 * 0.35 + 1 * 0.25) / 5)


def test_honest_scores_have_no_calibration_error_and_scores_that_are_no_probabilities_none_at_all():
    dice = np.random.default_rng(0)
    scores = dice.random(200_000)
    assert calibrate(scores, dice.random(200_000) < scores).error < 0.01
    assert calibrate(scores, dice.random(200_000) < scores**2).error > 0.1
    assert calibrate(np.array([0.5, 73.0]), np.array([True, True])) is None
    assert calibrate(np.empty(0), np.empty(0, dtype=bool)) is None


def test_no_answers_and_no_truths_are_no_trouble_and_json_is_plain():
    for content, results in ((coco([truth(1, 1, 1, [0, 0, 9, 9])]), []), (coco([]), [result(1, 1, [0, 0, 9, 9], 0.5)])):
        report = made(content, results)
        assert report.curve.best is None
        assert report.curve.points() == []
        assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["best"] is None
    wrong = made(coco([truth(1, 1, 1, [0, 0, 9, 9])]), [result(1, 1, [50, 50, 9, 9], 0.5)])
    assert wrong.curve.best is None
    assert len(wrong.curve.points()) == 1
    content, results = random_case(1)
    written = json.loads(json.dumps(made(content, results).as_dict(), allow_nan=False))
    assert written["best"]["f1"] == max(point["f1"] for point in written["curve"])
