"""Is one detector better than another, or did the images only fall that way? A paired bootstrap over images.

Images are drawn with replacement and both detectors are scored on the same draw, many times over; the spread of the
difference is the interval. COCO's AP is not a mean over images, so every draw needs its own precision-recall curves;
the matching of detections to truths, however, is done within each image, once. A draw is therefore a weight per
image (how often it was drawn), and a curve is a weighted running sum over detections that are already matched.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13 (percentile intervals).

Letters in shapes: I images, K detections of one class in all images, T IoU thresholds, R recall points, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrctl.errors import DetrctlError
from detrctl.evaluation.coco_metrics import SIZES, eval_images
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.results import Result

RECALL_POINTS = np.linspace(0.0, 1.0, 101)
"""Where COCO reads the precision-recall curve. `np.linspace`, as the evaluator does: 0.01 * n differs in last bits."""

EPSILON = np.spacing(1)
"""The evaluator's own guard against 0 / 0."""


@dataclass(frozen=True)
class ClassMatches:
    """One class: how its detections met the truths, best score first, and where the truths are.

    `images` (K,) int64 is the position of each detection's image; `hits` and `misses` (T, K) bool: true and false
    positives (neither, where the evaluator ignores the detection); `truths` (I,) int64 counts the truths that can be
    found in each image.
    """

    images: NDArray[np.int64]
    hits: NDArray[np.bool_]
    misses: NDArray[np.bool_]
    truths: NDArray[np.int64]

    @cached_property
    def places_of_hits(self) -> NDArray[np.int64]:
        """(T, H) which detections are true positives, in order; rows with fewer are filled up with K."""
        most = max(1, int(self.hits.sum(axis=1).max(initial=0)))
        places = np.full((len(self.hits), most), self.hits.shape[1], dtype=np.int64)
        for row, hit in zip(places, self.hits, strict=True):
            row[: np.count_nonzero(hit)] = np.flatnonzero(hit)
        return places

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """(T, K + 1), (1, K + 1) if all rows are equal: which detections count at all, and one more behind them."""
        counted = np.pad(self.hits | self.misses, ((0, 0), (0, 1)))
        return counted[:1] if (counted == counted[0]).all() else counted


@dataclass(frozen=True)
class ImageMatches:
    """One detector on one set of images: an entry per class, all with the same I and T."""

    classes: tuple[ClassMatches, ...]
    num_images: int

    def __post_init__(self) -> None:
        if not self.classes or self.num_images < 1:
            raise DetrctlError("bootstrap: there must be at least one image and one class to compare on")


@dataclass(frozen=True)
class Interval:
    """A difference of APs, first minus second: on the images as they are, and the interval that bootstrapping gives.

    `share_above_zero` is the share of draws in which the first detector had the higher AP; ties count half.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    share_above_zero: float


@dataclass(frozen=True)
class PairedBootstrap:
    """What `paired_bootstrap` found, for AP (mean over the IoU thresholds) and for the lowest threshold alone."""

    ap: Interval
    ap50: Interval
    resamples: int
    seed: int
    level: float


def _class_matches(per_image: Sequence[Mapping[str, Any] | None], max_dets: int) -> ClassMatches:
    """One class's entries of `COCOeval.evalImgs`, one area range, in the order of the images."""
    present = [(i, entry) for i, entry in enumerate(per_image) if entry is not None]
    truths = np.zeros(len(per_image), dtype=np.int64)
    for i, entry in present:
        truths[i] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
    if not present:
        nothing = np.zeros((1, 0), dtype=bool)
        return ClassMatches(np.zeros(0, dtype=np.int64), nothing, nothing, truths)
    scores = np.concatenate([np.asarray(entry["dtScores"], dtype=float)[:max_dets] for _, entry in present])
    images = np.concatenate([np.full(len(entry["dtScores"][:max_dets]), i, dtype=np.int64) for i, entry in present])
    matched = np.concatenate([np.asarray(entry["dtMatches"])[:, :max_dets] for _, entry in present], axis=1) != 0
    ignored = np.concatenate([np.asarray(entry["dtIgnore"])[:, :max_dets] for _, entry in present], axis=1) != 0
    order = np.argsort(-scores, kind="mergesort")  # stable, and on the negated scores: ties fall as in the evaluator
    return ClassMatches(images[order], (matched & ~ignored)[:, order], (~matched & ~ignored)[:, order], truths)


def match_images(
    ground_truth: GroundTruth, results: Sequence[Result], *, max_dets: int = 100, source: str = "results"
) -> dict[str, ImageMatches]:
    """Which detection met which truth in every image: for objects of `all` sizes, `small`, `medium` and `large` ones.

    An empty result list is fine. Raises DataError, calling the results `source`, when one is about an unknown image or
    category.
    """
    entries = eval_images(ground_truth, results, max_dets=max_dets, source=source)
    images = len(ground_truth.image_ids)
    return {
        size: matches_from_eval_images(entries, num_images=images, area=area, max_dets=max_dets)
        for area, size in enumerate(("all", *SIZES))
    }


def matches_from_eval_images(
    eval_images: Sequence[Mapping[str, Any] | None],
    *,
    num_images: int,
    num_areas: int = 4,
    area: int = 0,
    max_dets: int = 100,
) -> ImageMatches:
    """`COCOeval.evalImgs` after `evaluate()`, in the order [C, areas, I], -> the matches in one of the area ranges.

    The first area range is that of all sizes. Annotation ids must not be 0: the evaluator stores the id of the truth
    that a detection met, and reads 0 as "met none".
    """
    per_class = num_images * num_areas
    if per_class == 0 or len(eval_images) % per_class:
        raise DetrctlError(
            f"bootstrap: {len(eval_images)} entries are not a whole number of classes "
            f"for {num_images} images and {num_areas} area ranges"
        )
    starts = range(area * num_images, len(eval_images), per_class)
    return ImageMatches(
        tuple(_class_matches(eval_images[start : start + num_images], max_dets) for start in starts), num_images
    )


def _class_precision(matches: ClassMatches, weights: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Interpolated precision at the recall points when image i counts `weights[i]` times: -> (T, R); None: no truths.

    Only true positives are looked at: nowhere else does recall grow, or precision have a peak. Repeats of a detection
    lie side by side on the curve, where only the last of them can matter: a true positive's later repeats have the
    higher precision, a false positive's do not move the recall.
    """
    truths = int(weights @ matches.truths)
    if truths == 0:
        return None
    times = np.append(weights[matches.images], 0)
    places, counted = matches.places_of_hits, matches.counted
    hits = np.cumsum(times[places], axis=1)  # (T, H)
    met = np.cumsum(times * counted, axis=1)  # (T or 1, K + 1), true and false positives up to each detection
    precision = hits / (np.take_along_axis(np.broadcast_to(met, (len(places), met.shape[1])), places, axis=1) + EPSILON)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # A column of zeros stands for recalls that are never reached.
    envelope = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
    return np.take_along_axis(envelope, _first_reached(hits, truths), axis=1)


def _first_reached(hits: NDArray[np.int64], truths: int) -> NDArray[np.int64]:
    """(T, H) running counts of true positives -> (T, R) where each recall point is reached first; H: never.

    Counts are compared instead of recalls, so that all rows can stand in one ascending list, each above the one before.
    """
    enough = np.searchsorted(np.arange(truths + 1) / truths, RECALL_POINTS, side="left")
    row, length = np.arange(len(hits))[:, None], hits.shape[1]
    above = row * (truths + 1)
    return np.searchsorted((hits + above).ravel(), enough + above, side="left") - row * length


def precision_table(matches: ImageMatches, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """(I,) how often each image counts -> (T, R, C') precision, for the C' classes that have truths among them."""
    weights = np.asarray(weights, dtype=np.int64)
    if weights.shape != (matches.num_images,):
        raise DetrctlError(f"bootstrap: {weights.shape} weights for {matches.num_images} images: one each is needed")
    tables = [_class_precision(one, weights) for one in matches.classes]
    present = [table for table in tables if table is not None]
    if not present:
        return np.zeros((1, len(RECALL_POINTS), 0))
    return np.stack(present, axis=2)


def average_precision(matches: ImageMatches, weights: NDArray[np.int64]) -> tuple[float, float]:
    """(I,) how often each image counts -> (AP, AP at the lowest threshold); NaN where no image drawn has truths.

    With weights of 1 these are COCO's AP and AP50, to the last bit.
    """
    table = precision_table(matches, weights)
    if table.size == 0:
        return float("nan"), float("nan")
    return float(np.mean(table.ravel())), float(np.mean(table[:1].ravel()))


@dataclass(frozen=True, eq=False)
class Resampled:
    """One score: on the images as they are, and on each draw (D,); NaN where no image drawn has truths."""

    whole: float
    drawn: NDArray[np.float64]


def draw_images(num_images: int, *, resamples: int, seed: int) -> NDArray[np.int64]:
    """(resamples, I): how often each draw takes each image. The same arguments give the same draws."""
    return np.random.default_rng(seed).multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)


def resampled(matches: ImageMatches, draws: NDArray[np.int64]) -> tuple[Resampled, Resampled]:
    """(D, I) draws -> AP, and AP at the lowest threshold. Detectors that share draws can be compared in pairs."""
    whole = average_precision(matches, np.ones(matches.num_images, dtype=np.int64))
    drawn = np.array([average_precision(matches, weights) for weights in draws])
    return Resampled(whole[0], drawn[:, 0]), Resampled(whole[1], drawn[:, 1])


def mean_of(scores: Sequence[Resampled]) -> Resampled:
    """The mean score of several detectors, on the same draws."""
    return Resampled(
        float(np.mean([score.whole for score in scores])), np.mean([score.drawn for score in scores], axis=0)
    )


def interval_of_difference(first: Resampled, second: Resampled, *, level: float = 0.95) -> Interval:
    """The percentile interval of `first` minus `second`, both on the same draws. DetrctlError where none has truths."""
    difference = first.drawn - second.drawn
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        raise DetrctlError("bootstrap: no draw held a single truth; is this the right annotation file?")
    tail = (1 - level) / 2
    low, high = np.quantile(difference, [tail, 1 - tail])
    above = float(np.mean(difference > 0) + 0.5 * np.mean(difference == 0))
    return Interval(first.whole, second.whole, first.whole - second.whole, float(low), float(high), above)


def paired_bootstrap(
    first: ImageMatches, second: ImageMatches, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> PairedBootstrap:
    """Compare two detectors on the same images: AP of `first` minus AP of `second`, with percentile intervals.

    Says how far the difference could move with other images of the same kind. It does not cover what another
    training run of either detector would give: that takes several seeds.
    """
    if first.num_images != second.num_images or len(first.classes) != len(second.classes):
        raise DetrctlError("bootstrap: both detectors must be scored on the same images and classes")
    if resamples < 1 or not 0 < level < 1:
        raise DetrctlError("bootstrap: `resamples` must be at least 1, and `level` between 0 and 1")
    draws = draw_images(first.num_images, resamples=resamples, seed=seed)
    (ap, ap50), (other_ap, other_ap50) = resampled(first, draws), resampled(second, draws)
    return PairedBootstrap(
        ap=interval_of_difference(ap, other_ap, level=level),
        ap50=interval_of_difference(ap50, other_ap50, level=level),
        resamples=resamples,
        seed=seed,
        level=level,
    )
