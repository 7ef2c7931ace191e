"""A running average of the weights, which often predicts better than the last ones."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of a network's parameters; buffers (statistics of batch norm) are copied.

    The decay rises as `decay` x (1 - exp(-updates / warmup)), so that the first, random weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, *, decay: float, warmup: int):
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self._averaged = {name for name, _ in network.named_parameters()}
        self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.warmup))
        averages, values = [], []
        for name, value in network.state_dict().items():
            if name in self._averaged and value.is_floating_point():
                averages.append(self.weights[name])
                values.append(value)
            else:
                self.weights[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Inside, `network` holds the average; afterwards, bit by bit, what it held before."""
        self._swap(network)
        try:
            yield
        finally:
            self._swap(network)

    @torch.no_grad()
    def _swap(self, network: nn.Module) -> None:
        for name, value in network.state_dict().items():
            held = value.clone()
            value.copy_(self.weights[name])
            self.weights[name].copy_(held)

    def copied(self) -> list[Tensor]:
        """The buffers, which are copied instead of averaged."""
        return [value for name, value in self.weights.items() if name not in self._averaged]

    def restore(self, weights: dict[str, Tensor], updates: int) -> None:
        """Go on from `weights` and `updates` as they were."""
        self.updates = updates
        for name, value in self.weights.items():
            value.copy_(weights[name])
