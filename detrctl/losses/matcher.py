"""Who predicts what: a cost table per image, and the cheapest one-to-one assignment in it.

B batch, Q queries, G true boxes of one image, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detrctl.boxes import Cxcywh, cxcywh_to_xyxy, pairwise_giou
from detrctl.errors import NonFiniteError
from detrctl.structures import Predictions, Targets


@dataclass(frozen=True)
class Assignment:
    """Matched pairs of a batch, image after image, queries ascending within an image: three int64 tensors (M,).

    Pair i says: query `query[i]` of image `image[i]` answers for that image's truth number `truth[i]`.
    """

    image: Tensor
    query: Tensor
    truth: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def to(self, device: torch.device) -> "Assignment":
        return Assignment(self.image.to(device), self.query.to(device), self.truth.to(device))


@dataclass(frozen=True)
class CostTable:
    """The unweighted parts of one image's matching cost, each (Q, G), and their weighted sum."""

    class_cost: Tensor
    l1: Tensor
    giou: Tensor
    total: Tensor


def probability_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the softmax probability of each truth's class: (Q, C), (G,) -> (Q, G)

    The probability, not its logarithm, and no-object takes part in the softmax (Carion et al. 2020, section 3.1).
    """
    return -logits.softmax(-1)[:, labels]


@dataclass(frozen=True)
class Matcher:
    """Optimal one-to-one matching (Carion et al. 2020, equation 1).

    `class_cost` makes the class part of the table; the three weights weigh it, the L1 distance and minus the GIoU.
    """

    class_cost: Callable[[Tensor, Tensor], Tensor]
    class_weight: float
    l1: float
    giou: float

    def cost_table(self, logits: Tensor, boxes: Cxcywh, truth: Targets) -> CostTable:
        """One image: (Q, C), (Q, 4), G truths -> four (Q, G) tables, in fp32."""
        logits, boxes = logits.float(), Cxcywh(boxes.float())
        class_cost = self.class_cost(logits, truth.labels)
        l1 = torch.cdist(boxes, truth.boxes, p=1)
        giou = -pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth.boxes))
        return CostTable(class_cost, l1, giou, self.class_weight * class_cost + self.l1 * l1 + self.giou * giou)

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Sequence[Targets], *, where: str) -> Assignment:
        """Match every image of a batch; with more truths than queries only as many as there are queries are matched.

        Raises `NonFiniteError` naming the image and `where` (the layer) when a cost is not a number.
        """
        tables = [
            self.cost_table(logits, Cxcywh(boxes), truth).total if len(truth) else None
            for logits, boxes, truth in zip(predictions.logits, predictions.boxes, targets, strict=True)
        ]
        pairs = [
            _assign(table, image, truth.image_id, where)
            for image, (table, truth) in enumerate(zip(_to_numpy(tables), targets, strict=True))
            if table is not None
        ]
        rows = np.concatenate([np.zeros((3, 0), dtype=np.int64), *pairs], axis=1)
        image, query, truth = torch.from_numpy(rows).to(predictions.logits.device)
        return Assignment(image, query, truth)


def _to_numpy(tables: Sequence[Tensor | None]) -> list[np.ndarray | None]:
    """One transfer for the whole batch: a transfer per image would wait for the accelerator each time."""
    held = [table for table in tables if table is not None]
    flat = torch.cat([table.flatten() for table in held]).cpu().numpy() if held else np.zeros(0)
    ends = np.cumsum([table.numel() for table in held])
    parts = iter(np.split(flat, ends[:-1]))
    return [None if table is None else next(parts).reshape(tuple(table.shape)) for table in tables]


def _assign(table: np.ndarray, image: int, image_id: int, where: str) -> np.ndarray:
    """(Q, G) -> (3, M): image, query and truth of each pair."""
    if not np.isfinite(table).all():
        raise NonFiniteError(f"image {image_id}, {where}: a prediction is NaN or infinite")
    query, truth = linear_sum_assignment(table)
    return np.stack([np.full_like(query, image), query, truth])
