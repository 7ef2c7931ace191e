"""Where object queries come from. B batch, Q queries, D width."""

from torch import nn

from detrctl.structures import Queries, Tokens


class LearnedSlots(nn.Module):
    """DETR's object queries: content starts at zero, learned vectors tell the slots apart (Carion et al. 2020, 3.2)."""

    def __init__(self, *, queries: int, width: int):
        super().__init__()
        self.position = nn.Embedding(queries, width)

    def forward(self, memory: Tokens) -> Queries:
        position = self.position.weight.expand(len(memory.values), -1, -1)
        return Queries(content=position.new_zeros(position.shape), position=position)
