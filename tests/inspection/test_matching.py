from itertools import permutations

import pytest
import torch

from detrctl.boxes import Cxcywh
from detrctl.inspection.matching import NOBODY, class_scores, match_batch, match_rows, runners_up, size_of
from detrctl.losses.matcher import Matcher, focal_cost, probability_cost
from detrctl.structures import (
    Categories,
    DetectorOutput,
    Predictions,
    Proposals,
    Targets,
    Tokens,
)

MATCHER = Matcher(probability_cost, class_weight=1.0, l1=5.0, giou=2.0)
CATEGORIES = Categories(("cat", "dog", "owl"), (1, 2, 3))
NO_TOKENS = Tokens(torch.zeros(1, 0, 4), torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.bool), (), torch.ones(1))


def drawn(batch, queries, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(batch, queries, 4, generator=generator) * 0.4 + 0.2
    return Predictions(torch.randn(batch, queries, classes, generator=generator), Cxcywh(boxes))


def truths(count, seed, image_id=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return Targets(labels, Cxcywh(torch.rand(count, 4, generator=generator) * 0.4 + 0.2), image_id)


def sizes(batch):
    return torch.tensor([[480, 640]]).expand(batch, -1)


def cheapest_by_trying_all(total, forbidden=None):
    """The cost of the cheapest matching and its query for each truth (None: unmatched), by going through all."""
    queries, count = total.shape
    best, who = float("inf"), None
    for chosen in permutations([*range(queries), *[None] * max(0, count - queries)], count):
        pairs = [(query, truth) for truth, query in enumerate(chosen) if query is not None]
        if len(pairs) < min(queries, count) or forbidden in pairs:
            continue
        cost = sum(float(total[pair]) for pair in pairs)
        if cost < best:
            best, who = cost, chosen
    return best, who


def test_by_hand_the_runner_up_of_two_truths_that_want_the_same_query():
    # Both truths like query 0 best; truth 0 gets it. Without it, truth 0 takes 2 and nobody else has to move.
    total = torch.tensor([[1.0, 2.0], [6.0, 3.0], [4.0, 9.0]])
    runner_up, margin = runners_up(total, torch.tensor([0, 1]))
    # Truth 0 without query 0: query 2 at 4 and truth 1 moves to query 0 at 2: 6, against 4 before.
    assert runner_up.tolist() == [2, 0]
    # Truth 1 without query 1: query 0 at 2, and truth 0 has to take query 2 at 4: 6 as well.
    assert margin.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("queries", "count"), [(6, 3), (4, 4), (5, 1), (2, 4)])
def test_the_runner_up_is_that_of_the_cheapest_of_all_matchings_without_the_pair(queries, count, seed):
    total = torch.rand(queries, count, generator=torch.Generator().manual_seed(seed))
    best, chosen = cheapest_by_trying_all(total)
    matched = torch.tensor([NOBODY if query is None else query for query in chosen])
    runner_up, margin = runners_up(total, matched)
    for truth in range(count):
        if matched[truth] == NOBODY:
            assert (int(runner_up[truth]), float(margin[truth])) == (NOBODY, float("inf"))
            continue
        other, without = cheapest_by_trying_all(total, forbidden=(int(matched[truth]), truth))
        assert float(margin[truth]) == pytest.approx(other - best, abs=1e-6)
        expected = without[truth]
        assert int(runner_up[truth]) == (NOBODY if expected is None else expected)


def test_one_query_for_one_truth_has_no_runner_up():
    runner_up, margin = runners_up(torch.tensor([[1.0]]), torch.tensor([0]))
    assert (runner_up.tolist(), margin.tolist()) == ([NOBODY], [float("inf")])


@pytest.mark.parametrize("cost", [probability_cost, focal_cost(alpha=0.25, gamma=2.0)])
def test_a_batch_is_matched_as_in_training_and_its_tables_are_those_of_each_image_alone(cost):
    matcher = Matcher(cost, class_weight=2.0, l1=5.0, giou=2.0)
    output = DetectorOutput((drawn(2, 7, 3, 0), drawn(2, 7, 3, 1)), NO_TOKENS)
    targets = [truths(2, 2, image_id=5), truths(4, 3, image_id=6)]
    images = match_batch(output, targets, sizes(2), matcher, num_classes=3)
    assert [image.image_id for image in images] == [5, 6]
    for i, (image, truth) in enumerate(zip(images, targets, strict=True)):
        for predictions, layer in zip(output.layers, image.layers, strict=True):
            alone = matcher.cost_table(predictions.logits[i], predictions.boxes[i], truth.labels, truth.boxes)
            torch.testing.assert_close(layer.costs.total, alone.total, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(
                layer.costs.total,
                2 * layer.costs.class_cost + 5 * layer.costs.l1 + 2 * layer.costs.giou,
                atol=1e-6,
                rtol=1e-6,
            )
            pairs = matcher(Predictions(predictions.logits[i][None], predictions.boxes[i][None]), [truth], where="")
            assert layer.matched[pairs.truth].tolist() == pairs.query.tolist()


def test_rows_say_what_the_tables_say_layer_by_layer():
    output = DetectorOutput((drawn(1, 5, 4, 0), drawn(1, 5, 4, 1)), NO_TOKENS)
    target = truths(2, 7, image_id=9)
    (image,) = match_batch(output, [target], sizes(1), MATCHER, num_classes=3)
    rows = match_rows(image, CATEGORIES)
    assert [(row.layer, row.truth) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for row in rows:
        layer, query = image.layers[row.layer], row.query
        scores = output.layers[row.layer].logits[0].softmax(-1)[:, :3]
        label = int(target.labels[row.truth])
        assert row.label == CATEGORIES.names[label]
        assert row.score == pytest.approx(float(scores[query, label]))
        assert row.cost_class == pytest.approx(-float(scores[query, label]))
        assert row.cost_total == pytest.approx(row.cost_class + 5 * row.cost_l1 + 2 * row.cost_giou, abs=1e-5)
        assert row.best_iou == pytest.approx(max(float(iou) for iou in layer.iou[:, row.truth]))
        right = [
            query for query in range(5) if layer.iou[query, row.truth] >= 0.5 and int(scores[query].argmax()) == label
        ]
        assert row.found is bool(right)
        assert row.token == row.query


def test_in_two_stages_a_query_is_known_by_the_token_that_proposed_it():
    every = drawn(1, 9, 3, 4)
    selected = torch.tensor([[8, 3, 5, 0]])
    output = DetectorOutput((drawn(1, 4, 3, 5),), NO_TOKENS, Proposals(every, selected))
    (image,) = match_batch(output, [truths(2, 1)], sizes(1), MATCHER, num_classes=3)
    for row in match_rows(image, CATEGORIES):
        assert row.token == selected[0, row.query]


def test_more_truths_than_queries_and_none_at_all_are_told_as_such():
    output = DetectorOutput((drawn(2, 2, 3, 0),), NO_TOKENS)
    crowd, empty = match_batch(output, [truths(3, 1), truths(0, 1)], sizes(2), MATCHER, num_classes=3)
    rows = match_rows(crowd, CATEGORIES)
    (left_out,) = (row for row in rows if row.query == NOBODY)
    assert (left_out.cost_total, left_out.iou, left_out.score, left_out.margin) == (None, None, None, None)
    assert left_out.best_iou > 0
    assert match_rows(empty, CATEGORIES) == []


def test_a_no_object_column_takes_part_in_the_softmax_and_is_dropped():
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    assert class_scores(logits, 2).tolist() == [pytest.approx(logits.softmax(-1)[0, :2].tolist())]
    assert class_scores(logits, 3).tolist() == [pytest.approx(logits.sigmoid()[0].tolist())]


@pytest.mark.parametrize(("side", "size"), [(31.9, "small"), (32.1, "medium"), (95.9, "medium"), (96.1, "large")])
def test_sizes_are_cocos_in_pixels_of_the_original_image(side, size):
    assert size_of(torch.tensor([0.5, 0.5, side / 640, side / 480]), (480, 640)) == size
