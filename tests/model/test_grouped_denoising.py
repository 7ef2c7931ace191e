import math

import pytest
import torch
from torch import Tensor

from detrctl.boxes import Cxcywh
from detrctl.model.denoising import GroupedDenoising
from detrctl.structures import Known, Queries, Targets

CLASSES, WIDTH, GROUPS, OWN = 4, 8, 3, 2


def denoising(*, label_noise: float = 0.0, box_noise: float = 0.0) -> GroupedDenoising:
    torch.manual_seed(0)
    return GroupedDenoising(
        num_classes=CLASSES, width=WIDTH, groups=GROUPS, label_noise=label_noise, box_noise=box_noise, eps=1e-3
    ).train()


def own_queries() -> Queries:
    return Queries(torch.zeros(2, OWN, WIDTH), None, torch.full((2, OWN, 4), 0.3))


def truths(first: int, second: int) -> tuple[Targets, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(
        Targets(
            torch.randint(CLASSES, (count,), generator=generator),
            Cxcywh(torch.rand(count, 4, generator=generator) * 0.4 + 0.2),
        )
        for count in (first, second)
    )


class Fixed:
    """Draws that are all the same number."""

    def __init__(self, number: float):
        self.number = number

    def uniform(self, *shape: int) -> Tensor:
        return torch.full(shape, self.number)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.full(shape, high - 1)


def test_without_noise_every_group_holds_every_truth_once() -> None:
    part, targets = denoising(), truths(1, 3)
    queries, known = part(own_queries(), targets)
    assert isinstance(known, Known)
    assert (known.size, known.groups) == (GROUPS * 3, GROUPS)
    seen = set()
    pairs = known.assignment
    for image, query, truth in zip(pairs.image.tolist(), pairs.query.tolist(), pairs.truth.tolist(), strict=True):
        assert truth == query % 3
        label = targets[image].labels[truth]
        torch.testing.assert_close(queries.content[image, query, :-1], part.labels.weight[label])
        assert queries.content[image, query, -1] == 1
        torch.testing.assert_close(queries.reference[image, query], targets[image].boxes[truth])
        seen.add((image, query))
    assert seen == {(0, 3 * group) for group in range(GROUPS)} | {(1, query) for query in range(9)}


def test_slots_without_a_truth_are_empty_and_unused() -> None:
    queries, known = denoising()(own_queries(), truths(1, 3))
    empty = [[query for query in range(9) if query % 3], []]
    for image in range(2):
        assert known.unused[image].nonzero().flatten().tolist() == empty[image]
        assert not queries.content[image, empty[image]].any()
        assert (queries.reference[image, empty[image]] == 0.5).all()


def test_groups_do_not_see_each_other_and_own_queries_see_none_of_them() -> None:
    queries, known = denoising()(own_queries(), truths(1, 3))
    for row in range(known.size + OWN):
        for column in range(known.size + OWN):
            is_own_row, is_own_column = row >= known.size, column >= known.size
            visible = is_own_column or (not is_own_row and row // 3 == column // 3)
            assert queries.blocked[row, column] == (not visible), (row, column)


@pytest.mark.parametrize("targets", [None, truths(0, 0), truths(1, 2)])
def test_own_queries_hold_the_further_label_and_a_zero_in_training_and_after(targets: tuple[Targets, ...]) -> None:
    part = denoising()
    for training in (True, False):
        queries, known = part.train(training)(own_queries(), targets)
        own = queries.content[:, -OWN:]
        torch.testing.assert_close(own[..., :-1], part.labels.weight[CLASSES].expand(2, OWN, -1))
        assert not own[..., -1].any()
        assert (known is not None) == (training and targets is not None and len(targets[0]) > 0)
        assert known is not None or queries.content.shape[1] == OWN


@pytest.mark.parametrize(("drawn", "flipped"), [(0.3, True), (0.5, False)])
def test_labels_change_where_the_draw_is_below_the_chance(drawn: float, flipped: bool) -> None:
    part, targets = denoising(label_noise=0.4), truths(2, 2)
    part.noise = Fixed(drawn)
    queries, _ = part(own_queries(), targets)
    label = CLASSES - 1 if flipped else targets[0].labels[1]
    torch.testing.assert_close(queries.content[0, 1, :-1], part.labels.weight[label])


@pytest.mark.parametrize("drawn", [0.0, 0.25, 1.0])
def test_centres_move_by_halves_of_sides_and_sides_by_themselves(drawn: float) -> None:
    part = denoising(box_noise=0.4)
    part.noise = Fixed(drawn)
    box = [0.5, 0.4, 0.2, 0.3]
    targets = (Targets(torch.tensor([1]), Cxcywh(torch.tensor([box]))),) * 2
    queries, _ = part(own_queries(), targets)
    part_of = (2 * drawn - 1) * 0.4
    expected = [0.5 + part_of * 0.1, 0.4 + part_of * 0.15, 0.2 * (1 + part_of), 0.3 * (1 + part_of)]
    torch.testing.assert_close(queries.reference[0, 0], torch.tensor(expected))


def test_noised_boxes_stay_in_the_image_and_off_its_ends_by_eps() -> None:
    part = denoising(box_noise=1.0)
    targets = (Targets(torch.tensor([1]), Cxcywh(torch.tensor([[0.98, 0.5, 0.5, 0.9]]))),) * 2
    for drawn, expected in ((1.0, [1.0, 0.95, 1.0, 1.0]), (0.0, [0.73, 0.05, 0.0, 0.0])):
        part.noise = Fixed(drawn)
        queries, _ = part(own_queries(), targets)
        ends = 1 / (1 + math.exp(math.log((1 - 0) / 1e-3)))
        torch.testing.assert_close(queries.reference[0, 0], torch.tensor(expected).clamp(ends, 1 - ends))
