"""Predictions and truths -> the objective's terms. It never asks a model what it is.

B batch, Q queries, C classes, M matched pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrctl.boxes import Cxcywh, at_least_fp32
from detrctl.errors import NonFiniteError
from detrctl.losses.classification import Classification
from detrctl.losses.matcher import Matcher
from detrctl.losses.plan import Meeting, Plan
from detrctl.losses.terms import giou_sum, l1_sum
from detrctl.structures import DetectorOutput, Losses, LossTerm, Targets


@dataclass(frozen=True)
class LossWeights:
    """What the three terms weigh in the total."""

    class_loss: float
    l1: float
    giou: float


@dataclass(frozen=True)
class Criterion:
    """The set-prediction objective (Carion et al. 2020, equation 2): three terms for each meeting of the plan.

    Beside them it measures the errors of class and count and, where something was matched, what the pairs cost
    (equation 1), per box as the other terms. Where the whole step has no box there is no such cost, rather than 0.
    """

    plan: Plan
    classification: Classification
    weights: LossWeights

    @property
    def matcher(self) -> Matcher:
        return self.plan.matcher

    def counts(self, targets: Sequence[Targets]) -> Tensor:
        """What normalises these images' losses: (2,) float64, the number of boxes and the summed class weights.

        Add these up over micro-batches and processes, divide by the number of processes (their gradients are averaged),
        and hand the result to `__call__`.
        """
        boxes = sum(len(truth) for truth in targets)
        return torch.tensor([boxes, self.classification.weight_sum(targets)], dtype=torch.float64)

    def __call__(self, output: DetectorOutput, targets: Sequence[Targets], counts: Tensor) -> Losses:
        """Raises `NonFiniteError`, naming image and layer, when a prediction or a loss is NaN or infinite."""
        check_finite(output, targets)
        terms: list[LossTerm] = []
        for meeting in self.plan(output, targets):
            terms += self._terms(meeting, counts)
        return Losses(tuple(terms))

    def _terms(self, meeting: Meeting, counts: Tensor) -> Iterator[LossTerm]:
        pairs, targets, device = meeting.assignment, meeting.targets, meeting.predictions.logits.device
        counted = counts.maximum(counts.new_tensor([1.0, self.classification.least_weight_sum]))
        num_boxes, class_weight = (counted.to(device, torch.float32) * meeting.repeats).unbind()
        labels = _gather([truth.labels for truth in targets], pairs.image, pairs.truth)
        truth = Cxcywh(_gather([truth.boxes for truth in targets], pairs.image, pairs.truth))
        predicted = Cxcywh(at_least_fp32(meeting.predictions.boxes)[pairs.image, pairs.query])
        class_loss = self.classification.loss(meeting, labels, truth, divisor=class_weight)

        def term(name: str, weight: float, value: Tensor, *, adds_up: bool = True) -> LossTerm:
            return LossTerm(name, meeting.stage, meeting.layer, weight, value, adds_up)

        yield term("class", self.weights.class_loss, class_loss)
        yield term("l1", self.weights.l1, l1_sum(predicted, truth) / num_boxes)
        yield term("giou", self.weights.giou, giou_sum(predicted, truth) / num_boxes)
        with torch.no_grad():
            logits = meeting.predictions.logits
            wrong = class_error(logits[pairs.image, pairs.query], labels)
            yield term("class_error", 0.0, wrong, adds_up=False)
            yield term("cardinality_error", 0.0, self._cardinality_error(logits, targets), adds_up=False)
            if pairs.cost is not None and counts[0] > 0:
                yield term("matching_cost", 0.0, pairs.cost / num_boxes)

    def _cardinality_error(self, logits: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Mean absolute difference between the number of objects said and true, per image."""
        true_counts = torch.tensor([len(truth) for truth in targets], device=logits.device)
        return (self.classification.objects_found(logits) - true_counts).abs().float().mean()


def class_error(matched_logits: Tensor, labels: Tensor) -> Tensor:
    """Per cent of the matched queries whose best class is not their truth's: (M, C), (M,) -> (); 100 without pairs.

    It says nothing about the queries that were not matched.
    """
    if len(labels) == 0:
        return torch.tensor(100.0, device=labels.device)
    return 100.0 * (1.0 - (matched_logits.argmax(-1) == labels).float().mean())


def _gather(per_image: Sequence[Tensor], image: Tensor, index: Tensor) -> Tensor:
    """Row `index[i]` of `per_image[image[i]]`, for every i: B x (G, ...), (M,), (M,) -> (M, ...)"""
    starts = torch.tensor([0] + [len(rows) for rows in per_image], device=image.device).cumsum(0)
    return torch.cat(list(per_image))[starts[image] + index]


def check_finite(output: DetectorOutput, targets: Sequence[Targets]) -> None:
    """Raise `NonFiniteError`, naming the first layer and its images, if any prediction is NaN or infinite."""
    finite = torch.stack(
        [
            layer.logits.isfinite().flatten(1).all(1) & layer.boxes.isfinite().flatten(1).all(1)
            for layer in output.layers
        ]
    ).cpu()
    if finite.all():
        return
    layer = int((~finite.all(1)).nonzero()[0])
    images = ", ".join(str(truth.image_id) for truth, fine in zip(targets, finite[layer], strict=True) if not fine)
    raise NonFiniteError(
        f"image {images}: the predictions of decoder layer {layer + 1} of {len(finite)} are NaN or infinite"
    )
