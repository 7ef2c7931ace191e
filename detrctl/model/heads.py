"""What is read off a query: class logits and the numbers of a box. B batch, Q queries, D width."""

from torch import Tensor, nn


class SharedHeads(nn.Module):
    """One class head and one box head for all decoder layers."""

    def __init__(self, *, class_head: nn.Module, box_head: nn.Module):
        super().__init__()
        self.class_head, self.box_head = class_head, box_head

    def forward(self, content: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """(B, Q, D) -> logits (B, Q, C), raw box numbers (B, Q, 4)"""
        return self.class_head(content), self.box_head(content)
