"""The COCO detection scores, by pycocotools' matching and this project's bookkeeping around it.

T IoU thresholds, R recall levels, K categories, A size ranges, M limits on detections per image and category.
What pycocotools does not get right by itself is settled here: it takes a truth with annotation id 0 for unmatched,
it stops on an empty result list, its summary knows no limit but 100, and it prints.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detrctl.errors import DetrctlError
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.results import Result, check_known

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e5**2)}
"""Areas in pixels of the original image, both ends included, as COCO defines them."""


@dataclass(frozen=True)
class ClassScore:
    """One category: its scores (None without truths), how many truths it has, and in how many images."""

    id: int
    name: str
    AP: float | None
    AP50: float | None
    truths: int
    images: int


@dataclass(frozen=True)
class CocoScores:
    """The twelve numbers by name, 0 to 1, None where there is no ground truth of that kind.

    AP, AP50, AP75, APs, APm, APl, ARs, ARm, ARl count at most `max_dets` detections per image and category. AR1, AR10
    and AR100 count at most 1, 10 and 100 of these; where `max_dets` is above 100, the recall at that limit is there
    too, named e.g. `AR300`. `truths_by_size` counts truths that are small, medium, large in COCO's sense. Crowds are
    never counted as truths.
    """

    numbers: Mapping[str, float | None]
    per_class: tuple[ClassScore, ...]
    images: int
    truths: int
    truths_by_size: Mapping[str, int]
    max_dets: int = 100

    def __getitem__(self, name: str) -> float | None:
        return self.numbers[name]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the numbers under their names, then the counts and the categories."""
        return {
            **self.numbers,
            "max_dets": self.max_dets,
            "images": self.images,
            "truths": self.truths,
            "truths_by_size": dict(self.truths_by_size),
            "per_class": [vars(row) for row in self.per_class],
        }


def score(
    ground_truth: GroundTruth, results: Sequence[Result], *, max_dets: int = 100, source: str = "results"
) -> CocoScores:
    """Scores COCO results; `max_dets` limits the detections that count per image and category.

    Raises DataError, calling the results `source`, when one is about an unknown image or category.
    """
    if max_dets < 1:
        raise DetrctlError(f"max_dets is {max_dets}, at least 1 is needed")
    check_known(results, ground_truth, source=source)
    limits = sorted({1, 10, 100, max_dets} if max_dets > 100 else {min(limit, max_dets) for limit in (1, 10, 100)})
    curves = _Curves(*_accumulate(ground_truth, results, limits), limits=tuple(limits))
    truths = ~ground_truth.is_crowd
    return CocoScores(
        numbers=curves.numbers(),
        per_class=tuple(_per_class(ground_truth, curves)),
        images=len(ground_truth.image_ids),
        truths=int(truths.sum()),
        truths_by_size={
            name: int((truths & (ground_truth.areas >= low) & (ground_truth.areas <= high)).sum())
            for name, (low, high) in SIZES.items()
        },
        max_dets=max_dets,
    )


@dataclass(frozen=True, eq=False)
class _Curves:
    """`precision` (T, R, K, A, M) and `recall` (T, K, A, M) as pycocotools accumulates them, -1 without truths."""

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    limits: tuple[int, ...]

    def numbers(self) -> dict[str, float | None]:
        """Averages in the order of NAMES; axis A is all, small, medium, large, axis M ascends to `max_dets`."""
        precision, recall = self.precision[..., -1], self.recall[..., -1]
        at = {limit: _mean(self.recall[:, :, 0, m]) for m, limit in enumerate(self.limits)}
        most = self.limits[-1]
        beyond = {f"AR{most}": at[most]} if most > 100 else {}
        return {
            "AP": _mean(precision[..., 0]),
            "AP50": _mean(precision[0, ..., 0]),
            "AP75": _mean(precision[5, ..., 0]),
            "APs": _mean(precision[..., 1]),
            "APm": _mean(precision[..., 2]),
            "APl": _mean(precision[..., 3]),
            **{f"AR{limit}": at[min(limit, most)] for limit in (1, 10, 100)},
            "ARs": _mean(recall[..., 1]),
            "ARm": _mean(recall[..., 2]),
            "ARl": _mean(recall[..., 3]),
            **beyond,
        }


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    """Over what has truths; categories without any do not count."""
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def _per_class(ground_truth: GroundTruth, curves: _Curves) -> Iterator[ClassScore]:
    # pycocotools orders the categories by id
    place = {category: k for k, category in enumerate(sorted(ground_truth.category_ids))}
    for category, name in zip(ground_truth.category_ids, ground_truth.category_names, strict=True):
        precision = curves.precision[:, :, place[category], 0, -1]
        mine = (ground_truth.category_of == category) & ~ground_truth.is_crowd
        yield ClassScore(
            id=category,
            name=name,
            AP=_mean(precision),
            AP50=_mean(precision[0]),
            truths=int(mine.sum()),
            images=len(np.unique(ground_truth.image_of[mine])),
        )


class _Annotations:
    """The four questions that pycocotools' evaluator asks about truths or results, without its index or its prints."""

    def __init__(self, ground_truth: GroundTruth, annotations: list[dict[str, Any]]):
        self._ground_truth = ground_truth
        self._annotations = annotations

    def getImgIds(self) -> list[int]:
        return self._ground_truth.image_ids.tolist()

    def getCatIds(self) -> list[int]:
        return list(self._ground_truth.category_ids)

    def getAnnIds(self, **_: object) -> None:
        """Everything here is about the images and categories asked for, so no ids are needed."""

    def loadAnns(self, _: None) -> list[dict[str, Any]]:
        return self._annotations


def _truths(ground_truth: GroundTruth) -> list[dict[str, Any]]:
    """pycocotools' annotations, ids from 1: it stores the matched id and takes 0 for `no match`."""
    rows = zip(
        ground_truth.image_of.tolist(),
        ground_truth.category_of.tolist(),
        ground_truth.boxes_xywh.tolist(),
        ground_truth.areas.tolist(),
        ground_truth.is_crowd.tolist(),
        strict=True,
    )
    return [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for i, (image, category, box, area, crowd) in enumerate(rows, start=1)
    ]


def _answers(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [
        {
            "id": i,
            "image_id": result["image_id"],
            "category_id": result["category_id"],
            "bbox": result["bbox"],
            "area": result["bbox"][2] * result["bbox"][3],
            "score": result["score"],
        }
        for i, result in enumerate(results, start=1)
    ]


def _evaluator(ground_truth: GroundTruth, results: Sequence[Result], limits: list[int]) -> Any:
    """pycocotools' evaluator after it has matched; silent."""
    from pycocotools.cocoeval import COCOeval  # here, since it is not needed to describe scores

    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(
            _Annotations(ground_truth, _truths(ground_truth)),
            _Annotations(ground_truth, _answers(results)),
            iouType="bbox",
        )
        evaluator.params.maxDets = limits
        evaluator.evaluate()
    return evaluator


def _accumulate(
    ground_truth: GroundTruth, results: Sequence[Result], limits: list[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M)."""
    evaluator = _evaluator(ground_truth, results, limits)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


def eval_images(
    ground_truth: GroundTruth, results: Sequence[Result], *, max_dets: int = 100, source: str = "results"
) -> list[dict[str, Any] | None]:
    """pycocotools' own record of what met what: an entry (or None) per category, size range and image, in this order.

    Size ranges are all and then those of SIZES; categories and images ascend by id. At most `max_dets` detections per
    image and category. Raises DataError, calling the results `source`, when one is about an unknown image or category.
    """
    check_known(results, ground_truth, source=source)
    return _evaluator(ground_truth, results, [max_dets]).evalImgs
