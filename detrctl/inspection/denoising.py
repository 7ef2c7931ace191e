"""What denoising asks of a decoder and how well it answers: noised queries, the truths behind them, the mask.

Q queries in all, K noised ones of an image, L decoder layers. No generator is set here: what is drawn depends on the
noise source that the part holds.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detrctl.boxes import Cxcywh, Xyxy, cxcywh_to_xyxy, pairwise_iou
from detrctl.inspection.matching import class_scores
from detrctl.structures import DetectorOutput, ImageBatch, Known, Queries, Targets

Part = Literal["rebuild", "refuse"]


@dataclass(frozen=True)
class Rebuilt:
    """What one layer made of a noised query: its box, its best class and that one's score, IoU with the truth."""

    box: tuple[float, ...]
    label: int
    score: float
    iou: float


@dataclass(frozen=True)
class NoisedQuery:
    """A truth with noise: to `rebuild`, or, with DINO's greater noise, to `refuse` as background.

    `label` is the class that it was given, `box` cxcywh in fractions of the image, `iou` what is left of the overlap.
    """

    slot: int
    group: int
    truth: int
    part: Part
    label: int
    box: tuple[float, ...]
    iou: float
    layers: tuple[Rebuilt, ...]


@dataclass(frozen=True)
class Mask:
    """Who may not look at whom: `rows` says it for runs of equal rows, as (number of rows, lengths of runs of columns).

    Runs of columns are open and blocked in turn, the first open. `known` queries are noised truths, in groups of
    `group`; the model's own come after them.
    """

    known: int
    group: int
    own: int
    rows: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class ImageDenoising:
    image_id: int
    labels: tuple[int, ...]
    boxes: tuple[tuple[float, ...], ...]
    queries: tuple[NoisedQuery, ...]


@dataclass(frozen=True)
class DenoisingLayer:
    """Means over the noised queries of a split; a `class_right` of the input counts labels that noise left alone."""

    layer: int
    iou: float | None
    class_right: float | None
    score_rebuilt: float | None
    score_refused: float | None


@dataclass(frozen=True)
class DenoisingSummary:
    """`given` is the noised input itself, as layer -1, then what each decoder layer made of it."""

    images: int
    rebuilt: int
    refused: int
    given: DenoisingLayer
    layers: tuple[DenoisingLayer, ...]


# ---- watching a model ----


@dataclass
class _Seen:
    queries: Queries | None = None


@contextmanager
def denoising_on(network: nn.Module) -> Iterator[_Seen]:
    """The denoising part works as in training, all else as it is; what it hands to the decoder is seen.

    Nothing of the model is changed: the hook only looks, and the part's mode comes back.
    """
    part, seen = network.denoising, _Seen()
    assert isinstance(part, nn.Module)

    def look(module: nn.Module, arguments: Any, result: tuple[Queries, Known | None]) -> None:
        seen.queries = result[0]

    handle, was_training = part.register_forward_hook(look), part.training
    part.training = True
    try:
        yield seen
    finally:
        handle.remove()
        part.training = was_training


@torch.no_grad()
def denoise_batch(
    network: nn.Module, images: ImageBatch, targets: Sequence[Targets], *, num_classes: int
) -> tuple[list[ImageDenoising], Mask] | None:
    """The network must be in evaluation mode. None where it has no denoising, or there is no truth in the batch."""
    with denoising_on(network) as seen:
        output: DetectorOutput = network(images, targets)
    if output.denoised is None or seen.queries is None:
        return None
    known, queries = output.denoised.known, seen.queries
    labels = given_labels(queries.content[:, : known.size], network.denoising)
    told = [
        ImageDenoising(
            truth.image_id,
            tuple(truth.labels.tolist()),
            tuple(map(tuple, truth.boxes.tolist())),
            tuple(_noised_queries(i, truth, output, queries, labels[i], num_classes)),
        )
        for i, truth in enumerate(targets)
    ]
    assert queries.blocked is not None
    return told, read_mask(queries.blocked, known)


def given_labels(content: Tensor, part: Any) -> Tensor:
    """Which class each noised query was given, (B, K), read back from its content: the row of the label book it holds.

    -1 where the content is nothing: a slot that no truth fills.
    """
    book: Tensor = part.labels.weight.to(content.dtype)
    distance = torch.cdist(content[..., : book.shape[1]].float(), book.float()[None].expand(len(content), -1, -1))
    return distance.argmin(-1).masked_fill(content.abs().sum(-1) == 0, -1)


def _noised_queries(
    image: int, truth: Targets, output: DetectorOutput, queries: Queries, labels: Tensor, num_classes: int
) -> Iterator[NoisedQuery]:
    assert output.denoised is not None
    assert queries.reference is not None
    known = output.denoised.known
    mine = known.assignment.image == image
    rebuild = dict(zip(known.assignment.query[mine].tolist(), known.assignment.truth[mine].tolist(), strict=True))
    group = known.size // known.groups
    slots = [slot for slot in range(known.size) if int(labels[slot]) >= 0]
    # Groups are of G slots in DN-DETR, in DINO of G to rebuild and then G to refuse, each in the order of the truths.
    most = group if len(rebuild) == len(slots) else group // 2
    truths = torch.tensor([(slot % group) % most for slot in slots], dtype=torch.int64, device=truth.boxes.device)
    aims = truth.boxes[truths]
    given = queries.reference[image, slots]
    overlaps = _ious(given, aims).tolist()
    per_layer = []
    for layer in output.denoised.layers:
        scores, best = class_scores(layer.logits[image, slots], num_classes).max(-1)
        boxes = layer.boxes[image, slots].float()
        columns = (boxes.tolist(), best.tolist(), scores.tolist(), _ious(boxes, aims).tolist())
        per_layer.append([Rebuilt(tuple(box), *rest) for box, *rest in zip(*columns, strict=True)])
    for i, slot in enumerate(slots):
        yield NoisedQuery(
            slot,
            slot // group,
            int(truths[i]),
            "rebuild" if slot in rebuild else "refuse",
            int(labels[slot]),
            tuple(given[i].tolist()),
            overlaps[i],
            tuple(layer[i] for layer in per_layer),
        )


def _ious(a: Tensor, b: Tensor) -> Tensor:
    """Row against row: (N, 4), (N, 4) cxcywh -> (N,); 0 for a box that noise has turned inside out."""
    boxes, aims = cxcywh_to_xyxy(Cxcywh(a.float())), cxcywh_to_xyxy(Cxcywh(b.float()))
    return pairwise_iou(Xyxy(boxes[:, None]), Xyxy(aims[:, None])).flatten().nan_to_num(0.0)


def read_mask(blocked: Tensor, known: Known) -> Mask:
    """(Q, Q) bool, True: the row's query may not look at the column's."""
    rows = [tuple(row) for row in blocked.tolist()]
    return Mask(
        known.size,
        known.size // known.groups,
        len(rows) - known.size,
        tuple((len(list(same)), _runs(row)) for row, same in groupby(rows)),
    )


def _runs(row: tuple[bool, ...]) -> tuple[int, ...]:
    runs = [(blocked, len(list(same))) for blocked, same in groupby(row)]
    lengths = [length for _, length in runs]
    return tuple([0, *lengths] if runs and runs[0][0] else lengths)


# ---- over a split ----


def summarise_denoising(images: Sequence[ImageDenoising]) -> DenoisingSummary:
    pairs = [(query, image.labels[query.truth]) for image in images for query in image.queries]
    rebuilt = [(query, label) for query, label in pairs if query.part == "rebuild"]
    refused = [query for query, _ in pairs if query.part == "refuse"]
    depth = len(pairs[0][0].layers) if pairs else 0
    given = DenoisingLayer(
        -1,
        _mean([query.iou for query, _ in rebuilt]),
        _mean([query.label == label for query, label in rebuilt]),
        None,
        None,
    )
    layers = [
        DenoisingLayer(
            layer,
            _mean([query.layers[layer].iou for query, _ in rebuilt]),
            _mean([query.layers[layer].label == label for query, label in rebuilt]),
            _mean([query.layers[layer].score for query, _ in rebuilt]),
            _mean([query.layers[layer].score for query in refused]),
        )
        for layer in range(depth)
    ]
    return DenoisingSummary(len(images), len(rebuilt), len(refused), given, tuple(layers))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
