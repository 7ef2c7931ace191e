"""Queries look at each other and at the memory, and say what they see after every layer.

B batch, Q queries, D width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from detrctl.model.attention import MultiHeadAttention, key_mask
from detrctl.model.deformable_attention import DeformableAttention
from detrctl.model.heads import Heads
from detrctl.model.places import Place
from detrctl.model.references import Reference
from detrctl.structures import Predictions, Queries, Tokens


class QuerySelfAttention(nn.Module):
    """Queries look at each other: this is where one of two that found the same object gives way."""

    def __init__(self, *, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention = MultiHeadAttention(width=width, heads=heads, dropout=dropout)

    def forward(self, content: Tensor, place: Place, queries: Queries) -> Tensor:
        """(B, Q, D) -> (B, Q, D)"""
        mask = None if queries.blocked is None else ~queries.blocked
        x, positions = fold_groups(content, queries.groups), fold_groups(place.position, queries.groups)
        placed = x + positions
        return self.attention(placed, placed, x, mask).reshape(content.shape)


def fold_groups(x: Tensor, groups: int) -> Tensor:
    """Groups of queries as images of their own: (B, Q, D) -> (B * groups, Q / groups, D)"""
    return x if groups == 1 else x.unflatten(1, (groups, -1)).flatten(0, 1)


class DenseCrossAttention(nn.Module):
    """Queries look at all tokens of the image that are not padding."""

    def __init__(self, *, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention = MultiHeadAttention(width=width, heads=heads, dropout=dropout)

    def forward(self, content: Tensor, place: Place, memory: Tokens) -> Tensor:
        """(B, Q, D) -> (B, Q, D)"""
        keys = memory.values + memory.position
        return self.attention(content + place.position, keys, memory.values, mask=key_mask(memory.is_padding))


class DeformableCrossAttention(nn.Module):
    """Queries look at a few points around their reference on every level (Zhu et al. 2021, section 4.1)."""

    def __init__(self, *, width: int, heads: int, levels: int, points: int):
        super().__init__()
        self.attention = DeformableAttention(width=width, heads=heads, levels=levels, points=points)

    def forward(self, content: Tensor, place: Place, memory: Tokens) -> Tensor:
        """(B, Q, D) -> (B, Q, D)"""
        assert place.reference is not None
        ratios = memory.valid_ratios
        if place.reference.shape[-1] == 4:
            ratios = torch.cat([ratios, ratios], dim=-1)
        return self.attention(
            content + place.position,
            place.reference[:, :, None] * ratios[:, None],
            memory.values,
            level_shapes=memory.level_shapes,
            is_padding=memory.is_padding,
        )


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each a residual step of the kind that `residual` makes."""

    def __init__(
        self,
        *,
        self_attention: nn.Module,
        cross_attention: nn.Module,
        feedforward: nn.Module,
        residual: Callable[[], nn.Module],
    ):
        super().__init__()
        self.self_attention, self.self_step = self_attention, residual()
        self.cross_attention, self.cross_step = cross_attention, residual()
        self.feedforward, self.feedforward_step = feedforward, residual()

    def forward(self, content: Tensor, place: Place, queries: Queries, memory: Tokens) -> Tensor:
        content = self.self_step(content, lambda x: self.self_attention(x, place, queries))
        content = self.cross_step(content, lambda x: self.cross_attention(x, place, memory))
        return self.feedforward_step(content, self.feedforward)


class Decoder(nn.Module):
    """A stack of layers; after each, the heads predict from the normed content and `reference` makes boxes of it.

    `places` tells each layer where its queries are. Where boxes move what is looked at, they are read off the content
    before the norm, as published.
    """

    def __init__(
        self,
        *,
        layers: Sequence[nn.Module],
        norm: nn.Module,
        places: nn.Module,
        heads: Heads,
        reference: Reference,
    ):
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm
        self.places, self.heads, self.reference = places, heads, reference

    def forward(self, queries: Queries, memory: Tokens) -> tuple[Predictions, ...]:
        content, attended, base, predictions = queries.content, queries.reference, queries.reference, []
        for index, layer in enumerate(self.layers):
            place = self.places(index, content, queries, attended, memory)
            content = layer(content, place, queries, memory)
            normed = self.norm(content)
            logits, raw = self.heads(normed, index)
            predictions.append(Predictions(logits, self.reference.box(raw, base)))
            if self.reference.moves and index + 1 < len(self.layers):
                step = raw if normed is content else self.heads.box(content, index)
                attended, base = self.reference.advance(step, attended)
        return tuple(predictions)
