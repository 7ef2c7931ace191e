"""What the encoder says by itself: a class and a box per token, measured from preset boxes.

B batch, S tokens, Q queries, D width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from detrctl.boxes import Cxcywh, at_least_fp32, cxcywh_to_xyxy
from detrctl.structures import Predictions, Proposals, Tokens

SMALLEST_ANCHOR = 0.05
"""Sides of the preset boxes on the finest level, as a fraction of the image; each coarser level doubles them."""

CANDIDATES = 10
"""Proposals that are looked through for distinct ones, per proposal that is wanted: keeps the comparison small."""


def foreground(logits: Tensor) -> Tensor:
    """Rank by the first class logit, which learns object or not (Zhu et al. 2021): (B, S, C) -> (B, S)"""
    return logits[..., 0]


def best_class(logits: Tensor) -> Tensor:
    """Rank by the best class, whichever it is (Zhang et al. 2023): (B, S, C) -> (B, S)"""
    return logits.max(-1).values


class EncoderProposals(nn.Module):
    """Heads on every token of the memory, and the choice of the best tokens; `rank` says what best means.

    Source: Zhu et al. 2021, appendix A.4, two-stage. Tokens at padding and those whose preset box leaves the image are
    blanked before the heads; they can still be chosen when there are few others, and have the box (1, 1, 1, 1) then.
    `smallest` is the preset boxes' side on the finest level. `max_iou` is the overlap above which a proposal counts as
    a repetition of a better one, whatever their classes, and is chosen only when the others do not suffice: the
    distinct queries of Zhang, S. et al. 2023, "Dense Distinct Query". None chooses by rank alone, as DINO does.
    """

    def __init__(
        self,
        *,
        width: int,
        class_head: nn.Module,
        box_head: nn.Module,
        rank: Callable[[Tensor], Tensor],
        smallest: float = SMALLEST_ANCHOR,
        max_iou: float | None = None,
    ):
        super().__init__()
        self.project, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.class_head, self.box_head, self.rank = class_head, box_head, rank
        self.smallest, self.max_iou = smallest, max_iou

    def forward(self, memory: Tokens, count: int) -> Proposals:
        """The best `count` proposals, or as many as there are tokens."""
        anchors, is_usable = preset_boxes(memory, self.smallest)
        values = self.values(memory, is_usable)
        logits = self.class_head(values)
        start = anchors.logit().masked_fill(~is_usable[..., None], torch.inf)
        boxes = Cxcywh((at_least_fp32(self.box_head(values)) + start).sigmoid())
        return Proposals(Predictions(logits, boxes), self.select(self.rank(logits), boxes, count))

    def select(self, scores: Tensor, boxes: Cxcywh, count: int) -> Tensor:
        """The chosen tokens, best first: (B, S), (B, S, 4) -> (B, count)"""
        count = min(count, scores.shape[1])
        if self.max_iou is None or scores.is_meta:  # a model whose cost is counted has no values to compare
            return scores.topk(count, dim=1).indices
        ranked = scores.topk(min(CANDIDATES * count, scores.shape[1]), dim=1)
        candidates = cxcywh_to_xyxy(Cxcywh(boxes.detach().gather(1, ranked.indices[..., None].expand(-1, -1, 4))))
        repeats = torch.ones_like(ranked.indices, dtype=torch.bool)
        for row, (places, values) in enumerate(zip(candidates, ranked.values.detach(), strict=True)):
            repeats[row, nms(places, values.to(places.dtype), self.max_iou)] = False
        first = repeats.to(torch.uint8).argsort(dim=1, stable=True)[:, :count]  # in rank's order, repetitions last
        return ranked.indices.gather(1, first)

    def values(self, memory: Tokens, is_usable: Tensor) -> Tensor:
        """What the heads read, (B, S, D)"""
        values: Tensor = self.norm(self.project(memory.values.masked_fill(~is_usable[..., None], 0.0)))
        return values


def preset_boxes(memory: Tokens, smallest: float | Tensor = SMALLEST_ANCHOR) -> tuple[Tensor, Tensor]:
    """A box around each token, (B, S, 4) cxcywh, and which of them lie well inside the image, (B, S) bool.

    `smallest` is its side on the finest level, as a fraction of the image, or its width and height, (2,).
    """
    centres = memory.centres
    side = torch.as_tensor(smallest, dtype=centres.dtype, device=centres.device)
    sides = [(side * 2.0**level).expand(height * width, 2) for level, (height, width) in enumerate(memory.level_shapes)]
    anchors = torch.cat([centres, torch.cat(sides).expand(len(centres), -1, -1)], dim=-1)
    is_inside = ((anchors > 0.01) & (anchors < 0.99)).all(-1)
    return anchors, is_inside & ~memory.is_padding
