"""Muon (Jordan et al. 2024): momentum whose direction is made orthogonal, for matrices; AdamW for what is none."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
SMALLEST_SIDE = 8
"""Rows and columns that a matrix must have: what is thinner (box heads, heads of few classes) is AdamW's."""
COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the odd quintic whose five-fold repetition takes every singular value in (0.002, 1] near 1 (to 0.68 ... 1.21)."""
REPETITIONS = 5
RMS_OF_ADAMW = 0.2
"""The root mean square that an AdamW update has, about, in units of the rate (Liu et al. 2025, section 2.2)."""


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon updates it: a linear weight, a table of embeddings, or a convolution (out, in * height * width)."""
    return parameter.ndim > 1 and min(parameter.shape[0], parameter[0].numel()) >= SMALLEST_SIDE


def orthogonalised(matrix: Tensor) -> Tensor:
    """(rows, columns) with the same singular vectors and all singular values near 1, by Newton-Schulz iteration.

    In the precision of `matrix`: torch's own Muon works in bf16, which is slow on processors that do not have it. Each
    repetition multiplies from the left by a polynomial of the Gram matrix, and all of these commute, so they are
    multiplied together on the short side and meet the matrix once: two to three times as fast for convolutions.
    """
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    wide = wide / wide.norm().clamp(min=1e-7)
    gram = wide @ wide.mT
    identity = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
    factor = identity
    for _ in range(REPETITIONS):
        step = torch.addmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        factor, gram = step @ factor, step @ gram @ step
    found = factor @ wide
    return found if matrix.shape[0] <= matrix.shape[1] else found.mT


class Muon(torch.optim.AdamW):
    """Each group is split in two of its name and rate: with `matrices` true it is Muon's, else AdamW's.

    Updates are scaled to the size of AdamW's, so that rates and weight decays that suit AdamW suit here (Liu et al.
    2025, "Muon is scalable for LLM training", equation 4).
    """

    def __init__(self, groups: Sequence[dict[str, Any]], **settings: Any):
        super().__init__(_halves(groups), **settings)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make a step with the gradients that are there; those of matrices are used up."""
        for group in self.param_groups:
            for parameter in group["params"] if group["matrices"] else ():
                if parameter.grad is not None:
                    self._step_of_matrix(parameter, group)
                    parameter.grad = None  # so that AdamW passes it by
        super().step(closure)

    def _step_of_matrix(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            # AdamW asks every state for its step when it is loaded
            state.update(step=torch.zeros((), device=parameter.device), momentum=torch.zeros_like(parameter))
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov's
        size = RMS_OF_ADAMW * math.sqrt(max(ahead.shape))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonalised(ahead).view_as(parameter), alpha=-group["lr"] * size)


def _halves(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every group as two of the same name and rate, its matrices and the rest; empty ones are left out."""
    halves = []
    for part in parts:
        for matrices in (True, False):
            chosen = [parameter for parameter in part["params"] if is_matrix(parameter) == matrices]
            halves += [{**part, "params": chosen, "matrices": matrices}] if chosen else []
    return halves
