"""The network that a recipe names."""

from collections.abc import Sequence

from torch import nn

from detrctl.errors import DetrctlError
from detrctl.model.backbone import RESNETS, Backbone, ResNet
from detrctl.model.backbone_layernorm import LayerNormNetwork
from detrctl.model.backbone_slim import SLIM_NETWORKS, SlimResNet
from detrctl.model.backbone_weights import read_weights
from detrctl.parts import build_part
from detrctl.recipe import schema


def build_backbone(backbone: schema.Backbone, *, stages: Sequence[int]) -> Backbone:
    """The backbone with its weights loaded; `stages` are those whose features are wanted, the finest first."""
    if ":" in backbone.name:
        return own_backbone(backbone, maps=len(stages))
    body = build_body(backbone, stages)
    if backbone.weights != "none":
        body.load_published(
            read_weights(backbone.weights, backbone.name), source=f"{backbone.weights} for {backbone.name}"
        )
    return Backbone(body)


def build_body(backbone: schema.Backbone, stages: Sequence[int]) -> ResNet | SlimResNet | LayerNormNetwork:
    if backbone.name in SLIM_NETWORKS:
        return SlimResNet(name=backbone.name, norm=backbone.norm, stages=stages, frozen_stages=backbone.frozen_stages)
    if backbone.name not in RESNETS:
        return LayerNormNetwork(
            name=backbone.name, stages=stages, frozen_stages=backbone.frozen_stages, drop_path=backbone.drop_path
        )
    return ResNet(
        name=backbone.name,
        norm=backbone.norm,
        stages=stages,
        dilation=backbone.dilation,
        frozen_stages=backbone.frozen_stages,
    )


def own_backbone(backbone: schema.Backbone, *, maps: int) -> Backbone:
    """A backbone of the user's own. DetrctlError if it does not say what it gives, or gives another count of maps."""
    body = build_part(backbone.name, nn.Module, **backbone.options)
    if not hasattr(body, "channels"):
        raise DetrctlError(f"{backbone.name}: has no `channels`, the number of channels of the features that it gives")
    built = Backbone(body)
    if len(built.channels) != maps:
        raise DetrctlError(
            f"{backbone.name}: its `channels` name {len(built.channels)} feature map(s), but this model takes {maps}: "
            "one per stage of model.backbone"
        )
    return built
