"""What training, evaluation and prediction see of a model. Every family gives one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from detrctl.losses.criterion import Criterion
from detrctl.model.detector import Detector
from detrctl.structures import Detections, ImageBatch, Losses, PostProcess, Predictions, Targets


class Learner(nn.Module):
    """A detector together with its objective and its way from predictions to detections.

    `network` holds every weight. A family that is no DETR gives a class with these same members.
    """

    def __init__(
        self, *, network: Detector, criterion: Criterion, post_process: PostProcess, class_rows: Mapping[str, int]
    ):
        super().__init__()
        self.network, self.criterion, self.post_process = network, criterion, post_process
        self._class_rows = dict(class_rows)

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
        fp32 = Predictions(final.logits.float(), final.boxes)
        return self.post_process(fp32, images.original_sizes_hw, images.image_ids)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by the learning rate that they are published with: `backbone` and `transformer`."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "transformer": []}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                groups["backbone" if name.startswith("backbone.") else "transformer"].append(parameter)
        return groups

    def class_rows(self) -> dict[str, int]:
        """The parameters with one row per class, and how many rows each has beyond them (softmax: no-object)."""
        return dict(self._class_rows)
