"""Which of the encoder's proposals meet which truths."""

import torch

from detrctl.boxes import Cxcywh
from detrctl.losses.matcher import Matcher, focal_cost
from detrctl.losses.plan import EncoderTruths, Plan
from detrctl.structures import DetectorOutput, Predictions, Proposals, Targets, Tokens

MATCHER = Matcher(focal_cost(alpha=0.25, gamma=2.0), class_weight=2.0, l1=5.0, giou=2.0)
TRUTHS = (
    Targets(torch.tensor([1, 0]), Cxcywh(torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]]))),
    Targets(torch.zeros(0, dtype=torch.int64), Cxcywh(torch.zeros(0, 4))),
)


def made() -> DetectorOutput:
    """Six proposals in each of two images; the first four lie ever farther from the first truth, two near the other."""
    x = torch.tensor([0.2, 0.22, 0.26, 0.4, 0.7, 0.74])
    boxes = torch.stack([x, x, torch.full_like(x, 0.2), torch.full_like(x, 0.2)], dim=-1).expand(2, -1, -1)
    proposals = Predictions(torch.zeros(2, 6, 2), Cxcywh(boxes.contiguous()))
    memory = Tokens(
        torch.zeros(2, 6, 4), torch.zeros(2, 6, 4), torch.zeros(2, 6, dtype=torch.bool), ((2, 3),), torch.ones(2, 1, 2)
    )
    answers = Predictions(torch.zeros(2, 3, 2), Cxcywh(torch.full((2, 3, 4), 0.5)))
    return DetectorOutput((answers,), memory, Proposals(proposals, torch.tensor([[4, 0, 5], [0, 1, 2]])))


def encoder_pairs(encoder: EncoderTruths, matches: int = 1) -> list[tuple[int, int]]:
    plan = Plan(MATCHER, encoder=encoder, encoder_matches=matches)
    (meeting,) = [m for m in plan(made(), TRUTHS) if m.stage == "encoder"]
    assert meeting.repeats == matches
    assert not meeting.assignment.image.any()
    answered = [int(meeting.targets[0].labels[truth]) for truth in meeting.assignment.truth]
    return list(zip(meeting.assignment.query.tolist(), answered, strict=True))


def test_each_truth_gets_one_proposal_of_all_or_of_the_selected_ones() -> None:
    assert encoder_pairs("all_proposals") == [(0, 1), (4, 0)]
    assert encoder_pairs("selected_proposals") == [(0, 0), (1, 1)]  # places among the selected: tokens 4 and 0


def test_each_truth_can_teach_its_nearest_proposals() -> None:
    assert encoder_pairs("all_proposals", matches=2) == [(0, 1), (1, 1), (4, 0), (5, 0)]


def test_a_proposal_that_two_truths_want_teaches_the_nearer_one() -> None:
    assert encoder_pairs("all_proposals", matches=4) == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 0), (5, 0)]


def test_without_encoder_supervision_only_the_decoder_meets_truths() -> None:
    assert [m.stage for m in Plan(MATCHER)(made(), TRUTHS)] == ["decoder"]
