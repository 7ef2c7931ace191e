from itertools import permutations

import pytest
import torch

from detrctl.boxes import Cxcywh
from detrctl.errors import NonFiniteError
from detrctl.losses.matcher import Matcher, probability_cost
from detrctl.structures import Predictions, Targets

MATCHER = Matcher(probability_cost, class_weight=1.0, l1=5.0, giou=2.0)


def predictions(batch: int, queries: int, classes: int, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, queries, classes + 1, generator=generator)
    return Predictions(logits, Cxcywh(torch.rand(batch, queries, 4, generator=generator) * 0.5 + 0.1))


def truths(count: int, classes: int, seed: int, image_id: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Targets(labels, Cxcywh(torch.rand(count, 4, generator=generator) * 0.5 + 0.1), image_id)


def cost_by_hand(logits: list[float], label: int, box: list[float], truth: list[float]) -> float:
    exponents = torch.tensor(logits, dtype=torch.float64).exp()
    probability = float(exponents[label] / exponents.sum())
    l1 = sum(abs(a - b) for a, b in zip(box, truth, strict=True))

    def corners(cxcywh: list[float]) -> tuple[float, float, float, float]:
        cx, cy, w, h = cxcywh
        return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2

    a, b = corners(box), corners(truth)
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = box[2] * box[3] + truth[2] * truth[3] - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return -probability + 5 * l1 - 2 * (inter / union - (hull - union) / hull)


def test_the_cost_table_equals_a_plain_loop() -> None:
    predicted, truth = predictions(1, 6, 4), truths(3, 4, seed=1)
    table = MATCHER.cost_table(predicted.logits[0], Cxcywh(predicted.boxes[0]), truth.labels, truth.boxes)
    for query in range(6):
        for column in range(3):
            expected = cost_by_hand(
                predicted.logits[0, query].tolist(),
                int(truth.labels[column]),
                predicted.boxes[0, query].tolist(),
                truth.boxes[column].tolist(),
            )
            assert float(table.total[query, column]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_matching_is_the_cheapest_of_all_there_are(count: int) -> None:
    predicted, truth = predictions(1, 5, 4, seed=3), truths(count, 4, seed=4)
    pairs = MATCHER(predicted, [truth], where="layer")
    table = MATCHER.cost_table(predicted.logits[0], Cxcywh(predicted.boxes[0]), truth.labels, truth.boxes).total
    cheapest = min(
        sum(float(table[query, column]) for column, query in enumerate(order))
        for order in permutations(range(5), count)
    )
    assert float(table[pairs.query, pairs.truth].sum()) == pytest.approx(cheapest, abs=1e-5)
    assert sorted(pairs.truth.tolist()) == list(range(count))


def test_images_are_matched_apart_and_empty_ones_give_nothing() -> None:
    predicted = predictions(3, 5, 4, seed=5)
    targets = [truths(2, 4, seed=6), truths(0, 4, seed=7), truths(4, 4, seed=8)]
    pairs = MATCHER(predicted, targets, where="layer")
    assert pairs.image.tolist() == [0, 0, 2, 2, 2, 2]
    for image in (0, 2):
        alone = MATCHER(
            Predictions(predicted.logits[image : image + 1], Cxcywh(predicted.boxes[image : image + 1])),
            [targets[image]],
            where="layer",
        )
        assert pairs.query[pairs.image == image].tolist() == alone.query.tolist()
        assert pairs.truth[pairs.image == image].tolist() == alone.truth.tolist()


def test_with_more_truths_than_queries_each_query_gets_one() -> None:
    pairs = MATCHER(predictions(1, 3, 4), [truths(8, 4, seed=9)], where="layer")
    assert pairs.query.tolist() == [0, 1, 2]
    assert len(set(pairs.truth.tolist())) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_cost_that_is_no_number_names_image_and_layer(value: float) -> None:
    predicted = predictions(2, 3, 4)
    predicted.boxes[1, 2, 0] = value
    targets = [truths(1, 4, seed=1, image_id=70), truths(1, 4, seed=2, image_id=71)]
    with pytest.raises(NonFiniteError, match=r"^image 71, decoder layer 2 of 6: a prediction is NaN or infinite$"):
        MATCHER(predicted, targets, where="decoder layer 2 of 6")
