"""What one query looks at on one image, layer by layer, and what the encoder looks at from a place in it.

Made of a `Recording`, as plain arrays on the CPU. Places are fractions of the image without padding, (x, y), y
downwards. H heads, h x w cells of the one level of dense attention, L levels, P points, Q queries.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from detrctl.inspection.matching import class_scores
from detrctl.inspection.recording import DenseLook, Look, Recording, SampledLook, require_queries
from detrctl.model.queries import ProposedBoxes, ProposedQueries
from detrctl.structures import Tokens


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """`weights` (H, h, w): how much each head looks at every cell that is not padding; they sum to 1 over the cells."""

    weights: np.ndarray

    @property
    def heads(self) -> int:
        return len(self.weights)


@dataclass(frozen=True, eq=False)
class SampledPoints:
    """`points` (H, L, P, 2), which may lie outside the image, and their `weights` (H, L, P): 1 in sum for each head."""

    points: np.ndarray
    weights: np.ndarray

    @property
    def heads(self) -> int:
        return len(self.weights)


Looked = AttentionMap | SampledPoints


@dataclass(frozen=True, eq=False)
class LayerLook:
    """One decoder layer: the point (2,) or box (4,) that it looked around (None in DETR), what it looked at, and the
    `box` (4,), class and score that it answered with. `overlap` is the IoU of its box with the last layer's, `inside`
    the part of its attention, mean over heads, that falls into its box.
    """

    attended: np.ndarray | None
    looked: Looked
    box: np.ndarray
    label: int
    score: float
    overlap: float
    inside: float


@dataclass(frozen=True, eq=False)
class Starts:
    """Where the queries of an image start: `places` (Q, 2 or 4), and the encoder's `scores` (Q,) of proposals."""

    kind: Literal["learned points", "learned anchors", "proposals"]
    places: np.ndarray
    scores: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class QueryLook:
    """`starts` is None where queries start nowhere (DETR). `asked_class`: the class that all layers are asked about;
    without one each tells its best.
    """

    query: int
    layers: tuple[LayerLook, ...]
    starts: Starts | None
    asked_class: int | None = None


@dataclass(frozen=True, eq=False)
class Origin:
    """The token from which is looked: its level, and its cell's centre (2,)."""

    level: int
    token: int
    centre: np.ndarray


@dataclass(frozen=True, eq=False)
class EncoderLook:
    """What the tokens nearest to `point` (x, y) look at, one `origin` on each level; `layers[i][k]` is that of layer i
    from origin k. No layers where the model has no encoder layer.
    """

    point: tuple[float, float]
    origins: tuple[Origin, ...]
    layers: tuple[tuple[Looked, ...], ...]


# ---- from a recording ----


def look_of_query(
    seen: Recording, network: nn.Module, query: int, *, num_classes: int, label: int | None = None, image: int = 0
) -> QueryLook:
    """Of one query in evaluation mode. `label`: of a detection, which need not be of its query's best class."""
    assert seen.memory is not None
    boxes = seen.boxes(image, query).cpu().numpy()
    of_classes = class_scores(seen.logits(image, query), num_classes)
    scores, labels = of_classes.max(-1)
    asked = None if label is None or label == int(labels[-1]) else label
    if asked is not None:
        scores, labels = of_classes[:, asked], torch.full_like(labels, asked)
    overlaps = paired_iou(boxes, np.broadcast_to(boxes[-1], boxes.shape))
    layers = []
    for index, (attended, look) in enumerate(zip(seen.attended, seen.cross, strict=True)):
        looked = _looked(look, seen.memory, image, query)
        place = None if attended is None else attended[image, query].float().cpu().numpy()
        answer = int(labels[index]), float(scores[index]), float(overlaps[index])
        layers.append(LayerLook(place, looked, boxes[index], *answer, share_inside(looked, boxes[index])))
    return QueryLook(query, tuple(layers), _starts(seen, network, image), asked)


def look_from_point(seen: Recording, point: tuple[float, float], *, image: int = 0) -> EncoderLook:
    """Of the encoder's tokens at a point."""
    assert seen.memory is not None
    origins = tuple(nearest_token(seen.memory, level, point, image) for level in range(len(seen.memory.level_shapes)))
    layers = tuple(
        tuple(_looked(look, seen.memory, image, origin.token) for origin in origins) for look in seen.encoder
    )
    return EncoderLook(point, origins, layers)


def nearest_token(memory: Tokens, level: int, point: tuple[float, float], image: int) -> Origin:
    """Of a level, and not padding."""
    sizes = [height * width for height, width in memory.level_shapes]
    start, stop = sum(sizes[:level]), sum(sizes[: level + 1])
    centres = memory.centres[image, start:stop].float().cpu()
    distance = (centres - torch.tensor(point)).norm(dim=-1)
    token = int(distance.masked_fill(memory.is_padding[image, start:stop].cpu(), torch.inf).argmin())
    return Origin(level, start + token, centres[token].numpy())


def _looked(look: Look, memory: Tokens, image: int, query: int) -> Looked:
    if isinstance(look, SampledLook):
        points, weights = look.points(image, query, memory.valid_ratios)
        return SampledPoints(points.float().cpu().numpy(), weights.float().cpu().numpy())
    return AttentionMap(_cells(look, memory, image, query).numpy())


def _cells(look: DenseLook, memory: Tokens, image: int, query: int) -> Tensor:
    """(H, h, w); rows and columns that are padding are left away, and with them nothing but zeros."""
    assert len(memory.level_shapes) == 1, "dense attention is to one level"
    weights = look.weights(image, [query])[0].float().cpu().unflatten(-1, memory.level_shapes[0])
    is_seen = ~memory.is_padding[image].cpu().unflatten(-1, memory.level_shapes[0])
    return weights[:, is_seen.any(1)][:, :, is_seen.any(0)]


def share_inside(look: Looked, box: np.ndarray) -> float:
    """How much of the attention, mean over heads, falls into a box (4,): cells count by their centres."""
    if isinstance(look, AttentionMap):
        _, height, width = look.weights.shape
        y, x = np.mgrid[:height, :width] + 0.5
        places = np.broadcast_to(np.stack([x / width, y / height], axis=-1), (*look.weights.shape, 2))
    else:
        places = look.points
    is_inside = (np.abs(places - box[:2]) <= box[2:] / 2).all(-1)
    return float(look.weights[is_inside].sum() / look.heads)


def _starts(seen: Recording, network: nn.Module, image: int) -> Starts | None:
    assert seen.queries is not None
    reference, proposals = seen.queries.reference, seen.queries.proposals
    if reference is None:
        return None
    places = reference[image].float().cpu().numpy()
    if proposals is None:
        return Starts("learned anchors" if places.shape[1] == 4 else "learned points", places)
    source = require_queries(network).queries
    assert isinstance(source, ProposedQueries | ProposedBoxes)
    ranked = source.proposals.rank(proposals.all.logits.float())[image, proposals.selected[image]]
    return Starts("proposals", places, ranked.sigmoid().cpu().numpy())


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row: (..., 4), (..., 4) cxcywh -> (...); 0 where both are empty."""
    low = np.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = np.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    shared = np.prod(np.maximum(high - low, 0), -1)
    union = np.prod(a[..., 2:], -1) + np.prod(b[..., 2:], -1) - shared
    return shared / np.where(union > 0, union, 1)
