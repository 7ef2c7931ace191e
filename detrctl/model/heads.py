"""What is read off a query: class logits and the numbers of a box. B batch, Q queries, D width."""

from torch import Tensor, nn


class PerLayer(nn.ModuleList):
    """A head of its own for each decoder layer."""


class Heads(nn.Module):
    """A class head and a box head, each one for all decoder layers, or `PerLayer`."""

    def __init__(self, *, class_head: nn.Module, box_head: nn.Module):
        super().__init__()
        self.class_head, self.box_head = class_head, box_head

    def forward(self, content: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """(B, Q, D) -> logits (B, Q, C), raw box numbers (B, Q, 4)"""
        return _of(self.class_head, layer)(content), self.box(content, layer)

    def box(self, content: Tensor, layer: int) -> Tensor:
        """(B, Q, D) -> raw box numbers (B, Q, 4)"""
        raw: Tensor = _of(self.box_head, layer)(content)
        return raw


def _of(head: nn.Module, layer: int) -> nn.Module:
    return head[layer] if isinstance(head, PerLayer) else head
