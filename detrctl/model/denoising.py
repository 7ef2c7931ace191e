"""Queries that are true boxes and classes with noise, which the decoder learns to put right beside its own queries.

B batch, Q queries, D width, G most truths of an image in the batch, T truths of the whole batch, N noised copies of it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from detrctl.boxes import Cxcywh, Xyxy, cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh
from detrctl.structures import Assignment, Known, Queries, Targets


class Noise(Protocol):
    """Where random numbers come from, so that a test can hand in those of somebody else."""

    def uniform(self, *shape: int) -> Tensor:
        """Numbers from 0 to 1."""

    def integers(self, high: int, *shape: int) -> Tensor:
        """Whole numbers from 0 to `high` - 1."""


class TorchNoise:
    """PyTorch's own generator of the CPU, so that all devices draw the same numbers.

    They are drawn outside any compiled graph, where the compiler's own generator would draw others from the same seed.
    """

    @torch.compiler.disable
    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape)

    @torch.compiler.disable
    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape)


class NoDenoising(nn.Module):
    """The queries as they are."""

    def forward(self, queries: Queries, targets: Sequence[Targets] | None) -> tuple[Queries, Known | None]:
        return queries, None


class GroupedDenoising(nn.Module):
    """DN-DETR's: every truth once in each of `groups`, its box and, by the chance of `label_noise`, its label changed.

    Centres move by up to half a side, sides by up to a whole one, times `box_noise`. A query's content is its label's
    vector and, last, a 1; the model's own queries have a 0 there and, unless they `keep_content`, a further label's
    vector, also after training. Source: Li et al. 2022, section 4.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        width: int,
        groups: int,
        label_noise: float,
        box_noise: float,
        eps: float,
        keep_content: bool = False,
    ):
        super().__init__()
        self.keep_content = keep_content
        self.num_classes, self.groups, self.eps = num_classes, groups, eps
        self.label_noise, self.box_noise = label_noise, box_noise
        self.labels = nn.Embedding(num_classes + 1, width - 1)
        self.noise: Noise = TorchNoise()

    def forward(self, queries: Queries, targets: Sequence[Targets] | None) -> tuple[Queries, Known | None]:
        """In training, noised truths before the queries: group by group of G slots each."""
        if not self.keep_content:
            own = nn.functional.pad(self.labels.weight[-1], (0, 1))
            queries = replace(queries, content=queries.content + own)
        if not self.training or targets is None or not any(len(truth) for truth in targets):
            return queries, None
        most = max(len(truth) for truth in targets)
        image, truth, labels, boxes = _flatten(targets)
        group = torch.arange(self.groups, device=labels.device).repeat_interleave(len(labels))
        image, truth = image.repeat(self.groups), truth.repeat(self.groups)
        known = Assignment(image, group * most + truth, truth)
        prepared = place_known(
            queries,
            (known.image, known.query),
            content=nn.functional.pad(self.labels(self._noised_labels(labels)), (0, 1), value=1.0),
            boxes=inverse_sigmoid(self._noised_boxes(boxes), eps=self.eps).sigmoid(),
            size=self.groups * most,
            group_size=most,
        )
        unused = torch.ones(len(targets), self.groups * most, dtype=torch.bool, device=labels.device)
        unused[known.image, known.query] = False
        return prepared, Known(known, self.groups * most, self.groups, unused)

    def _noised_labels(self, labels: Tensor) -> Tensor:
        """(T,) -> (groups * T,)"""
        labels = labels.repeat(self.groups)
        if self.label_noise == 0:
            return labels
        return flip_labels(labels, self.noise, chance=self.label_noise, classes=self.num_classes)

    def _noised_boxes(self, boxes: Cxcywh) -> Tensor:
        """(T, 4) -> (groups * T, 4)"""
        boxes = Cxcywh(boxes.repeat(self.groups, 1))
        if self.box_noise == 0:
            return boxes
        part = self.noise.uniform(*boxes.shape).to(boxes.device) * 2.0 - 1.0
        reach = torch.cat([boxes[:, 2:] / 2, boxes[:, 2:]], dim=-1)
        return (boxes + part * reach * self.box_noise).clamp(0, 1)


class ContrastiveDenoising(nn.Module):
    """DINO's: each truth once with little noise, to be put right, and once with more, to be refused, in many groups.

    Boxes: each corner moves by up to half a side times `box_noise`, for negatives by one to two such halves. Labels:
    half of `label_noise` is the chance of a random one. Source: Zhang et al. 2023, section 3.3, and its code, whose
    number of groups is that of `group_count`.
    """

    def __init__(self, *, num_classes: int, width: int, copies: int, label_noise: float, box_noise: float, eps: float):
        super().__init__()
        self.num_classes, self.copies, self.eps = num_classes, copies, eps
        self.label_noise, self.box_noise = label_noise, box_noise
        self.labels = nn.Embedding(num_classes + 1, width)  # the published book has a row more than it uses
        self.noise: Noise = TorchNoise()

    def forward(self, queries: Queries, targets: Sequence[Targets] | None) -> tuple[Queries, Known | None]:
        """Noised truths before the queries: group by group, within a group positives, then negatives, G slots each."""
        if not self.training or targets is None:
            return queries, None
        most = max(len(truth) for truth in targets)
        if most == 0:
            # The embedding stays in the graph, with a gradient of zero.
            return replace(queries, content=queries.content + 0.0 * self.labels.weight[0, 0]), None
        groups = group_count(self.copies, most)
        image, truth, labels, boxes = _flatten(targets)
        copy = torch.arange(2 * groups, device=labels.device)[:, None].expand(-1, len(labels))
        # Labels are drawn before boxes, as published, so that stored draws can be replayed.
        noised_labels, noised_boxes = self._noised_labels(labels, 2 * groups), self._noised_boxes(boxes, copy)
        slots = (image.expand_as(copy), copy * most + truth)
        prepared = place_known(
            queries,
            slots,
            content=self.labels(noised_labels),
            boxes=inverse_sigmoid(noised_boxes, eps=self.eps).sigmoid(),
            size=2 * groups * most,
            group_size=2 * most,
        )
        positive = copy % 2 == 0
        image, query, number = (x[positive] for x in (*slots, truth.expand_as(copy)))
        known = Assignment(image, query, number)
        return prepared, Known(known, 2 * groups * most, groups)

    def _noised_labels(self, labels: Tensor, copies: int) -> Tensor:
        """(T,) -> (copies, T)"""
        labels = labels.repeat(copies)
        if self.label_noise > 0:
            labels = flip_labels(labels, self.noise, chance=self.label_noise * 0.5, classes=self.num_classes)
        return labels.view(copies, -1)

    def _noised_boxes(self, boxes: Cxcywh, copy: Tensor) -> Tensor:
        """(T, 4), (N, T) -> (N, T, 4); every second copy is a negative, whose corners may even change sides."""
        copies, count = copy.shape
        if self.box_noise == 0:
            return boxes.expand(copies, -1, -1)
        device = boxes.device
        sign = self.noise.integers(2, copies * count, 4).to(device) * 2.0 - 1.0
        part = self.noise.uniform(copies * count, 4).to(device) + (copy % 2).flatten()[:, None]
        halves = (boxes[:, 2:] / 2).repeat(copies, 2)
        corners = cxcywh_to_xyxy(Cxcywh(boxes.repeat(copies, 1))) + sign * part * halves * self.box_noise
        return xyxy_to_cxcywh(Xyxy(corners.clamp(0, 1))).view(copies, count, 4)


def group_count(copies: int, most: int) -> int:
    """How many groups, each of `most` positives and as many negatives, as the official code has it.

    From 50 `copies` on as many as that many positives fill, and at least one. Below, 2 * `copies` groups, however many
    truths there are: 30 copies of 8 truths are 60 groups of 16 queries.
    """
    return max(copies // most, 1) if 2 * copies >= 100 else max(2 * copies, 1)


def flip_labels(labels: Tensor, noise: Noise, *, chance: float, classes: int) -> Tensor:
    """Each label, with that chance, another one drawn from all classes: (N,) -> (N,)"""
    flipped = (noise.uniform(len(labels)).to(labels.device) < chance).nonzero().flatten()
    labels = labels.clone()
    labels[flipped] = noise.integers(classes, len(flipped)).to(labels.device)
    return labels


def _flatten(targets: Sequence[Targets]) -> tuple[Tensor, Tensor, Tensor, Cxcywh]:
    """All truths of a batch, each (T,): image, number within the image, label; and box (T, 4)."""
    device = targets[0].labels.device
    image = [torch.full((len(truth),), i, device=device) for i, truth in enumerate(targets)]
    number = [torch.arange(len(truth), device=device) for truth in targets]
    labels, boxes = torch.cat([truth.labels for truth in targets]), torch.cat([truth.boxes for truth in targets])
    return torch.cat(image), torch.cat(number), labels, Cxcywh(boxes)


def place_known(
    queries: Queries, slots: tuple[Tensor, Tensor], *, content: Tensor, boxes: Tensor, size: int, group_size: int
) -> Queries:
    """`size` queries more, before the others: `content` and `boxes` at `slots`, elsewhere nothing and a box of halves.

    Groups of `group_size` do not see each other, and the model's own queries see none of them; all see the own ones.
    """
    assert queries.reference is not None
    batch, own, width = queries.content.shape
    known_content = queries.content.new_zeros(batch, size, width).index_put(slots, content.to(queries.content.dtype))
    known_boxes = queries.reference.new_full((batch, size, 4), 0.5).index_put(slots, boxes.to(queries.reference.dtype))
    group = torch.arange(size + own, device=boxes.device).div(group_size, rounding_mode="floor")
    group[size:] = -1
    return replace(
        queries,
        content=torch.cat([known_content, queries.content], dim=1),
        reference=torch.cat([known_boxes, queries.reference], dim=1),
        blocked=(group[:, None] != group[None]) & (group[None] >= 0),
    )
