"""What a decoder layer is told of where its queries are. B batch, Q queries, D width.

One class a way; all have the same call. What they give is `Place`, which the attention of that variant reads.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detrctl.model.layers import MLP
from detrctl.model.position_encoding import coordinate_embedding
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


class ConditionalPlaces(nn.Module):
    """Conditional DETR: a learned vector, and the sine of the point looked at, weighed by what the query has seen.

    Source: Meng et al. 2021, section 3.2 and, for the first layer, which weighs nothing, their code.
    """

    def __init__(self, *, width: int):
        super().__init__()
        self.width = width
        self.scale = MLP(width=width, outputs=width, depth=2)

    def forward(self, layer: int, content: Tensor, queries: Queries, attended: Tensor, memory: Tokens) -> Place:
        assert queries.position is not None
        sine = coordinate_embedding(attended.flip(-1), width=self.width // 2).to(content.dtype)
        return Place(queries.position, attended, sine * self.scale(content) if layer else sine)


class AnchorPlaces(nn.Module):
    """DAB-DETR: a position read off the box that is looked at, and a sine that attends more widely to wider boxes.

    The query says which width and height it expects; the x part of the sine counts by the expected width over the
    box's own, the y part by that of the heights. Source: Liu et al. 2022, sections 4.2 to 4.4.
    """

    def __init__(self, *, width: int):
        super().__init__()
        self.width = width
        self.from_box = MLP(width=2 * width, outputs=width, depth=2, hidden=width)
        self.scale = MLP(width=width, outputs=width, depth=2)
        self.expected_size = MLP(width=width, outputs=2, depth=2)

    def forward(self, layer: int, content: Tensor, queries: Queries, attended: Tensor, memory: Tokens) -> Place:
        embedding = box_embedding(attended, width=self.width // 2).to(content.dtype)
        sine = embedding[..., : self.width]
        if layer:
            sine = sine * self.scale(content)
        wider, higher = (self.expected_size(content).sigmoid() / attended[..., 2:]).unbind(-1)
        y, x = sine.chunk(2, dim=-1)
        sine = torch.cat([y * higher[..., None], x * wider[..., None]], dim=-1).to(content.dtype)
        return Place(self.from_box(embedding), attended, sine)


class BoxPlaces(nn.Module):
    """A position read off the box that is looked at, anew in every layer (Liu et al. 2022, section 4.2; DINO).

    As in the published code, the box counts in fractions of the finest level with its padding.
    """

    def __init__(self, *, width: int):
        super().__init__()
        self.width = width
        self.from_box = MLP(width=2 * width, outputs=width, depth=2, hidden=width)

    def forward(self, layer: int, content: Tensor, queries: Queries, attended: Tensor, memory: Tokens) -> Place:
        ratios = memory.valid_ratios[:, :1]
        boxes = attended * torch.cat([ratios, ratios], dim=-1)
        embedding = box_embedding(boxes, width=self.width // 2)
        return Place(self.from_box(embedding.to(content.dtype)), attended)


class ScaledBoxPlaces(BoxPlaces):
    """As `BoxPlaces`, the position scaled by what the query holds from the second layer on: DAB-Deformable-DETR."""

    def __init__(self, *, width: int):
        super().__init__(width=width)
        self.scale = MLP(width=width, outputs=width, depth=2)

    def forward(self, layer: int, content: Tensor, queries: Queries, attended: Tensor, memory: Tokens) -> Place:
        place = super().forward(layer, content, queries, attended, memory)
        return replace(place, position=place.position * self.scale(content)) if layer else place


def box_embedding(boxes: Tensor, *, width: int) -> Tensor:
    """Sines and cosines of y, x, w, h, in this order: (..., 4) -> (..., 4 * width). Source: Liu et al. 2022, eq. 3."""
    return coordinate_embedding(boxes[..., [1, 0, 2, 3]], width=width)
