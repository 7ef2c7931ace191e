"""The weighted sum of sampled values, which is what deformable attention computes (Zhu et al. 2021, equation 3).

B batch, Q queries, S tokens of all levels, L levels, P points, H heads, D width, d = D / H.

On a CPU the cells around all points are rows of one table, and attention is a weighted sum of rows, with a backward of
its own. Queries go in portions whose numbers stay in the cache, and between forward and backward nothing is kept but
the inputs: memory traffic is what makes the per-level `grid_sample` formula slow. Most of what remains is a library's
sum of rows, which `torch.compile` leaves as it is; so nothing is compiled here, though a compiled model may hold it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LevelShapes = Sequence[tuple[int, int]]

PORTION = 1 << 18
"""Points to work on at a time: few enough for the cache, enough to hide the cost of calls and occupy several cores."""

PORTIONS_COMPILED = 8
"""As many for an image of 800 x 1066 pixels, in the forward code that `torch.compile` makes; backward it has one."""

NOWHERE = 1 << 20
"""Where the far corner is on an axis of one cell, which has none: no point comes near."""


def deformable_attention(values: Tensor, level_shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of values sampled at points of every level (Zhu et al. 2021, equation 3).

    `values` (B, S, H, d); `locations` (B, Q, H, L, P, 2) as (x, y) in fractions of each level; `weights`
    (B, Q, H, L, P) -> (B, Q, H * d), of the values' type. Sampling is bilinear between the centres of cells, and cells
    outside the level are zero: `grid_sample` with `align_corners=False`. Computed in single precision, or in double if
    `values` are double. On a CPU the gradient of the values does not depend on the order of threads; elsewhere it does
    where the backward of `grid_sample` does, as on a GPU.
    """
    tokens = sum(height * width for height, width in level_shapes)
    if values.shape[1] != tokens:
        raise ValueError(f"{values.shape[1]} tokens, but levels {list(level_shapes)} have {tokens}")
    if not weights.numel():
        return values.new_zeros(*weights.shape[:2], values.shape[2] * values.shape[3])
    precision = torch.promote_types(values.dtype, torch.float32)
    attend = _sum_rows if values.device.type == "cpu" else _sum_levels
    mixed = attend(values.to(precision), level_shapes, locations.to(precision), weights.to(precision))
    return mixed.to(values.dtype)


def _sum_levels(values: Tensor, level_shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`deformable_attention` level by level, for devices with a fast kernel that samples images."""
    batch, _, heads, depth = values.shape
    levels = values.split([height * width for height, width in level_shapes], dim=1)
    total = values.new_zeros(batch * heads, depth, locations.shape[1])
    for level, (height, width) in enumerate(level_shapes):
        image = levels[level].permute(0, 2, 3, 1).reshape(batch * heads, depth, height, width)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (sampled * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return total.view(batch, heads * depth, -1).transpose(1, 2)


def _sum_rows(values: Tensor, level_shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`deformable_attention` as a weighted sum of rows for every query and head."""
    mixed: Tensor = _SumRows.apply(values, tuple(level_shapes), locations.flatten(3, 4), weights.flatten(3))
    return mixed


class _SumRows(torch.autograd.Function):
    """(B, S, H, d) values, (B, Q, H, L * P, 2) locations, (B, Q, H, L * P) weights -> (B, Q, H * d)

    The four cells around a point are its corners, always inside the level: a corner at which the bilinear share would
    fall outside is replaced by one whose share is zero. Shares are those of the hat function, 1 - |distance| or zero.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, level_shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(values, locations, weights)
        ctx.level_shapes = level_shapes
        grid, table = _Grid.of(level_shapes, values, weights, PORTIONS_COMPILED), values.flatten(0, 2)
        mixed = []
        for part in grid.parts:
            near, distances = grid.corners(locations, part)
            x, y = _shares(distances)
            y *= weights.flatten(0, 1)[part][:, :, None]
            rows = near[:, :, None] + grid.steps
            shares = y[:, :, :, None] * x[:, :, None]
            mixed.append(_row_sums(table, rows.flatten(0, 1).flatten(1), shares.flatten(0, 1).flatten(1)))
        return torch.cat(mixed).view(*weights.shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        values, locations, weights = ctx.saved_tensors
        grid, table = _Grid.of(ctx.level_shapes, values, weights), values.flatten(0, 2)
        grad = grad.reshape(-1, *values.shape[2:])
        found = []
        for part in grid.parts:
            weight = weights.flatten(0, 1)[part]
            near, distances = grid.corners(locations, part)
            slope_x, slope_y = _slopes(distances)
            x, y = _shares(distances)
            worth = _worths(table, near[:, :, None] + grid.steps, grad[part]).unflatten(2, (2, 2))
            worth_of_rows = _pairs(worth, x[:, :, None], dim=3)
            of_weight = _pairs(worth_of_rows, y, dim=2)
            of_y = _pairs(worth_of_rows, slope_y, dim=2) * weight
            y *= weight[:, :, None]
            of_x = _pairs(_pairs(worth, slope_x[:, :, None], dim=3), y, dim=2)
            of_location = torch.stack([of_x * grid.sizes[0, 0], of_y * grid.sizes[1, 0]], dim=-1)
            shares = y.movedim(2, 0)[:, None] * x.movedim(2, 0)
            found.append((of_location, of_weight, near, shares.flatten(0, 1)))
        of_locations, of_weights, near = (torch.cat(parts) for parts in list(zip(*found))[:3])
        shares = torch.cat([part[3] for part in found], dim=1)
        of_values = grid.spread(grad.flatten(0, 1), near, shares, values.shape)
        return of_values, None, of_locations.view_as(locations), of_weights.view_as(weights)


def _shares(distances: Tensor) -> Tensor:
    """Bilinear shares; overwrites the distances."""
    return distances.abs_().neg_().add_(1).clamp_(min=0)


def _slopes(distances: Tensor) -> Tensor:
    """How the shares grow with the location: 1 while it approaches the corner from below, then -1, and 0 far away."""
    step = distances.floor()
    return (step == -1).to(distances.dtype) - (step == 0).to(distances.dtype)


def _pairs(a: Tensor, b: Tensor, *, dim: int) -> Tensor:
    """The sum of a * b over a dimension of two."""
    return torch.addcmul(a.select(dim, 0) * b.select(dim, 0), a.select(dim, 1), b.select(dim, 1))


def _row_sums(table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """(T, d) table, (n, k) rows, (n, k) shares -> (n, d)"""
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)


def _worths(table: Tensor, rows: Tensor, grad: Tensor) -> Tensor:
    """What a row more would add to the loss, (T, d) table, (n, H, 4, L * P) rows, (n, H, d) gradients -> like rows"""
    if torch.compiler.is_compiling():
        return (table[rows] * grad[:, :, None, None]).sum(-1)  # here this makes no large intermediate
    count = rows[0, 0].numel()
    bags = torch.arange(rows.shape[0] * rows.shape[1], dtype=rows.dtype, device=rows.device)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad.flatten(0, 1), table, rows.flatten(), bags * count, bags.repeat_interleave(count), 0
    ).view_as(rows)


def _portions(queries: int, points: int, compiled: int) -> list[slice]:
    """Of all queries, with so many points each. Compiled code has a fixed number, since it is made for any size."""
    if not torch.compiler.is_compiling():
        portion = max(PORTION // points, 1)
        return [slice(i, i + portion) for i in range(0, queries, portion)]
    count = compiled if queries * points > PORTION else 1
    portion = -(-queries // count)
    return [slice(i * portion, (i + 1) * portion) for i in range(count)]


@dataclass(frozen=True)
class _Grid:
    """What is known of every query's points beforehand. A pair on the first axis is (x, y)."""

    level_shapes: LevelShapes
    parts: list[slice]
    """Portions of all B * Q queries."""
    first: Tensor
    """(B * Q, 1, 1): the first row of the query's image."""
    start: Tensor
    """(H, L * P): rows from there to the first of the level and head."""
    strides: Tensor
    """(2, 1, 1, L * P): rows from a cell to the next along each axis."""
    sizes: Tensor
    """(2, 1, 1, L * P): cells of the level along each axis."""
    last: Tensor
    """(2, 1, 1, L * P): the last cell that can be the near corner."""
    offsets: Tensor
    """(2, 1, 1, 2, L * P): the near and the far corner, counted from the near one."""
    steps: Tensor
    """(4, L * P): rows from the near corner to all four: near, right, below, far."""

    @classmethod
    def of(cls, level_shapes: LevelShapes, values: Tensor, weights: Tensor, compiled: int = 1) -> "_Grid":
        """For (B, S, H, d) values and (B, Q, H, L * P) weights; compiled code has `compiled` portions."""
        (batch, tokens, heads, _), queries, points = values.shape, weights.shape[1], weights.shape[3]

        def per_point(numbers: Sequence[int]) -> Tensor:
            """A number of each level -> (L * P,)"""
            column = torch.tensor(numbers, dtype=torch.int32, device=values.device)
            return column.repeat_interleave(points // len(level_shapes))

        heights, widths = zip(*level_shapes, strict=True)
        begins = accumulate((height * width for height, width in level_shapes[:-1]), initial=0)
        size = torch.stack([per_point(widths), per_point(heights)])
        stride = torch.stack([torch.full_like(size[0], heads), size[0] * heads])
        step_x, step_y = stride * (size > 1)
        far = torch.where(size > 1, 1, NOWHERE).to(values.dtype)
        images = torch.arange(batch, dtype=torch.int32, device=values.device) * (tokens * heads)
        head = torch.arange(heads, dtype=torch.int32, device=values.device)[:, None]
        return cls(
            level_shapes=level_shapes,
            parts=_portions(batch * queries, heads * points, compiled),
            first=images.repeat_interleave(queries)[:, None, None],
            start=per_point([begin * heads for begin in begins]) + head,
            strides=stride[:, None, None],
            sizes=size[:, None, None].to(values.dtype),
            last=(size - 2).clamp(min=0)[:, None, None],
            offsets=torch.stack([torch.zeros_like(far), far], dim=1)[:, None, None],
            steps=torch.stack([torch.zeros_like(step_x), step_x, step_y, step_x + step_y]),
        )

    def corners(self, locations: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Rows (n, H, L * P) of the near corners; from the near and far corners to each point, (2, n, H, 2, L * P)."""
        places = locations.flatten(0, 1)[part].movedim(-1, 0).clone(memory_format=torch.contiguous_format)
        places.mul_(self.sizes).sub_(0.5)
        cells = torch.minimum(places.int().clamp_(min=0), self.last)
        distances = places.sub_(cells)[:, :, :, None] - self.offsets
        cells *= self.strides
        return (cells[0] + cells[1]).add_(self.start).add_(self.first[part]), distances

    def spread(self, grad: Tensor, near: Tensor, shares: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of the values, of the given shape (B, S, H, d).

        `grad` (B * Q * H, d), `near` (B * Q, H, L * P), `shares` (4, B * Q, H, L * P) of the corners. Sorted by their
        near corner, points that meet in a cell are neighbours, so that this too is a weighted sum of rows.
        """
        rows = torch.arange(shape[:3].numel(), dtype=torch.int32, device=grad.device)
        meeting, order = near.flatten().sort()
        begins = torch.searchsorted(meeting, rows, out_int32=True)
        queries = torch.div(order, near.shape[-1], rounding_mode="floor").int()
        near_part, *parts = (
            F.embedding_bag(queries, grad, begins, mode="sum", per_sample_weights=share.index_select(0, order)).view(
                shape
            )
            for share in shares.flatten(1)
        )
        start = 0
        for height, width in self.level_shapes:
            stop = start + height * width
            right, below = int(width > 1), width * int(height > 1)
            for part, step in zip(parts, (right, below, right + below)):
                near_part[:, start + step : stop] += part[:, start : stop - step]
            start = stop
        return near_part
