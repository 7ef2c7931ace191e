"""Attention to a few sampled points of every level (Zhu et al. 2021, section 4.1).

B batch, Q queries, S tokens of all levels, L levels, P points, H heads, D width, d = D / H.
"""

import math

import torch
from torch import Tensor, nn

from detrctl.boxes import at_least_fp32
from detrctl.model.sampled_sum import LevelShapes, deformable_attention


class DeformableAttention(nn.Module):
    """Each query looks at P points per head and level around its reference; where and how much is read off the query.

    Offsets are counted in cells of their level around a point, in halves of its sides around a box, divided by P.
    """

    def __init__(self, *, width: int, heads: int, levels: int, points: int):
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self.reset()

    def reset(self) -> None:
        """The published start: even weights, and each head's points on a ray of its own, one cell after another."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rays = rays / rays.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        start = rays[:, None, None, :] * steps[None, None, :, None].expand(-1, self.levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(start.flatten())
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, reference: Tensor, values: Tensor, *, level_shapes: LevelShapes, is_padding: Tensor
    ) -> Tensor:
        """(B, Q, D), (B, Q, L, 2 or 4) points or boxes in fractions of each level, (B, S, D) -> (B, Q, D)

        `is_padding` (B, S): what is sampled there is zero.
        """
        values = self.value_proj(values).masked_fill(is_padding[..., None], 0.0).unflatten(-1, (self.heads, -1))
        grid = (self.heads, self.levels, self.points)
        offsets = at_least_fp32(self.sampling_offsets(query).unflatten(-1, (*grid, 2)))
        weights = self.attention_weights(query).unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, grid[1:])
        locations = self._locations(at_least_fp32(reference)[:, :, None, :, None], offsets, level_shapes)
        return self.output_proj(deformable_attention(values, level_shapes, locations, weights))

    def _locations(self, reference: Tensor, offsets: Tensor, level_shapes: LevelShapes) -> Tensor:
        """(B, Q, 1, L, 1, 2 or 4), (B, Q, H, L, P, 2) -> (B, Q, H, L, P, 2)"""
        if reference.shape[-1] == 4:
            return reference[..., :2] + offsets / self.points * reference[..., 2:] * 0.5
        sizes = torch.tensor([(width, height) for height, width in level_shapes], device=offsets.device)
        return reference + offsets / sizes[:, None]
