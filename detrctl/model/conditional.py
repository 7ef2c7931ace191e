"""Attention that compares contents with contents and places with places (Meng et al. 2021, Conditional DETR).

B batch, Q queries, S tokens, D width, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrctl.model.attention import key_mask
from detrctl.model.decoder import fold_groups
from detrctl.model.places import Place
from detrctl.structures import Queries, Tokens


class ConditionalSelfAttention(nn.Module):
    """Queries look at each other; their contents and positions are projected apart, then added."""

    def __init__(self, *, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_content, self.query_position = nn.Linear(width, width), nn.Linear(width, width)
        self.key_content, self.key_position = nn.Linear(width, width), nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out_proj = _out_proj(width)

    def forward(self, content: Tensor, place: Place, queries: Queries) -> Tensor:
        """(B, Q, D) -> (B, Q, D)"""
        mask = None if queries.blocked is None else ~queries.blocked
        x, position = fold_groups(content, queries.groups), fold_groups(place.position, queries.groups)
        q = self.query_content(x) + self.query_position(position)
        k = self.key_content(x) + self.key_position(position)
        q, k, v = (split_heads(each, self.heads) for each in (q, k, self.value(x)))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(join_heads(mixed)).reshape(content.shape)


class ConditionalCrossAttention(nn.Module):
    """Queries look at tokens: in every head, content beside place (Meng et al. 2021, section 3.2).

    A place is the sine of the point looked at, as `Place.sine` has it. With `with_position`, published for the first
    layer, whose contents say nothing yet, positions are also added to contents, as in DETR.
    """

    def __init__(self, *, width: int, heads: int, dropout: float, with_position: bool):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_content, self.query_sine = nn.Linear(width, width), nn.Linear(width, width)
        self.query_position = nn.Linear(width, width) if with_position else None
        self.key_content, self.key_position = nn.Linear(width, width), nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out_proj = _out_proj(width)

    def forward(self, content: Tensor, place: Place, memory: Tokens) -> Tensor:
        """(B, Q, D) -> (B, Q, D)"""
        q, k, v = self.projected(content, place, memory)
        dropout = self.dropout if self.training else 0.0
        mask = key_mask(memory.is_padding)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(join_heads(mixed))

    def projected(self, content: Tensor, place: Place, memory: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """What is compared and what is mixed, by head: (B, H, Q, 2D / H), (B, H, S, 2D / H), (B, H, S, D / H)"""
        assert place.sine is not None
        q_content, q_place = self.query_content(content), self.query_sine(place.sine)
        k_content, k_place = self.key_content(memory.values), self.key_position(memory.position)
        if self.query_position is not None:
            q_content, k_content = q_content + self.query_position(place.position), k_content + k_place
        q, k = self._beside(q_content, q_place), self._beside(k_content, k_place)
        return q, k, split_heads(self.value(memory.values), self.heads)

    def _beside(self, content: Tensor, place: Tensor) -> Tensor:
        """(B, Q, D), (B, Q, D) -> (B, H, Q, 2 * D / H)"""
        return torch.cat([split_heads(content, self.heads), split_heads(place, self.heads)], dim=-1)


def _out_proj(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.zeros_(layer.bias)
    return layer


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, Q, D) -> (B, H, Q, D / H)"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, Q, D / H) -> (B, Q, D)"""
    return x.transpose(1, 2).flatten(2)
