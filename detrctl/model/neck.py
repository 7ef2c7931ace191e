"""Feature maps of any width -> one sequence of tokens, with positions and masks.

B batch, D width, S tokens of all levels, L levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrctl.model.backbone import shrink_mask
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
    """Projections to one width, coarser levels, position encodings, and flattening: level after level, rows first.

    There is one projection per feature map; further ones make a coarser level each, the first of them from the last
    feature map, the next from the level before it. `level_embedding` tells the levels apart.
    """

    def __init__(
        self,
        *,
        projections: Sequence[nn.Module],
        position: nn.Module,
        placement: nn.Module,
        level_embedding: nn.Embedding | None = None,
    ):
        super().__init__()
        self.projections = nn.ModuleList(projections)
        self.position, self.placement, self.level_embedding = position, placement, level_embedding

    def forward(self, features: Sequence[FeatureMap], is_padding: Tensor) -> Tokens:
        """`is_padding` (B, H, W) is the images' own mask, from which those of coarser levels are made."""
        projected = [project(level.values) for project, level in zip(self.projections, features, strict=False)]
        masks = [level.is_padding for level in features]
        source = features[-1].values
        for project in self.projections[len(features) :]:
            source = project(source)
            projected.append(source)
            masks.append(shrink_mask(is_padding, source.shape[-2:]))
        values = _flatten(projected)
        tokens = Tokens(
            values=values,
            position=self._positions(masks).to(torch.promote_types(values.dtype, torch.float32)),
            is_padding=torch.cat([mask.flatten(1) for mask in masks], dim=1),
            level_shapes=tuple((level.shape[2], level.shape[3]) for level in projected),
            valid_ratios=torch.stack([valid_ratio(mask) for mask in masks], dim=1),
        )
        return self.placement(tokens)

    def _positions(self, masks: Sequence[Tensor]) -> Tensor:
        positions = [self.position(mask).flatten(2).transpose(1, 2) for mask in masks]
        if self.level_embedding is not None:
            levels = self.level_embedding.weight
            positions = [position + level for position, level in zip(positions, levels, strict=True)]
        return torch.cat(positions, dim=1)


def _flatten(levels: Sequence[Tensor]) -> Tensor:
    """L x (B, D, h, w) -> (B, S, D)"""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def valid_ratio(is_padding: Tensor) -> Tensor:
    """The share of the width and of the height that is image: (B, h, w) -> (B, 2), in the order x, y."""
    inside = (~is_padding).float()
    return torch.stack([inside[:, 0, :].mean(-1), inside[:, :, 0].mean(-1)], dim=-1)
