"""Tokens -> memory: every token looks at every other token of its image. B batch, S tokens, D width."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from detrctl.model.attention import MultiHeadAttention, key_mask
from detrctl.structures import Tokens


class DenseSelfAttention(nn.Module):
    """Every token attends to all tokens of its image that are not padding."""

    def __init__(self, *, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention = MultiHeadAttention(width=width, heads=heads, dropout=dropout)

    def forward(self, values: Tensor, tokens: Tokens) -> Tensor:
        """(B, S, D) -> (B, S, D); positions and padding come from `tokens`."""
        placed = values + tokens.position
        return self.attention(placed, placed, values, mask=key_mask(tokens.is_padding))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each a residual step of the kind that `residual` makes."""

    def __init__(self, *, attention: nn.Module, feedforward: nn.Module, residual: Callable[[], nn.Module]):
        super().__init__()
        self.attention, self.attention_step = attention, residual()
        self.feedforward, self.feedforward_step = feedforward, residual()

    def forward(self, values: Tensor, tokens: Tokens) -> Tensor:
        values = self.attention_step(values, lambda x: self.attention(x, tokens))
        return self.feedforward_step(values, self.feedforward)


class Encoder(nn.Module):
    """A stack of layers; `norm` closes a pre-norm stack and is an identity after a post-norm one."""

    def __init__(self, *, layers: Sequence[nn.Module], norm: nn.Module):
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm

    def forward(self, tokens: Tokens) -> Tokens:
        values = tokens.values
        for layer in self.layers:
            values = layer(values, tokens)
        return tokens.with_values(self.norm(values))
