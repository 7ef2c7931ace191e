import pytest
import torch

from detrctl.boxes import Cxcywh
from detrctl.model.denoising import ContrastiveDenoising, group_count
from detrctl.structures import Queries, Targets

MANY = [(100, 1, 100), (100, 8, 12), (100, 101, 1), (50, 1, 50), (50, 7, 7)]
FEW = [(49, 1, 98), (49, 7, 98), (30, 8, 60), (1, 200, 2)]


@pytest.mark.parametrize(("copies", "most", "groups"), [*MANY, *FEW])
def test_many_copies_are_shared_out_among_groups_and_few_become_groups(copies: int, most: int, groups: int) -> None:
    assert group_count(copies, most) == groups


@pytest.mark.parametrize(("copies", "size"), [(50, 96), (30, 960)])
def test_queries_are_as_many_as_the_groups_hold(copies: int, size: int) -> None:
    part = ContrastiveDenoising(num_classes=3, width=8, copies=copies, label_noise=0.5, box_noise=1.0, eps=1e-3).train()
    queries = Queries(torch.zeros(1, 2, 8), None, torch.full((1, 2, 4), 0.5))
    targets = Targets(torch.zeros(8, dtype=torch.int64), Cxcywh(torch.full((8, 4), 0.25)))
    prepared, known = part(queries, (targets,))
    assert known is not None
    assert (known.size, prepared.content.shape[1]) == (size, size + 2)
    assert len(known.assignment) == size // 2
