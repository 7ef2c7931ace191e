"""What flows through the pipeline, as frozen structs.

Letters in shapes: B batch, Q queries, S tokens (all levels, flattened), L levels, D width, C classes, G true boxes,
K detections. Everything is batch first. A mask says what True means.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from detrctl.boxes import Cxcywh, XyxyPx


@dataclass(frozen=True)
class Categories:
    """The classes of a dataset or a checkpoint. Class k of the model is `names[k]`, and `ids[k]` in the COCO file."""

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Targets:
    """The truths of one image: `labels` (G,) int64, contiguous from 0; `boxes` (G, 4), fractions of the image."""

    labels: Tensor
    boxes: Cxcywh
    image_id: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Targets":
        return replace(self, labels=self.labels.to(device), boxes=Cxcywh(self.boxes.to(device)))


@dataclass(frozen=True)
class ImageBatch:
    """Images of several sizes, each in the top-left corner of one canvas.

    `pixels` (B, 3, H, W), normalised, 0 at padding; `is_padding` (B, H, W) bool; `original_sizes_hw` (B, 2), the
    height and width in pixels that predictions are scaled to; `image_ids` are the COCO ids, or positions.
    """

    pixels: Tensor
    is_padding: Tensor
    original_sizes_hw: Tensor
    image_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device) -> "ImageBatch":
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            is_padding=self.is_padding.to(device, non_blocking=True),
            original_sizes_hw=self.original_sizes_hw.to(device),
        )


@dataclass(frozen=True)
class Batch:
    """What the loader yields: images and, image by image, their truths."""

    images: ImageBatch
    targets: tuple[Targets, ...]

    def pin_memory(self) -> "Batch":
        """Called by a loader that feeds a GPU: pixels in page-locked memory get there without another copy."""
        images = replace(
            self.images, pixels=self.images.pixels.pin_memory(), is_padding=self.images.is_padding.pin_memory()
        )
        return replace(self, images=images)

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.images.to(device), tuple(target.to(device) for target in self.targets))


@dataclass(frozen=True)
class FeatureMap:
    """One level of image features: `values` (B, D, h, w), `is_padding` (B, h, w) bool."""

    values: Tensor
    is_padding: Tensor


@dataclass(frozen=True)
class Tokens:
    """All levels flattened into one sequence, levels one after another, rows first.

    `values` and `position` (B, S, D); `is_padding` (B, S) bool; `level_shapes` (h, w) of each of the L levels;
    `valid_ratios` (B, L, 2): the share of each level's width and height (x, y) that is not padding.
    """

    values: Tensor
    position: Tensor
    is_padding: Tensor
    level_shapes: tuple[tuple[int, int], ...]
    valid_ratios: Tensor

    def with_values(self, values: Tensor) -> "Tokens":
        return replace(self, values=values)

    @cached_property
    def centres(self) -> Tensor:
        """Where each token stands, (B, S, 2) as (x, y): its cell's centre in fractions of the image without padding."""
        levels = []
        for (height, width), ratio in zip(self.level_shapes, self.valid_ratios.float().unbind(1), strict=True):
            rows = torch.arange(height, device=ratio.device, dtype=ratio.dtype) + 0.5
            columns = torch.arange(width, device=ratio.device, dtype=ratio.dtype) + 0.5
            x = columns[None] / (ratio[:, :1] * width)
            y = rows[None] / (ratio[:, 1:] * height)
            grid = (x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width))
            levels.append(torch.stack(grid, dim=-1).flatten(1, 2))
        return torch.cat(levels, dim=1)


@dataclass(frozen=True)
class Predictions:
    """One set of predictions: `logits` (B, Q, C), or C + 1 with a no-object column; `boxes` (B, Q, 4)."""

    logits: Tensor
    boxes: Cxcywh

    def take(self, start: int, stop: int | None = None) -> "Predictions":
        """Those of queries `start` to `stop`."""
        return Predictions(self.logits[:, start:stop], Cxcywh(self.boxes[:, start:stop]))

    def fold(self, groups: int) -> "Predictions":
        """Each group of queries as an image of its own, groups of one image one after another: (B * groups, Q, ...)"""
        if groups == 1:
            return self
        logits, boxes = (x.unflatten(1, (groups, -1)).flatten(0, 1) for x in (self.logits, self.boxes))
        return Predictions(logits, Cxcywh(boxes))


@dataclass(frozen=True)
class Proposals:
    """What the encoder says by itself: `all` predictions, one per token, and the tokens `selected` (B, Q), best first.

    A proposal at padding, or one whose preset box leaves the image, is the box (1, 1, 1, 1).
    """

    all: Predictions
    selected: Tensor

    def best(self) -> Predictions:
        """The predictions of the selected tokens, (B, Q, ...)"""
        logits, boxes = (
            x.gather(1, self.selected[..., None].expand(-1, -1, x.shape[-1])) for x in (self.all.logits, self.all.boxes)
        )
        return Predictions(logits, Cxcywh(boxes))


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from.

    `content` and `position` (B, Q, D); without a position the decoder makes one of `reference`, a point (B, Q, 2) or a
    box (B, Q, 4) in fractions of the image. `blocked` (Q, Q) bool: row may not look at column. In training the queries
    may come in `groups` of equal size that do not see each other. `proposals`: what they were chosen from.
    """

    content: Tensor
    position: Tensor | None = None
    reference: Tensor | None = None
    blocked: Tensor | None = None
    groups: int = 1
    proposals: Proposals | None = None


@dataclass(frozen=True)
class Assignment:
    """Matched pairs of a batch, image after image, queries ascending within an image: three int64 tensors (M,).

    Pair i says: query `query[i]` of image `image[i]` answers for that image's truth number `truth[i]`. `cost` is what
    all pairs cost together, None where they were not chosen by their costs.
    """

    image: Tensor
    query: Tensor
    truth: Tensor
    cost: float | None = None

    def __len__(self) -> int:
        return len(self.query)

    def to(self, device: torch.device) -> "Assignment":
        return Assignment(self.image.to(device), self.query.to(device), self.truth.to(device), self.cost)


@dataclass(frozen=True)
class Known:
    """The first `size` queries are truths with noise: `assignment` says which; each truth occurs in `groups` groups.

    The others of them learn that they are background, but for `unused` ones, (B, size) bool, which learn nothing.
    """

    assignment: Assignment
    size: int
    groups: int
    unused: Tensor | None = None


@dataclass(frozen=True)
class Denoised:
    """What the decoder layers made of the noised truths, and which truths these were."""

    layers: tuple[Predictions, ...]
    known: Known


@dataclass(frozen=True)
class DetectorOutput:
    """Everything that a detector predicts: one entry of `layers` per decoder layer, the last one is the answer."""

    layers: tuple[Predictions, ...]
    memory: Tokens
    proposals: Proposals | None = None
    denoised: Denoised | None = None
    groups: int = 1

    @property
    def final(self) -> Predictions:
        return self.layers[-1]


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first: `scores` (K,), `labels` (K,) int64 contiguous, `boxes` (K, 4) in pixels.

    `queries` (K,) int64 says which object query (or, in detectors without queries, which candidate) each came from.
    """

    scores: Tensor
    labels: Tensor
    boxes: XyxyPx
    queries: Tensor
    image_id: int = 0

    def __len__(self) -> int:
        return len(self.scores)

    def keep(self, mask: Tensor) -> "Detections":
        return replace(
            self,
            scores=self.scores[mask],
            labels=self.labels[mask],
            boxes=XyxyPx(self.boxes[mask]),
            queries=self.queries[mask],
        )


@dataclass(frozen=True)
class LossTerm:
    """One number of the objective. `weight` 0 means: measured, not trained on.

    `name` is the quantity (`class`, `l1`, `giou`, `class_error`, `cardinality_error`, `matching_cost`), `stage` where
    it was measured (`decoder`, `encoder`, `denoising`), `layer` the decoder layer from 0, -1 where there is none.
    `adds_up`: normalised by the whole step, so that micro-batches add up to it; otherwise a mean of its own batch.
    """

    name: str
    stage: str
    layer: int
    weight: float
    value: Tensor
    adds_up: bool = True


@dataclass(frozen=True)
class Losses:
    """The weighted sum that is differentiated, and its terms."""

    terms: tuple[LossTerm, ...] = field(default_factory=tuple)

    @property
    def total(self) -> Tensor:
        return torch.stack([term.weight * term.value for term in self.terms if term.weight]).sum()


PostProcess = Callable[[Predictions, Tensor, tuple[int, ...]], list[Detections]]
"""(predictions, original_sizes_hw (B, 2), image_ids) -> one `Detections` per image"""
