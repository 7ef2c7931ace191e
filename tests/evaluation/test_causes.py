"""Lost truths tied to DETR's causes, each planted alone."""

import json
from dataclasses import replace

import numpy as np
import pytest

from detrctl.evaluation.answers import NOBODY, Answers, meet
from detrctl.evaluation.causes import Reach, find_causes, is_lost
from detrctl.evaluation.errors import find_errors
from detrctl.evaluation.ground_truth import GroundTruth
from tests.evaluation.test_coco_metrics import coco, random_case, result, truth

BOXES = [[10.0, 10.0, 20.0, 20.0], [100.0, 10.0, 60.0, 60.0], [200.0, 200.0, 120.0, 120.0]]
TRUTHS = GroundTruth.from_coco_dict(coco([truth(i, 1, 1, box) for i, box in enumerate(BOXES, 1)]))
QUERIES = 5


def answered(box, score, query, *, category=1, image=1):
    return {**result(image, category, box, score), "query": query}


GOOD = [answered(box, 0.9, query) for query, box in enumerate(BOXES)]
NO_REACH = Reach(np.full(3, np.nan), np.full(3, NOBODY), np.zeros(3, dtype=int), np.full(3, QUERIES))


def causes(results, layers=(), reach=NO_REACH, truths=TRUTHS, score=0.5):
    errors = find_errors(truths, Answers.from_results(results))
    return find_causes(errors, score, layers=[Answers.from_results(layer) for layer in layers], reach=reach)


def counts(made):
    return {row.name: row.count for row in made.rows if row.count}


def cost(made, name):
    return next(row.lost_ap for row in made.rows if row.name == name)


def test_perfect_answers_in_every_layer_have_no_cause_at_all():
    made = causes(GOOD, [GOOD, GOOD])
    assert [row.name for row in made.rows] == ["low score", "forgotten", "cut off", "no query left", "duplicate"]
    assert counts(made) == {}
    assert all(row.lost_ap == 0 and not any(row.by_size.values()) for row in made.rows)
    assert (made.truths, made.lost, made.duplicates, made.forgotten_at) == (3, 0, (), {})


def test_without_layers_and_reach_only_scores_and_duplicates_can_be_told():
    assert [row.name for row in causes(GOOD, reach=None).rows] == ["low score", "duplicate"]


def test_a_good_box_with_a_low_score_is_lost_and_costs_what_stands_before_it():
    wrong = answered([300.0, 300.0, 40.0, 40.0], 0.7, 3)
    made = causes([*GOOD[:2], {**GOOD[2], "score": 0.2}, wrong])
    assert counts(made) == {"low score": 1}
    assert next(row for row in made.rows if row.name == "low score").by_size == {"small": 0, "medium": 0, "large": 1}
    # right, right, wrong, right: precision 1 up to recall 2/3 (67 of the 101 levels), then 3/4
    assert cost(made, "low score") == pytest.approx(1 - (67 + 34 * 0.75) / 101)
    assert made.lost == 1


def test_a_truth_of_an_earlier_layer_is_forgotten_and_the_last_such_layer_is_named():
    elsewhere = [*GOOD[:2], {**GOOD[2], "bbox": [300.0, 300.0, 40.0, 40.0]}]
    made = causes(elsewhere, [GOOD, GOOD, elsewhere, elsewhere])
    assert counts(made) == {"forgotten": 1}
    assert made.forgotten_at == {2: 1}
    mended = find_errors(TRUTHS, Answers.from_results([*elsewhere, GOOD[2]])).meeting.mean_ap50
    assert cost(made, "forgotten") == pytest.approx(mended - causes_ap(elsewhere))
    assert counts(causes(elsewhere, [[{**GOOD[2], "score": 0.4}], elsewhere])) == {}, "an unsure layer found nothing"


def causes_ap(results):
    return find_errors(TRUTHS, Answers.from_results(results)).meeting.mean_ap50


def test_a_forgotten_truth_can_still_be_there_with_a_low_score():
    unsure = [*GOOD[:2], {**GOOD[2], "score": 0.1}]
    assert counts(causes(unsure, [GOOD, unsure])) == {"low score": 1, "forgotten": 1}


def test_a_query_whose_answer_was_not_kept_is_cut_off_and_the_k_it_needs_is_told():
    reach = replace(
        NO_REACH, scores=np.array([0.9, 0.9, 0.3]), queries=np.array([0, 1, 4]), ranks=np.array([1, 2, 140])
    )
    made = causes(GOOD[:2], [GOOD[:2]], reach)
    assert counts(made) == {"cut off": 1}
    assert made.rank_needed == 140
    assert cost(made, "cut off") == pytest.approx(1 - causes_ap(GOOD[:2]))
    assert made.lost == 1


def test_a_query_that_was_kept_for_another_truth_is_not_cut_off():
    reach = replace(NO_REACH, scores=np.array([0.9, 0.9, 0.9]), queries=np.array([0, 1, 1]), ranks=np.array([1, 2, 2]))
    assert counts(causes(GOOD[:2], [GOOD[:2]], reach)) == {}


def test_truths_beyond_the_number_of_queries_are_the_smallest_lost_ones():
    made = causes(GOOD[2:], [GOOD[2:]], replace(NO_REACH, available=np.full(3, 2)))
    assert counts(made) == {"no query left": 1}
    assert made.rows[3].by_size == {"small": 1, "medium": 0, "large": 0}
    assert cost(made, "no query left") == pytest.approx(51 / 101 - 34 / 101)
    assert counts(causes(GOOD[2:], [GOOD[2:]], replace(NO_REACH, available=np.full(3, 3)))) == {}


def test_a_duplicate_names_both_queries_and_the_layer_since_which_they_agree():
    twice = [*GOOD, answered([1 + x for x in BOXES[1]], 0.8, 4)]
    alone = [*GOOD, answered([300.0, 300.0, 40.0, 40.0], 0.8, 4)]
    made = causes(twice, [twice, alone, twice, twice])
    assert counts(made) == {"duplicate": 1}
    (one,) = made.duplicates
    assert (one.image_id, one.category, one.truth, one.kept_query, one.query, one.since) == (1, "c1", 1, 1, 4, 3)
    assert made.pairs == ((1, 4, 1),)
    assert made.since == {3: 1}
    assert made.rows[-1].by_size == {"small": 0, "medium": 1, "large": 0}
    assert cost(made, "duplicate") == 0  # all truths are found before it comes
    assert counts(causes([*GOOD, {**twice[-1], "score": 0.3}])) == {}, "below the operating score"


def test_a_duplicate_before_a_right_answer_costs_what_dropping_it_gains():
    results = [*GOOD[:2], {**GOOD[2], "score": 0.6}, answered(BOXES[0], 0.7, 4)]
    assert cost(causes(results), "duplicate") == pytest.approx(1 - causes_ap(results))


def test_queries_that_a_file_does_not_name_are_not_made_up():
    made = causes([result(1, 1, box, 0.9) for box in (*BOXES, BOXES[0])], reach=None)
    (one,) = made.duplicates
    assert (one.kept_query, one.query, one.since, made.pairs) == (NOBODY, NOBODY, None, ())


@pytest.mark.parametrize("seed", range(3))
def test_lost_truths_are_those_of_a_slow_loop_and_json_is_plain(seed):
    content, results = random_case(seed)
    truths = GroundTruth.from_coco_dict(content)
    sure = meet(truths, Answers.from_results([entry for entry in results if entry["score"] >= 0.4]))
    meeting = meet(truths, Answers.from_results(results))
    expected = [i not in sure.truth_of[0] and not crowd for i, crowd in enumerate(truths.is_crowd)]
    assert is_lost(meeting, 0.4).tolist() == expected
    made = causes(results, [results, results], reach=None, truths=truths, score=0.4)
    assert made.lost == sum(expected)
    json.dumps(made.as_dict(), allow_nan=False)


def test_no_answers_and_no_truths_are_no_trouble():
    assert counts(causes([], [[], []])) == {}
    assert causes([], [[], []]).lost == 3
    bare = GroundTruth.from_coco_dict(coco([]))
    none = Reach(np.empty(0), np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty(0, dtype=int))
    assert counts(causes(GOOD, [GOOD], none, bare)) == {}
