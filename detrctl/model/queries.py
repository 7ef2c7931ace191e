"""Where object queries come from. B batch, Q queries of a group, K groups, S tokens, D width."""

from torch import Tensor, nn

from detrctl.boxes import at_least_fp32
from detrctl.model.layers import MLP
from detrctl.model.position_encoding import coordinate_embedding
from detrctl.model.proposals import EncoderProposals
from detrctl.structures import Queries, Tokens


class Grouped(nn.Module):
    """Learned queries in `groups`: all of them in training, the first group alone otherwise.

    Each group is matched on its own, so that a truth teaches one query of every group, while none of them learns to
    double another's find. Source: Chen et al. 2023, "Group DETR".
    """

    def __init__(self, *, queries: int, groups: int):
        super().__init__()
        self.queries, self.groups = queries, groups

    def now(self) -> int:
        """How many groups take part."""
        return self.groups if self.training else 1

    def rows(self, table: nn.Embedding, batch: int) -> Tensor:
        """(Q * K, D) -> (B, Q or Q * K, D)"""
        return table.weight[: self.queries * self.now()].expand(batch, -1, -1)


class LearnedSlots(Grouped):
    """DETR's object queries: content starts at zero, learned vectors tell the slots apart (Carion et al. 2020, 3.2)."""

    def __init__(self, *, queries: int, width: int, groups: int = 1):
        super().__init__(queries=queries, groups=groups)
        self.position = nn.Embedding(queries * groups, width)

    def forward(self, memory: Tokens) -> Queries:
        position = self.rows(self.position, len(memory.values))
        return Queries(position.new_zeros(position.shape), position, groups=self.now())


class LearnedSlotsWithContent(Grouped):
    """As `LearnedSlots`, but content starts from a learned vector too, as Deformable DETR's query embedding does."""

    def __init__(self, *, queries: int, width: int, groups: int = 1):
        super().__init__(queries=queries, groups=groups)
        self.content = nn.Embedding(queries * groups, width)
        self.position = nn.Embedding(queries * groups, width)

    def forward(self, memory: Tokens) -> Queries:
        batch = len(memory.values)
        return Queries(self.rows(self.content, batch), self.rows(self.position, batch), groups=self.now())


class LearnedPoints(Grouped):
    """Deformable DETR's queries: learned positions and contents, and a point read off each position by one layer.

    Source: Zhu et al. 2021, section 4.1. `slots` holds position and content side by side, as the published weights do.
    """

    def __init__(self, *, queries: int, width: int, groups: int = 1):
        super().__init__(queries=queries, groups=groups)
        self.slots = nn.Embedding(queries * groups, 2 * width)
        self.reference = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, memory: Tokens) -> Queries:
        position, content = self.rows(self.slots, len(memory.values)).chunk(2, dim=-1)
        return Queries(content, position, at_least_fp32(self.reference(position)).sigmoid(), groups=self.now())


class ConditionalSlots(Grouped):
    """Conditional DETR's queries: learned positions, and a point read off each; content starts at zero.

    Source: Meng et al. 2021, section 3.3.
    """

    def __init__(self, *, queries: int, width: int, groups: int = 1):
        super().__init__(queries=queries, groups=groups)
        self.position = nn.Embedding(queries * groups, width)
        self.reference = MLP(width=width, outputs=2, depth=2)

    def forward(self, memory: Tokens) -> Queries:
        position = self.rows(self.position, len(memory.values))
        reference = at_least_fp32(self.reference(position)).sigmoid()
        return Queries(position.new_zeros(position.shape), position, reference, groups=self.now())


class LearnedAnchors(Grouped):
    """DAB-DETR's queries: learned boxes, kept in logits; content starts at zero (Liu et al. 2022, section 4.1).

    With `patterns`, every box is a query once with each of so many learned contents, the same for all boxes.
    """

    def __init__(self, *, queries: int, width: int, groups: int = 1, patterns: int = 0):
        super().__init__(queries=queries, groups=groups)
        self.width = width
        self.boxes = nn.Embedding(queries * groups, 4)
        self.patterns = nn.Embedding(patterns, width) if patterns else None

    def forward(self, memory: Tokens) -> Queries:
        reference = self.rows(self.boxes, len(memory.values)).sigmoid()
        if self.patterns is None:
            content = memory.values.new_zeros(*reference.shape[:2], self.width)
        else:
            groups, patterns = self.now(), self.patterns.num_embeddings
            reference = reference.unflatten(1, (groups, -1)).repeat(1, 1, patterns, 1).flatten(1, 2)
            content = self.patterns.weight.repeat_interleave(self.queries, dim=0).repeat(groups, 1)
            content = content.expand(len(reference), -1, -1)
        return Queries(content, None, reference, groups=self.now())


class LearnedAnchorsWithContent(Grouped):
    """DAB-Deformable-DETR's queries: learned boxes, kept in logits, each with a learned content.

    `free` channels at the end of the content stay zero, for denoising to mark the queries that it adds.
    """

    def __init__(self, *, queries: int, width: int, groups: int = 1, free: int = 0):
        super().__init__(queries=queries, groups=groups)
        self.free = free
        self.boxes = nn.Embedding(queries * groups, 4)
        self.content = nn.Embedding(queries * groups, width - free)

    def forward(self, memory: Tokens) -> Queries:
        batch = len(memory.values)
        content = nn.functional.pad(self.rows(self.content, batch), (0, self.free))
        return Queries(content, None, self.rows(self.boxes, batch).sigmoid(), groups=self.now())


class ProposedQueries(nn.Module):
    """Deformable DETR in two stages: position and content of a query are made of its proposal's box alone.

    Source: Zhu et al. 2021, section 4.2 and appendix A.4.
    """

    def __init__(self, *, queries: int, width: int, proposals: EncoderProposals):
        super().__init__()
        self.queries, self.width, self.proposals = queries, width, proposals
        self.from_box = nn.Linear(2 * width, 2 * width)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, memory: Tokens) -> Queries:
        proposals = self.proposals(memory, self.queries)
        boxes = proposals.best().boxes.detach()
        embedding = coordinate_embedding(boxes, width=self.width // 2).to(memory.values.dtype)
        position, content = self.norm(self.from_box(embedding)).chunk(2, dim=-1)
        return Queries(content, position, boxes, proposals=proposals)


class ProposedBoxes(nn.Module):
    """DINO's mixed query selection: a query's box is proposed, its content is learned (Zhang et al. 2023, 3.5)."""

    def __init__(self, *, queries: int, width: int, proposals: EncoderProposals):
        super().__init__()
        self.proposals = proposals
        self.content = nn.Embedding(queries, width)

    def forward(self, memory: Tokens) -> Queries:
        proposals = self.proposals(memory, self.content.num_embeddings)
        batch, queries = proposals.selected.shape
        content = self.content.weight[:queries].expand(batch, -1, -1)
        return Queries(content, None, proposals.best().boxes.detach(), proposals=proposals)
