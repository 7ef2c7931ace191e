"""Who matches whom, and at what price: the cost table of each image and decoder layer, and what can be read off it.

B batch, Q queries, G true boxes of one image, C classes, M matched pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from detrctl.boxes import Cxcywh, cxcywh_to_xyxy, pairwise_iou
from detrctl.losses.matcher import CostTable, Matcher, cheapest_pairs, pad_truths
from detrctl.structures import Assignment, Categories, DetectorOutput, Predictions, Targets

NOBODY = -1
GOOD_IOU = 0.5

Size = Literal["small", "medium", "large"]
SIZES: tuple[Size, ...] = ("small", "medium", "large")
SMALL_AREA, LARGE_AREA = 32.0**2, 96.0**2
"""COCO's limits, in pixels of the original image; the area is that of the box."""


@dataclass(frozen=True, eq=False)
class LayerMatching:
    """What one decoder layer predicts for one image, and the matching made of it. All tensors on the CPU.

    `costs` and `iou` (Q, G); `boxes` (Q, 4); `scores` and `labels` (Q,), each query's best class; `class_scores`
    (Q, G), its score for each truth's class. By truth, (G,): `matched`, the query or NOBODY; `runner_up`, the query
    that it gets in the cheapest matching without its pair; `margin`, what that costs more, infinite if impossible.
    """

    costs: CostTable
    iou: Tensor
    boxes: Cxcywh
    scores: Tensor
    labels: Tensor
    class_scores: Tensor
    matched: Tensor
    runner_up: Tensor
    margin: Tensor


@dataclass(frozen=True, eq=False)
class ImageMatching:
    """One image: its truths, `labels` (G,) and `boxes` (G, 4), and the matching of every decoder layer.

    `identity` (Q,) says what a query is in other checkpoints: the token that proposed it in two-stage detectors, where
    a slot is but a rank, otherwise the slot itself.
    """

    image_id: int
    size_hw: tuple[int, int]
    labels: Tensor
    boxes: Cxcywh
    identity: Tensor
    layers: tuple[LayerMatching, ...]


@dataclass(frozen=True)
class MatchRow:
    """One truth at one decoder layer, layers and truths from 0; None where the truth has no query, or no runner-up.

    `cost_*` are the unweighted parts and their weighted sum. `score` is the query's for the truth's class. `best_iou`
    is that of the query whose box fits best, whoever it matches; `found` says whether some query has an IoU of at
    least 0.5 and the truth's class as its best one.
    """

    image_id: int
    truth: int
    label: str
    size: Size
    layer: int
    query: int
    token: int
    cost_class: float | None
    cost_l1: float | None
    cost_giou: float | None
    cost_total: float | None
    iou: float | None
    score: float | None
    runner_up: int
    margin: float | None
    best_iou: float
    found: bool


# ---- from predictions ----


def match_batch(
    output: DetectorOutput, targets: Sequence[Targets], sizes_hw: Tensor, matcher: Matcher, *, num_classes: int
) -> list[ImageMatching]:
    """Every image of a batch, in evaluation mode (one group of queries); labels are the checkpoint's classes.

    `sizes_hw` (B, 2) are those of the original images. Raises `NonFiniteError` as matching in training does.
    """
    assert output.groups == 1, "queries in groups are matched group by group; inspect in evaluation mode"
    last = len(output.layers)
    by_layer = [
        _match_layer(predictions, targets, matcher, f"decoder layer {layer + 1} of {last}", num_classes)
        for layer, predictions in enumerate(output.layers)
    ]
    slots = torch.arange(output.final.boxes.shape[1])
    return [
        ImageMatching(
            truth.image_id,
            _height_width(sizes_hw[i]),
            truth.labels.cpu(),
            Cxcywh(truth.boxes.float().cpu()),
            slots if output.proposals is None else output.proposals.selected[i].cpu(),
            tuple(layer[i] for layer in by_layer),
        )
        for i, truth in enumerate(targets)
    ]


def _height_width(size: Tensor) -> tuple[int, int]:
    height, width = size.tolist()
    return int(height), int(width)


@torch.no_grad()
def _match_layer(
    predictions: Predictions, targets: Sequence[Targets], matcher: Matcher, where: str, num_classes: int
) -> list[LayerMatching]:
    assignment = matcher(predictions, targets, where=where).to(torch.device("cpu"))
    labels, truth_boxes = pad_truths(targets)
    table = matcher.cost_table(predictions.logits, predictions.boxes, labels, truth_boxes)
    iou = pairwise_iou(cxcywh_to_xyxy(Cxcywh(predictions.boxes.float())), cxcywh_to_xyxy(truth_boxes))
    scores = class_scores(predictions.logits, num_classes)
    best, best_label = scores.max(-1)
    of_truths = scores.gather(-1, labels[:, None].expand(-1, scores.shape[1], -1))
    boxes = predictions.boxes.float()
    matchings = []
    for i, truth in enumerate(targets):
        count = len(truth)
        costs = CostTable(*(part[i, :, :count].cpu() for part in (table.class_cost, table.l1, table.giou, table.total)))
        matched = matched_queries(assignment, i, count)
        runner_up, margin = runners_up(costs.total, matched)
        matchings.append(
            LayerMatching(
                costs,
                iou[i, :, :count].cpu(),
                Cxcywh(boxes[i].cpu()),
                best[i].cpu(),
                best_label[i].cpu(),
                of_truths[i, :, :count].cpu(),
                matched,
                runner_up,
                margin,
            )
        )
    return matchings


def class_scores(logits: Tensor, num_classes: int) -> Tensor:
    """(..., C) or, with a no-object column, (..., C + 1) -> (..., C): softmax where there is such a column."""
    logits = logits.float()
    return logits.softmax(-1)[..., :-1] if logits.shape[-1] == num_classes + 1 else logits.sigmoid()


def matched_queries(assignment: Assignment, image: int, truths: int) -> Tensor:
    """The query of each of an image's truths, (G,); NOBODY for those beyond the number of queries."""
    mine = assignment.image == image
    matched = torch.full((truths,), NOBODY)
    matched[assignment.truth[mine]] = assignment.query[mine]
    return matched


def runners_up(total: Tensor, matched: Tensor) -> tuple[Tensor, Tensor]:
    """For each truth the query it gets if its pair is forbidden, and what the whole matching then costs more.

    (Q, G), (G,) -> (G,), (G,). Where no other truth wants the same queries this is the second cheapest query and the
    difference; where some do, the others may have to move as well, and the margin says what all of it costs. Never
    negative but for rounding. NOBODY and infinity without a pair, or where there is no matching without it.
    """
    truths = total.shape[1]
    runner_up, margin = torch.full((truths,), NOBODY), torch.full((truths,), torch.inf)
    if truths == 0:
        return runner_up, margin
    # A truth never needs more than its G + 1 cheapest queries: the others take at most G - 1, and one is forbidden.
    rows = torch.cat([total.topk(min(truths + 1, len(total)), dim=0, largest=False).indices.flatten(), matched])
    rows = rows[rows != NOBODY].unique()
    table = total[rows].double().numpy()
    columns = (matched != NOBODY).nonzero().flatten().tolist()
    best = sum(float(total[matched[column], column]) for column in columns)
    for column in columns:
        forbidden = table.copy()
        forbidden[int((rows == matched[column]).nonzero()), column] = np.inf
        pairs = cheapest_pairs(forbidden)
        if pairs is None:
            continue
        query, truth = pairs
        margin[column] = float(table[query, truth].sum()) - best
        if column in truth:
            runner_up[column] = rows[int(query[truth == column][0])]
    return runner_up, margin


# ---- rows ----


def match_rows(image: ImageMatching, categories: Categories) -> list[MatchRow]:
    """Layer by layer, truth by truth."""
    return [
        _row(image, layer, truth, categories)
        for layer in range(len(image.layers))
        for truth in range(len(image.labels))
    ]


def _row(image: ImageMatching, index: int, truth: int, categories: Categories) -> MatchRow:
    layer, label = image.layers[index], int(image.labels[truth])
    query, margin = int(layer.matched[truth]), float(layer.margin[truth])
    has_query = query != NOBODY
    costs = layer.costs

    def read(table: Tensor) -> float | None:
        return float(table[query, truth]) if has_query else None

    return MatchRow(
        image_id=image.image_id,
        truth=truth,
        label=categories.names[label],
        size=size_of(image.boxes[truth], image.size_hw),
        layer=index,
        query=query,
        token=int(image.identity[query]) if has_query else NOBODY,
        cost_class=read(costs.class_cost),
        cost_l1=read(costs.l1),
        cost_giou=read(costs.giou),
        cost_total=read(costs.total),
        iou=read(layer.iou),
        score=read(layer.class_scores),
        runner_up=int(layer.runner_up[truth]),
        margin=margin if margin != float("inf") else None,
        best_iou=float(layer.iou[:, truth].max()),
        found=bool(((layer.iou[:, truth] >= GOOD_IOU) & (layer.labels == label)).any()),
    )


def size_of(box: Tensor, size_hw: tuple[int, int]) -> Size:
    """COCO's small, medium or large, of a box (4,) in fractions of an image."""
    area = float(box[2] * box[3]) * size_hw[0] * size_hw[1]
    return "small" if area < SMALL_AREA else "medium" if area < LARGE_AREA else "large"
