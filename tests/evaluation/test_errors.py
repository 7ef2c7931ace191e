"""TIDE's kinds of mistakes, each planted alone and against slow loops, and what mending them gains."""

import random

import numpy as np
import pytest

from detrctl.evaluation.answers import Answers
from detrctl.evaluation.coco_metrics import score
from detrctl.evaluation.errors import KINDS, ErrorReport, Impact, find_errors, report_errors
from detrctl.evaluation.ground_truth import GroundTruth
from tests.evaluation.test_coco_metrics import coco, random_case, result, truth

SMALL, MEDIUM, LARGE = [10.0, 10.0, 20.0, 20.0], [100.0, 10.0, 60.0, 60.0], [200.0, 200.0, 120.0, 120.0]
TRUTHS = [
    truth(1, 1, 1, SMALL),
    truth(2, 1, 2, MEDIUM),
    truth(3, 2, 1, LARGE),
    truth(4, 2, 2, SMALL),
]
PERFECT = [result(entry["image_id"], entry["category_id"], entry["bbox"], 0.9) for entry in TRUTHS]
LOOSE = [200.0, 200.0, 120.0, 40.0]  # IoU 1/3 with LARGE


def report(results, annotations=TRUTHS, **counts) -> ErrorReport:
    truths = GroundTruth.from_coco_dict(coco(annotations, **counts))
    return report_errors(find_errors(truths, Answers.from_results(results)))


def counts(made: ErrorReport) -> dict[str, int]:
    return {row.kind: row.all.count for row in made.rows if row.all.count}


def gains(made: ErrorReport) -> dict[str, float]:
    return {row.kind: row.all.lost_ap for row in made.rows if row.all.lost_ap}


def test_perfect_predictions_have_no_mistakes_of_any_kind_or_size():
    made = report(PERFECT)
    assert made.ap50 == pytest.approx(1.0)
    assert [row.kind for row in made.rows] == list(KINDS)
    assert counts(made) == gains(made) == {}
    assert all(impact.count == 0 and impact.lost_ap == 0 for row in made.rows for impact in row.by_size.values())
    for special in (made.false_positives, made.false_negatives):
        assert special.all == Impact(0, 0)
        assert set(special.by_size.values()) == {Impact(0, 0)}


def test_copies_scored_just_below_are_duplicates_only():
    made = report(PERFECT + [{**entry, "score": 0.89} for entry in PERFECT])
    assert counts(made) == {"duplicate": 4}
    assert gains(made) == {}  # all recall is reached before the first copy comes
    assert {size: impact.count for size, impact in made.rows[3].by_size.items()} == {
        "small": 2,
        "medium": 1,
        "large": 1,
    }


def test_copies_between_right_answers_cost_what_dropping_them_gains():
    good = [{**entry, "score": 0.5 if entry["image_id"] == 2 else 0.9} for entry in PERFECT]
    made = report([*good, {**good[0], "score": 0.8}])
    # class 1 has right, copy, right: precision 1 up to recall 0.5 (51 of the 101 levels), then 2/3
    assert made.ap50 == pytest.approx((1 + (51 + 50 * 2 / 3) / 101) / 2)
    assert counts(made) == {"duplicate": 1}
    assert gains(made) == {"duplicate": pytest.approx(1 - made.ap50)}
    assert made.false_positives.all.lost_ap == pytest.approx(1 - made.ap50)
    assert made.false_negatives.all.lost_ap == 0


@pytest.mark.parametrize(
    ("kind", "number", "change"),
    [
        ("class", 2, {"category_id": 2}),
        ("localisation", 2, {"bbox": LOOSE}),
    ],
)
def test_a_mended_class_or_box_makes_all_right(kind, number, change):
    """The truth that it is about does not count as missed as well."""
    made = report([{**entry, **change} if i == number else entry for i, entry in enumerate(PERFECT)])
    assert counts(made) == {kind: 1}
    assert gains(made) == {kind: pytest.approx(1 - made.ap50)}
    assert made.ap50 < 0.9
    row = next(row for row in made.rows if row.kind == kind)
    assert row.by_size["large"] == row.all
    assert row.by_size["small"].count == row.by_size["small"].lost_ap == 0


def test_a_wrong_class_with_a_loose_box_is_both_and_its_truth_is_missed():
    made = report([*PERFECT[:2], {**PERFECT[2], "category_id": 2, "bbox": LOOSE}, PERFECT[3]])
    assert counts(made) == {"both": 1, "missed": 1}
    extra = report([*PERFECT, result(2, 2, LOOSE, 0.95)])
    assert counts(extra) == {"both": 1}
    assert gains(extra) == {"both": pytest.approx(1 - extra.ap50)}


def test_an_answer_on_nothing_is_background_also_in_images_without_truths():
    nowhere = [300.0, 10.0, 30.0, 30.0]
    made = report([*PERFECT, result(1, 1, nowhere, 0.95)])
    assert counts(made) == {"background": 1}
    assert gains(made) == {"background": pytest.approx(1 - made.ap50)}
    assert counts(report([*PERFECT[:2], result(2, 1, nowhere, 0.95)], TRUTHS[:2])) == {"background": 1}


def test_a_truth_without_any_answer_is_missed():
    made = report(PERFECT[:2] + PERFECT[3:])
    assert counts(made) == {"missed": 1}
    assert gains(made) == {"missed": pytest.approx(1 - made.ap50)}
    assert made.rows[5].by_size["large"].count == 1
    assert made.false_negatives.all.lost_ap == pytest.approx(1 - made.ap50)


def test_two_wrong_answers_about_one_truth_can_only_mend_it_once():
    made = report([*PERFECT[:2], {**PERFECT[2], "category_id": 2}, result(2, 1, LOOSE, 0.8), PERFECT[3]])
    assert counts(made) == {"class": 1, "localisation": 1}
    assert made.rows[1].all.lost_ap == 0  # the class error has the better score; without it the loose box only goes
    assert made.rows[0].all.lost_ap > 0


def test_answers_in_a_crowd_are_no_mistakes():
    crowd = truth(9, 1, 1, [300.0, 300.0, 90.0, 90.0], iscrowd=1)
    made = report([*PERFECT, result(1, 1, [320.0, 320.0, 30.0, 30.0], 0.95)], [*TRUTHS, crowd])
    assert counts(made) == {}
    assert made.ap50 == pytest.approx(1.0)


# ---- against slow loops: dicts, one answer and one recall level after another ----


def box_iou(a, b):
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(w, 0.0) * max(h, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union > 0 else 0.0


def slow_kinds(annotations, results):
    """Marks every result with `kind` and `about`, every truth with `found` and `usable`; no crowds, no equal scores."""
    for entry in annotations:
        entry.update(found=False, usable=False)
    for entry in sorted(results, key=lambda entry: -entry["score"]):
        here = [t for t in annotations if t["image_id"] == entry["image_id"]]
        ious = [(box_iou(entry["bbox"], t["bbox"]), t) for t in here]
        own = [(iou, t) for iou, t in ious if t["category_id"] == entry["category_id"]]
        other = [(iou, t) for iou, t in ious if t["category_id"] != entry["category_id"]]
        free = [(iou, t) for iou, t in own if not t["found"] and iou >= 0.5]
        entry["about"] = None
        if free:
            entry["kind"], entry["about"] = "right", max(free, key=lambda pair: pair[0])[1]
            entry["about"]["found"] = True
        elif own and 0.1 <= max(iou for iou, _ in own) < 0.5:
            entry["kind"], entry["about"] = "localisation", max(own, key=lambda pair: pair[0])[1]
        elif other and max(iou for iou, _ in other) >= 0.5:
            entry["kind"], entry["about"] = "class", max(other, key=lambda pair: pair[0])[1]
        elif own and max(iou for iou, _ in own) >= 0.5:
            entry["kind"], entry["about"] = "duplicate", max(own, key=lambda pair: pair[0])[1]
        elif not ious or max(iou for iou, _ in ious) <= 0.1:
            entry["kind"] = "background"
        else:
            entry["kind"], entry["about"] = "both", max(ious, key=lambda pair: pair[0])[1]
    for entry in sorted(results, key=lambda entry: -entry["score"]):
        about = entry["about"]
        free = entry["kind"] in ("class", "localisation") and not about["found"] and not about["usable"]
        entry["mends"] = free
        if free:
            about["usable"] = True


def slow_ap50(annotations, answers, forgiven):
    """`answers`: (score, category, right); `forgiven` truths are not asked for."""
    values = []
    for category in sorted({t["category_id"] for t in annotations}):
        wanted = sum(t["category_id"] == category and t not in forgiven for t in annotations)
        mine = sorted((a for a in answers if a[1] == category), key=lambda a: -a[0])
        if wanted == 0:
            values += [0.0] if mine else []
            continue
        precisions, recalls, hits = [], [], 0
        for count, (_, _, right) in enumerate(mine, 1):
            hits += right
            precisions.append(hits / count)
            recalls.append(hits / wanted)
        levels = [
            max((p for p, r in zip(precisions, recalls, strict=True) if r >= level), default=0.0)
            for level in np.linspace(0, 1, 101)
        ]
        values.append(sum(levels) / 101)
    return sum(values) / len(values) if values else None


def slow_gain(annotations, results, kind, size=None):
    def meant(entry):
        return size is None or (entry is not None and slow_size(entry["area"]) == size)

    answers, forgiven = [], []
    for entry in results:
        chosen = entry["kind"] == kind and meant(entry["about"])
        if kind == "false positives":
            chosen = entry["kind"] != "right" and meant(entry["about"])
        if not chosen:
            answers.append((entry["score"], entry["category_id"], entry["kind"] == "right"))
        elif kind in ("class", "localisation") and entry["mends"]:
            answers.append((entry["score"], entry["about"]["category_id"], True))
    if kind == "missed":
        forgiven = [t for t in annotations if not t["found"] and not t["usable"] and meant(t)]
    elif kind == "false negatives":
        forgiven = [t for t in annotations if not t["found"] and meant(t)]
    plain = [(entry["score"], entry["category_id"], entry["kind"] == "right") for entry in results]
    return max(0.0, slow_ap50(annotations, answers, forgiven) - slow_ap50(annotations, plain, []))


def slow_size(area):
    return "small" if area < 32**2 else "medium" if area < 96**2 else "large"


@pytest.mark.parametrize("seed", range(5))
def test_kinds_and_what_they_cost_are_those_of_slow_loops(seed: int):
    content, results = random_case(seed)
    dice = random.Random(seed)
    annotations = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    for i, entry in enumerate(results):
        entry["score"] = (i * 7919 % len(results)) / len(results)  # no ties
        if dice.random() < 0.3:
            entry["category_id"] = dice.randrange(1, 5)
    made = report(results, annotations, images=12, categories=4)
    slow_kinds(annotations, results)
    for row in (*made.rows, made.false_positives, made.false_negatives):
        for size, impact in ((None, row.all), *row.by_size.items()):
            assert impact.lost_ap == pytest.approx(slow_gain(annotations, results, row.kind, size), abs=1e-12)
    for row in made.rows[:5]:
        assert row.all.count == sum(entry["kind"] == row.kind for entry in results)
    assert made.rows[5].all.count == sum(not t["found"] and not t["usable"] for t in annotations)
    assert sum(row.all.lost_ap > 0 for row in made.rows) >= 5, "the cases hold some of nearly everything"


def _shifted(annotations):
    return [{**entry, "category_id": 1 + entry["category_id"] % 4} for entry in annotations]


@pytest.mark.parametrize("seed", range(4))
def test_nothing_mended_is_cocos_ap50_and_every_wrong_answer_has_one_kind(seed: int):
    content, results = random_case(seed)
    results = [
        {**entry, "category_id": 1 + (entry["category_id"] + (i % 4 == 0)) % 4} for i, entry in enumerate(results)
    ]
    truths = GroundTruth.from_coco_dict({**content, "annotations": _shifted(content["annotations"])})
    errors = find_errors(truths, Answers.from_results(results))
    made = report_errors(errors)
    assert made.ap50 == pytest.approx(score(truths, results)["AP50"], abs=1e-12)
    named = {kind: int((errors.kind == kind).sum()) for kind in (*KINDS[:5], "right", "ignored")}
    assert sum(named.values()) == len(results)
    assert min(named.values()) > 0, "the cases hold some of everything"
    for row in made.rows[:5]:
        assert row.all.count == named[row.kind]
        if row.by_size:
            assert sum(impact.count for impact in row.by_size.values()) == row.all.count
