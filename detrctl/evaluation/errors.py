"""Which kinds of mistakes cost how much AP50, by TIDE's definitions.

Source: Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors", section 2: foreground
IoU 0.5, background IoU 0.1, each kind mended by itself. Where several kinds apply, the order of its published
implementation decides: localisation, class, duplicate, background, both. N answers, M truths of a split.

Two departures, so that nothing mended is COCO's AP50: answers are limited by image and class, not by image, and an
answer in a crowd is no mistake at all.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detrctl.evaluation.answers import (
    NOBODY,
    SIZES,
    Answers,
    Bools,
    Floats,
    Ints,
    Meeting,
    grouped,
    mean_average_precision,
    meet,
    overlaps,
    positives,
    size_of,
)
from detrctl.evaluation.ground_truth import GroundTruth

FOREGROUND, BACKGROUND = 0.5, 0.1
RIGHT, IGNORED = "right", "ignored"
KINDS = ("class", "localisation", "both", "duplicate", "background", "missed")
MEANINGS = {
    "class": "a good box with the wrong class",
    "localisation": "the right class, a loose box (IoU 0.1 to 0.5)",
    "both": "the wrong class and a loose box",
    "duplicate": "one more answer about an object found already",
    "background": "an answer where nothing is (IoU below 0.1)",
    "missed": "an object that nothing above would find",
}


@dataclass(frozen=True)
class Impact:
    """How often, and how much AP50 would rise if these and only these were mended (never below 0)."""

    count: int
    lost_ap: float


@dataclass(frozen=True)
class ErrorRow:
    """`by_size` is the size of the truth that the mistake is about; answers on background are about none."""

    kind: str
    all: Impact
    by_size: dict[str, Impact]


@dataclass(frozen=True)
class ErrorReport:
    """`rows` are KINDS. The special kinds: what AP50 would gain without any wrong answer, without any truth missed."""

    ap50: float | None
    rows: tuple[ErrorRow, ...]
    false_positives: ErrorRow
    false_negatives: ErrorRow

    def as_dict(self) -> dict[str, Any]:
        rows = (*self.rows, self.false_positives, self.false_negatives)
        return {
            "ap50": self.ap50,
            "foreground_iou": FOREGROUND,
            "background_iou": BACKGROUND,
            "kinds": {
                row.kind: {**asdict(row.all), "by_size": {size: asdict(it) for size, it in row.by_size.items()}}
                for row in rows
            },
        }


@dataclass(frozen=True, eq=False)
class Errors:
    """Every answer's `kind` (N,), one of KINDS, RIGHT or IGNORED, and the truth that it is about, (N,) or NOBODY.

    `missed` (M,): truths that nothing found and that no mended class or box would find. `mends` (N,): of the class and
    localisation errors the best about each free truth.
    """

    meeting: Meeting
    kind: npt.NDArray[np.str_]
    truth: Ints
    missed: Bools
    mends: Bools

    @property
    def answers(self) -> Answers:
        return self.meeting.answers

    @property
    def right(self) -> Bools:
        return self.kind == RIGHT

    @property
    def wrong(self) -> Bools:
        return (self.kind != RIGHT) & (self.kind != IGNORED)

    @property
    def lost(self) -> Bools:
        """Truths (M,) that no answer found, whether it could be mended or not; crowds are none."""
        return (self.meeting.finder == NOBODY) & ~self.meeting.ground_truth.is_crowd


def find_errors(ground_truth: GroundTruth, answers: Answers, *, max_dets: int = 100) -> Errors:
    """Matching at the foreground IoU as COCO does it, so that nothing mended is COCO's AP50."""
    return sort_out(meet(ground_truth, answers, thresholds=(FOREGROUND,), max_dets=max_dets))


def sort_out(meeting: Meeting) -> Errors:
    """The mistakes of a matching whose first threshold is the foreground IoU."""
    ground_truth, counted, truth = meeting.ground_truth, meeting.answers, meeting.truth_of[0].copy()
    right, ignored = meeting.right, meeting.ignored[0]
    kinds = np.full(len(counted), "background", dtype="<U12")
    truths_of = {int(ground_truth.image_of[group[0]]): group for group in grouped(ground_truth.image_of)}
    for group in grouped(counted.image_of):
        truths = truths_of.get(int(counted.image_of[group[0]]), np.empty(0, dtype=np.int64))
        truths = truths[~ground_truth.is_crowd[truths]]
        wrong = group[~right[group] & ~ignored[group]]
        if len(truths) and len(wrong):
            iou = overlaps(counted.boxes_xywh[wrong], ground_truth.boxes_xywh[truths])
            same = counted.category_of[wrong][:, None] == ground_truth.category_of[truths][None]
            kinds[wrong], about = _kinds(iou, same)
            truth[wrong] = np.where(about == NOBODY, NOBODY, truths[about])
    kinds[right], kinds[ignored] = RIGHT, IGNORED
    mends = _best_about_free_truths(kinds, truth, meeting.finder != NOBODY)
    missed = (meeting.finder == NOBODY) & ~ground_truth.is_crowd
    missed[truth[mends]] = False
    return Errors(meeting, kinds, truth, missed, mends)


def _kinds(iou: Floats, same: Bools) -> tuple[npt.NDArray[np.str_], Ints]:
    """Wrong answers (n) against the truths of their image (m) -> their kinds and the truths that they are about."""
    rows = np.arange(len(iou))
    own, other = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
    best_own, best_other, best = own.argmax(1), other.argmax(1), iou.argmax(1)
    own, other, any_class = own[rows, best_own], other[rows, best_other], iou[rows, best]
    conditions = [
        (own >= BACKGROUND) & (own < FOREGROUND),
        other >= FOREGROUND,
        own >= FOREGROUND,
        any_class <= BACKGROUND,
    ]
    kinds = np.select(conditions, ["localisation", "class", "duplicate", "background"], default="both")
    about = np.select(conditions, [best_own, best_other, best_own, np.full(len(iou), NOBODY)], default=best)
    return kinds, about.astype(np.int64)


def _best_about_free_truths(kinds: npt.NDArray[np.str_], truth: Ints, found: Bools) -> Bools:
    """Answers come best first, so the first about a truth is the best."""
    mends = np.zeros(len(kinds), dtype=np.bool_)
    taken = found.copy()
    for i in np.flatnonzero((kinds == "class") | (kinds == "localisation")):
        if not taken[truth[i]]:
            mends[i] = taken[truth[i]] = True
    return mends


# ---- what they cost ----


def report_errors(errors: Errors) -> ErrorReport:
    """What each kind costs, over all truths and for those of each size."""
    nobody, nothing = np.zeros(len(errors.answers), dtype=np.bool_), np.zeros_like(errors.missed)
    base = mended_ap50(errors, nobody, nothing)
    return ErrorReport(
        base,
        tuple(
            _row(errors, base, kind, nobody, errors.missed)
            if kind == "missed"
            else _row(errors, base, kind, errors.kind == kind, nothing)
            for kind in KINDS
        ),
        _row(errors, base, "false positives", errors.wrong, nothing, mend=False),
        _row(errors, base, "false negatives", nobody, errors.lost),
    )


def _row(errors: Errors, base: float | None, kind: str, chosen: Bools, missed: Bools, *, mend: bool = True) -> ErrorRow:
    def impact(chosen: Bools, missed: Bools) -> Impact:
        gain = (mended_ap50(errors, chosen, missed, mend=mend) or 0.0) - (base or 0.0)
        return Impact(int(chosen.sum() + missed.sum()), max(0.0, gain))

    sizes = size_of(errors.meeting.ground_truth.areas)
    about = np.append(sizes, NOBODY)[errors.truth]  # the last place answers for NOBODY
    by_size = {size: impact(chosen & (about == i), missed & (sizes == i)) for i, size in enumerate(SIZES)}
    return ErrorRow(kind, impact(chosen, missed), by_size if kind != "background" else {})


def mended_ap50(errors: Errors, chosen: Bools, missed: Bools, *, mend: bool = True) -> float | None:
    """AP50 once the `chosen` answers (N,) are put right or dropped, and the `missed` truths (M,) not asked for."""
    truths, answers = errors.meeting.ground_truth, errors.answers
    mended = chosen & errors.mends & mend
    kept = (mended | ~chosen) & (errors.kind != IGNORED)
    category = answers.category_of.copy()
    category[mended] = truths.category_of[errors.truth[mended]]
    wanted = {
        identity: asked - int((missed & (truths.category_of == identity)).sum())
        for identity in truths.category_ids
        if (asked := positives(truths, identity)) > 0
    }
    return mean_average_precision(category[kept], (errors.right | mended)[kept], wanted)
