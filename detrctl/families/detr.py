"""DETR and DETR-DC5: End-to-End Object Detection with Transformers (Carion et al. 2020)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from detrctl.errors import DetrctlError
from detrctl.evaluation.postprocess import softmax_top_queries
from detrctl.families.learner import Learner
from detrctl.losses.classification import SoftmaxClassification
from detrctl.losses.criterion import Criterion, LossWeights
from detrctl.losses.matcher import Matcher, probability_cost
from detrctl.model.backbone import RESNETS, Backbone, ResNet, read_weights
from detrctl.model.decoder import Decoder, DecoderLayer, DenseCrossAttention, QuerySelfAttention
from detrctl.model.detector import Detector
from detrctl.model.encoder import DenseSelfAttention, Encoder, EncoderLayer
from detrctl.model.heads import SharedHeads
from detrctl.model.layers import MLP, FeedForward, PostNorm, PreNorm, init_transformer
from detrctl.model.neck import Neck, PositionsApart, PositionsInValues
from detrctl.model.position_encoding import LearnedPosition, SinePosition
from detrctl.model.queries import LearnedSlots, LearnedSlotsWithContent
from detrctl.model.references import AbsoluteBoxes
from detrctl.parts import build_part
from detrctl.recipe import schema

POSITIONS = {
    "sine": lambda position, width: SinePosition(width=width, temperature=position.temperature, cycles=position.cycles),
    "learned": lambda position, width: LearnedPosition(width=width),
}

PLACEMENTS = {"attention": PositionsApart, "values": PositionsInValues}
SLOTS = {"zero": LearnedSlots, "learned": LearnedSlotsWithContent}


def detr(model: schema.DetrModel, objective: schema.SoftmaxObjective, num_classes: int) -> Learner:
    """DETR on features of one stage: dense attention, learned slots, absolute boxes, softmax with no-object."""
    backbone = build_backbone(model.backbone)
    encoder, decoder = build_encoder(model), build_decoder(model, num_classes)
    init_transformer(encoder, decoder.layers)
    network = Detector(
        backbone=backbone,
        neck=Neck(
            projections=[nn.Conv2d(backbone.channels[0], model.width, kernel_size=1)],
            position=POSITIONS[model.position.kind](model.position, model.width),
            placement=PLACEMENTS[model.position.added_to](),
        ),
        encoder=encoder,
        queries=SLOTS[model.query_content](queries=model.queries, width=model.width),
        decoder=decoder,
    )
    return Learner(
        network=network,
        criterion=softmax_criterion(objective, num_classes=num_classes, queries=model.queries),
        post_process=softmax_top_queries,
        class_rows=dict.fromkeys(class_rows(model, num_classes + 1), 1),
    )


def build_backbone(backbone: schema.OneStage) -> Backbone:
    """The network that a recipe names, with its weights loaded."""
    if backbone.name not in RESNETS:
        return own_backbone(backbone)
    body = ResNet(
        name=backbone.name,
        norm=backbone.norm,
        stages=[backbone.stage],
        dilation=backbone.dilation,
        frozen_stages=backbone.frozen_stages,
    )
    if backbone.weights != "none":
        body.load_published(read_weights(backbone.weights, backbone.name))
    return Backbone(body)


def own_backbone(backbone: schema.Backbone) -> Backbone:
    body = build_part(backbone.name, nn.Module, **backbone.options)
    if not hasattr(body, "channels"):
        raise DetrctlError(f"{backbone.name}: has no `channels`, the number of channels of the features that it gives")
    return Backbone(body)


def build_encoder(model: schema.DetrModel) -> Encoder:
    residual = _residual(model)
    layers = [
        EncoderLayer(
            attention=DenseSelfAttention(width=model.width, heads=model.heads, dropout=model.dropout),
            feedforward=FeedForward(width=model.width, hidden=model.feedforward, dropout=model.dropout),
            residual=residual,
        )
        for _ in range(model.encoder_layers)
    ]
    return Encoder(layers=layers, norm=nn.LayerNorm(model.width) if model.norm_first else nn.Identity())


def build_decoder(model: schema.DetrModel, num_classes: int) -> Decoder:
    residual = _residual(model)
    layers = [
        DecoderLayer(
            self_attention=QuerySelfAttention(width=model.width, heads=model.heads, dropout=model.dropout),
            cross_attention=DenseCrossAttention(width=model.width, heads=model.heads, dropout=model.dropout),
            feedforward=FeedForward(width=model.width, hidden=model.feedforward, dropout=model.dropout),
            residual=residual,
        )
        for _ in range(model.decoder_layers)
    ]
    heads = SharedHeads(class_head=build_class_head(model, num_classes + 1), box_head=build_box_head(model))
    return Decoder(layers=layers, norm=nn.LayerNorm(model.width), heads=heads, reference=AbsoluteBoxes())


def build_class_head(model: schema.DetrModel, outputs: int) -> nn.Module:
    if model.class_head:
        return build_part(model.class_head, nn.Module, model.width, outputs)
    return nn.Linear(model.width, outputs)


def class_rows(model: schema.DetrModel, outputs: int) -> list[str]:
    """The class head's tensors with one row per output: those that grow when the head gets one output more."""
    with torch.device("meta"):  # shapes only: no memory, and no random number is drawn
        shapes, larger = (
            {name: value.shape for name, value in build_class_head(model, count).state_dict().items()}
            for count in (outputs, outputs + 1)
        )
    return [f"decoder.heads.class_head.{name}" for name in shapes if shapes[name] != larger[name]]


def build_box_head(model: schema.DetrModel) -> nn.Module:
    if model.box_head:
        return build_part(model.box_head, nn.Module, model.width)
    return MLP(width=model.width, outputs=4, depth=3)


def softmax_criterion(objective: schema.SoftmaxObjective, *, num_classes: int, queries: int) -> Criterion:
    match = objective.match
    return Criterion(
        matcher=Matcher(probability_cost, class_weight=match.class_weight, l1=match.l1, giou=match.giou),
        classification=SoftmaxClassification(num_classes, queries, objective.no_object),
        weights=LossWeights(objective.class_weight, objective.l1, objective.giou),
        auxiliary=objective.auxiliary,
    )


def _residual(model: schema.DetrModel) -> Callable[[], nn.Module]:
    return partial(PreNorm if model.norm_first else PostNorm, width=model.width, dropout=model.dropout)
