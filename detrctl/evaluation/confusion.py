"""The confusion matrix: what each truth was taken for, with background as one more class.

Counted at IoU 0.5 and from a score up. First come the answers that are right as COCO counts them; then, best first,
each remaining one takes the free truth of another class that it fits best. What is left of the truths was missed, what
is left of the answers is a false alarm (background, a loose box, or a duplicate). Crowds, and answers in them, are out.
K classes.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detrctl.evaluation.answers import NOBODY, Bools, Floats, Ints, Meeting, grouped, overlaps
from detrctl.evaluation.errors import FOREGROUND

BACKGROUND = "background"


@dataclass(frozen=True)
class Mixup:
    """`count` truths of class `truth` were answered as `answer`; `share` of the class's truths."""

    truth: str
    answer: str
    count: int
    share: float


@dataclass(frozen=True, eq=False)
class Confusion:
    """`counts` (K + 1, K + 1): row, what is there; column, what was answered. The last of each is background."""

    names: tuple[str, ...]
    score: float
    counts: Ints

    @property
    def shares(self) -> Floats:
        """Each row divided by its sum; rows without any truth or answer stay 0."""
        sums = self.counts.sum(axis=1, keepdims=True)
        return self.counts / np.maximum(sums, 1)

    def mixups(self, most: int = 10) -> list[Mixup]:
        """The commonest pairs of two classes, background apart."""
        inner = self.counts[:-1, :-1] * ~np.eye(len(self.names), dtype=np.bool_)
        places = np.argsort(-inner, axis=None, kind="stable")[:most]
        rows, columns = np.unravel_index(places, inner.shape)
        return [
            Mixup(self.names[row], self.names[column], int(inner[row, column]), float(self.shares[row, column]))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            if inner[row, column]
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "iou": FOREGROUND,
            "score": self.score,
            "rows_are": "truths",
            "columns_are": "answers",
            "names": [*self.names, BACKGROUND],
            "counts": self.counts.tolist(),
            "row_shares": self.shares.tolist(),
        }

    def write_csv(self, path: Path) -> None:
        """One row per class that is there, the counts of what was answered."""
        names = [*self.names, BACKGROUND]
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["truth", *names])
            table.writerows([name, *row] for name, row in zip(names, self.counts.tolist(), strict=True))


def confuse(meeting: Meeting, score: float) -> Confusion:
    """From a matching whose first threshold is 0.5; answers of `score` or more are counted."""
    truths, answers = meeting.ground_truth, meeting.answers
    counted = (answers.scores >= score) & ~meeting.ignored[0]
    taken = np.where(counted, meeting.truth_of[0], NOBODY)
    _take_other_classes(meeting, counted, taken)
    place = {category: k for k, category in enumerate(truths.category_ids)}
    background = len(place)
    there = np.append([place[category] for category in truths.category_of.tolist()], background).astype(np.int64)
    said = np.array([place[category] for category in answers.category_of.tolist()], dtype=np.int64)
    counts = np.zeros((background + 1, background + 1), dtype=np.int64)
    np.add.at(counts, (there[taken[counted]], said[counted]), 1)  # NOBODY is the last place: background
    missed = ~truths.is_crowd
    missed[taken[taken != NOBODY]] = False
    np.add.at(counts[:, background], there[:-1][missed], 1)
    return Confusion(truths.category_names, score, counts)


def _take_other_classes(meeting: Meeting, counted: Bools, taken: Ints) -> None:
    """Fills `taken` (N,) for answers that are not right, best first."""
    truths, answers = meeting.ground_truth, meeting.answers
    free = ~truths.is_crowd
    free[taken[taken != NOBODY]] = False
    truths_of = {int(truths.image_of[group[0]]): group for group in grouped(truths.image_of)}
    wrong = np.flatnonzero(counted & (taken == NOBODY))
    for group in grouped(answers.image_of[wrong]):
        mine = wrong[group]
        there = truths_of.get(int(answers.image_of[mine[0]]))
        if there is None:
            continue
        iou = overlaps(answers.boxes_xywh[mine], truths.boxes_xywh[there])
        for i, row in zip(mine.tolist(), iou, strict=True):
            open_to = free[there] & (truths.category_of[there] != answers.category_of[i])
            best = int(np.argmax(np.where(open_to, row, -1.0)))
            if open_to[best] and row[best] >= FOREGROUND:
                taken[i], free[there[best]] = there[best], False
