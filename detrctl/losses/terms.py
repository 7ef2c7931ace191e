"""The terms of the objective as pure functions of tensors. M matched pairs, B batch, Q queries, C classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from detrctl.boxes import Cxcywh, cxcywh_to_xyxy, paired_giou


def l1_sum(predicted: Cxcywh, truth: Cxcywh) -> Tensor:
    """(M, 4), (M, 4) -> (): summed over pairs and the four numbers."""
    return (predicted - truth).abs().sum()


def giou_sum(predicted: Cxcywh, truth: Cxcywh) -> Tensor:
    """(M, 4), (M, 4) -> (): 1 - GIoU, summed over pairs."""
    return (1 - paired_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(truth))).sum()


def weighted_cross_entropy_sum(logits: Tensor, classes: Tensor, class_weights: Tensor) -> Tensor:
    """(B, Q, C), (B, Q), (C,) -> (): each query's cross-entropy times the weight of its class, summed."""
    return F.cross_entropy(logits.flatten(0, 1), classes.flatten(), weight=class_weights, reduction="sum")


def focal_loss_sum(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """(..., C), (..., C) of 0 and 1 -> (): each class on its own, what is already right played down, summed.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5.
    """
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrong = p * (1 - targets) + (1 - p) * targets
    weights = alpha * targets + (1 - alpha) * (1 - targets)
    return (weights * wrong**gamma * cross_entropy).sum()


def varifocal_loss_sum(logits: Tensor, wanted: Tensor, positive: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """(..., C) logits, (..., C) of the qualities to learn, (..., C) bool -> (): binary cross-entropy, weighted, summed.

    A positive weighs as much as it is good; negatives are played down as in the focal loss. Weights have no gradient.
    Source: Zhang et al. 2021, "VarifocalNet: An IoU-aware Dense Object Detector", equation 2.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    weights = torch.where(positive, wanted, alpha * logits.detach().sigmoid() ** gamma)
    return (weights * cross_entropy).sum()
