"""How a box head's numbers become a box, and how that moves what the next layer looks at. B batch, Q queries."""

from torch import Tensor, nn

from detrctl.boxes import Cxcywh


class AbsoluteBoxes(nn.Module):
    """DETR: the head's four numbers, squashed, are the box. There is no reference to start from."""

    def forward(self, raw: Tensor) -> Cxcywh:
        """(B, Q, 4) -> (B, Q, 4); box arithmetic stays in fp32 under autocast."""
        return Cxcywh(raw.float().sigmoid())
