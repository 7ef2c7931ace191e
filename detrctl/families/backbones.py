"""The network that a recipe names."""

from collections.abc import Sequence

from torch import nn

from detrctl.errors import DetrctlError
from detrctl.model.backbone import RESNETS, Backbone, ResNet, read_weights
from detrctl.parts import build_part
from detrctl.recipe import schema


def build_backbone(backbone: schema.Backbone, *, stages: Sequence[int]) -> Backbone:
    """The backbone with its weights loaded; `stages` are those whose features are wanted, the finest first."""
    if backbone.name not in RESNETS:
        return own_backbone(backbone)
    body = ResNet(
        name=backbone.name,
        norm=backbone.norm,
        stages=stages,
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
