"""What a score threshold does: precision, recall, F1, false positives per image; and whether scores are honest.

An answer is right as COCO counts it at IoU 0.5; answers in a crowd are neither right nor wrong.
n answers, P points of a curve, one for each score that occurs.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detrctl.evaluation.answers import Bools, Floats, Meeting, positives

BINS = 10
POINTS_WRITTEN = 200


@dataclass(frozen=True)
class Point:
    """Counting the answers from `score` up; `false_per_image` are those that are wrong."""

    score: float
    precision: float
    recall: float
    f1: float
    false_per_image: float


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    """(P,) each, the highest score first. Empty without truths or without answers."""

    score: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    false_per_image: Floats

    @property
    def best(self) -> Point | None:
        """Where F1 is highest; of equal ones the highest score. None where no answer is right."""
        return self.at(int(np.argmax(self.f1))) if self.f1.any() else None

    def at(self, place: int) -> Point:
        columns = (self.score, self.precision, self.recall, self.f1, self.false_per_image)
        return Point(*(float(column[place]) for column in columns))

    def points(self, most: int = POINTS_WRITTEN) -> list[Point]:
        """Evenly chosen, both ends included."""
        if len(self.score) == 0:
            return []
        places = np.unique(np.linspace(0, len(self.score) - 1, most).round().astype(np.int64))
        return [self.at(int(place)) for place in places]


@dataclass(frozen=True)
class Bin:
    """Answers with scores from `low` up: how many, their mean score, and the share that is right (None: empty)."""

    low: float
    count: int
    score: float | None
    right: float | None


@dataclass(frozen=True)
class Calibration:
    """`error` is the expected calibration error: |mean score - share right|, averaged over the answers.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, with 10 bins of equal width.
    """

    bins: tuple[Bin, ...]
    error: float


@dataclass(frozen=True)
class ClassPoint:
    """One category: its truths, and the threshold with its best F1; None where no answer is right."""

    name: str
    truths: int
    best: Point | None


@dataclass(frozen=True, eq=False)
class ScoreReport:
    """All classes pooled, each class by itself, and calibration (None where a score is no probability, or none is)."""

    curve: ScoreCurve
    by_class: tuple[ClassPoint, ...]
    calibration: Calibration | None

    def as_dict(self) -> dict[str, Any]:
        best = self.curve.best
        return {
            "best": None if best is None else asdict(best),
            "curve": [asdict(point) for point in self.curve.points()],
            "by_class": [asdict(row) for row in self.by_class],
            "calibration": None if self.calibration is None else asdict(self.calibration),
        }


def report_scores(meeting: Meeting) -> ScoreReport:
    """From a matching whose first threshold is 0.5."""
    truths, answers, right = meeting.ground_truth, meeting.answers, meeting.right
    images, counted = len(truths.image_ids), ~meeting.ignored[0]
    by_class = []
    for category, name in zip(truths.category_ids, truths.category_names, strict=True):
        mine, wanted = counted & (answers.category_of == category), positives(truths, category)
        by_class.append(
            ClassPoint(name, wanted, score_curve(answers.scores[mine], right[mine], wanted, images=images).best)
        )
    wanted = int((~truths.is_crowd).sum())
    return ScoreReport(
        score_curve(answers.scores[counted], right[counted], wanted, images=images),
        tuple(by_class),
        calibrate(answers.scores[counted], right[counted]),
    )


def score_curve(scores: Floats, right: Bools, truths: int, *, images: int) -> ScoreCurve:
    """Answers (n,) best first; equal scores are counted together, since no threshold parts them."""
    if truths == 0 or len(scores) == 0:
        return ScoreCurve(*(np.empty(0),) * 5)
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    hits, said = np.cumsum(right)[last], last + 1.0
    precision, recall = hits / said, hits / truths
    return ScoreCurve(scores[last], precision, recall, 2 * hits / (said + truths), (said - hits) / images)


def calibrate(scores: Floats, right: Bools) -> Calibration | None:
    """Any order; None without answers, or where some score is not between 0 and 1."""
    if len(scores) == 0 or scores.min() < 0 or scores.max() > 1:
        return None
    place = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    score_sums = np.bincount(place, scores, minlength=BINS)
    right_sums = np.bincount(place, right, minlength=BINS)
    bins = tuple(
        Bin(i / BINS, int(n), float(s / n) if n else None, float(r / n) if n else None)
        for i, (n, s, r) in enumerate(zip(counts, score_sums, right_sums, strict=True))
    )
    return Calibration(bins, float(np.abs(score_sums - right_sums).sum() / len(scores)))
