"""Queries look at each other and at the memory, and say what they see after every layer.

B batch, Q queries, D width.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from detrctl.model.attention import MultiHeadAttention, key_mask
from detrctl.structures import Predictions, Queries, Tokens


class QuerySelfAttention(nn.Module):
    """Queries look at each other: this is where one of two that found the same object gives way."""

    def __init__(self, *, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention = MultiHeadAttention(width=width, heads=heads, dropout=dropout)

    def forward(self, content: Tensor, queries: Queries) -> Tensor:
        """(B, Q, D) -> (B, Q, D)"""
        placed = content + queries.position
        return self.attention(placed, placed, content)


class DenseCrossAttention(nn.Module):
    """Queries look at all tokens of the image that are not padding."""

    def __init__(self, *, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention = MultiHeadAttention(width=width, heads=heads, dropout=dropout)

    def forward(self, content: Tensor, queries: Queries, memory: Tokens) -> Tensor:
        """(B, Q, D) -> (B, Q, D)"""
        keys = memory.values + memory.position
        return self.attention(content + queries.position, keys, memory.values, mask=key_mask(memory.is_padding))


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

    def forward(self, content: Tensor, queries: Queries, memory: Tokens) -> Tensor:
        content = self.self_step(content, lambda x: self.self_attention(x, queries))
        content = self.cross_step(content, lambda x: self.cross_attention(x, queries, memory))
        return self.feedforward_step(content, self.feedforward)


class Decoder(nn.Module):
    """A stack of layers; after each, the heads predict from the normed content and `reference` makes boxes of it."""

    def __init__(self, *, layers: Sequence[nn.Module], norm: nn.Module, heads: nn.Module, reference: nn.Module):
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm
        self.heads, self.reference = heads, reference

    def forward(self, queries: Queries, memory: Tokens) -> tuple[Predictions, ...]:
        content, predictions = queries.content, []
        for index, layer in enumerate(self.layers):
            content = layer(content, queries, memory)
            logits, raw_boxes = self.heads(self.norm(content), index)
            predictions.append(Predictions(logits, self.reference(raw_boxes)))
        return tuple(predictions)
