"""The boxes that the encoder's proposals start from."""

import pytest
import torch
from torch import nn

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
