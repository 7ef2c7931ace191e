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


class LearnedSlotsWithContent(nn.Module):
    """As `LearnedSlots`, but content starts from a learned vector too, as Deformable DETR's query embedding does."""

    def __init__(self, *, queries: int, width: int):
        super().__init__()
        self.content = nn.Embedding(queries, width)
        self.position = nn.Embedding(queries, width)

    def forward(self, memory: Tokens) -> Queries:
        batch = len(memory.values)
        return Queries(
            content=self.content.weight.expand(batch, -1, -1), position=self.position.weight.expand(batch, -1, -1)
        )
