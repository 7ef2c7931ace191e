"""The confusion matrix, by hand and by what its sums must be."""

import csv
import json

import numpy as np
import pytest

from detrctl.evaluation.answers import Answers, meet
from detrctl.evaluation.confusion import Mixup, confuse
from detrctl.evaluation.ground_truth import GroundTruth
from tests.evaluation.test_coco_metrics import coco, random_case, result, truth

BOXES = [[10.0, 10.0, 40.0, 40.0], [100.0, 100.0, 50.0, 50.0], [200.0, 50.0, 60.0, 80.0]]
NOWHERE = [300.0, 300.0, 20.0, 20.0]


def confusion(annotations, results, score=0.5, **counts):
    truths = GroundTruth.from_coco_dict(coco(annotations, **counts))
    return confuse(meet(truths, Answers.from_results(results)), score)


def test_by_hand_right_mixed_up_missed_and_false():
    annotations = [truth(1, 1, 1, BOXES[0]), truth(2, 1, 1, BOXES[1]), truth(3, 1, 2, BOXES[2])]
    results = [
        result(1, 1, BOXES[0], 0.9),  # right
        result(1, 2, BOXES[1], 0.8),  # c1 taken for c2
        result(1, 1, BOXES[0], 0.7),  # a duplicate
        result(1, 2, NOWHERE, 0.6),  # background
        result(1, 2, BOXES[2], 0.4),  # right, but not sure enough
    ]
    made = confusion(annotations, results)
    assert made.counts.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert made.shares.tolist() == [[0.5, 0.5, 0], [0, 0, 1], [0.5, 0.5, 0]]
    assert made.mixups() == [Mixup("c1", "c2", 1, 0.5)]
    assert confusion(annotations, results, score=0.4).counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 1, 0]]


def test_perfect_answers_fill_the_diagonal_only():
    annotations = [truth(i, 1, 1 + i % 2, box) for i, box in enumerate(BOXES, 1)]
    made = confusion(annotations, [result(1, e["category_id"], e["bbox"], 0.9) for e in annotations])
    assert made.counts.tolist() == [[1, 0, 0], [0, 2, 0], [0, 0, 0]]


def test_a_right_answer_comes_before_a_better_scored_one_of_another_class():
    made = confusion([truth(1, 1, 1, BOXES[0])], [result(1, 2, BOXES[0], 0.9), result(1, 1, BOXES[0], 0.6)])
    assert made.counts.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_crowds_and_answers_in_them_do_not_count_at_all():
    crowd = truth(9, 1, 1, [280.0, 280.0, 90.0, 90.0], iscrowd=1)
    made = confusion([truth(1, 1, 1, BOXES[0]), crowd], [result(1, 1, NOWHERE, 0.9)])
    assert made.counts.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("seed", range(4))
def test_rows_sum_to_the_truths_of_a_class_and_columns_to_its_answers(seed, tmp_path):
    content, results = random_case(seed)
    truths = GroundTruth.from_coco_dict(content)
    meeting = meet(truths, Answers.from_results(results))
    made = confuse(meeting, 0.3)
    wanted = [int(((truths.category_of == k) & ~truths.is_crowd).sum()) for k in truths.category_ids]
    assert made.counts[:-1].sum(axis=1).tolist() == wanted
    sure = (meeting.answers.scores >= 0.3) & ~meeting.ignored[0]
    said = [int((sure & (meeting.answers.category_of == k)).sum()) for k in truths.category_ids]
    assert made.counts[:, :-1].sum(axis=0).tolist() == said
    right = [int((sure & meeting.right & (meeting.answers.category_of == k)).sum()) for k in truths.category_ids]
    assert np.diag(made.counts).tolist() == [*right, 0]
    sums = made.shares.sum(axis=1)
    assert all(np.isclose(value, 1) or value == 0 for value in sums)
    made.write_csv(tmp_path / "c.csv")
    with (tmp_path / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [[int(row[name]) for name in (*truths.category_names, "background")] for row in rows] == made.counts.tolist()
    json.dumps(made.as_dict(), allow_nan=False)


def test_nothing_there_and_nothing_said():
    assert confusion([], [result(1, 1, NOWHERE, 0.9)]).counts.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert confusion([truth(1, 1, 2, NOWHERE)], []).counts.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
