import math
from dataclasses import replace

import pytest
import torch
from torchvision.ops import generalized_box_iou

from detrctl.boxes import Cxcywh, cxcywh_to_xyxy
from detrctl.errors import NonFiniteError
from detrctl.losses.classification import FocalClassification, SoftmaxClassification
from detrctl.losses.criterion import Criterion, LossWeights, class_error
from detrctl.losses.matcher import Matcher, probability_cost
from detrctl.losses.plan import Plan
from detrctl.structures import DetectorOutput, Losses, Predictions, Targets

CLASSES, QUERIES = 4, 6
MATCHER = Matcher(probability_cost, class_weight=1.0, l1=5.0, giou=2.0)
CRITERION = Criterion(Plan(MATCHER), SoftmaxClassification(CLASSES, QUERIES, 0.1), LossWeights(1.0, 5.0, 2.0))


def output(batch: int, layers: int = 2, seed: int = 0) -> DetectorOutput:
    generator = torch.Generator().manual_seed(seed)
    return DetectorOutput(
        tuple(
            Predictions(
                torch.randn(batch, QUERIES, CLASSES + 1, generator=generator),
                Cxcywh(torch.rand(batch, QUERIES, 4, generator=generator) * 0.5 + 0.1),
            )
            for _ in range(layers)
        ),
        memory=None,  # type: ignore[arg-type]
    )


def truths(*counts: int) -> list[Targets]:
    generator = torch.Generator().manual_seed(9)
    return [
        Targets(
            torch.randint(0, CLASSES, (count,), generator=generator),
            Cxcywh(torch.rand(count, 4, generator=generator) * 0.5 + 0.1),
            50 + index,
        )
        for index, count in enumerate(counts)
    ]


def values(losses: Losses) -> dict[tuple[str, int], float]:
    return {(term.name, term.layer): float(term.value) for term in losses.terms}


@pytest.mark.parametrize("counts", [(2, 1), (0, 3), (0, 0), (9, 1)])
def test_every_term_equals_a_plain_loop(counts: tuple[int, int]) -> None:
    predicted, targets = output(2), truths(*counts)
    ours = values(CRITERION(predicted, targets, CRITERION.counts(targets)))
    num_boxes = max(1, sum(counts))
    for layer, predictions in enumerate(predicted.layers):
        pairs = MATCHER(predictions, targets, where="layer")
        matched = {(int(i), int(q)): int(t) for i, q, t in zip(pairs.image, pairs.query, pairs.truth, strict=True)}
        entropy = weight_sum = l1 = giou = 0.0
        for image in range(2):
            for query in range(QUERIES):
                truth = matched.get((image, query))
                label = CLASSES if truth is None else int(targets[image].labels[truth])
                weight = 0.1 if truth is None else 1.0
                logits = predictions.logits[image, query].double()
                entropy += weight * float(logits.logsumexp(0) - logits[label])
                weight_sum += weight
                if truth is not None:
                    a, b = predictions.boxes[image, query], targets[image].boxes[truth]
                    l1 += float((a - b).abs().sum())
                    giou += 1 - float(generalized_box_iou(cxcywh_to_xyxy(a[None]), cxcywh_to_xyxy(b[None])))
        assert ours["class", layer] == pytest.approx(entropy / weight_sum, rel=1e-5)
        assert ours["l1", layer] == pytest.approx(l1 / num_boxes, rel=1e-5)
        assert ours["giou", layer] == pytest.approx(giou / num_boxes, rel=1e-5)
        if sum(counts) == 0:
            assert ("matching_cost", layer) not in ours
            continue
        paid = 0.0
        for (image, query), truth in matched.items():
            probability = float(predictions.logits[image, query].double().softmax(0)[targets[image].labels[truth]])
            paid -= probability
        # Equation 1: minus the probability, five times L1, twice minus the GIoU, of which the loss is one more.
        paid += 5 * l1 + 2 * (giou - len(matched))
        assert ours["matching_cost", layer] == pytest.approx(paid / num_boxes, rel=1e-5)


def test_the_total_is_the_weighted_sum_of_its_terms() -> None:
    predicted, targets = output(2), truths(2, 1)
    losses = CRITERION(predicted, targets, CRITERION.counts(targets))
    expected = sum(
        {"class": 1.0, "l1": 5.0, "giou": 2.0}.get(name, 0.0) * value for (name, _), value in values(losses).items()
    )
    assert float(losses.total) == pytest.approx(expected, rel=1e-6)


def test_micro_batches_normalised_together_add_up_to_the_whole_batch() -> None:
    predicted, targets = output(3), truths(4, 0, 1)
    whole = CRITERION(predicted, targets, CRITERION.counts(targets))
    counts = sum(CRITERION.counts([truth]) for truth in targets)
    assert isinstance(counts, torch.Tensor)
    parts = torch.zeros(())
    for image in range(3):
        layers = tuple(
            Predictions(layer.logits[image : image + 1], Cxcywh(layer.boxes[image : image + 1]))
            for layer in predicted.layers
        )
        parts += CRITERION(replace(predicted, layers=layers), [targets[image]], counts).total
    torch.testing.assert_close(parts, whole.total, rtol=1e-6, atol=1e-6)


def test_the_class_loss_without_truths_is_a_mean_however_few_the_queries() -> None:
    """By hand: five queries that say all five classes alike, in one image and in one of two micro-batches."""
    criterion = replace(CRITERION, classification=SoftmaxClassification(CLASSES, 5, 0.1))
    predicted = DetectorOutput((Predictions(torch.zeros(1, 5, 5), Cxcywh(torch.full((1, 5, 4), 0.3))),), memory=None)  # type: ignore[arg-type]
    targets = truths(0)
    counts = criterion.counts(targets)
    assert counts.tolist() == pytest.approx([0.0, 0.5])
    for whole, share in ((counts, 1.0), (2 * counts, 0.5)):
        found = values(criterion(predicted, targets, whole))
        assert found["class", 0] == pytest.approx(share * math.log(5), rel=1e-6)
        assert (found["l1", 0], found["giou", 0]) == (0.0, 0.0)


def test_the_focal_loss_is_divided_by_one_box_at_least() -> None:
    """By hand: logits of 0 without an object cost 0.75 * 0.5^2 * ln 2 each."""
    criterion = Criterion(Plan(MATCHER), FocalClassification(0.25, 2.0), LossWeights(1.0, 5.0, 2.0))
    predicted = DetectorOutput((Predictions(torch.zeros(1, 5, 4), Cxcywh(torch.full((1, 5, 4), 0.3))),), memory=None)  # type: ignore[arg-type]
    for boxes in (0.0, 0.5, 1.0, 2.0):
        found = values(criterion(predicted, truths(0), torch.tensor([boxes, boxes], dtype=torch.float64)))
        assert found["class", 0] == pytest.approx(20 * 0.75 * 0.25 * math.log(2) / max(1.0, boxes), rel=1e-6)


def test_what_pairs_cost_adds_up_over_micro_batches_and_what_is_a_mean_is_told() -> None:
    predicted, targets = output(3), truths(4, 0, 1)
    whole = CRITERION(predicted, targets, CRITERION.counts(targets))
    parts: dict[int, float] = {0: 0.0, 1: 0.0}
    for image in range(3):
        layers = tuple(
            Predictions(layer.logits[image : image + 1], Cxcywh(layer.boxes[image : image + 1]))
            for layer in predicted.layers
        )
        one = CRITERION(replace(predicted, layers=layers), [targets[image]], CRITERION.counts(targets))
        for layer in parts:
            parts[layer] += values(one)["matching_cost", layer]
    for layer, cost in parts.items():
        assert cost == pytest.approx(values(whole)["matching_cost", layer], rel=1e-6)
    assert {term.name for term in whole.terms if not term.adds_up} == {"class_error", "cardinality_error"}
    assert all(term.adds_up for term in whole.terms if term.weight)


def test_without_auxiliary_terms_only_the_last_layer_is_trained() -> None:
    predicted, targets = output(1, layers=3), truths(2)
    losses = replace(CRITERION, plan=Plan(MATCHER, auxiliary=False))(predicted, targets, CRITERION.counts(targets))
    assert {term.layer for term in losses.terms} == {2}


def test_class_error_is_the_share_of_matched_queries_with_a_wrong_best_class() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0], [0.0, 4.0, 1.0], [5.0, 0.0, 0.0]])
    assert float(class_error(logits, torch.tensor([0, 1, 1, 1]))) == pytest.approx(50.0)
    assert float(class_error(logits[:0], torch.zeros(0, dtype=torch.int64))) == 100.0


def test_cardinality_error_is_the_mean_miscount_per_image() -> None:
    logits = torch.zeros(2, QUERIES, CLASSES + 1)
    logits[:, :, CLASSES] = 1.0
    logits[0, :2, 0] = 2.0
    predicted = output(2, layers=1)
    layer = Predictions(logits, predicted.layers[0].boxes)
    targets = truths(3, 1)
    measured = values(CRITERION(replace(predicted, layers=(layer,)), targets, CRITERION.counts(targets)))
    assert measured["cardinality_error", 0] == pytest.approx((1 + 1) / 2)


def test_a_prediction_that_is_no_number_names_image_and_layer_even_without_truths() -> None:
    predicted, targets = output(3, layers=2), truths(1, 0, 0)
    predicted.layers[1].logits[2, 0, 0] = math.nan
    with pytest.raises(
        NonFiniteError, match=r"^image 52: the predictions of decoder layer 2 of 2 are NaN or infinite$"
    ):
        CRITERION(predicted, targets, CRITERION.counts(targets))
