"""Queries that are true boxes and classes with noise, which the decoder learns to put right beside its own queries.

B batch, Q queries, D width.
"""

from collections.abc import Sequence

from torch import nn

from detrctl.structures import Known, Queries, Targets


class NoDenoising(nn.Module):
    """The queries as they are."""

    def forward(self, queries: Queries, targets: Sequence[Targets] | None) -> tuple[Queries, Known | None]:
        return queries, None
