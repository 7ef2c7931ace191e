"""DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection (Zhang et al. 2023)."""

from torch import nn

from detrctl.evaluation.postprocess import sigmoid_top_k
from detrctl.families.backbones import build_backbone
from detrctl.families.deformable import (
    REFERENCES,
    build_deformable_decoder_layers,
    build_deformable_encoder,
    build_deformable_heads,
    build_deformable_neck,
    build_proposals,
    class_head_places,
    init_deformable,
)
from detrctl.families.learner import Learner
from detrctl.families.pieces import focal_criterion, head_rows
from detrctl.model.decoder import Decoder
from detrctl.model.denoising import ContrastiveDenoising, NoDenoising
from detrctl.model.detector import Detector
from detrctl.model.layers import init_transformer
from detrctl.model.places import BoxPlaces
from detrctl.model.proposals import best_class
from detrctl.model.queries import ProposedBoxes
from detrctl.recipe import schema

EPS = 1e-3


def dino(model: schema.DinoModel, objective: schema.FocalObjective, num_classes: int) -> Learner:
    """Proposed boxes with learned contents, boxes refined looking forward twice, contrastive denoising, focal loss."""
    backbone = build_backbone(model.backbone, stages=model.backbone.stages)
    neck, encoder = build_deformable_neck(model, backbone.channels), build_deformable_encoder(model)
    layers, places = build_deformable_decoder_layers(model), BoxPlaces(width=model.width)
    proposals = build_proposals(model, num_classes, best_class)
    init_deformable(encoder, layers)
    init_transformer(places, proposals.project)
    heads = build_deformable_heads(model, num_classes)
    if model.proposal_heads in ("decoder_class", "decoder"):
        proposals.class_head = heads.class_head
    if model.proposal_heads in ("decoder_box", "decoder"):
        proposals.box_head = heads.box_head
    decoder = Decoder(
        layers=layers,
        norm=nn.LayerNorm(model.width),
        places=places,
        heads=heads,
        reference=REFERENCES[model.reference](eps=EPS),
    )
    class_heads = head_rows(model, num_classes, *class_head_places(model), "queries.proposals.class_head")
    return Learner(
        network=Detector(
            backbone=backbone,
            neck=neck,
            encoder=encoder,
            queries=ProposedBoxes(queries=model.queries, width=model.width, proposals=proposals),
            denoising=build_denoising(model, num_classes),
            decoder=decoder,
        ),
        criterion=focal_criterion(objective),
        post_process=sigmoid_top_k(model.detections),
        class_rows=dict.fromkeys(class_heads, 0) | ({"denoising.labels.weight": 1} if model.denoising.copies else {}),
    )


def build_denoising(model: schema.DinoModel, num_classes: int) -> nn.Module:
    denoising = model.denoising
    if denoising.copies == 0:
        return NoDenoising()
    return ContrastiveDenoising(
        num_classes=num_classes,
        width=model.width,
        copies=denoising.copies,
        label_noise=denoising.label_noise,
        box_noise=denoising.box_noise,
        eps=EPS,
    )
