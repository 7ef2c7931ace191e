"""How a box head's numbers become a box, and how that moves what the next layer looks at. B batch, Q queries.

`base` is what a box is measured from, `attended` what the next layer looks at: points (B, Q, 2) or boxes (B, Q, 4) in
fractions of the image.
"""

import torch
from torch import Tensor, nn

from detrctl.boxes import Cxcywh, at_least_fp32, inverse_sigmoid


class Reference(nn.Module):
    """The seam: `box` for every layer; `advance` between layers, where `moves` is true."""

    moves = False

    def box(self, raw: Tensor, base: Tensor | None) -> Cxcywh:
        """The head's numbers (B, Q, 4) -> boxes (B, Q, 4)"""
        raise NotImplementedError

    def advance(self, raw: Tensor, attended: Tensor | None) -> tuple[Tensor, Tensor]:
        """(what the next layer looks at, what its box is measured from)"""
        raise NotImplementedError


class AbsoluteBoxes(Reference):
    """DETR: the head's four numbers, squashed, are the box. There is no reference to start from."""

    def box(self, raw: Tensor, base: Tensor | None) -> Cxcywh:
        """(B, Q, 4) -> (B, Q, 4); box arithmetic stays in fp32 under autocast."""
        return Cxcywh(at_least_fp32(raw).sigmoid())


class Fixed(Reference):
    """Every layer looks at, and measures from, the query's first point or box (Zhu et al. 2021, appendix A.3)."""

    def __init__(self, *, eps: float):
        super().__init__()
        self.eps = eps

    def box(self, raw: Tensor, base: Tensor | None) -> Cxcywh:
        """The head's numbers move the base, in logits: (B, Q, 4), (B, Q, 2 or 4) -> (B, Q, 4)

        A point has no size to start from: the last two numbers are the size then.
        """
        assert base is not None
        raw, start = at_least_fp32(raw), inverse_sigmoid(base, eps=self.eps)
        moved = raw[..., : start.shape[-1]] + start
        return Cxcywh(moved.sigmoid() if moved.shape == raw.shape else _with_size(moved, raw).sigmoid())


class Refined(Fixed):
    """Each layer looks at the box of the layer before and moves it; gradients stay inside a layer.

    Iterative bounding box refinement: Zhu et al. 2021, section 4.2 and appendix A.4.
    """

    moves = True

    def advance(self, raw: Tensor, attended: Tensor | None) -> tuple[Tensor, Tensor]:
        moved = self.box(raw, attended).detach()
        return moved, moved


class RefinedTwice(Refined):
    """As `Refined`, but a box is measured from the one before with its gradient, so a layer's loss teaches two.

    Look forward twice: Zhang et al. 2023 (DINO), section 3.4. What is looked at stays detached.
    """

    def advance(self, raw: Tensor, attended: Tensor | None) -> tuple[Tensor, Tensor]:
        moved = self.box(raw, attended)
        return moved.detach(), moved


def _with_size(centre: Tensor, raw: Tensor) -> Tensor:
    return torch.cat([centre, raw[..., 2:]], dim=-1)
