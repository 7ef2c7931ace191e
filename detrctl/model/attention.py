"""Dense attention.

B batch, Q queries, S keys, D width, H heads.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention of several heads (Vaswani et al. 2017, section 3.2).

    Positions are added to queries and keys, never to values, as DETR does. The three input projections are one matrix,
    so that the published initialisation (Xavier over the whole matrix) and the published weights fit as they are.
    """

    def __init__(self, *, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, Q, D), (B, S, D), (B, S, D) -> (B, Q, D); `mask` broadcasts to (B, H, Q, S), True = may be attended."""
        q, k, v = self.projected(queries, keys, values)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def projected(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is compared and what is mixed, by head: (B, H, Q, D / H), (B, H, S, D / H), (B, H, S, D / H)"""
        weights, biases = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        return q, k, v


def key_mask(is_padding: Tensor) -> Tensor:
    """Padding as an attention mask: (B, S) True = padding -> (B, 1, 1, S) True = may be attended."""
    return ~is_padding[:, None, None, :]
