"""Where a feature stands in its image, as a vector. Each published flavour is a setting, not a copy.

B batch, h, w grid, D width.
"""

import math

import torch
from torch import Tensor, nn

from detrctl.boxes import at_least_fp32


def sine_embedding(positions: Tensor, *, width: int, temperature: float) -> Tensor:
    """Positions in radians as `width` interleaved sines and cosines of growing wavelength: (...) -> (..., width)

    Source: Vaswani et al. 2017, section 3.5.
    """
    index = torch.arange(width // 2, dtype=positions.dtype, device=positions.device)
    angles = positions[..., None] / temperature ** (2 * index / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def coordinate_embedding(coordinates: Tensor, *, width: int, temperature: float = 10000.0) -> Tensor:
    """Each of N fractions as `width` sines and cosines, one coordinate after another: (..., N) -> (..., N * width)"""
    angles = at_least_fp32(coordinates) * (2 * math.pi)
    return sine_embedding(angles, width=width, temperature=temperature).flatten(-2)


class SinePosition(nn.Module):
    """Rows and columns counted inside the image, padding aside, scaled to `cycles` turns, half the width each.

    `offset` moves the count before scaling: DETR counts 1..h (0), Deformable DETR takes cell centres (-0.5).
    Source: Carion et al. 2020, appendix A.4; the offset from Deformable DETR's code.
    """

    def __init__(self, *, width: int, temperature: float = 10000.0, offset: float = 0.0, cycles: float = 1.0):
        super().__init__()
        self.width, self.temperature, self.offset, self.cycles = width, temperature, offset, cycles

    def forward(self, is_padding: Tensor) -> Tensor:
        """(B, h, w) bool -> (B, D, h, w)"""
        inside = (~is_padding).float()
        rows, columns = inside.cumsum(1), inside.cumsum(2)
        turns = 2 * math.pi * self.cycles
        rows = (rows + self.offset) / (rows[:, -1:, :] + 1e-6) * turns
        columns = (columns + self.offset) / (columns[:, :, -1:] + 1e-6) * turns
        halves = [sine_embedding(axis, width=self.width // 2, temperature=self.temperature) for axis in (rows, columns)]
        return torch.cat(halves, dim=-1).permute(0, 3, 1, 2)


class LearnedPosition(nn.Module):
    """A learned vector for each row and each column, up to 50 of them as published; further ones repeat the last."""

    def __init__(self, *, width: int, cells: int = 50):
        super().__init__()
        self.rows = nn.Embedding(cells, width // 2)
        self.columns = nn.Embedding(cells, width // 2)
        nn.init.uniform_(self.rows.weight)
        nn.init.uniform_(self.columns.weight)

    def forward(self, is_padding: Tensor) -> Tensor:
        """(B, h, w) bool -> (B, D, h, w)"""
        batch, height, width = is_padding.shape
        columns = self._vectors(self.columns, width)[None].expand(height, -1, -1)
        rows = self._vectors(self.rows, height)[:, None].expand(-1, width, -1)
        return torch.cat([columns, rows], dim=-1).permute(2, 0, 1).expand(batch, -1, -1, -1)

    @staticmethod
    def _vectors(table: nn.Embedding, count: int) -> Tensor:
        index = torch.arange(count, device=table.weight.device)
        return table(index.clamp(max=table.num_embeddings - 1))
