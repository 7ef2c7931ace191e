"""DETR and DETR-DC5: End-to-End Object Detection with Transformers (Carion et al. 2020)."""

from collections.abc import Callable
from functools import partial

from torch import nn

from detrctl.evaluation.postprocess import softmax_top_queries
from detrctl.families.backbones import build_backbone
from detrctl.families.learner import Learner
from detrctl.families.pieces import (
    PLACEMENTS,
    build_box_head,
    build_class_head,
    build_matcher,
    build_position,
    head_rows,
    loss_weights,
)
from detrctl.losses.classification import SoftmaxClassification
from detrctl.losses.criterion import Criterion
from detrctl.losses.matcher import probability_cost
from detrctl.losses.plan import Plan
from detrctl.model.decoder import Decoder, DecoderLayer, DenseCrossAttention, QuerySelfAttention
from detrctl.model.denoising import NoDenoising
from detrctl.model.detector import Detector
from detrctl.model.encoder import DenseSelfAttention, Encoder, EncoderLayer
from detrctl.model.heads import Heads
from detrctl.model.layers import FeedForward, PostNorm, PreNorm, init_transformer
from detrctl.model.neck import Neck
from detrctl.model.places import SlotPlaces
from detrctl.model.queries import LearnedSlots, LearnedSlotsWithContent
from detrctl.model.references import AbsoluteBoxes
from detrctl.recipe import schema

SLOTS = {"zero": LearnedSlots, "learned": LearnedSlotsWithContent}


def detr(model: schema.DetrModel, objective: schema.SoftmaxObjective, num_classes: int) -> Learner:
    """DETR on features of one stage: dense attention, learned slots, absolute boxes, softmax with no-object."""
    backbone = build_backbone(model.backbone, stages=[model.backbone.stage])
    encoder, decoder = build_encoder(model), build_decoder(model, num_classes)
    init_transformer(encoder, decoder.layers)
    network = Detector(
        backbone=backbone,
        neck=Neck(
            projections=[nn.Conv2d(backbone.channels[0], model.width, kernel_size=1)],
            position=build_position(model.position, model.width),
            placement=PLACEMENTS[model.position.added_to](),
        ),
        encoder=encoder,
        queries=SLOTS[model.query_content](queries=model.queries, width=model.width, groups=model.query_groups),
        denoising=NoDenoising(),
        decoder=decoder,
    )
    return Learner(
        network=network,
        criterion=softmax_criterion(objective, num_classes=num_classes, queries=model.queries),
        post_process=softmax_top_queries,
        class_rows=dict.fromkeys(head_rows(model, num_classes + 1, "decoder.heads.class_head"), 1),
    )


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
    return Decoder(
        layers=layers,
        norm=nn.LayerNorm(model.width),
        places=SlotPlaces(),
        heads=Heads(class_head=build_class_head(model, num_classes + 1), box_head=build_box_head(model)),
        reference=AbsoluteBoxes(),
    )


def softmax_criterion(objective: schema.SoftmaxObjective, *, num_classes: int, queries: int) -> Criterion:
    return Criterion(
        plan=Plan(build_matcher(objective.match, probability_cost), auxiliary=objective.auxiliary),
        classification=SoftmaxClassification(num_classes, queries, objective.no_object),
        weights=loss_weights(objective),
    )


def _residual(model: schema.DetrModel) -> Callable[[], nn.Module]:
    return partial(PreNorm if model.norm_first else PostNorm, width=model.width, dropout=model.dropout)
