"""What each object query predicts over many images: where, how large, of which class, and how often it counts.

N images, Q queries, C classes, K boxes, A numbers of a start (2 or 4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from detrctl.inspection.matching import class_scores
from detrctl.inspection.recording import require_queries
from detrctl.model.queries import Grouped, ProposedBoxes, ProposedQueries
from detrctl.structures import Assignment, Detections, Predictions, Proposals, Queries, Tokens

GRID = 8
"""The entropy of place is that of a box's centre among GRID x GRID equal cells of the image: 6 bits at most."""

Kind = Literal["small", "wide", "tall", "large"]
KINDS: tuple[Kind, ...] = ("small", "wide", "tall", "large")
SMALL_SIDE = 0.2
LONG_SIDES = 1.5
"""Small: the root of a box's area is below 0.2 of that of the image. Of the others, wide and tall ones have one side
at least 1.5 times the other, both as fractions of the image's; large are the rest.
"""

AREA_EDGES = tuple(float(edge) for edge in 10 ** np.linspace(-4, 0, 17))
"""Of area histograms, in fractions of the image's area: four to each power of ten."""

ToldBy = Literal["slot", "rank", "rank and content", "distinct rank", "distinct rank and content"]
"""Distinct: the model chooses proposals with `EncoderProposals.max_iou`."""


DISTINCT_FIRST = " Repetitions of better proposals (IoU above model.proposal_nms) rank after all others."
AND_CONTENT = " and by the content that the query of this rank has learned, which is the same in every image"


def _told_by_rank(*, order: str = "", also: str = "") -> str:
    return (
        "A query here has no place of its own: query q starts from the encoder's proposal of rank q, best first, which "
        f"lies elsewhere in every image.{order} What is told by q is told by rank{also}; a wide spread of places is "
        "expected."
    )


CAPTIONS: dict[ToldBy, str] = {
    "slot": "A query here is a learned slot, the same in every image, so what it predicts over many images says which "
    "places, sizes and classes it has specialised in.",
    "rank": _told_by_rank(),
    "rank and content": _told_by_rank(also=AND_CONTENT),
    "distinct rank": _told_by_rank(order=DISTINCT_FIRST),
    "distinct rank and content": _told_by_rank(order=DISTINCT_FIRST, also=AND_CONTENT),
}


@dataclass(frozen=True, eq=False)
class QueryRecords:
    """The last layer's answers over N images.

    `boxes` (N, Q, 4) cxcywh in fractions of the image; `scores` and `labels` (N, Q), each query's best class; `kept`
    (N, Q), how many detections with a sufficient score are the query's; `kept_labels` (Q, C), their classes; `matched`
    (N, Q) bool, whether a truth is matched with the query. `proposals` (N, Q, 4), the boxes that the queries of a
    two-stage detector start from.

    Images with fewer tokens than queries get fewer queries in two stages; the boxes of those missing are NaN.
    """

    image_ids: tuple[int, ...]
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    kept: np.ndarray
    kept_labels: np.ndarray
    matched: np.ndarray
    proposals: np.ndarray | None = None

    @property
    def queries(self) -> int:
        return self.boxes.shape[1]

    @property
    def is_there(self) -> np.ndarray:
        """(N, Q) bool"""
        return np.isfinite(self.boxes[..., 0])

    @property
    def mean_scores(self) -> np.ndarray:
        """(Q,)"""
        there = self.is_there
        return np.where(there, self.scores, 0).sum(0) / there.sum(0)

    @property
    def most_used(self) -> list[int]:
        """All queries, by detections kept, then by times matched, then by mean score."""
        keys = (-self.mean_scores, -self.matched.sum(0), -self.kept.sum(0))
        return [int(query) for query in np.lexsort(keys)]

    def boxes_of(self, query: int, *, kept: bool) -> np.ndarray:
        """(K, 4): one in every image, or only where a detection is kept."""
        return self.boxes[self.kept[:, query] > 0 if kept else self.is_there[:, query], query]

    def proposals_of(self, query: int) -> np.ndarray | None:
        """(K, 4), one in every image; None without a second stage."""
        return None if self.proposals is None else self.proposals[self.is_there[:, query], query]


class Collector:
    """Batches of answers become `QueryRecords`; a detection is kept from score `least` on."""

    def __init__(self, *, num_classes: int, least: float):
        self._classes, self._least = num_classes, least
        self._image_ids: list[int] = []
        self._parts: list[list[np.ndarray]] = []

    def add(
        self,
        final: Predictions,
        detections: Sequence[Detections],
        assignment: Assignment,
        proposals: Proposals | None = None,
    ) -> int:
        """`final` are the last layer's predictions, and `detections` what was made of them. Returns `images`."""
        images, queries = final.boxes.shape[:2]
        best, labels = class_scores(final.logits, self._classes).max(-1)
        kept, matched = torch.zeros(images, queries, dtype=torch.int64), torch.zeros(images, queries, dtype=torch.bool)
        kept_labels = torch.zeros(images, queries, self._classes, dtype=torch.int64)
        for row, found in enumerate(detections):
            mine = found.keep(found.scores >= self._least)
            ones = torch.ones(len(mine), dtype=torch.int64)
            kept[row].index_add_(0, mine.queries.cpu(), ones)
            kept_labels[row].index_put_((mine.queries.cpu(), mine.labels.cpu()), ones, accumulate=True)
        matched[assignment.image.cpu(), assignment.query.cpu()] = True
        self._image_ids += [found.image_id for found in detections]
        tensors = [final.boxes.float(), best, labels, kept, matched]
        if proposals is not None:
            tensors.append(proposals.best().boxes.float())
        parts = [tensor.cpu().numpy() for tensor in tensors]
        self._parts.append([*parts, kept_labels.sum(0, keepdim=True).numpy()])
        return self.images

    @property
    def images(self) -> int:
        """How many were added so far."""
        return len(self._image_ids)

    def records(self) -> QueryRecords:
        """All that was added, at least one batch."""
        queries = max(parts[0].shape[1] for parts in self._parts)
        *tensors, kept_labels = (
            np.concatenate([_with_queries(part, queries) for part in parts]) for parts in zip(*self._parts, strict=True)
        )
        boxes, scores, labels, kept, matched, *proposals = tensors
        return QueryRecords(
            tuple(self._image_ids),
            boxes,
            scores,
            labels,
            kept,
            kept_labels.sum(0),
            matched,
            proposals[0] if proposals else None,
        )


def _with_queries(part: np.ndarray, queries: int) -> np.ndarray:
    """(B, fewer, ...) -> (B, Q, ...); what is missing is NaN, or 0 in whole numbers."""
    missing = queries - part.shape[1]
    if missing == 0:
        return part
    fill = np.nan if part.dtype.kind == "f" else 0
    return np.pad(part, [(0, 0), (0, missing), *[(0, 0)] * (part.ndim - 2)], constant_values=fill)


# ---- statistics ----


@dataclass(frozen=True)
class BoxSummary:
    """Of K boxes: means and standard deviations in fractions of the image, entropies in bits; None where K is 0.

    `classes` counts what was said, and can exceed K where a query answers with several classes. `areas` counts the
    boxes between neighbouring `AREA_EDGES`.
    """

    boxes: int
    centre: tuple[float, float] | None
    centre_spread: tuple[float, float] | None
    size: tuple[float, float] | None
    size_spread: tuple[float, float] | None
    place_entropy: float | None
    class_entropy: float | None
    classes: tuple[int, ...]
    kinds: dict[Kind, int]
    areas: tuple[int, ...]


@dataclass(frozen=True)
class QuerySummary:
    """`detections`: those kept. `all` sums up a box of every image, `kept` those with a detection that is kept.

    A query is `dead` if in no image a detection of its is kept or a truth matched with it.
    """

    query: int
    detections: int
    matched: int
    mean_score: float
    kept: BoxSummary
    all: BoxSummary

    @property
    def dead(self) -> bool:
        return self.detections == 0 and self.matched == 0


def summarise(records: QueryRecords) -> list[QuerySummary]:
    """Query by query."""
    classes, mean_scores, there = records.kept_labels.shape[1], records.mean_scores, records.is_there
    return [
        QuerySummary(
            query=query,
            detections=int(records.kept[:, query].sum()),
            matched=int(records.matched[:, query].sum()),
            mean_score=float(mean_scores[query]),
            kept=_sum_up(records.boxes_of(query, kept=True), records.kept_labels[query]),
            all=_sum_up(
                records.boxes_of(query, kept=False),
                np.bincount(records.labels[there[:, query], query], minlength=classes),
            ),
        )
        for query in range(records.queries)
    ]


def _sum_up(boxes: np.ndarray, class_counts: np.ndarray) -> BoxSummary:
    """(K, 4), (C,)"""
    counts = tuple(int(count) for count in class_counts)
    kinds = kinds_of(boxes)
    of_kinds: dict[Kind, int] = {kind: int((kinds == kind).sum()) for kind in KINDS}
    areas = area_counts(boxes)
    if len(boxes) == 0:
        return BoxSummary(0, None, None, None, None, None, None, counts, of_kinds, areas)
    mean, spread = boxes.mean(0, dtype=np.float64), boxes.std(0, dtype=np.float64)
    return BoxSummary(
        boxes=len(boxes),
        centre=_pair(mean[:2]),
        centre_spread=_pair(spread[:2]),
        size=_pair(mean[2:]),
        size_spread=_pair(spread[2:]),
        place_entropy=entropy(place_counts(boxes[:, :2]).ravel()),
        class_entropy=entropy(class_counts),
        classes=counts,
        kinds=of_kinds,
        areas=areas,
    )


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def entropy(counts: np.ndarray) -> float | None:
    """Of a distribution given by counts, in bits; None where nothing was counted."""
    total = counts.sum()
    if total == 0:
        return None
    shares = counts[counts > 0] / total
    return max(0.0, float(-(shares * np.log2(shares)).sum()))


def place_counts(centres: np.ndarray) -> np.ndarray:
    """(K, 2) as (x, y) -> (GRID, GRID), rows first; a centre outside the image counts at its border."""
    cells = np.clip((centres * GRID).astype(int), 0, GRID - 1)
    counts = np.zeros((GRID, GRID), dtype=np.int64)
    np.add.at(counts, (cells[:, 1], cells[:, 0]), 1)
    return counts


def area_counts(boxes: np.ndarray) -> tuple[int, ...]:
    """(K, 4) -> how many lie between neighbouring `AREA_EDGES`; what is beyond them counts in the outer ones."""
    areas = np.clip(boxes[:, 2] * boxes[:, 3], AREA_EDGES[0], AREA_EDGES[-1])
    return tuple(int(count) for count in np.histogram(areas, AREA_EDGES)[0])


def kinds_of(boxes: np.ndarray) -> np.ndarray:
    """(K, 4) cxcywh -> (K,) of `KINDS`"""
    width, height = boxes[:, 2], boxes[:, 3]
    is_small = np.sqrt(np.maximum(width * height, 0)) < SMALL_SIDE
    conditions = [is_small, width >= LONG_SIDES * height, height >= LONG_SIDES * width]
    return np.select(conditions, ["small", "wide", "tall"], default="large")


# ---- what a query is ----


def told_by(network: nn.Module) -> ToldBy:
    """What the number of a query means in this detector; `CAPTIONS` says it in words."""
    queries = require_queries(network).queries
    if not isinstance(queries, ProposedBoxes | ProposedQueries):
        return "slot"
    is_distinct = queries.proposals.max_iou is not None
    if isinstance(queries, ProposedBoxes):
        return "distinct rank and content" if is_distinct else "rank and content"
    return "distinct rank" if is_distinct else "rank"


@torch.no_grad()
def learned_starts(network: nn.Module) -> np.ndarray | None:
    """Where queries start in every image, (Q, A): learned points (x, y) or boxes cxcywh, as fractions of the image.

    None where they start nowhere (DETR) or in each image elsewhere (proposals).
    """
    queries = require_queries(network).queries
    if not isinstance(queries, Grouped):
        return None
    made: Queries = queries.eval()(_no_image(next(queries.parameters())))
    return None if made.reference is None else made.reference[0].float().cpu().numpy()


def _no_image(like: Tensor) -> Tokens:
    """Learned queries read nothing off the memory but its batch size, type and device."""
    nothing = like.new_zeros(1, 1, 1)
    return Tokens(nothing, nothing, nothing[..., 0].bool(), ((1, 1),), like.new_ones(1, 1, 2))


def learned_contents(network: nn.Module) -> np.ndarray | None:
    """The learned content of each rank, (Q, D), in DINO; None elsewhere."""
    queries = require_queries(network).queries
    return queries.content.weight.detach().float().cpu().numpy() if isinstance(queries, ProposedBoxes) else None


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """(Q, D) -> their places (Q, 2) on the two axes along which they vary most, and the share of variance on these."""
    centred = vectors - vectors.mean(0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    variance = strengths**2
    share = float(variance[:2].sum() / variance.sum()) if variance.sum() > 0 else math.nan
    return left[:, :2] * strengths[:2], share
