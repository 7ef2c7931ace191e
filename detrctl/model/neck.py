"""Feature maps of any width -> one sequence of tokens, with positions and masks.

B batch, D width, S tokens of all levels, L levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrctl.structures import FeatureMap, Tokens


class PositionsApart(nn.Module):
    """Positions stay beside the values: attention adds them to queries and keys alone, as published."""

    def forward(self, tokens: Tokens) -> Tokens:
        return tokens


class PositionsInValues(nn.Module):
    """Positions are also added to the values, once, so that whatever is attended to says where it was.

    In DETR attention must learn to tell places apart before a box can be right; a small model that is trained from
    scratch for minutes does not get that far.
    """

    def forward(self, tokens: Tokens) -> Tokens:
        return tokens.with_values(tokens.values + tokens.position)


class Neck(nn.Module):
    """One projection per level, position encodings, and flattening: levels one after another, rows first."""

    def __init__(self, *, projections: Sequence[nn.Module], position: nn.Module, placement: nn.Module):
        super().__init__()
        self.projections = nn.ModuleList(projections)
        self.position, self.placement = position, placement

    def forward(self, features: Sequence[FeatureMap]) -> Tokens:
        projected = [project(level.values) for project, level in zip(self.projections, features, strict=True)]
        positions = [self.position(level.is_padding) for level in features]
        tokens = Tokens(
            values=_flatten(projected),
            position=_flatten(positions),
            is_padding=torch.cat([level.is_padding.flatten(1) for level in features], dim=1),
            level_shapes=tuple((values.shape[2], values.shape[3]) for values in projected),
            valid_ratios=torch.stack([valid_ratio(level.is_padding) for level in features], dim=1),
        )
        return self.placement(tokens)


def _flatten(levels: Sequence[Tensor]) -> Tensor:
    """L x (B, D, h, w) -> (B, S, D)"""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def valid_ratio(is_padding: Tensor) -> Tensor:
    """The share of the width and of the height that is image: (B, h, w) -> (B, 2), in the order x, y."""
    inside = (~is_padding).float()
    return torch.stack([inside[:, 0, :].mean(-1), inside[:, :, 0].mean(-1)], dim=-1)
