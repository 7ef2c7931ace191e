"""The small parts that encoder and decoder layers are made of. D width."""

from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class PostNorm(nn.Module):
    """A residual step with the norm after it, as published: norm(x + dropout(f(x)))."""

    def __init__(self, *, width: int, dropout: float):
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        return self.norm(x + self.dropout(step(x)))


class PreNorm(nn.Module):
    """A residual step with the norm before it: x + dropout(f(norm(x))). Such a stack wants a last norm at its end."""

    def __init__(self, *, width: int, dropout: float):
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        return x + self.dropout(step(self.norm(x)))


class FeedForward(nn.Module):
    """Two linear layers with an activation between, a ReLU unless said otherwise: (..., D) -> (..., D)"""

    def __init__(self, *, width: int, hidden: int, dropout: float, activation: Callable[[], nn.Module] = nn.ReLU):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation, self.dropout = activation(), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class MLP(nn.Module):
    """Linear layers with ReLUs between, none after the last: (..., D) -> (..., outputs)"""

    def __init__(self, *, width: int, outputs: int, depth: int, hidden: int | None = None):
        super().__init__()
        widths = [width] + [hidden or width] * (depth - 1) + [outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def init_transformer(*modules: nn.Module) -> None:
    """Xavier-uniform for every matrix, as published for the whole transformer; biases and norms keep their defaults."""
    for module in modules:
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
