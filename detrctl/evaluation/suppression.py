"""Why no NMS: what non-maximum suppression does to each decoder layer's answers, and at several thresholds to the last.

Source of the question and of the comparison by layer: Carion et al. 2020, section 4.2 and figure 4.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detrctl.evaluation.answers import COCO_THRESHOLDS, Answers, Bools, meet, without_overlapping
from detrctl.evaluation.errors import Errors, sort_out
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.score_curves import report_scores

THRESHOLDS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
USUAL = 0.5
"""The IoU above which NMS removes an answer where only one is tried."""

NOTICEABLE = 0.005
"""A change of AP below half a point is called none."""

MOST, FEW = 0.5, 0.1
"""Shares of duplicates among false positives, from which up they are called most, and some."""


@dataclass(frozen=True)
class Suppressed:
    """Answers of one decoder layer (from 1; None where there are no layers) after NMS at an IoU (None: without).

    `duplicates` per truth: answers of a truth's class about a truth that a better answer has found; `sure_duplicates`
    are those from the score up that gives all answers of the layer, without NMS, the best F1; `sure_false`: wrong
    answers per image from that score up; `duplicate_share`: how many of these are duplicates (None: there are none).
    """

    layer: int | None
    threshold: float | None
    ap: float | None
    ap50: float | None
    per_image: float
    duplicates: float | None
    sure_duplicates: float | None
    sure_false: float
    duplicate_share: float | None


@dataclass(frozen=True)
class Suppression:
    """`layers` come in pairs, each without NMS and with the usual one; `last` is the last one at every threshold.

    `already` is the IoU of an NMS that the detector itself has applied (Faster R-CNN), `distinct` of one that chose
    the proposals which became its queries (DDQ's distinct queries).
    """

    layers: tuple[Suppressed, ...]
    last: tuple[Suppressed, ...]
    already: float | None = None
    distinct: float | None = None

    @property
    def plain(self) -> Suppressed:
        """The answers as they are."""
        return next(row for row in (*self.last, *reversed(self.layers)) if row.threshold is None)

    @property
    def pairs(self) -> list[tuple[Suppressed, Suppressed]]:
        """Each layer without NMS and with it."""
        return list(zip(self.layers[::2], self.layers[1::2], strict=True))

    def as_dict(self) -> dict[str, Any]:
        return {
            "layers": [asdict(row) for row in self.layers],
            "thresholds": [asdict(row) for row in self.last],
            "already_suppressed_at": self.already,
            "proposals_suppressed_at": self.distinct,
            "sentences": list(sentences(self)),
        }


def study_suppression(
    ground_truth: GroundTruth,
    answers: Answers,
    layers: Sequence[Answers] = (),
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    max_dets: int = 100,
    already: float | None = None,
    distinct: float | None = None,
) -> Suppression:
    """`answers` are the detector's; `layers` those of its decoder layers, the last included, if they are asked for."""
    by_layer = [
        row
        for number, mine in enumerate(layers, 1)
        for row in _rows(ground_truth, mine, (USUAL,), max_dets, layer=number)
    ]
    last = _rows(ground_truth, answers, thresholds, max_dets, layer=len(layers) or None) if thresholds else ()
    return Suppression(tuple(by_layer), tuple(last), already, distinct)


def _rows(
    ground_truth: GroundTruth, answers: Answers, thresholds: Sequence[float], max_dets: int, *, layer: int | None
) -> Iterator[Suppressed]:
    sure = None
    for threshold in (None, *thresholds):
        left = answers if threshold is None else without_overlapping(answers, threshold)
        meeting = meet(ground_truth, left, thresholds=COCO_THRESHOLDS, max_dets=max_dets)
        errors = sort_out(meeting)
        if threshold is None:
            best = report_scores(meeting).curve.best
            sure = np.inf if best is None else best.score
        assert sure is not None
        repeated, sure_ones = errors.kind == "duplicate", errors.answers.scores >= sure
        wrong, images = int((errors.wrong & sure_ones).sum()), max(1, len(ground_truth.image_ids))
        yield Suppressed(
            layer,
            threshold,
            meeting.mean_ap,
            meeting.mean_ap50,
            len(left) / images,
            _per_truth(errors, repeated),
            _per_truth(errors, repeated & sure_ones),
            wrong / images,
            int((repeated & sure_ones).sum()) / wrong if wrong else None,
        )


def _per_truth(errors: Errors, chosen: Bools) -> float | None:
    truths = int((~errors.meeting.ground_truth.is_crowd).sum())
    return int(chosen.sum()) / truths if truths else None


# ---- in two sentences ----


def sentences(study: Suppression) -> tuple[str, ...]:
    """What was found about NMS, and about the decoder's layers, or, where there are none, about false positives."""
    plain = study.plain
    if plain.ap is None:
        return ("There are no truths here, so nothing can be said about NMS.",)
    if plain.per_image == 0:
        return ("There are no answers here, so there is nothing that NMS could remove.",)
    if max(row.ap or 0.0 for row in (*study.layers, *study.last)) < NOTICEABLE:
        return (f"AP is {plain.ap:.3f}: too little is found for NMS to matter.",)
    said = [_about_last(study)] if study.last else []
    return (*said, _about_layers(study) if study.layers else _about_false(plain))


def _about_last(study: Suppression) -> str:
    plain, tried = study.plain, [row for row in study.last if row.threshold is not None]
    best = max(tried, key=lambda row: row.ap or 0.0)
    before, after = plain.ap or 0.0, best.ap or 0.0
    there_are = f"there are {plain.sure_duplicates:.2f} duplicates per truth from the score of the best F1 up"
    if after - before > NOTICEABLE:
        found = f"helps: at IoU {best.threshold:g} it raises AP from {before:.3f} to {after:.3f}, for {there_are}"
    elif after - before < -NOTICEABLE:
        found = (
            f"only harms: AP falls from {before:.3f} to {after:.3f} at best (IoU {best.threshold:g}), since right "
            f"answers go; {there_are}"
        )
    else:
        strict = min(tried, key=lambda row: row.threshold or 1.0)
        found = (
            f"is not needed: at none of {len(tried)} IoUs does it raise AP {before:.3f} by more than "
            f"{max(0.0, after - before):.3f} "
            f"(at {strict.threshold:g} AP is {strict.ap or 0.0:.3f}); {there_are}"
        )
    if study.already is not None:
        return f"These answers went through the detector's own NMS at IoU {study.already:g}; more NMS {found}."
    if study.distinct is not None:
        return f"NMS at IoU {study.distinct:g} chose the proposals that became queries; NMS of the answers {found}."
    return f"NMS {found}."


def _about_false(plain: Suppressed) -> str:
    where = "from the score of the best F1 up"
    if plain.duplicate_share is None:
        return f"There is no false positive {where}, so no duplicate either."
    told = f"{100 * plain.duplicate_share:.0f}% of the {plain.sure_false:.2f} false positives per image {where}"
    if plain.duplicate_share >= MOST:
        return f"Most false positives are duplicates, which NMS is for: {told}."
    if plain.duplicate_share >= FEW:
        return f"Some false positives are duplicates, which NMS is for: {told}."
    return f"Hardly any false positives are duplicates, so NMS is not what they need: {told}."


def _about_layers(study: Suppression) -> str:
    pairs = study.pairs
    if len(pairs) == 1:
        return "The decoder has one layer only, so there is no earlier one to compare it with."
    (first, first_nms), (last, last_nms) = pairs[0], pairs[-1]
    early, late = (first_nms.ap or 0) - (first.ap or 0), (last_nms.ap or 0) - (last.ap or 0)
    told = (
        f"at {USUAL:g} it changes AP by {early:+.3f} after the first, where there are {first.sure_duplicates:.2f} "
        f"duplicates per truth from the score of the layer's best F1 up, and by {late:+.3f} after the last, where "
        f"there are {last.sure_duplicates:.2f}"
    )
    if early > NOTICEABLE and late > NOTICEABLE:
        return f"NMS pays after the first decoder layer and still after the last: {told}."
    if early > NOTICEABLE:
        return f"NMS pays after the first decoder layer and no longer after the last: {told}."
    if late > NOTICEABLE:
        return f"NMS does not pay after the first decoder layer, but after the last: {told}."
    return f"NMS pays neither after the first decoder layer nor after the last: {told}."
