"""Faster R-CNN (Ren et al. 2015) with a feature pyramid (Lin et al. 2017), from torchvision's parts: the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, batched_nms, remove_small_boxes
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detrctl.boxes import XyxyPx
from detrctl.errors import NonFiniteError
from detrctl.families.backbones import build_backbone
from detrctl.families.learner import Learner
from detrctl.model.rcnn import Candidates, ClassAndBoxHead, RcnnLosses, RcnnNetwork
from detrctl.recipe import schema
from detrctl.structures import Detections, ImageBatch, Losses, LossTerm, Targets

STAGES = (2, 3, 4, 5)
POOLED = 7
"""Rows and columns of the features that are pooled for a proposal."""

SMALLEST_SIDE = 0.01
"""In pixels; a detection with a shorter side is none (torchvision)."""


class FasterRcnnLearner(Learner):
    """Its groups of parameters are `backbone` and `detector`; detections are clipped to the image, unlike DETR's."""

    @torch.no_grad()
    def detect(self, images: ImageBatch) -> list[Detections]:
        return self.post_process(self.network(images), images)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = super().parameter_groups()
        return {"backbone": groups["backbone"], "detector": groups["transformer"]}


def faster_rcnn(model: schema.FasterRcnnModel, objective: schema.RcnnObjective, num_classes: int) -> Learner:
    """Faster R-CNN on all four stages of the backbone and a fifth, coarser level; one anchor size a level."""
    backbone = build_backbone(model.backbone, stages=STAGES)
    network = RcnnNetwork(
        backbone=backbone,
        pyramid=FeaturePyramidNetwork(list(backbone.channels), model.pyramid_width, extra_blocks=LastLevelMaxPool()),
        rpn=build_first_stage(model, objective),
        roi_heads=build_second_stage(model, objective, num_classes),
    )
    head = "roi_heads.box_predictor"
    return FasterRcnnLearner(
        network=network,
        criterion=RcnnCriterion(),
        post_process=Suppression(model.score_threshold, model.nms, model.detections),
        class_rows={
            f"{head}.class_head.weight": 1,
            f"{head}.class_head.bias": 1,
            f"{head}.box_weight": 0,
            f"{head}.box_bias": 0,
        },
    )


def build_first_stage(model: schema.FasterRcnnModel, objective: schema.RcnnObjective) -> RegionProposalNetwork:
    proposals = model.proposals
    return RegionProposalNetwork(
        AnchorGenerator(
            tuple((size,) for size in model.anchor_sizes), (tuple(model.anchor_ratios),) * len(model.anchor_sizes)
        ),
        RPNHead(model.pyramid_width, len(model.anchor_ratios)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=objective.anchors_per_image,
        positive_fraction=0.5,
        pre_nms_top_n={"training": proposals.train_before_nms, "testing": proposals.before_nms},
        post_nms_top_n={"training": proposals.train_after_nms, "testing": proposals.after_nms},
        nms_thresh=proposals.nms,
    )


def build_second_stage(model: schema.FasterRcnnModel, objective: schema.RcnnObjective, num_classes: int) -> RoIHeads:
    return RoIHeads(
        MultiScaleRoIAlign([str(level) for level in range(len(STAGES))], output_size=POOLED, sampling_ratio=2),
        TwoMLPHead(model.pyramid_width * POOLED**2, model.box_head_width),
        ClassAndBoxHead(width=model.box_head_width, num_classes=num_classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=objective.rois_per_image,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=model.score_threshold,
        nms_thresh=model.nms,
        detections_per_img=model.detections,
    )


@dataclass(frozen=True)
class RcnnCriterion:
    """The four losses with weight 1, normalised by torchvision's own means, unlike those of the DETR family.

    Each is a mean over what was drawn from a micro-batch, however many truths there are. Over the micro-batches and
    processes of an optimizer step these means are averaged, each weighing as many images as it covers. That is the mean
    over all that was drawn where every image gives the same number of anchors and proposals, as nearly always; an image
    that gives fewer of them weighs a little more in a micro-batch of its own than beside others.
    """

    def counts(self, targets: Sequence[Targets]) -> Tensor:
        """(1,) float64, the number of images."""
        return torch.tensor([len(targets)], dtype=torch.float64)

    def __call__(self, output: RcnnLosses, targets: Sequence[Targets], counts: Tensor) -> Losses:
        """Raises `NonFiniteError`, naming the loss and the images of the micro-batch, when one is NaN or infinite."""
        values = {
            ("roi", "class"): output.class_loss,
            ("roi", "box"): output.box,
            ("rpn", "class"): output.rpn_class,
            ("rpn", "box"): output.rpn_box,
        }
        fine = torch.stack(list(values.values())).isfinite().tolist()
        if not all(fine):
            stage, name = list(values)[fine.index(False)]
            images = ", ".join(str(target.image_id) for target in targets)
            raise NonFiniteError(f"image {images}: the loss {stage}.{name} is NaN or infinite")
        share = len(targets) / counts[0].item()
        return Losses(tuple(LossTerm(name, stage, -1, 1.0, value * share) for (stage, name), value in values.items()))


@dataclass(frozen=True)
class Suppression:
    """Candidates -> detections: those above a score, of overlapping ones of a class only the best, and no more than so
    many an image (Ren et al. 2015; torchvision's `RoIHeads.postprocess_detections`).
    """

    score_threshold: float
    nms: float
    detections: int

    def __call__(self, candidates: Sequence[Candidates], images: ImageBatch) -> list[Detections]:
        return [
            self._one(found, original, image_id)
            for found, original, image_id in zip(candidates, images.original_sizes_hw, images.image_ids, strict=True)
        ]

    def _one(self, found: Candidates, original_hw: Tensor, image_id: int) -> Detections:
        probabilities = found.logits.softmax(dim=-1)[:, :-1]
        queries, labels = (probabilities > self.score_threshold).nonzero(as_tuple=True)
        scores, boxes = probabilities[queries, labels], found.boxes[queries, labels]
        solid = remove_small_boxes(boxes, SMALLEST_SIDE)
        best = batched_nms(boxes[solid], scores[solid], labels[solid], self.nms)[: self.detections]
        kept = solid[best]
        scale = original_hw.to(boxes.dtype) / boxes.new_tensor(found.size_hw)
        return Detections(
            scores=scores[kept],
            labels=labels[kept],
            boxes=XyxyPx(boxes[kept] * scale.flip(0).repeat(2)),
            queries=queries[kept],
            image_id=image_id,
        )
