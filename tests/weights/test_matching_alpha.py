"""Whose `focal_alpha` is the matcher's as well: the official matchers of some have 0.25 written into them."""

from typing import Any

import pytest
import torch

from detrctl.families.pieces import focal_criterion
from detrctl.losses.matcher import focal_cost
from detrctl.recipe.schema import FocalMatchCost, FocalObjective
from tests.parity.test_harness import MODELS
from tests.parity.test_variants import PROJECTS

FOCAL = {name: model for name, model in MODELS.items() if "focal_alpha" in model.arguments and name != "DETR"}


@pytest.mark.parametrize("name", FOCAL)
def test_the_matcher_has_the_alpha_that_its_official_code_has(name: str) -> None:
    model = FOCAL[name]
    _, objective = PROJECTS[model.repository].sections(model.arguments | {"focal_alpha": 0.4})
    assert objective.alpha == 0.4
    assert objective.match.alpha == (0.4 if name.startswith(("DN", "DINO")) else 0.25)


def test_the_class_term_of_the_matching_has_an_alpha_of_its_own() -> None:
    logits, labels = torch.linspace(-3, 3, 12).reshape(4, 3), torch.tensor([2, 0])

    def cost(**fields: Any) -> torch.Tensor:
        return focal_criterion(FocalObjective(**fields)).plan.matcher.class_cost(logits, labels)

    assert torch.equal(cost(alpha=0.75), focal_cost(alpha=0.25, gamma=2.0)(logits, labels))
    assert torch.equal(cost(match=FocalMatchCost(alpha=0.75)), focal_cost(alpha=0.75, gamma=2.0)(logits, labels))
    assert not torch.allclose(cost(alpha=0.75), cost(match=FocalMatchCost(alpha=0.75)))
