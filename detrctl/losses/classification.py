"""How class logits are trained: one object for the cost in matching, the loss, and what normalises it.

B batch, Q queries, C classes, M matched pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from detrctl.boxes import Cxcywh, at_least_fp32, cxcywh_to_xyxy, paired_iou
from detrctl.losses.plan import Meeting
from detrctl.losses.terms import focal_loss_sum, varifocal_loss_sum, weighted_cross_entropy_sum
from detrctl.structures import Targets


class Classification(Protocol):
    """What the criterion needs of a way to train class logits.

    A step's sum of weights counts as `least_weight_sum` where it is less.
    """

    least_weight_sum: ClassVar[float]

    def weight_sum(self, targets: Sequence[Targets]) -> float:
        """What divides the class loss of these images."""

    def loss(self, meeting: Meeting, labels: Tensor, boxes: Cxcywh, *, divisor: Tensor) -> Tensor:
        """`labels` (M,) and `boxes` (M, 4) are those of the matched truths; the whole step's weight sum divides."""

    def objects_found(self, logits: Tensor) -> Tensor:
        """How many queries of each image say `object`: (B, Q, C) -> (B,)"""


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

    least_weight_sum: ClassVar[float] = torch.finfo(torch.float32).tiny  # a mean needs no more than no division by 0

    def weight_sum(self, targets: Sequence[Targets]) -> float:
        matched = sum(min(len(truth), self.queries) for truth in targets)
        return matched + self.no_object * (self.queries * len(targets) - matched)

    def loss(self, meeting: Meeting, labels: Tensor, boxes: Cxcywh, *, divisor: Tensor) -> Tensor:
        """`labels` (M,) and `boxes` (M, 4) are those of the matched truths; the whole step's weight sum divides."""
        logits = at_least_fp32(meeting.predictions.logits)
        classes = torch.full(logits.shape[:2], self.num_classes, dtype=torch.int64, device=logits.device)
        classes[meeting.assignment.image, meeting.assignment.query] = labels
        weights = logits.new_ones(self.num_classes + 1)
        weights[-1] = self.no_object
        return weighted_cross_entropy_sum(logits, classes, weights) / divisor

    def objects_found(self, logits: Tensor) -> Tensor:
        """How many queries of each image say `object`: (B, Q, C) -> (B,)"""
        return (logits.argmax(-1) != self.num_classes).sum(1)


@dataclass(frozen=True)
class FocalClassification:
    """A sigmoid per class under the focal loss; every query counts, the number of boxes divides.

    Source: Zhu et al. 2021, section 4 and code; Lin et al. 2017 for the loss.
    """

    alpha: float
    gamma: float

    least_weight_sum: ClassVar[float] = 1.0

    def weight_sum(self, targets: Sequence[Targets]) -> float:
        return sum(len(truth) for truth in targets)

    def loss(self, meeting: Meeting, labels: Tensor, boxes: Cxcywh, *, divisor: Tensor) -> Tensor:
        logits = at_least_fp32(meeting.predictions.logits)
        wanted = torch.zeros_like(logits)
        wanted[meeting.assignment.image, meeting.assignment.query, labels] = 1.0
        if meeting.unused is not None:
            logits, wanted = logits[~meeting.unused], wanted[~meeting.unused]
        return focal_loss_sum(logits, wanted, alpha=self.alpha, gamma=self.gamma) / divisor

    def objects_found(self, logits: Tensor) -> Tensor:
        """How many queries of each image say `object`: (B, Q, C) -> (B,)"""
        return (logits > 0).any(-1).sum(1)


@dataclass(frozen=True)
class VarifocalClassification:
    """A sigmoid per class that learns the IoU of a matched query's box with its truth, and zero elsewhere.

    The best of several boxes about an object then scores best, and scores order boxes as AP does. Source: Zhang et al.
    2021, "VarifocalNet", section 3.2; Zhao et al. 2024, "DETRs Beat YOLOs on Real-time Object Detection" (RT-DETR).
    """

    alpha: float
    gamma: float

    least_weight_sum: ClassVar[float] = 1.0

    def weight_sum(self, targets: Sequence[Targets]) -> float:
        return sum(len(truth) for truth in targets)

    def loss(self, meeting: Meeting, labels: Tensor, boxes: Cxcywh, *, divisor: Tensor) -> Tensor:
        logits = at_least_fp32(meeting.predictions.logits)
        place = (meeting.assignment.image, meeting.assignment.query, labels)
        with torch.no_grad():
            found = Cxcywh(at_least_fp32(meeting.predictions.boxes)[place[:2]])
            iou = paired_iou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(boxes))
        wanted = torch.zeros_like(logits).index_put(place, iou)
        positive = torch.zeros_like(logits, dtype=torch.bool).index_put(
            place, torch.ones_like(labels, dtype=torch.bool)
        )
        if meeting.unused is not None:
            logits, wanted, positive = (x[~meeting.unused] for x in (logits, wanted, positive))
        return varifocal_loss_sum(logits, wanted, positive, alpha=self.alpha, gamma=self.gamma) / divisor

    def objects_found(self, logits: Tensor) -> Tensor:
        """How many queries of each image say `object`: (B, Q, C) -> (B,)"""
        return (logits > 0).any(-1).sum(1)
