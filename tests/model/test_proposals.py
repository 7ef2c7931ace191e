"""The boxes that the encoder's proposals start from."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from detrctl.boxes import Cxcywh, cxcywh_to_xyxy
from detrctl.model.proposals import EncoderProposals, best_class
from detrctl.structures import Tokens


def memory() -> Tokens:
    """Levels of 4 x 4 and 2 x 2 cells, no padding."""
    return Tokens(
        torch.rand(1, 20, 8), torch.zeros(1, 20, 8), torch.zeros(1, 20, dtype=torch.bool), ((4, 4), (2, 2)),
        torch.ones(1, 2, 2),
    )  # fmt: skip


@pytest.mark.parametrize("smallest", [0.05, 0.2])
def test_untrained_proposals_are_squares_at_their_cells_that_double_from_level_to_level(smallest: float) -> None:
    head = nn.Linear(8, 4)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    part = EncoderProposals(width=8, class_head=nn.Linear(8, 3), box_head=head, rank=best_class, smallest=smallest)
    boxes = part(memory(), 5).all.boxes[0]
    for row in range(4):
        for column in range(4):
            wanted = torch.tensor([(column + 0.5) / 4, (row + 0.5) / 4, smallest, smallest])
            torch.testing.assert_close(boxes[4 * row + column], wanted)
    torch.testing.assert_close(boxes[16], torch.tensor([0.25, 0.25, 2 * smallest, 2 * smallest]))


def test_the_published_size_is_the_default() -> None:
    part = EncoderProposals(width=8, class_head=nn.Linear(8, 3), box_head=nn.Linear(8, 4), rank=best_class)
    assert part.smallest == 0.05


def distinct_by_hand(scores: Tensor, boxes: Tensor, count: int, max_iou: float) -> list[int]:
    """One image: (S,), (S, 4) -> the chosen tokens, by a plain loop."""
    chosen: list[int] = []
    repeats: list[int] = []
    for token in scores.argsort(descending=True).tolist():
        overlaps = [box_iou(boxes[token][None], boxes[other][None]).item() for other in chosen]
        (repeats if any(overlap > max_iou for overlap in overlaps) else chosen).append(token)
    return (chosen + repeats)[:count]


@pytest.mark.parametrize(("count", "spread"), [(5, 0.5), (20, 0.02), (50, 0.5)])
def test_distinct_proposals_are_those_of_a_plain_loop(count: int, spread: float) -> None:
    part = EncoderProposals(width=8, class_head=nn.Linear(8, 3), box_head=nn.Linear(8, 4), rank=best_class, max_iou=0.6)
    generator = torch.Generator().manual_seed(count)
    scores = torch.randn(3, 40, generator=generator)
    centres = 0.5 + spread * (torch.rand(3, 40, 2, generator=generator) - 0.5)
    boxes = torch.cat([centres, 0.2 + 0.1 * torch.rand(3, 40, 2, generator=generator)], dim=-1)
    selected = part.select(scores, Cxcywh(boxes), count)
    for row in range(3):
        wanted = distinct_by_hand(scores[row], cxcywh_to_xyxy(Cxcywh(boxes[row])), count, 0.6)
        assert selected[row].tolist() == wanted
    best = scores.topk(min(count, 40), dim=1).indices
    assert not torch.equal(selected, best)  # something repeats, or this would prove nothing
