"""What a decoder layer is told of where its queries are. B batch, Q queries, D width.

One class a way; all have the same call. What they give is `Place`, which the attention of that variant reads.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from detrctl.structures import Queries, Tokens


@dataclass(frozen=True)
class Place:
    """`position` (B, Q, D) is added to content; `reference` (B, Q, 2 or 4) is what deformable attention looks at;
    `sine` (B, Q, D) is what conditional attention compares with the positions of tokens."""

    position: Tensor
    reference: Tensor | None = None
    sine: Tensor | None = None


class SlotPlaces(nn.Module):
    """The same learned vector in every layer, and the point or box looked at: DETR, Deformable DETR."""

    def forward(self, layer: int, content: Tensor, queries: Queries, attended: Tensor | None, memory: Tokens) -> Place:
        assert queries.position is not None
        return Place(queries.position, attended)
