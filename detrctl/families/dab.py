"""DAB-DETR: Dynamic Anchor Boxes are Better Queries for DETR (Liu et al. 2022).

With denoising, DN-DETR: Accelerate DETR Training by Introducing Query DeNoising (Li et al. 2022).
"""

from torch import nn

from detrctl.evaluation.postprocess import sigmoid_top_k
from detrctl.families.backbones import build_backbone
from detrctl.families.conditional import build_decoder_layers, build_encoder_layers, build_heads, build_neck
from detrctl.families.learner import Learner
from detrctl.families.pieces import focal_criterion, head_rows
from detrctl.model.decoder import Decoder
from detrctl.model.denoising import GroupedDenoising, NoDenoising
from detrctl.model.detector import Detector
from detrctl.model.encoder import ScaledPositionsEncoder
from detrctl.model.layers import init_transformer
from detrctl.model.places import AnchorPlaces
from detrctl.model.queries import LearnedAnchors
from detrctl.model.references import Fixed, Refined, RefinedTwice
from detrctl.recipe import schema

ACTIVATIONS = {"prelu": nn.PReLU, "relu": nn.ReLU, "gelu": nn.GELU, "selu": nn.SELU}
REFERENCES = {"fixed": Fixed, "refined": Refined, "refined_twice": RefinedTwice}
EPS = 1e-3


def dab(model: schema.DabModel, objective: schema.FocalObjective, num_classes: int) -> Learner:
    """Queries that are boxes, attention as wide as these, boxes moved in every layer; with denoising or without."""
    backbone = build_backbone(model.backbone, stages=[model.backbone.stage])
    activation = ACTIVATIONS[model.activation]
    encoder = ScaledPositionsEncoder(
        layers=build_encoder_layers(model, activation), norm=nn.Identity(), width=model.width
    )
    layers, places = build_decoder_layers(model, activation), AnchorPlaces(width=model.width)
    init_transformer(encoder, *layers, places)
    denoising, label_rows = build_denoising(model, num_classes)
    decoder = Decoder(
        layers=layers,
        norm=nn.LayerNorm(model.width),
        places=places,
        heads=build_heads(model, num_classes),
        reference=REFERENCES[model.reference](eps=EPS),
    )
    return Learner(
        network=Detector(
            backbone=backbone,
            neck=build_neck(model, backbone.channels[0]),
            encoder=encoder,
            queries=LearnedAnchors(
                queries=model.queries, width=model.width, groups=model.query_groups, patterns=model.patterns
            ),
            denoising=denoising,
            decoder=decoder,
        ),
        criterion=focal_criterion(objective),
        post_process=sigmoid_top_k(model.detections),
        class_rows=dict.fromkeys(head_rows(model, num_classes, "decoder.heads.class_head"), 0) | label_rows,
    )


def build_denoising(model: schema.DabModel, num_classes: int) -> tuple[nn.Module, dict[str, int]]:
    """Where noised truths come from, and which of its tensors have a row per class, with how many further ones."""
    if model.denoising.kind == "none":
        return NoDenoising(), {}
    denoising = GroupedDenoising(
        num_classes=num_classes,
        width=model.width,
        groups=model.denoising.groups,
        label_noise=model.denoising.label_noise,
        box_noise=model.denoising.box_noise,
        eps=EPS,
    )
    return denoising, {"denoising.labels.weight": 1}
