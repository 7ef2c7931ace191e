"""Raw predictions to detections, by hand and against plain loops."""

import math

import torch

from detrctl.boxes import Cxcywh
from detrctl.evaluation.postprocess import sigmoid_top_k, softmax_top_queries
from detrctl.structures import Predictions


def predictions(logits: list[list[float]], boxes: list[list[float]]) -> Predictions:
    return Predictions(torch.tensor([logits]), Cxcywh(torch.tensor([boxes])))


TWO_BOXES = [[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.6, 1.0]]
SIZE = torch.tensor([[100, 200]])  # 100 high, 200 wide


def test_softmax_keeps_every_query_with_its_best_class_and_drops_no_object():
    log = [math.log(x) for x in (1, 2, 7)], [math.log(x) for x in (6, 2, 2)]
    (found,) = softmax_top_queries(predictions(list(map(list, log)), TWO_BOXES), SIZE, (17,))
    assert found.image_id == 17
    assert found.queries.tolist() == [1, 0]
    assert found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.2]))


def test_boxes_are_xyxy_in_pixels_of_the_original_image_and_unclipped():
    (found,) = softmax_top_queries(predictions([[0.0, 0.0], [1.0, 0.0]], TWO_BOXES), SIZE, (0,))
    expected = torch.tensor([[-10.0, 0.0, 110.0, 100.0], [80.0, 30.0, 120.0, 70.0]])
    torch.testing.assert_close(found.boxes, expected, rtol=0, atol=1e-4)


def test_sigmoid_may_answer_twice_with_one_query():
    logit = [[3.0, -4.0, 2.0], [-3.0, 1.0, -2.0]]
    (found,) = sigmoid_top_k(3)(predictions(logit, TWO_BOXES), SIZE, (5,))
    assert found.queries.tolist() == [0, 0, 1]
    assert found.labels.tolist() == [0, 2, 1]
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())


def test_sigmoid_with_fewer_pairs_than_k_gives_all_of_them():
    (found,) = sigmoid_top_k(100)(predictions([[1.0, 0.0], [2.0, 3.0]], TWO_BOXES), SIZE, (0,))
    assert len(found) == 4


def random_batch(classes: int) -> tuple[Predictions, torch.Tensor]:
    noise = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 7, classes, generator=noise)
    boxes = Cxcywh(torch.rand(2, 7, 4, generator=noise))
    return Predictions(logits, boxes), torch.tensor([[50, 70], [33, 20]])


def loop_box(box: torch.Tensor, height: int, width: int) -> list[float]:
    x, y, w, h = box.tolist()
    return [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]


def test_softmax_equals_a_plain_loop():
    raw, sizes = random_batch(5)
    for i, found in enumerate(softmax_top_queries(raw, sizes, (0, 1))):
        rows = []
        for q in range(7):
            weights = [math.exp(x) for x in raw.logits[i, q].tolist()]
            best = max(range(4), key=lambda c, weights=weights: weights[c])
            rows.append((weights[best] / sum(weights), best, q, loop_box(raw.boxes[i, q], *sizes[i].tolist())))
        check(found, sorted(rows, reverse=True))


def test_sigmoid_equals_a_plain_loop():
    raw, sizes = random_batch(4)
    for i, found in enumerate(sigmoid_top_k(9)(raw, sizes, (0, 1))):
        rows = [
            (1 / (1 + math.exp(-raw.logits[i, q, c].item())), c, q, loop_box(raw.boxes[i, q], *sizes[i].tolist()))
            for q in range(7)
            for c in range(4)
        ]
        check(found, sorted(rows, reverse=True)[:9])


def check(found, rows):
    assert found.labels.tolist() == [row[1] for row in rows]
    assert found.queries.tolist() == [row[2] for row in rows]
    torch.testing.assert_close(found.scores, torch.tensor([row[0] for row in rows]))
    torch.testing.assert_close(found.boxes, torch.tensor([row[3] for row in rows]), rtol=1e-5, atol=1e-4)


def test_bf16_logits_give_fp32_scores():
    raw, sizes = random_batch(4)
    half = Predictions(raw.logits.bfloat16(), Cxcywh(raw.boxes.bfloat16()))
    for post in (softmax_top_queries, sigmoid_top_k(5)):
        found = post(half, sizes, (0, 1))[0]
        assert found.scores.dtype == found.boxes.dtype == torch.float32
