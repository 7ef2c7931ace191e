"""The groups have the recipe's rates, Muon's steps are its formula's, and gradients are clipped by their norm."""

import copy

import pytest
import torch
from torch import nn

from detrctl.engine.muon import is_matrix, orthogonalised
from detrctl.engine.optim import (
    build_optimizer,
    clip,
    freeze_still_groups,
    gradient_norm,
    non_finite_gradients,
    parameters_by_group,
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


@pytest.mark.parametrize("shape", [(12, 12), (24, 200), (200, 24)])
def test_orthogonalised_is_the_repeated_quintic(shape: tuple[int, int]) -> None:
    """Of the whole matrix, in fp64, over singular values of five orders of magnitude."""
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(1)), False)
    matrix = (left * torch.logspace(0, -5, min(shape))) @ right
    found = matrix.double() / matrix.double().norm()
    for _ in range(5):
        square = found @ found.T
        found = 3.4445 * found - 4.7750 * square @ found + 2.0315 * square @ square @ found
    # Of about 1; fp32 rounds the Gram matrix.
    torch.testing.assert_close(orthogonalised(matrix).double(), found, atol=5e-4, rtol=0)


@pytest.mark.parametrize("shape", [(12, 12), (8, 40), (40, 8)])
def test_orthogonalised_has_the_same_singular_vectors_and_values_near_1(shape: tuple[int, int]) -> None:
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), False)
    values = torch.logspace(0, -2, min(shape))
    inner = left.T @ orthogonalised((left * values) @ right) @ right.T
    torch.testing.assert_close(inner, inner.diag().diag(), atol=1e-4, rtol=0)
    assert bool(((inner.diag() > 0.65) & (inner.diag() < 1.25)).all())


def test_muon_steps_matrices_as_the_formula_says_and_gives_the_rest_to_adamw() -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict({"conv": nn.Conv2d(3, 16, 3), "wide": nn.Linear(16, 24), "head": nn.Linear(24, 4)})
    parts = {"backbone": [*network["conv"].parameters()], "detector": [*network["wide"].parameters()]}
    parts["detector"] += network["head"].parameters()
    start = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer = build_optimizer(parts, train(optimizer="muon", lr=0.01, backbone_lr=0.02, weight_decay=0.1))
    assert set_rates(optimizer, 1.0) == {"backbone": 0.02, "detector": 0.01}
    assert parameters_by_group(optimizer) == {"backbone": 27 * 16 + 16, "detector": 16 * 24 + 24 + 24 * 4 + 4}
    twin = {name: nn.Parameter(value.clone()) for name, value in start.items()}
    other = torch.optim.AdamW(
        [{"params": [twin[name]], "lr": 0.02 if name.startswith("conv") else 0.01} for name in twin], weight_decay=0.1
    )
    momenta = {name: torch.zeros_like(value) for name, value in start.items()}
    expected = {name: value.clone() for name, value in start.items()}
    for _ in range(3):
        for name, parameter in network.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            twin[name].grad = parameter.grad.clone()
            momenta[name] = 0.95 * momenta[name] + 0.05 * parameter.grad
            rate = 0.02 if name.startswith("conv") else 0.01
            ahead = (0.05 * parameter.grad + 0.95 * momenta[name]).flatten(1) if parameter.ndim > 1 else None
            if name in ("conv.weight", "wide.weight") and ahead is not None:
                step = 0.2 * max(ahead.shape) ** 0.5 * orthogonalised(ahead).view_as(parameter)
                expected[name] = expected[name] * (1 - rate * 0.1) - rate * step
        optimizer.step()
        other.step()
    for name, parameter in network.named_parameters():
        if name in ("conv.weight", "wide.weight"):
            torch.testing.assert_close(parameter.detach(), expected[name])
            assert not torch.allclose(parameter, twin[name], atol=1e-3)
        else:
            torch.testing.assert_close(parameter, twin[name])


def test_an_update_of_muon_is_as_large_as_one_of_adamw() -> None:
    """So that its rates can be taken over: the root mean square is 0.2 of the rate whatever the shape."""
    torch.manual_seed(0)
    for shape in ((32, 32), (16, 96), (64, 16, 3, 3)):
        weight = nn.Parameter(torch.zeros(shape))
        optimizer = build_optimizer({"detector": [weight]}, train(optimizer="muon", lr=0.1, weight_decay=0))
        weight.grad = torch.randn(shape)
        optimizer.step()
        assert weight.detach().pow(2).mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.2)


def test_muon_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    one, two = nn.Linear(16, 16), nn.Linear(16, 16)
    gradients = [torch.randn(16, 16) for _ in range(4)]

    def step(layer: nn.Linear, optimizer: torch.optim.Optimizer, gradient: torch.Tensor) -> None:
        layer.weight.grad, layer.bias.grad = gradient.clone(), gradient[0].clone()
        optimizer.step()

    settings = train(optimizer="muon", lr=0.01)
    whole = build_optimizer({"detector": [*one.parameters()]}, settings)
    for gradient in gradients[:2]:
        step(one, whole, gradient)
    two.load_state_dict(one.state_dict())
    half = build_optimizer({"detector": [*two.parameters()]}, settings)
    half.load_state_dict(copy.deepcopy(whole.state_dict()))
    for gradient in gradients[2:]:
        step(one, whole, gradient)
        step(two, half, gradient)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 8), True), ((7, 64), False), ((64, 7), False), ((64, 1, 3, 3), True), ((64,), False), ((100, 256), True)],
)
def test_what_is_a_matrix(shape: tuple[int, ...], expected: bool) -> None:
    assert is_matrix(torch.zeros(shape)) is expected
