"""Who predicts what: a cost table per image, and the cheapest one-to-one assignment in it.

B batch, Q queries, G true boxes of one image, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detrctl.boxes import Cxcywh, at_least_fp32, cxcywh_to_xyxy, pairwise_giou
from detrctl.errors import NonFiniteError
from detrctl.structures import Assignment, Predictions, Targets


@dataclass(frozen=True)
class CostTable:
    """The unweighted parts of the matching cost, each (..., Q, G), and their weighted sum."""

    class_cost: Tensor
    l1: Tensor
    giou: Tensor
    total: Tensor


def probability_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the softmax probability of each truth's class: (..., Q, C), (..., G) -> (..., Q, G)

    The probability, not its logarithm, and no-object takes part in the softmax (Carion et al. 2020, section 3.1).
    """
    columns = labels[..., None, :].expand(*logits.shape[:-1], -1)
    return -logits.softmax(-1).gather(-1, columns)


def focal_cost(*, alpha: float, gamma: float) -> Callable[[Tensor, Tensor], Tensor]:
    """What the focal loss of a truth's class would be as a positive, less what it would be as a negative.

    (..., Q, C), (..., G) -> (..., Q, G). Source: Zhu et al. 2021's code; the 1e-8 is theirs and moves the cost.
    """

    def cost(logits: Tensor, labels: Tensor) -> Tensor:
        columns = labels[..., None, :].expand(*logits.shape[:-1], -1)
        p = logits.sigmoid().gather(-1, columns)
        positive = alpha * (1 - p) ** gamma * -(p + 1e-8).log()
        negative = (1 - alpha) * p**gamma * -(1 - p + 1e-8).log()
        return positive - negative

    return cost


@dataclass(frozen=True)
class Matcher:
    """Optimal one-to-one matching (Carion et al. 2020, equation 1).

    `class_cost` makes the class part of the table; the three weights weigh it, the L1 distance and minus the GIoU.
    """

    class_cost: Callable[[Tensor, Tensor], Tensor]
    class_weight: float
    l1: float
    giou: float

    def cost_table(self, logits: Tensor, boxes: Cxcywh, labels: Tensor, truth: Cxcywh) -> CostTable:
        """(..., Q, C), (..., Q, 4), (..., G), (..., G, 4) -> tables (..., Q, G), in fp32 or more."""
        logits, boxes = at_least_fp32(logits), Cxcywh(at_least_fp32(boxes))
        class_cost = self.class_cost(logits, labels)
        l1 = torch.cdist(boxes, truth, p=1)
        giou = -pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth))
        return CostTable(class_cost, l1, giou, self.class_weight * class_cost + self.l1 * l1 + self.giou * giou)

    @torch.no_grad()
    def __call__(
        self, predictions: Predictions, targets: Sequence[Targets], *, where: str, matches: int = 1
    ) -> Assignment:
        """Match every image of a batch; with more truths than queries only as many as there are queries are matched.

        With several `matches` the matching is no longer one to one: see `nearest_pairs`.
        Its cost comes from the table that is on the CPU anyway: nothing is waited for, or copied, for it.
        Raises `NonFiniteError` naming the image and `where` (the layer) when a cost is not a number.
        """
        labels, boxes = pad_truths(targets)
        # All images in one table, and one transfer: per image, an accelerator would be waited for each time.
        tables = self.cost_table(predictions.logits, predictions.boxes, labels, boxes).total.cpu().numpy()
        pairs = [
            _assign(table[:, : len(truth)], image, truth.image_id, where, matches)
            for image, (table, truth) in enumerate(zip(tables, targets, strict=True))
            if len(truth)
        ]
        rows = np.concatenate([np.zeros((3, 0), dtype=np.int64), *pairs], axis=1)
        image, query, truth = torch.from_numpy(rows).to(predictions.logits.device)
        return Assignment(image, query, truth, cost=float(tables[*rows].sum(dtype=np.float64)))


def pad_truths(targets: Sequence[Targets]) -> tuple[Tensor, Cxcywh]:
    """The truths of a batch as labels (B, G) and boxes (B, G, 4); columns past an image's own truths mean nothing."""
    labels = pad_sequence([truth.labels for truth in targets], batch_first=True)
    # Any box with an area will do: the GIoU of two empty boxes is 0 / 0.
    boxes = pad_sequence([truth.boxes for truth in targets], batch_first=True, padding_value=0.5)
    return labels, Cxcywh(boxes)


def _assign(table: np.ndarray, image: int, image_id: int, where: str, matches: int) -> np.ndarray:
    """(Q, G) -> (3, M): image, query and truth of each pair."""
    if not np.isfinite(table).all():
        raise NonFiniteError(f"image {image_id}, {where}: a prediction is NaN or infinite")
    query, truth = linear_sum_assignment(table) if matches == 1 else nearest_pairs(table, matches)
    return np.stack([np.full_like(query, image), query, truth])


def nearest_pairs(table: np.ndarray, matches: int) -> tuple[np.ndarray, np.ndarray]:
    """Every truth's `matches` cheapest queries, (Q, G) -> queries (M,) ascending, truths (M,).

    A query that several truths want goes to the one that it is cheapest for, so that a truth may get fewer.
    """
    wanted = np.full_like(table, np.inf)
    cheapest = np.argpartition(table, min(matches, len(table)) - 1, axis=0)[:matches]
    np.put_along_axis(wanted, cheapest, np.take_along_axis(table, cheapest, axis=0), axis=0)
    query = np.flatnonzero(np.isfinite(wanted).any(axis=1))
    return query, wanted[query].argmin(axis=1)


def cheapest_pairs(table: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The cheapest one-to-one pairs of one table, (Q, G) -> queries (M,), truths (M,), M the smaller of the two.

    An infinite cost forbids a pair; None where so many are forbidden that no M pairs are left.
    """
    try:
        query, truth = linear_sum_assignment(table)
    except ValueError:  # scipy's "cost matrix is infeasible"; a NaN would raise here too, and has no business here
        return None
    return query, truth
