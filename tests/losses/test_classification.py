"""The varifocal loss of a meeting equals a plain loop, and its scores learn how well boxes fit."""

import math

import torch

from detrctl.boxes import Cxcywh
from detrctl.losses.classification import FocalClassification, VarifocalClassification
from detrctl.losses.plan import Meeting
from detrctl.structures import Assignment, Predictions, Targets

CLASSES, ALPHA, GAMMA = 3, 0.75, 2.0
TRUTHS = (
    Targets(torch.tensor([1]), Cxcywh(torch.tensor([[0.5, 0.5, 0.4, 0.4]]))),
    Targets(torch.tensor([0, 2]), Cxcywh(torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.4]]))),
)
BOXES = torch.tensor(
    [
        [[0.5, 0.5, 0.4, 0.2], [0.1, 0.1, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1]],  # half of the truth
        [[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2], [0.5, 0.5, 0.5, 0.5]],  # the whole, and half
    ]
)
IOUS = {(0, 0, 1): 0.5, (1, 0, 0): 1.0, (1, 1, 2): 0.5}
"""By image, query and class."""


def meeting(unused: torch.Tensor | None = None) -> Meeting:
    logits = torch.randn(2, 3, CLASSES, generator=torch.Generator().manual_seed(4), requires_grad=True)
    pairs = Assignment(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]))
    return Meeting("decoder", 0, Predictions(logits, Cxcywh(BOXES)), TRUTHS, pairs, unused=unused)


def loss(met: Meeting) -> torch.Tensor:
    labels, boxes = (torch.cat([getattr(truth, name) for truth in TRUTHS]) for name in ("labels", "boxes"))
    return VarifocalClassification(ALPHA, GAMMA).loss(met, labels, Cxcywh(boxes), divisor=torch.tensor(2.0))


def plain(met: Meeting, left_out: tuple[tuple[int, int], ...] = ()) -> float:
    total = 0.0
    for image in range(2):
        for query in range(3):
            if (image, query) in left_out:
                continue
            for label in range(CLASSES):
                p = 1 / (1 + math.exp(-float(met.predictions.logits[image, query, label].detach())))
                if (wanted := IOUS.get((image, query, label))) is not None:
                    total -= wanted * (wanted * math.log(p) + (1 - wanted) * math.log(1 - p))
                else:
                    total -= ALPHA * p**GAMMA * math.log(1 - p)
    return total / 2


def test_the_varifocal_loss_equals_a_plain_loop() -> None:
    met = meeting()
    torch.testing.assert_close(float(loss(met).detach()), plain(met), rtol=1e-6, atol=0)


def test_unused_queries_learn_nothing() -> None:
    unused = torch.zeros(2, 3, dtype=torch.bool)
    unused[0, 2] = unused[1, 2] = True
    met = meeting(unused)
    torch.testing.assert_close(float(loss(met).detach()), plain(met, ((0, 2), (1, 2))), rtol=1e-6, atol=0)
    loss(met).backward()
    gradient = met.predictions.logits.grad
    assert gradient is not None
    assert torch.equal(gradient.abs().sum(-1) == 0, unused)


def test_a_score_is_at_rest_where_it_is_the_boxes_iou() -> None:
    met = meeting()
    with torch.no_grad():
        for place, iou in IOUS.items():
            met.predictions.logits[place] = torch.tensor(iou).logit().clamp(max=30)
    loss(met).backward()
    gradient = met.predictions.logits.grad
    assert gradient is not None
    for place in IOUS:
        assert abs(float(gradient[place])) < 1e-6


def test_an_empty_box_about_an_empty_truth_is_no_nan() -> None:
    empty = Targets(torch.tensor([0]), Cxcywh(torch.tensor([[0.5, 0.5, 0.0, 0.0]])))
    pair = Assignment(torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    predictions = Predictions(torch.zeros(1, 1, CLASSES), Cxcywh(empty.boxes[None]))
    met = Meeting("decoder", 0, predictions, (empty,), pair)
    found = VarifocalClassification(ALPHA, GAMMA).loss(met, empty.labels, empty.boxes, divisor=torch.tensor(1.0))
    torch.testing.assert_close(float(found), 2 * ALPHA * 0.25 * math.log(2))


def test_both_ways_are_normalised_by_the_number_of_boxes() -> None:
    for kind in (FocalClassification, VarifocalClassification):
        assert kind(ALPHA, GAMMA).weight_sum(TRUTHS) == 3
