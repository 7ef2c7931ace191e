"""What NMS does by layer and threshold, and that the sentences say what the numbers say."""

import json

import numpy as np
import pytest

from detrctl.evaluation.answers import Answers, without_overlapping
from detrctl.evaluation.coco_metrics import score
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.suppression import THRESHOLDS, Suppressed, Suppression, sentences, study_suppression
from tests.evaluation.test_coco_metrics import coco, random_case, result, truth

BOXES = [[10.0, 10.0, 40.0, 40.0], [100.0, 100.0, 50.0, 50.0], [200.0, 50.0, 60.0, 80.0]]
TRUTHS = GroundTruth.from_coco_dict(coco([truth(i, 1, 1, box) for i, box in enumerate(BOXES, 1)], images=1))
PERFECT = [result(1, 1, box, 0.9 - i / 100) for i, box in enumerate(BOXES)]
DOUBLED = PERFECT + [{**entry, "bbox": [x + 1 for x in entry["bbox"]], "score": 0.89} for entry in PERFECT[:2]]


def study(results, layers=(), **more):
    return study_suppression(TRUTHS, Answers.from_results(results), [Answers.from_results(x) for x in layers], **more)


def test_duplicates_are_counted_and_go_with_nms():
    made = study(DOUBLED)
    plain, at_half = made.plain, next(row for row in made.last if row.threshold == 0.5)
    assert [row.threshold for row in made.last] == [None, *THRESHOLDS]
    assert (plain.per_image, at_half.per_image) == (5, 3)
    assert (plain.duplicates, plain.sure_duplicates, at_half.duplicates) == pytest.approx((2 / 3, 2 / 3, 0))
    assert plain.ap50 < at_half.ap50 == pytest.approx(1.0)


def test_duplicates_below_the_best_threshold_are_not_sure():
    made = study(PERFECT + [{**entry, "score": 0.1} for entry in PERFECT])
    assert (made.plain.duplicates, made.plain.sure_duplicates) == (1, 0)


@pytest.mark.parametrize("threshold", [None, 0.5, 0.7])
def test_ap_is_pycocotools_of_what_is_left(threshold):
    content, results = random_case(2)
    truths = GroundTruth.from_coco_dict(content)
    answers = Answers.from_results(results)
    made = study_suppression(truths, answers, thresholds=(0.5, 0.7), max_dets=5)
    left = answers if threshold is None else without_overlapping(answers, threshold)
    rows = zip(left.image_of.tolist(), left.category_of.tolist(), left.boxes_xywh.tolist(), left.scores.tolist())
    expected = score(truths, [result(*row) for row in rows], max_dets=5)
    found = next(row for row in made.last if row.threshold == threshold)
    assert (found.ap, found.ap50) == pytest.approx((expected["AP"], expected["AP50"]), abs=1e-12)


def test_layers_come_in_pairs_and_the_last_one_is_told_at_every_threshold():
    made = study(PERFECT, [DOUBLED, PERFECT])
    assert [(row.layer, row.threshold) for row in made.layers] == [(1, None), (1, 0.5), (2, None), (2, 0.5)]
    assert {row.layer for row in made.last} == {2}
    only = study(PERFECT, [DOUBLED, PERFECT], thresholds=())
    assert only.layers == made.layers
    assert only.last == ()
    assert only.plain.layer == 2
    json.dumps(made.as_dict(), allow_nan=False)


def test_nothing_at_all_is_no_trouble():
    nothing = Answers.from_results([])
    assert sentences(study_suppression(TRUTHS, nothing, [nothing])) == (
        "There are no answers here, so there is nothing that NMS could remove.",
    )
    bare = GroundTruth.from_coco_dict(coco([]))
    made = study_suppression(bare, Answers.from_results(PERFECT))
    assert made.plain.ap is made.plain.duplicates is None
    assert sentences(made) == ("There are no truths here, so nothing can be said about NMS.",)


def row(layer, threshold, ap, duplicates=0.25, sure=0.5, share=None):
    return Suppressed(layer, threshold, ap, ap, 10.0, duplicates, sure, 1.5, share)


def told(*aps, **itself):
    """Without NMS, at 0.9, at 0.5."""
    rows = tuple(row(None, threshold, ap) for threshold, ap in zip((None, 0.9, 0.5), aps, strict=True))
    return sentences(Suppression((), rows, **itself))[0]


def test_the_first_sentence_says_what_nms_does_to_the_answers():
    there_are = "there are 0.50 duplicates per truth from the score of the best F1 up."
    assert told(0.4, 0.41, 0.45) == f"NMS helps: at IoU 0.5 it raises AP from 0.400 to 0.450, for {there_are}"
    assert told(0.4, 0.39, 0.3) == (
        f"NMS only harms: AP falls from 0.400 to 0.390 at best (IoU 0.9), since right answers go; {there_are}"
    )
    assert told(0.4, 0.402, 0.35) == (
        "NMS is not needed: at none of 2 IoUs does it raise AP 0.400 by more than 0.002 (at 0.5 AP is 0.350); "
        + there_are
    )
    assert told(0.4, 0.398, 0.35).startswith(
        "NMS is not needed: at none of 2 IoUs does it raise AP 0.400 by more than 0.000 "
    )
    assert told(0.4, 0.4, 0.4, distinct=0.8).startswith(
        "NMS at IoU 0.8 chose the proposals that became queries; NMS of the answers is not needed: "
    )
    assert told(0.4, 0.4, 0.4, already=0.6).startswith(
        "These answers went through the detector's own NMS at IoU 0.6; more NMS is not needed: "
    )


@pytest.mark.parametrize(
    ("share", "start"),
    [
        (0.5, "Most false positives are duplicates, which NMS is for: 50% of"),
        (0.1, "Some false positives are duplicates, which NMS is for: 10% of"),
        (0.04, "Hardly any false positives are duplicates, so NMS is not what they need: 4% of"),
    ],
)
def test_without_layers_the_second_sentence_is_about_false_positives(share, start):
    rows = (row(None, None, 0.4, share=share), row(None, 0.5, 0.4))
    assert sentences(Suppression((), rows))[1] == (
        f"{start} the 1.50 false positives per image from the score of the best F1 up."
    )


def about_layers(*pairs):
    rows = [row(i, t, ap, sure=d) for i, (a, b, d) in enumerate(pairs, 1) for t, ap in ((None, a), (0.5, b))]
    return sentences(Suppression(tuple(rows), ()))[-1]


@pytest.mark.parametrize(
    ("pairs", "start"),
    [
        ([(0.2, 0.3, 3.0), (0.5, 0.5, 0.5)], "NMS pays after the first decoder layer and no longer after the last: "),
        ([(0.2, 0.3, 3.0), (0.5, 0.55, 0.5)], "NMS pays after the first decoder layer and still after the last: "),
        ([(0.2, 0.2, 0.1), (0.5, 0.55, 0.5)], "NMS does not pay after the first decoder layer, but after the last: "),
        ([(0.2, 0.2, 0.1), (0.5, 0.45, 0.1)], "NMS pays neither after the first decoder layer nor after the last: "),
    ],
)
def test_the_second_sentence_says_what_the_decoder_does(pairs, start):
    said = about_layers(*pairs)
    assert said.startswith(start)
    (a, b, first), (c, d, last) = pairs
    assert said.removeprefix(start) == (
        f"at 0.5 it changes AP by {b - a:+.3f} after the first, where there are {first:.2f} duplicates per truth from "
        f"the score of the layer's best F1 up, and by {d - c:+.3f} after the last, where there are {last:.2f}."
    )


def test_a_model_that_finds_nothing_is_not_said_to_need_no_nms():
    assert told(0.001, 0.001, 0.002) == "AP is 0.001: too little is found for NMS to matter."
    assert about_layers((0.0, 0.003, 1.0), (0.0, 0.0, 0.5)) == "AP is 0.000: too little is found for NMS to matter."


def test_one_layer_has_nothing_to_be_compared_with():
    assert about_layers((0.2, 0.3, 1.0)) == (
        "The decoder has one layer only, so there is no earlier one to compare it with."
    )


def test_sentences_are_true_of_answers_that_were_made_for_them():
    doubled_more = [*DOUBLED, *({**e, "bbox": [x + 2 for x in e["bbox"]], "score": 0.88} for e in PERFECT)]
    first, second = sentences(study(PERFECT, [doubled_more, PERFECT]))
    assert first.startswith("NMS is not needed: at none of 7 IoUs does it raise AP 1.000 by more than 0.000")
    assert second.startswith("NMS pays after the first decoder layer and no longer after the last: ")
    first, second = sentences(study(DOUBLED))
    assert first.startswith("NMS helps: at IoU ")
    assert second == (
        "Most false positives are duplicates, which NMS is for: 100% of the 2.00 false positives per image from the "
        "score of the best F1 up."
    )
    close = GroundTruth.from_coco_dict(coco([truth(1, 1, 1, BOXES[0]), truth(2, 1, 1, [12.0, 10.0, 40.0, 40.0])], 1))
    crossing = Answers.from_results([result(1, 1, BOXES[0], 0.9), result(1, 1, [12.0, 10.0, 40.0, 40.0], 0.8)])
    harmed, clean = sentences(study_suppression(close, crossing, thresholds=(0.5, 0.3)))
    assert clean == "There is no false positive from the score of the best F1 up, so no duplicate either."
    assert harmed.startswith("NMS only harms: AP falls from 1.000 to 0.505 at best")
    assert np.isclose(study_suppression(close, crossing).plain.ap, 1.0)
