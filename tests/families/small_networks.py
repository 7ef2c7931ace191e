"""Backbones that cost next to nothing, for tests of what comes after them."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from detrctl.model.backbone import RESNETS
from detrctl.model.backbone_layernorm import LAYER_NORM_NETWORKS, ConvNeXt, Swin

ONE_STAGE = ("detr", "conditional", "dab")

SHALLOW: tuple[tuple[dict[str, Any], str, Any], ...] = (
    (RESNETS, "resnet50", (Bottleneck, [1, 1, 1, 1])),
    (LAYER_NORM_NETWORKS, "swin_t", Swin(32, (2, 1, 1, 1))),
    (LAYER_NORM_NETWORKS, "swin_v2_t", Swin(32, (2, 1, 1, 1), version=2)),
    (LAYER_NORM_NETWORKS, "convnext_tiny", ConvNeXt(16, (1, 1, 1, 1))),
)
"""Published networks with next to no blocks: the table that each is in, its name, and what stands there instead."""


class Stages(nn.Module):
    """One convolution's map, (B, 8, H / 8, W / 8), and coarser ones cut out of it."""

    def __init__(self, count: int):
        super().__init__()
        self.channels = (8,) * count
        self.convolution = nn.Conv2d(3, 8, kernel_size=8, stride=8)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        first = F.gelu(self.convolution(pixels))
        return tuple(first[..., ::step, ::step] for step in (1, 2, 4, 8)[: len(self.channels)])


def one_convolution(model: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone section that gives this model `Stages`, as many as it takes."""
    if model["family"] in ONE_STAGE:
        return {"name": f"{__name__}:Stages", "options": {"count": 1}}
    stages = model.get("backbone", {}).get("stages", [3, 4, 5])
    return {"name": f"{__name__}:Stages", "options": {"count": len(stages)}, "stages": stages}
