"""Deformable attention against the per-level `grid_sample` formula, a plain loop, and by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detrctl.model import sampled_sum
from detrctl.model.deformable_attention import DeformableAttention
from detrctl.model.sampled_sum import LevelShapes, deformable_attention

SHAPES = ((6, 9), (3, 5), (1, 4), (2, 1), (1, 1))


def per_level(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The formula as it is mostly written: each level an image that is sampled."""
    batch, _, heads, depth = values.shape
    total = torch.zeros(batch * heads, depth, locations.shape[1], dtype=values.dtype)
    for level, image in enumerate(values.split([height * width for height, width in shapes], dim=1)):
        pictures = image.permute(0, 2, 3, 1).reshape(batch * heads, depth, *shapes[level])
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        sampled = F.grid_sample(pictures, grid, padding_mode="zeros", align_corners=False)
        total = total + (sampled * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return total.view(batch, heads * depth, -1).transpose(1, 2)


def one_by_one(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Equation 3 as loops over everything, with Python's numbers."""
    batch, queries, heads, levels, points, _ = locations.shape
    mixed = torch.zeros(batch, queries, heads, values.shape[-1], dtype=values.dtype)
    starts = [sum(height * width for height, width in shapes[:level]) for level in range(levels)]
    for b, q, h, level, p in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads, levels, points))).tolist():
        height, width = shapes[level]
        x, y = (locations[b, q, h, level, p] * torch.tensor([width, height]) - 0.5).tolist()
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(x - column)) * (1 - abs(y - row)) * weights[b, q, h, level, p]
                    mixed[b, q, h] += share * values[b, starts[level] + row * width + column, h]
    return mixed.flatten(2)


def inputs(
    shapes: LevelShapes = SHAPES,
    *,
    batch: int = 2,
    queries: int = 5,
    heads: int = 3,
    depth: int = 4,
    points: int = 2,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations of which many lie outside the image, weights."""
    random = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in shapes)
    values = torch.randn(batch, tokens, heads, depth, generator=random, dtype=dtype)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, generator=random, dtype=dtype) * 1.8 - 0.4
    weights = torch.randn(batch, queries, heads, len(shapes), points, generator=random, dtype=dtype)
    return values, locations, weights


def with_gradients(
    attend: object, shapes: LevelShapes, values: Tensor, locations: Tensor, weights: Tensor
) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in (values, locations, weights)]
    mixed = attend(leaves[0], shapes, *leaves[1:])  # type: ignore[operator]
    (mixed * torch.linspace(-1, 1, mixed.numel(), dtype=mixed.dtype).view_as(mixed)).sum().backward()
    return [mixed.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def test_it_is_the_equation_by_loops() -> None:
    values, locations, weights = inputs()
    torch.testing.assert_close(
        deformable_attention(values, SHAPES, locations, weights), one_by_one(values, SHAPES, locations, weights)
    )


@pytest.mark.parametrize("shapes", [SHAPES, ((7, 8),), ((1, 1), (1, 1)), ((5, 1), (1, 6))], ids=str)
@pytest.mark.parametrize("points", [1, 3])
def test_outputs_and_all_gradients_are_those_of_the_formula_per_level(shapes: LevelShapes, points: int) -> None:
    made = inputs(shapes, points=points)
    for ours, theirs in zip(
        with_gradients(deformable_attention, shapes, *made), with_gradients(per_level, shapes, *made), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_gradients_are_those_of_finite_differences() -> None:
    values, locations, weights = (x.requires_grad_() for x in inputs(((3, 4), (2, 1)), batch=1, queries=2, heads=2))
    assert torch.autograd.gradcheck(
        lambda *x: deformable_attention(x[0], ((3, 4), (2, 1)), *x[1:]), (values, locations, weights)
    )


def test_other_devices_sum_level_by_level_and_get_the_same() -> None:
    made = inputs()
    for ours, theirs in zip(
        with_gradients(deformable_attention, SHAPES, *made),
        with_gradients(sampled_sum._sum_levels, SHAPES, *made),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("portion", [1, 7, 64])
def test_the_portions_change_nothing(portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = inputs(dtype=torch.float32)
    whole = with_gradients(deformable_attention, SHAPES, *made)
    monkeypatch.setattr(sampled_sum, "PORTION", portion)
    for ours, theirs in zip(with_gradients(deformable_attention, SHAPES, *made), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_portions_of_compiled_code_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(queries=5)
    want = deformable_attention(given[0], SHAPES, *given[1:])
    monkeypatch.setattr(sampled_sum, "PORTION", 1)
    monkeypatch.setattr(sampled_sum, "PORTIONS_COMPILED", 7)  # of two queries each, so that the last ones are empty
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert len(sampled_sum._portions(10, 30, 7)) == 7
    torch.testing.assert_close(deformable_attention(given[0], SHAPES, *given[1:]), want)


def test_at_the_border_half_a_cell_is_lost_and_beyond_it_all() -> None:
    values = torch.ones(1, 4, 1, 1)
    x = torch.tensor([0.5, 0.0, -0.25, -0.5, 1.25, 2.0])  # a 2 x 2 level: one cell is half of it
    locations = torch.stack([x, torch.full_like(x, 0.5)], dim=-1).view(1, 6, 1, 1, 1, 2)
    mixed = deformable_attention(values, [(2, 2)], locations, torch.ones(1, 6, 1, 1, 1))
    torch.testing.assert_close(mixed.flatten(), torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0, 0.0]))


@pytest.mark.parametrize("far", [1e6, -1e6, 1e20, -1e20, math.inf, -math.inf])
def test_points_far_away_give_zero_and_no_gradient(far: float) -> None:
    values, locations, weights = inputs(((4, 4),), dtype=torch.float32)
    mixed, of_values, of_locations, of_weights = with_gradients(
        deformable_attention, ((4, 4),), values, torch.full_like(locations, far), weights
    )
    assert not mixed.any()
    assert not of_values.any()
    assert not of_locations.any()
    assert not of_weights.any()


def test_a_nan_is_not_hidden() -> None:
    values, locations, weights = inputs(((4, 4),), dtype=torch.float32)
    values[0, :, 0, 0] = math.nan
    assert deformable_attention(values, ((4, 4),), locations.clamp(0.2, 0.8), weights).isnan().any()
    values, locations, weights = inputs(((4, 4),), dtype=torch.float32)
    locations[0, 0] = math.nan
    assert deformable_attention(values, ((4, 4),), locations, weights)[0, 0].isnan().all()


def test_single_precision_and_half_are_close_to_double() -> None:
    made = inputs()
    exact = deformable_attention(made[0], SHAPES, *made[1:])
    single = deformable_attention(made[0].float(), SHAPES, made[1].float(), made[2].float())
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)
    half = deformable_attention(made[0].bfloat16(), SHAPES, made[1].float(), made[2].float())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), exact, rtol=2e-2, atol=2e-2)


def test_a_second_pass_gives_the_same_bits() -> None:
    made = inputs(dtype=torch.float32, queries=40)
    first, second = (with_gradients(deformable_attention, SHAPES, *made) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_query_and_no_image_are_nothing() -> None:
    values, locations, weights = inputs()
    assert deformable_attention(values, SHAPES, locations[:, :0], weights[:, :0]).shape == (2, 0, 12)
    assert deformable_attention(values[:0], SHAPES, locations[:0], weights[:0]).shape == (0, 5, 12)


def test_tokens_that_do_not_fit_the_levels_are_an_error() -> None:
    values, locations, weights = inputs()
    with pytest.raises(ValueError, match=r"76 tokens, but levels .* have 54"):
        deformable_attention(values, ((6, 9),), locations[:, :, :, :1], weights[:, :, :, :1])


def test_references_as_points_count_cells_and_as_boxes_halves_of_their_sides() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(width=8, heads=2, levels=2, points=2)
    shapes, tokens = ((4, 8), (2, 4)), 40
    with torch.no_grad():
        attention.attention_weights.bias.copy_(torch.linspace(-1, 1, 8))
    values, query, padding = torch.randn(1, tokens, 8), torch.randn(1, 1, 8), torch.zeros(1, tokens, dtype=torch.bool)
    shares = torch.linspace(-1, 1, 8).view(2, 4).softmax(-1).view(1, 1, 2, 2, 2)
    projected = attention.value_proj(values).unflatten(-1, (2, 4))
    rays = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # two heads, opposite ways; the second point one step farther
    steps = (rays[:, None, None] * torch.tensor([1.0, 2.0])[:, None]).expand(2, 2, 2, 2)
    centre, side = torch.tensor([0.5, 0.4]), torch.tensor([0.2, 0.3])
    by_cells = centre + steps / torch.tensor([[8.0, 4.0], [4.0, 2.0]])[None, :, None]
    by_sides = centre + steps / 2 * side * 0.5
    for reference, locations in ((centre, by_cells), (torch.cat([centre, side]), by_sides)):
        given = reference.expand(1, 1, 2, -1)
        expected = attention.output_proj(per_level(projected, shapes, locations[None, None], shares))
        ours = attention(query, given, values, level_shapes=shapes, is_padding=padding)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_padding_is_worth_zero_whatever_it_holds() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(width=8, heads=2, levels=1, points=4)
    padding = (torch.arange(16) % 4 >= 2)[None]  # the right half of a 4 x 4 level
    values, query, reference = torch.randn(1, 16, 8), torch.randn(1, 6, 8), torch.rand(1, 6, 1, 2)
    other = values.masked_fill(padding[..., None], 1e4)
    first, second = (
        attention(query, reference, x, level_shapes=((4, 4),), is_padding=padding) for x in (values, other)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, attention(query, reference, other, level_shapes=((4, 4),), is_padding=~padding))
