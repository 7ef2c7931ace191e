"""Tokens -> memory: every token looks at every other token of its image. B batch, S tokens, D width."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from detrctl.model.attention import MultiHeadAttention, key_mask
from detrctl.model.deformable_attention import DeformableAttention
from detrctl.model.layers import MLP
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


class DeformableSelfAttention(nn.Module):
    """Every token looks at a few points around its own place on every level (Zhu et al. 2021, section 4.1)."""

    def __init__(self, *, width: int, heads: int, levels: int, points: int):
        super().__init__()
        self.attention = DeformableAttention(width=width, heads=heads, levels=levels, points=points)

    def forward(self, values: Tensor, tokens: Tokens) -> Tensor:
        """(B, S, D) -> (B, S, D); positions, padding and places come from `tokens`."""
        return self.attention(
            values + tokens.position,
            tokens.centres[:, :, None] * tokens.valid_ratios[:, None],
            values,
            level_shapes=tokens.level_shapes,
            is_padding=tokens.is_padding,
        )


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


class ScaledPositionsEncoder(Encoder):
    """DAB-DETR's: before each layer, the values weigh the positions, channel by channel (Liu et al. 2022's code)."""

    def __init__(self, *, layers: Sequence[nn.Module], norm: nn.Module, width: int):
        super().__init__(layers=layers, norm=norm)
        self.scale = MLP(width=width, outputs=width, depth=2)

    def forward(self, tokens: Tokens) -> Tokens:
        values = tokens.values
        for layer in self.layers:
            values = layer(values, replace(tokens, position=tokens.position * self.scale(values)))
        return tokens.with_values(self.norm(values))
