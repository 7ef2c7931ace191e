"""Pixels -> proposals -> classes and boxes: the two stages of Faster R-CNN over a feature pyramid.

Layers, anchors, assignment and sampling are torchvision's. They are put together here instead of in its `FasterRCNN`,
which resizes and normalises images by itself, and for three traps of its wiring:

- It infers strides by whole division, so that the coarsest level's anchors move with the canvas (61 pixels apart
  instead of 64 where an image of 800 x 1344 stands), and the scale of pooling from the first images that it sees.
- Under bf16 autocast, anchors and boxes would be bf16, which cannot say 513.
- Its background is class 0. Here it is the last row, and a class has one row everywhere, as in every other family.

Losses, sampling and detections are torchvision's to the last digit where its strides are right (tested).

B batch, H, W canvas, A anchors of all levels, P proposals of one image, R proposals of the batch, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import FeaturePyramidNetwork, clip_boxes_to_image

from detrctl.boxes import at_least_fp32, cxcywh_to_xyxy, xyxy_to_pixels
from detrctl.errors import NonFiniteError
from detrctl.model.backbone import Backbone
from detrctl.structures import ImageBatch, Targets

COARSEST = 32
"""The stride of a backbone's last stage. A canvas of whole multiples makes every stage's stride exact."""

BETA = 1 / 9
"""Where the smooth L1 loss turns from square to straight (torchvision, Detectron)."""

Sizes = list[tuple[int, int]]
"""Height and width of every image, without padding."""


@dataclass(frozen=True)
class RcnnLosses:
    """Means over what was drawn from this batch, each () fp32: of the second stage and of the first (`rpn_`)."""

    class_loss: Tensor
    box: Tensor
    rpn_class: Tensor
    rpn_box: Tensor


@dataclass(frozen=True)
class Candidates:
    """What the second stage makes of one image's proposals, the first stage's best first.

    `logits` (P, C + 1), the last column is no object; `boxes` (P, C, 4), one for every class, made of `proposals`
    (P, 4); both xyxy in pixels of the resized image and clipped to it; `size_hw` is that image's size.
    """

    proposals: Tensor
    logits: Tensor
    boxes: Tensor
    size_hw: tuple[int, int]


@dataclass(frozen=True)
class _FirstStage:
    """`objectness` (B * A, 1) and `deltas` (B * A, 4) for `anchors` (A, 4); `proposals` (P, 4) of every image."""

    objectness: Tensor
    deltas: Tensor
    anchors: Tensor
    proposals: list[Tensor]


class ClassAndBoxHead(nn.Module):
    """The second stage's answer: class logits, and for every class a box. (R, D) -> (R, C + 1), (R, C, 4)"""

    def __init__(self, *, width: int, num_classes: int):
        super().__init__()
        self.class_head = nn.Linear(width, num_classes + 1)
        self.box_weight = nn.Parameter(torch.empty(num_classes, 4, width))
        self.box_bias = nn.Parameter(torch.empty(num_classes, 4))
        for parameter in (self.box_weight, self.box_bias):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)  # as nn.Linear

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        boxes = F.linear(hidden, self.box_weight.flatten(0, 1), self.box_bias.flatten())
        return self.class_head(hidden), boxes.unflatten(1, (-1, 4))


class RcnnNetwork(nn.Module):
    """Faster R-CNN (Ren et al. 2015) with a feature pyramid (Lin et al. 2017)."""

    def __init__(
        self, *, backbone: Backbone, pyramid: FeaturePyramidNetwork, rpn: RegionProposalNetwork, roi_heads: RoIHeads
    ):
        super().__init__()
        self.backbone, self.pyramid, self.rpn, self.roi_heads = backbone, pyramid, rpn, roi_heads

    def forward(
        self, images: ImageBatch, targets: Sequence[Targets] | None = None
    ) -> RcnnLosses | tuple[Candidates, ...]:
        """With targets the losses, without them every image's candidates.

        Anchors and proposals are drawn by PyTorch's global generator of the images' device. Raises `NonFiniteError`,
        naming image and stage, when an answer is NaN or infinite.
        """
        sizes = sizes_without_padding(images)
        images = on_whole_strides(images)
        levels = self._levels(images)
        first = self._propose(levels, images, sizes)
        if targets is None:
            return self._candidates(levels, first.proposals, images, sizes)
        truths = truths_in_pixels(targets, sizes)
        with torch.autocast(images.pixels.device.type, enabled=False):
            rpn_class, rpn_box = self._first_losses(first, truths)
            proposals, _, labels, deltas = self.roi_heads.select_training_samples(first.proposals, truths)
        logits, predicted = self._judge(levels, proposals, images)
        with torch.autocast(images.pixels.device.type, enabled=False):
            class_loss, box = second_losses(logits, predicted, torch.cat(labels), torch.cat(deltas))
        return RcnnLosses(class_loss, box, rpn_class, rpn_box)

    def _levels(self, images: ImageBatch) -> dict[str, Tensor]:
        """The pyramid's maps (B, D, h, w), finest first, in fp32 or more: anchors take their precision from them."""
        stages = {str(stage): level.values for stage, level in enumerate(self.backbone(images))}
        return {name: at_least_fp32(values) for name, values in self.pyramid(stages).items()}

    # ---- first stage ----

    def _propose(self, levels: Mapping[str, Tensor], images: ImageBatch, sizes: Sizes) -> _FirstStage:
        said, moved = self.rpn.head(list(levels.values()))
        anchors, per_level = self._anchors(levels, images), [level[0].numel() for level in said]
        objectness, deltas = map(at_least_fp32, concat_box_prediction_layers(said, moved))
        fine = objectness.isfinite().all(1) & deltas.isfinite().all(1)
        require_finite("the region proposals", fine.split(len(anchors)), images.image_ids)
        with torch.autocast(images.pixels.device.type, enabled=False):
            boxes = self.rpn.box_coder.decode(deltas.detach(), [anchors] * len(sizes)).view(len(sizes), -1, 4)
            proposals, _ = self.rpn.filter_proposals(boxes, objectness, sizes, per_level)
        return _FirstStage(objectness, deltas, anchors, proposals)

    def _anchors(self, levels: Mapping[str, Tensor], images: ImageBatch) -> Tensor:
        """(A, 4), xyxy in pixels of the canvas, in the order of the first stage's answers."""
        generator, (height, width) = self.rpn.anchor_generator, images.pixels.shape[-2:]
        finest, *_ = levels.values()
        generator.set_cell_anchors(finest.dtype, finest.device)
        grids = [values.shape[-2:] for values in levels.values()]
        strides = [[stride(height, rows), stride(width, columns)] for rows, columns in grids]
        return torch.cat(generator.grid_anchors(grids, strides))

    def _first_losses(self, first: _FirstStage, truths: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        anchors = [first.anchors] * len(truths)
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, truths)
        deltas = self.rpn.box_coder.encode(matched, anchors)
        class_loss, box_loss = self.rpn.compute_loss(first.objectness, first.deltas, labels, deltas)
        return class_loss, box_loss

    # ---- second stage ----

    def _judge(
        self, levels: Mapping[str, Tensor], proposals: list[Tensor], images: ImageBatch
    ) -> tuple[Tensor, Tensor]:
        """Class logits (R, C + 1) and box deltas (R, C, 4) of every image's proposals, in fp32 or more."""
        canvas = (images.pixels.shape[-2], images.pixels.shape[-1])
        pooled = self.roi_heads.box_roi_pool(levels, proposals, [canvas] * len(proposals))
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        fine = logits.isfinite().all(1) & deltas.isfinite().flatten(1).all(1)
        require_finite("the classes and boxes", fine.split([len(p) for p in proposals]), images.image_ids)
        return at_least_fp32(logits), at_least_fp32(deltas)

    def _candidates(
        self, levels: Mapping[str, Tensor], proposals: list[Tensor], images: ImageBatch, sizes: Sizes
    ) -> tuple[Candidates, ...]:
        logits, deltas = self._judge(levels, proposals, images)
        with torch.autocast(images.pixels.device.type, enabled=False):
            boxes = self.roi_heads.box_coder.decode(deltas.flatten(1), proposals).view(deltas.shape)
        counts = [len(p) for p in proposals]
        return tuple(
            Candidates(place, said, clip_boxes_to_image(there, size), size)
            for place, said, there, size in zip(
                proposals, logits.split(counts), boxes.split(counts), sizes, strict=True
            )
        )


def second_losses(logits: Tensor, deltas: Tensor, labels: Tensor, true_deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and the true class's smooth L1, both per proposal that was drawn (Girshick 2015, equation 1).

    (R, C + 1), (R, C, 4), (R,) int64 with background 0 and classes from 1, (R, 4) -> (), ()
    """
    drawn, classes = max(len(labels), 1), deltas.shape[1]
    class_loss = F.cross_entropy(logits, (labels - 1) % (classes + 1), reduction="sum")
    of_object = labels.nonzero().flatten()
    own = deltas[of_object, labels[of_object] - 1]
    box_loss = F.smooth_l1_loss(own, true_deltas[of_object], beta=BETA, reduction="sum")
    return class_loss / drawn, box_loss / drawn


# ---- sizes ----


def sizes_without_padding(images: ImageBatch) -> Sizes:
    heights, widths = ((~edge).sum(1).tolist() for edge in (images.is_padding[:, :, 0], images.is_padding[:, 0]))
    return list(zip(heights, widths, strict=True))


def on_whole_strides(images: ImageBatch) -> ImageBatch:
    """The canvas enlarged, to the right and below, to multiples of the coarsest stride."""
    height, width = images.pixels.shape[-2:]
    more = (0, -width % COARSEST, 0, -height % COARSEST)
    if not any(more):
        return images
    return replace(images, pixels=F.pad(images.pixels, more), is_padding=F.pad(images.is_padding, more, value=True))


def stride(pixels: int, cells: int) -> int:
    """The power of two next to their quotient: the level beyond the backbone's has a cell more for half of one."""
    return 2 ** round(math.log2(pixels / cells))


def truths_in_pixels(targets: Sequence[Targets], sizes: Sizes) -> list[dict[str, Tensor]]:
    """As torchvision takes them: `boxes` (G, 4) xyxy in pixels of the resized image, `labels` (G,) from 1.

    A box without area is left out: no overlap could be measured.
    """
    found = []
    for target, size in zip(targets, sizes, strict=True):
        boxes = xyxy_to_pixels(cxcywh_to_xyxy(target.boxes), target.boxes.new_tensor(size))
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
        found.append({"boxes": boxes[solid], "labels": target.labels[solid] + 1})
    return found


def require_finite(what: str, fine: Sequence[Tensor], image_ids: Sequence[int]) -> None:
    """Raise `NonFiniteError` with the images of which something in `fine`, bool tensors, is False."""
    if torch.cat(list(fine)).all():
        return
    images = ", ".join(str(number) for number, rows in zip(image_ids, fine, strict=True) if not rows.all())
    raise NonFiniteError(f"image {images}: {what} are NaN or infinite")
