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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrctl.errors import DetrctlError

RECALL_POINTS = np.linspace(0.0, 1.0, 101)
"""Where COCO reads the precision-recall curve. `np.linspace`, as the evaluator does: 0.01 * n differs in last bits."""


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


def matches_from_eval_images(
    eval_images: Sequence[Mapping[str, Any] | None], *, num_images: int, num_areas: int = 4, max_dets: int = 100
) -> ImageMatches:
    """`COCOeval.evalImgs` after `evaluate()`, which lies in the order [C, areas, I], -> the matches for all areas.

    Uses the first area range ("all"). Annotation ids must not be 0: the evaluator stores the id of the truth that a
    detection met, and reads 0 as "met none".
    """
    per_class = num_images * num_areas
    if per_class == 0 or len(eval_images) % per_class:
        raise DetrctlError(
            f"bootstrap: {len(eval_images)} entries are not a whole number of classes "
            f"for {num_images} images and {num_areas} area ranges"
        )
    starts = range(0, len(eval_images), per_class)
    return ImageMatches(
        tuple(_class_matches(eval_images[start : start + num_images], max_dets) for start in starts), num_images
    )


def _class_precision(matches: ClassMatches, weights: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Interpolated precision at the recall points when image i counts `weights[i]` times: -> (T, R); None: no truths.

    Repeats of a detection lie side by side on the curve, where only the last of them can matter: a true positive's
    later repeats have the higher precision, a false positive's do not move the recall.
    """
    truths = int(weights @ matches.truths)
    if truths == 0:
        return None
    times = weights[matches.images]
    hits = np.cumsum(matches.hits * times, axis=1).astype(float)
    misses = np.cumsum(matches.misses * times, axis=1).astype(float)
    recall = hits / truths
    precision = hits / (misses + hits + np.spacing(1))  # the evaluator's own guard against 0 / 0
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # A column of zeros stands for recalls that are never reached.
    envelope = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
    first = np.stack([np.searchsorted(row, RECALL_POINTS, side="left") for row in recall])
    return np.take_along_axis(envelope, first, axis=1)


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


def _interval(whole: NDArray[np.float64], drawn: NDArray[np.float64], level: float) -> Interval:
    """(2,) the two APs on all images, (resamples, 2) the same on each draw -> the interval of their difference."""
    difference = drawn[:, 0] - drawn[:, 1]
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        raise DetrctlError("bootstrap: no draw held a single truth; is this the right annotation file?")
    tail = (1 - level) / 2
    low, high = np.quantile(difference, [tail, 1 - tail])
    above = float(np.mean(difference > 0) + 0.5 * np.mean(difference == 0))
    return Interval(float(whole[0]), float(whole[1]), float(whole[0] - whole[1]), float(low), float(high), above)


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
    count = first.num_images
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    pair = (first, second)
    drawn = np.array([[average_precision(one, weights) for one in pair] for weights in draws])
    whole = np.array([average_precision(one, np.ones(count, dtype=np.int64)) for one in pair])
    return PairedBootstrap(
        ap=_interval(whole[:, 0], drawn[:, :, 0], level),
        ap50=_interval(whole[:, 1], drawn[:, :, 1], level),
        resamples=resamples,
        seed=seed,
        level=level,
    )
