"""AdamW's groups have the recipe's rates, and gradients are clipped by their norm."""

import pytest
import torch
from torch import nn

from detrctl.engine.optim import (
    build_optimizer,
    clip,
    freeze_still_groups,
    gradient_norm,
    non_finite_gradients,
    set_rates,
)
from detrctl.errors import DetrctlError
from detrctl.recipe.schema import Train


def groups() -> tuple[nn.ModuleDict, dict[str, list[nn.Parameter]]]:
    network = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    return network, {"backbone": [*network["backbone"].parameters()], "transformer": [*network["head"].parameters()]}


def train(**fields: object) -> Train:
    return Train.model_validate(fields)


def test_groups_have_the_published_rates_and_weight_decay() -> None:
    optimizer = build_optimizer(groups()[1], train())
    found = {
        group["name"]: (group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups
    }
    assert found == {"backbone": (1e-5, 1e-4, 2), "transformer": (1e-4, 1e-4, 2)}


def test_sgd_has_momentum_and_the_same_groups() -> None:
    network, parts = groups()
    optimizer = build_optimizer(parts, train(optimizer="sgd", lr=0.1, backbone_lr=0.1, weight_decay=0))
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["name"] for group in optimizer.param_groups] == ["backbone", "transformer"]
    weight = network["head"].bias
    start = weight.item()
    for _ in range(2):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert start - weight.item() == pytest.approx(0.1 + 0.1 * (1 + 0.9))


def test_rates_are_scaled_by_batch_size_and_schedule() -> None:
    optimizer = build_optimizer(groups()[1], train(batch_size=64, scale_lr="sqrt"))
    assert set_rates(optimizer, 0.5) == pytest.approx({"backbone": 1e-5, "transformer": 1e-4})
    assert set_rates(optimizer, 0.1) == pytest.approx({"backbone": 2e-6, "transformer": 2e-5})


def test_a_rate_of_zero_freezes_the_group() -> None:
    network, parts = groups()
    freeze_still_groups(parts, train(backbone_lr=0))
    optimizer = build_optimizer(parts, train(backbone_lr=0))
    assert [group["name"] for group in optimizer.param_groups] == ["transformer"]
    assert not any(parameter.requires_grad for parameter in network["backbone"].parameters())


def test_nothing_to_train_is_said() -> None:
    with pytest.raises(DetrctlError, match=r"^train\.lr, train\.backbone_lr: nothing is left to train$"):
        build_optimizer({"backbone": [], "transformer": []}, train())


def test_clipping_keeps_the_direction_and_bounds_the_norm() -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    norm = gradient_norm([a, b])
    assert float(norm) == 5.0
    clip([a, b], norm, 0.0)
    assert torch.equal(a.grad, torch.tensor([3.0, 0.0]))
    clip([a, b], norm, 10.0)
    assert torch.equal(a.grad, torch.tensor([3.0, 0.0]))
    clip([a, b], norm, 0.5)
    torch.testing.assert_close(torch.cat([a.grad, b.grad]), torch.tensor([0.3, 0.0, 0.4]))


def test_parameters_with_a_broken_gradient_are_named() -> None:
    network, _ = groups()
    network["backbone"].weight.grad = torch.full((2, 2), float("inf"))
    network["head"].weight.grad = torch.ones(1, 2)
    assert non_finite_gradients(network) == ["backbone.weight"]
