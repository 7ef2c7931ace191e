"""Deformable DETR: Deformable Transformers for End-to-End Object Detection (Zhu et al. 2021).

Single-scale, multi-scale, with iterative box refinement, and in two stages.
"""

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

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
from detrctl.model.decoder import Decoder, DecoderLayer, DeformableCrossAttention, QuerySelfAttention
from detrctl.model.deformable_attention import DeformableAttention
from detrctl.model.denoising import NoDenoising
from detrctl.model.detector import Detector
from detrctl.model.encoder import DeformableSelfAttention, Encoder, EncoderLayer
from detrctl.model.heads import Heads, PerLayer
from detrctl.model.layers import FeedForward, PostNorm, init_transformer
from detrctl.model.neck import Neck
from detrctl.model.places import SlotPlaces
from detrctl.model.proposals import EncoderProposals, best_class, foreground
from detrctl.model.queries import LearnedPoints, ProposedQueries
from detrctl.model.references import Fixed, Refined, RefinedTwice
from detrctl.recipe import schema

REFERENCES = {"fixed": Fixed, "refined": Refined, "refined_twice": RefinedTwice}
RANKINGS = {"foreground": foreground, "best_class": best_class}
EPS = 1e-5
SIZE_BIAS = -2.0
"""Added to the logits of sizes where nothing is proposed, as published: of points make boxes of 12 % of the image."""


def deformable(model: schema.DeformableModel, objective: schema.FocalObjective, num_classes: int) -> Learner:
    """Deformable attention on several levels; learned points or proposals; a fixed or moving reference; focal loss."""
    backbone = build_backbone(model.backbone, stages=model.backbone.stages)
    neck, encoder = build_deformable_neck(model, backbone.channels), build_deformable_encoder(model)
    layers = build_deformable_decoder_layers(model)
    queries = build_queries(model, num_classes)
    init_deformable(encoder, layers)
    if isinstance(queries, ProposedQueries):
        init_transformer(queries.from_box, queries.proposals.project)
    decoder = Decoder(
        layers=layers,
        norm=nn.Identity(),
        places=SlotPlaces(),
        heads=build_deformable_heads(
            model, num_classes, size_bias=0.0 if model.query_source == "proposals" else SIZE_BIAS
        ),
        reference=REFERENCES[model.reference](eps=EPS),
    )
    by_class, in_order = proposal_head_places(model)
    return Learner(
        network=Detector(
            backbone=backbone, neck=neck, encoder=encoder, queries=queries, denoising=NoDenoising(), decoder=decoder
        ),
        criterion=focal_criterion(objective, foreground_only=model.ranking == "foreground"),
        post_process=sigmoid_top_k(model.detections),
        class_rows=dict.fromkeys(head_rows(model, num_classes, *class_head_places(model), *by_class), 0),
        ordered_rows=head_rows(model, num_classes, *in_order),
    )


def build_queries(model: schema.DeformableModel, num_classes: int) -> nn.Module:
    if model.query_source == "learned":
        return LearnedPoints(queries=model.queries, width=model.width, groups=model.query_groups)
    proposals = build_proposals(model, num_classes, RANKINGS[model.ranking])
    return ProposedQueries(queries=model.queries, width=model.width, proposals=proposals)


def proposal_head_places(model: schema.DeformableModel) -> tuple[list[str], list[str]]:
    """Class heads of the proposals whose rows stand for classes, and those where the first says object or not."""
    if model.query_source == "learned":
        return [], []
    places = ["queries.proposals.class_head"]
    return ([], places) if model.ranking == "foreground" else (places, [])


def build_proposals(model: schema.Proposing, num_classes: int, rank: Callable[[Tensor], Tensor]) -> EncoderProposals:
    return EncoderProposals(
        width=model.width,
        class_head=build_prior_class_head(model, num_classes),
        box_head=build_moving_box_head(model),
        rank=rank,
        smallest=model.smallest_anchor,
        max_iou=model.proposal_nms,
    )


# ---- what all models with deformable attention share ----


def build_deformable_neck(model: schema.Deformable, channels: tuple[int, ...]) -> Neck:
    """A projection per stage, coarser levels from the last stage on, and a learned vector per level."""
    projections = [nn.Conv2d(count, model.width, kernel_size=1) for count in channels]
    sources = [channels[-1]] + [model.width] * model.extra_levels
    projections += [
        nn.Conv2d(count, model.width, kernel_size=3, stride=2, padding=1) for count in sources[: model.extra_levels]
    ]
    for convolution in projections:
        nn.init.xavier_uniform_(convolution.weight)
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
    return Neck(
        projections=[
            nn.Sequential(convolution, nn.GroupNorm(math.gcd(32, model.width), model.width))
            for convolution in projections
        ],
        position=build_position(model.position, model.width),
        placement=PLACEMENTS[model.position.added_to](),
        level_embedding=nn.Embedding(levels(model), model.width),
    )


def levels(model: schema.Deformable) -> int:
    return len(model.backbone.stages) + model.extra_levels


def build_deformable_encoder(model: schema.Deformable) -> Encoder:
    layers = [
        EncoderLayer(
            attention=DeformableSelfAttention(
                width=model.width, heads=model.heads, levels=levels(model), points=model.encoder_points
            ),
            feedforward=FeedForward(width=model.width, hidden=model.feedforward, dropout=model.dropout),
            residual=residual(model),
        )
        for _ in range(model.encoder_layers)
    ]
    return Encoder(layers=layers, norm=nn.Identity())


def build_deformable_decoder_layers(model: schema.Deformable) -> list[DecoderLayer]:
    return [
        DecoderLayer(
            self_attention=QuerySelfAttention(width=model.width, heads=model.heads, dropout=model.dropout),
            cross_attention=DeformableCrossAttention(
                width=model.width, heads=model.heads, levels=levels(model), points=model.decoder_points
            ),
            feedforward=FeedForward(width=model.width, hidden=model.feedforward, dropout=model.dropout),
            residual=residual(model),
        )
        for _ in range(model.decoder_layers)
    ]


def residual(model: schema.Deformable) -> Callable[[], nn.Module]:
    return partial(PostNorm, width=model.width, dropout=model.dropout)


def build_deformable_heads(model: schema.Deformable, num_classes: int, *, size_bias: float = 0.0) -> Heads:
    """One pair of heads, or one per layer, that start by leaving boxes where they are.

    `size_bias` is added once to the logits of sizes: by the first layer's own head, or by the one for fixed references.
    """
    class_head = build_class_heads(model, num_classes)
    if has_own_boxes(model):
        return Heads(
            class_head=class_head,
            box_head=PerLayer(
                build_moving_box_head(model, size_bias=size_bias if layer == 0 else 0.0)
                for layer in range(model.decoder_layers)
            ),
        )
    only = build_moving_box_head(model, size_bias=size_bias if model.reference == "fixed" else 0.0)
    return Heads(class_head=class_head, box_head=only)


def build_class_heads(model: schema.Deformable, num_classes: int) -> nn.Module:
    """One for all decoder layers, or one each."""
    if not has_own_classes(model):
        return build_prior_class_head(model, num_classes)
    return PerLayer(build_prior_class_head(model, num_classes) for _ in range(model.decoder_layers))


def has_own_classes(model: schema.Deformable) -> bool:
    """Whether every decoder layer has a class head of its own."""
    return model.prediction_heads in ("per_layer", "class_per_layer")


def has_own_boxes(model: schema.Deformable) -> bool:
    """Whether every decoder layer has a box head of its own."""
    return model.prediction_heads in ("per_layer", "box_per_layer")


def class_head_places(model: schema.Deformable) -> list[str]:
    if not has_own_classes(model):
        return ["decoder.heads.class_head"]
    return [f"decoder.heads.class_head.{layer}" for layer in range(model.decoder_layers)]


def init_deformable(encoder: Encoder, layers: list[DecoderLayer]) -> None:
    """Xavier for the matrices of the transformer; deformable attention then starts anew."""
    init_transformer(encoder, *layers)
    for part in (encoder, *layers):
        for module in part.modules():
            if isinstance(module, DeformableAttention):
                module.reset()
