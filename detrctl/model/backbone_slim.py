"""Small residual networks of this project, to be trained from scratch on small images. B batch, C channels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from detrctl.model.backbone import NORMS, PartlyFrozen
from detrctl.model.backbone_weights import take_weights

SLIM_NETWORKS = {"slim_32": 32, "slim_48": 48, "slim_64": 64}
"""Channels of the first residual stage; each further stage has twice as many."""
LAST_STAGE = 5


class SlimResNet(PartlyFrozen):
    """A ResNet-10 (He et al. 2015) of fewer channels, whose stem is two 3 x 3 convolutions of stride 2.

    Of a ResNet-10's work on small images most is its stem of 64 channels and the stage behind it, which run at the
    highest resolution; the stem of 3 x 3 convolutions is from He et al. 2019, "Bag of Tricks", section 4.2. `stages`
    and `frozen_stages` count as in `ResNet`: the stem is stage 1, stage 3 has stride 8.
    """

    def __init__(self, *, name: str, norm: str, stages: Sequence[int] = (5,), frozen_stages: int = 0):
        super().__init__()
        norm_layer, first = NORMS[norm], SLIM_NETWORKS[name]
        widths = [first * 2**i for i in range(LAST_STAGE - 1)]
        self.stages = tuple(stages)
        self.channels = tuple(widths[stage - 2] for stage in self.stages)
        self.strides = tuple(2**stage for stage in self.stages)
        parts: list[nn.Module] = [_stem(first, norm_layer)]
        for before, width in zip([first, *widths], widths, strict=False):
            parts.append(_block(before, width, norm_layer))
        self.parts = nn.ModuleList(parts[: max(self.stages)])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.freeze(list(self.parts[:frozen_stages]))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> one (B, C, h, w) per stage, computed channels last, which is faster on a CPU too."""
        values = pixels.contiguous(memory_format=torch.channels_last)
        features = []
        for stage, part in enumerate(self.parts, start=1):
            values = part(values)
            if stage in self.stages:
                features.append(values)
        return tuple(features)

    def load_published(self, weights: dict[str, Tensor], *, source: str = "weights") -> None:
        """Take a state dict of this network, of as many stages or more."""
        take_weights(self, weights, source=source)


def _stem(width: int, norm_layer: Callable[[int], nn.Module]) -> nn.Sequential:
    half = width // 2
    return nn.Sequential(
        nn.Conv2d(3, half, kernel_size=3, stride=2, padding=1, bias=False),
        norm_layer(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, width, kernel_size=3, stride=2, padding=1, bias=False),
        norm_layer(width),
        nn.ReLU(inplace=True),
    )


def _block(before: int, width: int, norm_layer: Callable[[int], nn.Module]) -> BasicBlock:
    """One residual block; where the channels grow, it halves the resolution."""
    if before == width:
        return BasicBlock(width, width, norm_layer=norm_layer)
    shortcut = nn.Sequential(nn.Conv2d(before, width, kernel_size=1, stride=2, bias=False), norm_layer(width))
    return BasicBlock(before, width, stride=2, downsample=shortcut, norm_layer=norm_layer)
