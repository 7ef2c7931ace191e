import random
from dataclasses import replace

import pytest

from detrctl.inspection.instability import (
    ImageStep,
    Share,
    between_checkpoints,
    between_layers,
    index_vector,
    instability,
)
from detrctl.inspection.matching import NOBODY, MatchRow
from detrctl.inspection.split_matching import summarise


def row(image_id, truth, query, *, layer=0, token=None, label="cat", size="small", **values):
    token = query if token is None else token
    numbers = {"cost_class": -0.5, "cost_l1": 0.1, "cost_giou": -0.8, "cost_total": -1.6, "iou": 0.8, "score": 0.5}
    others = {"runner_up": NOBODY, "margin": None, "best_iou": 0.8, "found": True}
    return MatchRow(image_id, truth, label, size, layer, query, token, **{**numbers, **others, **values})


def step(before, after, images=1):
    return between_checkpoints(before, after, names=("a", "b"), epochs=1, images=images)


def test_by_hand_a_truth_that_changes_its_query_counts_twice_and_a_swap_of_two_as_well():
    # V = (0, 1, -1, -1) becomes (-1, 1, 0, -1): queries 0 and 2 differ.
    before = [row(1, 0, 0), row(1, 1, 1)]
    assert step(before, [row(1, 0, 2), row(1, 1, 1)]).instability == 2
    # (0, 1, -1, -1) becomes (1, 0, -1, -1): again two queries, although two truths have moved.
    swapped = step(before, [row(1, 0, 1), row(1, 1, 0)])
    assert (swapped.instability, swapped.moved.all, swapped.most) == (2, Share(2, 2), 4)
    assert step(before, before).instability == 0


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_mean_over_images_of_the_published_sum_over_queries(seed):
    draw = random.Random(seed)
    queries, images = 9, 4
    epochs = []
    for _ in range(2):
        epochs.append({i: draw.sample(range(queries), i) for i in range(images)})  # image i has i truths
    expected = 0
    for i in range(images):
        first, second = (
            index_vector(((query, truth) for truth, query in enumerate(epoch[i])), queries) for epoch in epochs
        )
        expected += sum(1 for n in range(queries) if first[n] != second[n])
    rows = [
        [row(i, truth, query) for i, chosen in epoch.items() for truth, query in enumerate(chosen)] for epoch in epochs
    ]
    assert step(*rows, images=images).instability == expected / images


def test_each_image_with_truths_is_told_and_the_numbers_are_their_means():
    before = [row(5, 0, 0, token=70), row(5, 1, 1, token=80), row(9, 0, 3)]
    after = [row(5, 0, 2, token=70), row(5, 1, 1, token=80), row(9, 0, NOBODY)]
    moved = step(before, after, images=4)
    assert moved.per_image == (ImageStep(5, 2, 0, 4), ImageStep(9, 1, 1, 0))
    assert (moved.instability, moved.by_token, moved.most) == (3 / 4, 1 / 4, 4 / 4)


def test_only_the_last_layer_counts_between_checkpoints():
    before = [row(1, 0, 0, layer=0), row(1, 0, 5, layer=1)]
    after = [row(1, 0, 3, layer=0), row(1, 0, 5, layer=1)]
    assert step(before, after).instability == 0


def test_where_slots_are_ranks_the_token_tells_whether_the_match_is_the_same():
    before, after = [row(1, 0, 0, token=70)], [row(1, 0, 4, token=70)]
    moved = step(before, after)
    assert (moved.instability, moved.by_token, moved.moved.all.value) == (2, 0, 0.0)


def test_truths_without_a_query_before_and_after_are_no_change():
    before, after = [row(1, 0, NOBODY), row(1, 1, 0)], [row(1, 0, NOBODY), row(1, 1, NOBODY)]
    moved = step(before, after)
    assert (moved.instability, moved.moved.all) == (1, Share(1, 1))
    assert instability({}, {}) == 0


def test_changes_between_layers_count_truths_by_size_and_class():
    rows = [
        row(1, 0, 0, layer=0), row(1, 1, 1, layer=0, label="dog", size="large"),
        row(1, 0, 0, layer=1), row(1, 1, 2, layer=1, label="dog", size="large"),
        row(1, 0, 3, layer=2), row(1, 1, 2, layer=2, label="dog", size="large"),
    ]  # fmt: skip
    first, second = between_layers(rows)
    assert (first.all, first.by_size["small"], first.by_size["large"]) == (Share(1, 2), Share(0, 1), Share(1, 1))
    assert (second.by_class["cat"], second.by_class["dog"]) == (Share(1, 1), Share(0, 1))
    assert first.by_size["medium"].value is None


def test_a_split_is_told_by_layer_size_and_class_with_its_hard_truths_and_idle_queries():
    hard = row(2, 0, 3, layer=1, size="large", found=False, best_iou=0.2, iou=0.1, margin=0.5)
    harder = replace(hard, image_id=3, query=1, best_iou=0.1, iou=0.1, margin=2.5)
    rows = [
        row(1, 0, 0, layer=0),
        replace(hard, layer=0),
        replace(harder, layer=0),
        row(1, 0, 3, layer=1),
        hard,
        harder,
    ]
    told = summarise(rows, name="run", epoch=None, images=4, queries=5)
    assert (told.images, told.truths, told.unmatched) == (4, 3, 0)
    assert told.hard == (harder, hard)
    assert (told.use.times, told.use.never) == (((3, 2), (1, 1)), (0, 2, 4))
    assert told.use.by_size == {"small": ((3, 1),), "medium": (), "large": ((3, 1), (1, 1))}
    assert told.use.by_class == {"cat": ((3, 2), (1, 1))}
    last = told.layers[1]
    assert last.all.iou == pytest.approx((0.8 + 0.1 + 0.1) / 3)
    assert (last.by_size["large"].margin, last.by_size["large"].found) == (1.5, 0.0)
    assert (last.by_size["medium"].truths, last.by_size["medium"].iou) == (0, None)
    assert last.by_class["cat"].truths == 3


def test_a_split_without_a_truth_has_nothing_to_tell_but_its_queries():
    told = summarise([], name="run", epoch=None, images=2, queries=2)
    assert (told.truths, told.layers, told.between_layers, told.use.never) == (0, (), (), (0, 1))
