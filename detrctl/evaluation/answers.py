"""Detections of a whole split as compact arrays, and what they meet. No torch here.

N detections ("answers"), M truths of a split, T IoU thresholds. Boxes are COCO's (x, y, width, height) in pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.results import Result

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NOBODY = -1
COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALLS = np.linspace(0.0, 1.0, 101)
SIZES = ("small", "medium", "large")


@dataclass(frozen=True, eq=False)
class Answers:
    """`image_of`, `category_of` (N,) ids, `boxes_xywh` (N, 4), `scores` (N,), `queries` (N,), NOBODY if not known."""

    image_of: Ints
    category_of: Ints
    boxes_xywh: Floats
    scores: Floats
    queries: Ints

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def from_results(cls, results: Sequence[Result]) -> "Answers":
        """From COCO results; `query` is read where it is given."""
        return cls(
            np.array([result["image_id"] for result in results], dtype=np.int64),
            np.array([result["category_id"] for result in results], dtype=np.int64),
            np.array([result["bbox"] for result in results], dtype=np.float64).reshape(-1, 4),
            np.array([result["score"] for result in results], dtype=np.float64),
            np.array([result.get("query", NOBODY) for result in results], dtype=np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> "Answers":
        if not parts:
            return cls.from_results([])
        names = ("image_of", "category_of", "boxes_xywh", "scores", "queries")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def take(self, chosen: npt.NDArray[np.generic]) -> "Answers":
        """Those of an index or a mask."""
        return Answers(
            self.image_of[chosen],
            self.category_of[chosen],
            self.boxes_xywh[chosen],
            self.scores[chosen],
            self.queries[chosen],
        )

    def counted(self, max_dets: int) -> "Answers":
        """Best first, and of each image and class the best `max_dets` only, with COCO's way to break ties."""
        ordered = self.take(np.lexsort((self.image_of, -self.scores)))
        return ordered.take(_rank_in_group(ordered.image_of, ordered.category_of) < max_dets)


@dataclass(frozen=True, eq=False)
class Meeting:
    """Which answer is right about which truth: `truth_of` (T, N) numbers of truths, NOBODY for a false positive.

    `answers` are those that count, best first; `ignored` (T, N) lie in a crowd and are neither right nor wrong.
    """

    ground_truth: GroundTruth
    answers: Answers
    thresholds: tuple[float, ...]
    truth_of: Ints
    ignored: Bools

    @cached_property
    def average_precisions(self) -> Floats:
        """COCO's, (T, K) for the K categories in their order; NaN without truths."""
        return np.array(
            [
                [self._average_precision(t, category) for category in self.ground_truth.category_ids]
                for t in range(len(self.thresholds))
            ]
        )

    def _average_precision(self, t: int, category: int) -> float:
        mine = (self.answers.category_of == category) & ~self.ignored[t]
        return average_precision(self.truth_of[t, mine] != NOBODY, positives(self.ground_truth, category))

    @property
    def mean_ap(self) -> float | None:
        """Over thresholds and categories with truths: with COCO's thresholds its AP, with 0.5 alone AP50."""
        return _mean(self.average_precisions)

    @property
    def mean_ap50(self) -> float | None:
        """At the first threshold alone."""
        return _mean(self.average_precisions[0])

    @property
    def right(self) -> Bools:
        """Answers (N,) that found a truth at the first threshold."""
        return self.truth_of[0] != NOBODY

    @cached_property
    def finder(self) -> Ints:
        """Which answer found each truth at the first threshold, (M,) or NOBODY."""
        finder = np.full(len(self.ground_truth.image_of), NOBODY, dtype=np.int64)
        right = np.flatnonzero(self.right)
        finder[self.truth_of[0][right]] = right
        return finder


def _mean(values: Floats) -> float | None:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else None


def positives(ground_truth: GroundTruth, category: int) -> int:
    """How many truths of a category there are to find; crowds are none."""
    return int(((ground_truth.category_of == category) & ~ground_truth.is_crowd).sum())


def meet(
    ground_truth: GroundTruth,
    answers: Answers,
    *,
    thresholds: Sequence[float] = (0.5,),
    max_dets: int = 100,
) -> Meeting:
    """COCO's matching: in each image and class the best answer first, each with the free truth that fits it best.

    Source: pycocotools' evaluateImg; its scores come out (tested). A truth met once is taken.
    """
    counted = answers.counted(max_dets)
    truth_of = np.full((len(thresholds), len(counted)), NOBODY, dtype=np.int64)
    ignored = np.zeros(truth_of.shape, dtype=np.bool_)
    for mine, truths in _groups(ground_truth, counted):
        crowd = ground_truth.is_crowd[truths]
        iou = overlaps(counted.boxes_xywh[mine], ground_truth.boxes_xywh[truths], crowd)
        free = np.ones((len(thresholds), len(truths)), dtype=np.bool_)
        for i in np.flatnonzero(iou.max(axis=1) >= min(thresholds)):
            for t, threshold in enumerate(thresholds):
                fits = iou[i] >= min(threshold, 1 - 1e-10)
                single = fits & ~crowd & free[t]
                if single.any():
                    chosen = _last_best(np.where(single, iou[i], -1.0))
                    free[t, chosen] = False
                    truth_of[t, mine[i]] = truths[chosen]
                else:
                    ignored[t, mine[i]] = (fits & crowd).any()
    return Meeting(ground_truth, counted, tuple(thresholds), truth_of, ignored)


def average_precision(correct: Bools, truths: int) -> float:
    """Of one category, `correct` (n,) best first: precision made falling, averaged at 101 recalls. NaN without truths.

    Source: pycocotools' accumulate.
    """
    if truths == 0:
        return float("nan")
    hits = np.cumsum(correct)
    recall = hits / truths
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())


def mean_average_precision(category_of: Ints, correct: Bools, wanted: Mapping[int, int]) -> float | None:
    """Over the categories of `wanted`, which says how many truths each has; answers (n,) come best first.

    A category with nothing left to find counts 0 while it has answers, and not at all without, as in TIDE.
    """
    values = []
    for category, truths in wanted.items():
        mine = category_of == category
        if truths > 0:
            values.append(average_precision(correct[mine], truths))
        elif mine.any():
            values.append(0.0)
    return float(np.mean(values)) if values else None


def overlaps(boxes: Floats, truths: Floats, crowd: Bools | None = None) -> Floats:
    """IoU of (n, 4) with (m, 4) -> (n, m); with a crowd the share of the box that lies in it, as COCO counts."""
    low = np.maximum(boxes[:, None, :2], truths[None, :, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], truths[None, :, :2] + truths[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=-1)
    own, other = boxes[:, 2:].prod(axis=1)[:, None], truths[:, 2:].prod(axis=1)[None]
    whole = own + other - shared
    if crowd is not None:
        whole = np.where(crowd[None], own, whole)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def without_overlapping(answers: Answers, threshold: float) -> Answers:
    """Greedy non-maximum suppression per image and class: an answer goes if a kept, better one has an IoU above.

    What torchvision's `batched_nms` does, by image and class, without torch.
    """
    ordered = answers.take(np.lexsort((answers.image_of, -answers.scores)))
    keep = np.ones(len(ordered), dtype=np.bool_)
    for mine in grouped(ordered.image_of, ordered.category_of):
        if len(mine) > 1:
            keep[mine] = _kept(ordered.boxes_xywh[mine], threshold)
    return ordered.take(keep)


def _kept(boxes: Floats, threshold: float) -> Bools:
    """Of boxes (n, 4), best first."""
    above = np.triu(overlaps(boxes, boxes) > threshold, k=1)
    keep = np.ones(len(boxes), dtype=np.bool_)
    for i in np.flatnonzero(above.any(axis=1)):
        if keep[i]:
            keep &= ~above[i]
    return keep


def size_of(areas: Floats) -> Ints:
    """Places in SIZES by COCO's areas, (M,) -> (M,). COCO counts a truth of just 32 x 32 pixels twice; here it is
    medium, and one of 96 x 96 is large.
    """
    return np.digitize(areas, [32.0**2, 96.0**2]).astype(np.int64)


def grouped(*keys: Ints) -> Iterator[Ints]:
    """The places of equal keys, ascending within a group."""
    if len(keys[0]) == 0:
        return
    order = np.lexsort(keys)
    changes = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    yield from np.split(order, np.flatnonzero(changes) + 1)


def _groups(ground_truth: GroundTruth, answers: Answers) -> Iterator[tuple[Ints, Ints]]:
    """Answers and truths of each image and class that has both."""
    truths = {
        (int(ground_truth.image_of[group[0]]), int(ground_truth.category_of[group[0]])): group
        for group in grouped(ground_truth.image_of, ground_truth.category_of)
    }
    for mine in grouped(answers.image_of, answers.category_of):
        there = truths.get((int(answers.image_of[mine[0]]), int(answers.category_of[mine[0]])))
        if there is not None:
            yield mine, there


def _rank_in_group(*keys: Ints) -> Ints:
    """0 for the first of its group, 1 for the next, ..."""
    places = np.arange(len(keys[0]))
    order = np.lexsort(keys)
    starts = np.any([key[order] != np.roll(key[order], 1) for key in keys], axis=0) | (places == 0)
    ranks = np.empty_like(places)
    ranks[order] = places - np.maximum.accumulate(np.where(starts, places, 0))
    return ranks


def _last_best(values: Floats) -> int:
    """The last of equal maxima, as pycocotools takes it."""
    return len(values) - 1 - int(np.argmax(values[::-1]))
