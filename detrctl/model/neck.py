"""Feature maps of any width -> one sequence of tokens, with positions and masks.

B batch, D width, S tokens of all levels, L levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrctl.structures import FeatureMap, Tokens


class Neck(nn.Module):
    """One projection per level, position encodings, and flattening: levels one after another, rows first."""

    def __init__(self, *, projections: Sequence[nn.Module], position: nn.Module):
        super().__init__()
        self.projections = nn.ModuleList(projections)
        self.position = position

    def forward(self, features: Sequence[FeatureMap]) -> Tokens:
        projected = [project(level.values) for project, level in zip(self.projections, features, strict=True)]
        positions = [self.position(level.is_padding) for level in features]
        return Tokens(
            values=_flatten(projected),
            position=_flatten(positions),
            is_padding=torch.cat([level.is_padding.flatten(1) for level in features], dim=1),
            level_shapes=tuple((values.shape[2], values.shape[3]) for values in projected),
            valid_ratios=torch.stack([valid_ratio(level.is_padding) for level in features], dim=1),
        )


def _flatten(levels: Sequence[Tensor]) -> Tensor:
    """L x (B, D, h, w) -> (B, S, D)"""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def valid_ratio(is_padding: Tensor) -> Tensor:
    """The share of the width and of the height that is image: (B, h, w) -> (B, 2), in the order x, y."""
    inside = (~is_padding).float()
    return torch.stack([inside[:, 0, :].mean(-1), inside[:, :, 0].mean(-1)], dim=-1)
