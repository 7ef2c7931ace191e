"""What a detector looks at while it answers: attention, reference points and boxes, layer by layer.

Hooks that are there only inside `recording` keep what went into each attention; weights are computed from it when
somebody asks, for the queries asked for. The model's own numbers and speed stay as they are.

B batch, Q queries (in the encoder: tokens), S tokens of all levels, L levels, P points, H heads, D width, d = D / H,
n chosen queries.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detrctl.boxes import Cxcywh
from detrctl.errors import DetrctlError
from detrctl.model.attention import MultiHeadAttention
from detrctl.model.conditional import ConditionalCrossAttention
from detrctl.model.deformable_attention import DeformableAttention
from detrctl.model.detector import Detector
from detrctl.structures import DetectorOutput, Queries, Tokens


@dataclass(frozen=True, eq=False)
class DenseLook:
    """One dense attention: `queries` (B, H, Q, d or 2d) and `keys` (B, H, S, d or 2d) are compared, `values`
    (B, H, S, d) are mixed; `is_padding` (B, S) tokens weigh nothing. `mixed` (B, Q, D) is what the module gave.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    is_padding: Tensor
    mixed: Tensor

    @property
    def heads(self) -> int:
        return self.values.shape[1]

    def weights(self, image: int, queries: Sequence[int]) -> Tensor:
        """How much each head of these queries looks at every token, (n, H, S); each row sums to 1."""
        compared = self.queries[image][:, list(queries)] @ self.keys[image].transpose(-1, -2)
        blocked = compared / self.queries.shape[-1] ** 0.5
        return blocked.masked_fill(self.is_padding[image], -torch.inf).softmax(-1).transpose(0, 1)


@dataclass(frozen=True, eq=False)
class SampledLook:
    """One deformable attention: `locations` (B, Q, H, L, P, 2), (x, y) in fractions of each level with its padding,
    and their `weights` (B, Q, H, L, P), which sum to 1 over levels and points; `values` (B, S, H, d) are sampled, zero
    at padding. `mixed` (B, Q, D) is what the module gave.
    """

    locations: Tensor
    weights: Tensor
    values: Tensor
    level_shapes: tuple[tuple[int, int], ...]
    mixed: Tensor

    @property
    def heads(self) -> int:
        return self.weights.shape[2]

    def points(self, image: int, query: int, valid_ratios: Tensor) -> tuple[Tensor, Tensor]:
        """Where one query looks, (H, L, P, 2) in fractions of the image without padding, and with what weight,
        (H, L, P); `valid_ratios` (B, L, 2) are those of `Tokens`. Points may lie outside the image.
        """
        return self.locations[image, query] / valid_ratios[image][None, :, None], self.weights[image, query]


Look = DenseLook | SampledLook


@dataclass(eq=False)
class Recording:
    """Filled while `recording` lasts, by one call of the network.

    `encoder` and `cross` have a look for every layer; `attended` what each decoder layer looked at, a point (B, Q, 2)
    or a box (B, Q, 4), None in DETR; `queries` are those that the decoder started from.
    """

    encoder: list[Look] = field(default_factory=list)
    cross: list[Look] = field(default_factory=list)
    attended: list[Tensor | None] = field(default_factory=list)
    memory: Tokens | None = None
    queries: Queries | None = None
    output: DetectorOutput | None = None

    def boxes(self, image: int, query: int) -> Cxcywh:
        """Of one query after each decoder layer, (layers, 4)"""
        assert self.output is not None
        return Cxcywh(torch.stack([layer.boxes[image, query] for layer in self.output.layers]).float())

    def logits(self, image: int, query: int) -> Tensor:
        """Of one query after each decoder layer, (layers, C)"""
        assert self.output is not None
        return torch.stack([layer.logits[image, query] for layer in self.output.layers]).float()


@contextmanager
def recording(network: nn.Module) -> Iterator[Recording]:
    """with recording(learner.network) as seen: learner.network(images)

    Several calls inside follow one another in the lists. Raises DetrctlError for a network without object queries.
    """
    detector = require_queries(network)
    encoder: Any = detector.encoder
    decoder: Any = detector.decoder
    seen = Recording()
    handles = []

    def watch(module: nn.Module, hook: Any) -> None:
        handles.append(module.register_forward_hook(hook, with_kwargs=True))

    for layer in encoder.layers:
        watch(layer.attention.attention, partial(_keep_look, seen.encoder))
    for layer in decoder.layers:
        cross = layer.cross_attention
        inner = cross if isinstance(cross, ConditionalCrossAttention) else cross.attention
        watch(inner, partial(_keep_look, seen.cross))
    watch(decoder.places, partial(_keep_attended, seen))
    watch(decoder, partial(_keep_start, seen))
    watch(detector, partial(_keep_output, seen))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def require_queries(network: nn.Module) -> Detector:
    """The network as a detector with object queries, or DetrctlError."""
    if isinstance(network, Detector):
        return network
    raise DetrctlError("Faster R-CNN has no object queries to look at; any other family of the recipes has")


def _keep_look(
    looks: list[Look], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
) -> None:
    with torch.no_grad():
        looks.append(_LOOKS[type(module)](module, args, kwargs, out))


def _dense(module: MultiHeadAttention, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> DenseLook:
    queries, keys, values = args[:3]
    mask = args[3] if len(args) > 3 else kwargs.get("mask")
    padding = (
        keys.new_zeros(keys.shape[:2], dtype=torch.bool) if mask is None else ~mask[:, 0, 0].expand(keys.shape[:2])
    )
    return DenseLook(*module.projected(queries, keys, values), padding, out)


def _conditional(
    module: ConditionalCrossAttention, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
) -> DenseLook:
    content, place, memory = args
    return DenseLook(*module.projected(content, place, memory), memory.is_padding, out)


def _sampled(module: DeformableAttention, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> SampledLook:
    query, reference, values = args
    shapes, is_padding = kwargs["level_shapes"], kwargs["is_padding"]
    grid = (module.heads, module.levels, module.points)
    offsets = module.sampling_offsets(query).unflatten(-1, (*grid, 2)).float()
    weights = module.attention_weights(query).unflatten(-1, (module.heads, -1)).softmax(-1).unflatten(-1, grid[1:])
    locations = module._locations(reference.float()[:, :, None, :, None], offsets, shapes)
    projected = module.value_proj(values).masked_fill(is_padding[..., None], 0.0).unflatten(-1, (module.heads, -1))
    return SampledLook(locations, weights.float(), projected, tuple(shapes), out)


_LOOKS: dict[type[nn.Module], Any] = {
    MultiHeadAttention: _dense,
    ConditionalCrossAttention: _conditional,
    DeformableAttention: _sampled,
}


def _keep_attended(seen: Recording, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    seen.attended.append(args[3])


def _keep_start(seen: Recording, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    seen.queries, seen.memory = args


def _keep_output(
    seen: Recording, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: DetectorOutput
) -> None:
    seen.output = out
