"""Everything that `detrctl eval` can tell beyond the scores, from answers that are already there. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detrctl.evaluation.answers import Answers
from detrctl.evaluation.causes import Causes, Reach, find_causes
from detrctl.evaluation.confusion import Confusion, confuse
from detrctl.evaluation.errors import ErrorReport, find_errors, report_errors
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.questions import Questions
from detrctl.evaluation.score_curves import ScoreReport, report_scores
from detrctl.evaluation.suppression import THRESHOLDS, Suppression, study_suppression
from detrctl.evaluation.worst import MEASURE, WorstImage, worst_images

NO_BEST = 0.5
"""The operating score where no answer or no truth says which is best."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a detector answered about a split.

    `layers` are the answers of each decoder layer, the last included; `reach` is what the last one's queries could say;
    a result file and a detector without queries have neither. `already` is the IoU of the detector's own NMS,
    `distinct` that of the NMS by which it chose its proposals; `ranked`: its queries are proposals, so that their
    numbers are ranks.
    """

    ground_truth: GroundTruth
    answers: Answers
    layers: Sequence[Answers] = ()
    reach: Reach | None = None
    already: float | None = None
    distinct: float | None = None
    ranked: bool = False


@dataclass(frozen=True, eq=False)
class Examination:
    """What was asked is there, the rest is None. `score` is the operating score, from which up answers count."""

    questions: Questions
    score: float
    scores: ScoreReport
    errors: ErrorReport | None = None
    causes: Causes | None = None
    suppression: Suppression | None = None
    confusion: Confusion | None = None
    worst: tuple[WorstImage, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, a key for each question asked."""
        told: dict[str, Any] = {"operating_score": self.score}
        if self.errors is not None and self.causes is not None:
            told["errors"] = {**self.errors.as_dict(), "causes": self.causes.as_dict()}
        if self.suppression is not None:
            told["nms"] = self.suppression.as_dict()
        if self.questions.nms:
            told["scores"] = self.scores.as_dict()
        if self.confusion is not None:
            told["confusion"] = self.confusion.as_dict()
        if self.worst is not None:
            told["worst"] = {"measure": MEASURE, "images": [image.as_dict() for image in self.worst]}
        return told


def examine(seen: Seen, questions: Questions, *, max_dets: int = 100) -> Examination:
    """Answers what is asked; at most `max_dets` detections count per image and class."""
    errors = find_errors(seen.ground_truth, seen.answers, max_dets=max_dets)
    scores = report_scores(errors.meeting)
    best = scores.curve.best
    score = questions.score if questions.score is not None else NO_BEST if best is None else best.score
    asked = questions
    return Examination(
        questions,
        score,
        scores,
        report_errors(errors) if asked.errors else None,
        find_causes(errors, score, layers=seen.layers, reach=seen.reach, ranked=seen.ranked, max_dets=max_dets)
        if asked.errors
        else None,
        study_suppression(
            seen.ground_truth,
            seen.answers,
            seen.layers,
            thresholds=THRESHOLDS if asked.nms else (),
            max_dets=max_dets,
            already=seen.already,
            distinct=seen.distinct,
        )
        if asked.nms or asked.layers
        else None,
        confuse(errors.meeting, score) if asked.confusion else None,
        worst_images(errors, score, asked.worst) if asked.worst else None,
    )
