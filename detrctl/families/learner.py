"""What training, evaluation and prediction see of a model. Every family gives one."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from detrctl.boxes import at_least_fp32
from detrctl.structures import Detections, ImageBatch, Losses, Predictions, Targets


class Objective(Protocol):
    """What a network's output is trained towards; `losses.criterion.Criterion` in the DETR family."""

    def counts(self, targets: Sequence[Targets]) -> Tensor: ...

    def __call__(self, output: Any, targets: Sequence[Targets], counts: Tensor) -> Losses: ...


class Learner(nn.Module):
    """A detector together with its objective and its way from predictions to detections.

    `network` holds every weight. `post_process` is a `structures.PostProcess`; a family that is no DETR gives a
    subclass with a `detect` of its own, which calls another.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        criterion: Objective,
        post_process: Callable[..., list[Detections]],
        class_rows: Mapping[str, int],
        ordered_rows: Collection[str] = (),
    ):
        super().__init__()
        self.network, self.criterion, self.post_process = network, criterion, post_process
        self._class_rows, self._ordered_rows = dict(class_rows), frozenset(ordered_rows)

    def counts(self, targets: Sequence[Targets]) -> Tensor:
        """What normalises the losses of these images, (N,) float64; see `Criterion.counts`."""
        return self.criterion.counts(targets)

    def forward(self, images: ImageBatch, targets: Sequence[Targets], counts: Tensor) -> Losses:
        """`counts` covers the whole optimizer step: all micro-batches, averaged over processes."""
        output = self.network(images, targets)
        with torch.autocast(images.pixels.device.type, enabled=False):
            return self.criterion(output, targets, counts)

    @torch.no_grad()
    def detect(self, images: ImageBatch) -> list[Detections]:
        """One `Detections` per image, boxes in pixels of the original image, not clipped."""
        final: Predictions = self.network(images).final
        final = Predictions(at_least_fp32(final.logits), final.boxes)
        return self.post_process(final, images.original_sizes_hw, images.image_ids)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by the learning rate that they are published with.

        `backbone`, `transformer`, and, in models with deformable attention, `sampling`: what says where it looks.
        """
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "transformer": []}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(_group(name), []).append(parameter)
        return groups

    def class_rows(self) -> dict[str, int]:
        """The parameters with one row per class, and how many rows each has beyond them (softmax: no-object)."""
        return dict(self._class_rows)

    def ordered_rows(self) -> frozenset[str]:
        """The parameters with as many rows as there are classes, none of which stands for a class."""
        return self._ordered_rows


def _group(name: str) -> str:
    if name.startswith("backbone."):
        return "backbone"
    points = name in ("queries.reference.weight", "queries.reference.bias")  # Conditional DETR's are of layers
    return "sampling" if points or ".sampling_offsets." in name else "transformer"
