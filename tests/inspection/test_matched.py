"""What moved between two evaluations is DN-DETR's instability, from as little as a checkpoint can hold."""

import random

import pytest
import torch

from detrctl.inspection.instability import index_vector
from detrctl.inspection.matched import FIRST, OTHER_IMAGES, Matched, Moved, moved, pack, unpack
from detrctl.inspection.matching import NOBODY


def matched(by_image: dict[int, list[int]], tokens: dict[int, list[int]] | None = None) -> Matched:
    """Image id -> the query of each of its truths."""
    return pack(
        {i: (torch.tensor(q).long(), None if tokens is None else torch.tensor(tokens[i])) for i, q in by_image.items()}
    )


def test_by_hand_a_truth_that_changes_its_query_counts_twice_and_so_does_a_swap() -> None:
    before = matched({7: [0, 1], 3: []})
    # Image 7: (0, 1, -1) becomes (-1, 1, 0): two entries of one of two images.
    assert moved(before, matched({7: [2, 1], 3: []}), epochs=1.5) == Moved(2, 2.0, 1.0, None, 1.5)
    assert moved(before, matched({7: [1, 0], 3: []}), epochs=1.0).instability == 1.0
    assert moved(before, before, epochs=1.0).instability == 0.0


def test_a_truth_that_loses_its_query_changes_one_entry() -> None:
    assert moved(matched({1: [4, 5]}), matched({1: [4, NOBODY]}), epochs=1.0) == Moved(1, 2.0, 1.0, None, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_mean_over_images_of_the_entries_in_which_two_index_vectors_differ(seed: int) -> None:
    draw, queries, images = random.Random(seed), 9, 5
    # Image i has i truths, of which one may stay without a query.
    epochs = [{i: draw.sample([*range(queries), NOBODY], i) for i in range(images)} for _ in range(2)]
    entries = 0
    for i in range(images):
        vectors = [
            index_vector(((query, truth) for truth, query in enumerate(epoch[i]) if query != NOBODY), queries)
            for epoch in epochs
        ]
        entries += sum(one != other for one, other in zip(*vectors, strict=True))
    assert moved(*map(matched, epochs), epochs=1.0).instability == entries / images


def test_queries_of_two_stages_are_told_apart_by_slot_and_by_token() -> None:
    before, after = matched({1: [0, 1]}, {1: [70, 80]}), matched({1: [1, 2]}, {1: [80, 81]})
    found = moved(before, after, epochs=1.0)
    # Slots (0, 1, -1) become (-1, 0, 1); token 70 loses its truth, 80 changes it, 81 gets one.
    assert (found.instability, found.by_token) == (3.0, 3.0)
    assert moved(before, matched({1: [4, 1]}, {1: [70, 80]}), epochs=1.0).by_token == 0.0


def test_where_there_is_nothing_to_compare_the_gap_is_told_and_no_number() -> None:
    after = matched({1: [0, 1], 2: [3]})
    assert moved(None, after, epochs=1.0) == Moved(2, 3.0, gap=FIRST)
    assert moved(None, after, epochs=1.0, missing="why").gap == "why"
    for before in (matched({1: [0, 1]}), matched({1: [0], 2: [3]}), matched({1: [0, 1], 2: [3]}, {1: [5, 6], 2: [7]})):
        assert moved(before, after, epochs=1.0) == Moved(2, 3.0, gap=OTHER_IMAGES)


def test_a_split_without_truths_has_nothing_that_could_move() -> None:
    empty = matched({1: [], 2: []})
    assert moved(empty, empty, epochs=1.0) == Moved(2, 0.0, 0.0, None, 1.0)


@pytest.mark.parametrize("tokens", [None, {4: [8, 9], 2: [7]}])
def test_a_checkpoint_gives_back_what_it_was_given(tokens: dict[int, list[int]] | None) -> None:
    kept = matched({4: [0, 1], 2: [3]}, tokens)
    again = unpack(kept.state())
    assert again is not None
    assert again.image_ids.tolist() == [2, 4]
    assert again.state().keys() == kept.state().keys()
    assert all(torch.equal(value, again.state()[name]) for name, value in kept.state().items())


def test_what_is_damaged_or_missing_is_no_matching() -> None:
    state = matched({4: [0, 1], 2: [3]}, {4: [8, 9], 2: [7]}).state()
    assert unpack({}) is None
    for name in state:
        for part in (state[name][:1], state[name].float(), state[name][None], "text"):
            assert unpack(state | {name: part}) is None
    assert unpack(state | {"more": state["queries"]}) is None
