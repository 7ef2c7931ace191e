"""How class logits are trained: one object for the cost in matching, the loss, and what normalises it.

B batch, Q queries, C classes, M matched pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrctl.losses.plan import Meeting
from detrctl.losses.terms import weighted_cross_entropy_sum
from detrctl.structures import Targets


@dataclass(frozen=True)
class SoftmaxClassification:
    """Softmax over the classes and, last, no-object, which weighs `no_object` (Carion et al. 2020, section 3.1).

    The loss is a weighted mean: the sum of the weights divides it, not the number of boxes. That sum is known from
    the truths alone, since every image has min(truths, queries) matched queries; so it can be added up over processes
    and micro-batches before anything is matched.
    """

    num_classes: int
    queries: int
    no_object: float

    def weight_sum(self, targets: Sequence[Targets]) -> float:
        matched = sum(min(len(truth), self.queries) for truth in targets)
        return matched + self.no_object * (self.queries * len(targets) - matched)

    def loss(self, meeting: Meeting, labels: Tensor, *, divisor: Tensor) -> Tensor:
        """`labels` (M,) are the classes of the matched truths; `divisor` is the weight sum of the whole step."""
        logits = meeting.predictions.logits.float()
        classes = torch.full(logits.shape[:2], self.num_classes, dtype=torch.int64, device=logits.device)
        classes[meeting.assignment.image, meeting.assignment.query] = labels
        weights = torch.ones(self.num_classes + 1, device=logits.device)
        weights[-1] = self.no_object
        return weighted_cross_entropy_sum(logits, classes, weights) / divisor

    def objects_found(self, logits: Tensor) -> Tensor:
        """How many queries of each image say `object`: (B, Q, C) -> (B,)"""
        return (logits.argmax(-1) != self.num_classes).sum(1)
