"""DAB-Deformable-DETR: learned boxes as queries (Liu et al. 2022) on deformable attention (Zhu et al. 2021).

With denoising, DN-Deformable-DETR (Li et al. 2022).
"""

from torch import nn

from detrctl.evaluation.postprocess import sigmoid_top_k
from detrctl.families.backbones import build_backbone
from detrctl.families.deformable import (
    REFERENCES,
    SIZE_BIAS,
    build_deformable_decoder_layers,
    build_deformable_encoder,
    build_deformable_heads,
    build_deformable_neck,
    class_head_places,
    init_deformable,
)
from detrctl.families.learner import Learner
from detrctl.families.pieces import focal_criterion, head_rows
from detrctl.model.decoder import Decoder
from detrctl.model.denoising import GroupedDenoising, NoDenoising
from detrctl.model.detector import Detector
from detrctl.model.layers import init_transformer
from detrctl.model.places import ScaledBoxPlaces
from detrctl.model.queries import LearnedAnchorsWithContent
from detrctl.recipe import schema

EPS = 1e-3


def dab_deformable(model: schema.DabDeformableModel, objective: schema.FocalObjective, num_classes: int) -> Learner:
    """Learned boxes with learned contents, positions read off boxes, deformable attention, boxes refined."""
    backbone = build_backbone(model.backbone, stages=model.backbone.stages)
    neck, encoder = build_deformable_neck(model, backbone.channels), build_deformable_encoder(model)
    layers, places = build_deformable_decoder_layers(model), ScaledBoxPlaces(width=model.width)
    denoising, label_rows = build_denoising(model, num_classes)
    init_deformable(encoder, layers)
    init_transformer(places)
    queries = LearnedAnchorsWithContent(
        queries=model.queries, width=model.width, groups=model.query_groups, free=1 if label_rows else 0
    )
    decoder = Decoder(
        layers=layers,
        norm=nn.Identity(),
        places=places,
        heads=build_deformable_heads(model, num_classes, size_bias=SIZE_BIAS),
        reference=REFERENCES[model.reference](eps=EPS),
    )
    return Learner(
        network=Detector(
            backbone=backbone, neck=neck, encoder=encoder, queries=queries, denoising=denoising, decoder=decoder
        ),
        criterion=focal_criterion(objective),
        post_process=sigmoid_top_k(model.detections),
        class_rows=dict.fromkeys(head_rows(model, num_classes, *class_head_places(model)), 0) | label_rows,
    )


def build_denoising(model: schema.DabDeformableModel, num_classes: int) -> tuple[nn.Module, dict[str, int]]:
    """The part, and its parameters with a row per class."""
    denoising = model.denoising
    if denoising.kind == "none":
        return NoDenoising(), {}
    part = GroupedDenoising(
        num_classes=num_classes,
        width=model.width,
        groups=denoising.groups,
        label_noise=denoising.label_noise,
        box_noise=denoising.box_noise,
        eps=EPS,
        keep_content=True,
    )
    return part, {"denoising.labels.weight": 1}
