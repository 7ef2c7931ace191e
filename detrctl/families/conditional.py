"""Conditional DETR: Conditional DETR for Fast Training Convergence (Meng et al. 2021)."""

from collections.abc import Callable
from functools import partial

from torch import nn

from detrctl.evaluation.postprocess import sigmoid_top_k
from detrctl.families.backbones import build_backbone
from detrctl.families.learner import Learner
from detrctl.families.pieces import (
    PLACEMENTS,
    build_moving_box_head,
    build_position,
    build_prior_class_head,
    focal_criterion,
    head_rows,
)
from detrctl.model.conditional import ConditionalCrossAttention, ConditionalSelfAttention
from detrctl.model.decoder import Decoder, DecoderLayer
from detrctl.model.denoising import NoDenoising
from detrctl.model.detector import Detector
from detrctl.model.encoder import DenseSelfAttention, Encoder, EncoderLayer
from detrctl.model.heads import Heads
from detrctl.model.layers import FeedForward, PostNorm, init_transformer
from detrctl.model.neck import Neck
from detrctl.model.places import ConditionalPlaces
from detrctl.model.queries import ConditionalSlots
from detrctl.model.references import Fixed
from detrctl.recipe import schema

EPS = 1e-5


def conditional(model: schema.ConditionalModel, objective: schema.FocalObjective, num_classes: int) -> Learner:
    """Attention by content and by place on features of one stage; learned slots with fixed points; focal loss."""
    backbone = build_backbone(model.backbone, stages=[model.backbone.stage])
    encoder = Encoder(layers=build_encoder_layers(model), norm=nn.Identity())
    layers, places = build_decoder_layers(model), ConditionalPlaces(width=model.width)
    queries = ConditionalSlots(queries=model.queries, width=model.width, groups=model.query_groups)
    init_transformer(encoder, *layers, places, queries.reference)
    decoder = Decoder(
        layers=layers,
        norm=nn.LayerNorm(model.width),
        places=places,
        heads=build_heads(model, num_classes),
        reference=Fixed(eps=EPS),
    )
    return Learner(
        network=Detector(
            backbone=backbone,
            neck=build_neck(model, backbone.channels[0]),
            encoder=encoder,
            queries=queries,
            denoising=NoDenoising(),
            decoder=decoder,
        ),
        criterion=focal_criterion(objective),
        post_process=sigmoid_top_k(model.detections),
        class_rows=dict.fromkeys(head_rows(model, num_classes, "decoder.heads.class_head"), 0),
    )


# ---- what DAB-DETR builds alike ----


def build_neck(model: schema.Conditional, channels: int) -> Neck:
    return Neck(
        projections=[nn.Conv2d(channels, model.width, kernel_size=1)],
        position=build_position(model.position, model.width),
        placement=PLACEMENTS[model.position.added_to](),
    )


def build_encoder_layers(
    model: schema.Conditional, activation: Callable[[], nn.Module] = nn.ReLU
) -> list[EncoderLayer]:
    return [
        EncoderLayer(
            attention=DenseSelfAttention(width=model.width, heads=model.heads, dropout=model.dropout),
            feedforward=_feedforward(model, activation),
            residual=_residual(model),
        )
        for _ in range(model.encoder_layers)
    ]


def build_decoder_layers(
    model: schema.Conditional, activation: Callable[[], nn.Module] = nn.ReLU
) -> list[DecoderLayer]:
    return [
        DecoderLayer(
            self_attention=ConditionalSelfAttention(width=model.width, heads=model.heads, dropout=model.dropout),
            cross_attention=ConditionalCrossAttention(
                width=model.width, heads=model.heads, dropout=model.dropout, with_position=layer == 0
            ),
            feedforward=_feedforward(model, activation),
            residual=_residual(model),
        )
        for layer in range(model.decoder_layers)
    ]


def build_heads(model: schema.Conditional, num_classes: int) -> Heads:
    return Heads(class_head=build_prior_class_head(model, num_classes), box_head=build_moving_box_head(model))


def _feedforward(model: schema.Conditional, activation: Callable[[], nn.Module]) -> FeedForward:
    return FeedForward(width=model.width, hidden=model.feedforward, dropout=model.dropout, activation=activation)


def _residual(model: schema.Conditional) -> Callable[[], nn.Module]:
    return partial(PostNorm, width=model.width, dropout=model.dropout)
