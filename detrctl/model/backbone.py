"""Pixels -> feature maps: the convolutional network, with the padding mask carried along.

B batch, H, W canvas; h, w one stage's grid; C channels of a stage.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

from detrctl.model.backbone_weights import take_weights
from detrctl.structures import FeatureMap, ImageBatch

RESNETS: dict[str, tuple[type[resnet.BasicBlock | resnet.Bottleneck], list[int]]] = {
    "resnet10": (resnet.BasicBlock, [1, 1, 1, 1]),
    "resnet18": (resnet.BasicBlock, [2, 2, 2, 2]),
    "resnet34": (resnet.BasicBlock, [3, 4, 6, 3]),
    "resnet50": (resnet.Bottleneck, [3, 4, 6, 3]),
    "resnet101": (resnet.Bottleneck, [3, 4, 23, 3]),
}
NORMS: dict[str, Callable[..., nn.Module]] = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d}


class PartlyFrozen(nn.Module):
    """A network some of whose stages are never trained."""

    _frozen: tuple[nn.Module, ...] = ()  # a tuple, since they are registered as parts already

    def freeze(self, parts: Sequence[nn.Module]) -> None:
        self._frozen = tuple(parts)
        for part in self._frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> "PartlyFrozen":
        """Frozen stages stay in evaluation mode: no stochastic depth, and a trainable norm's statistics stand still."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self


class ResNet(PartlyFrozen):
    """A residual network (He et al. 2015) without its classifier, giving the features of chosen stages.

    `stages` counts as the papers do: the stem is stage 1, so stage 5 is C5. The first `frozen_stages` of them are
    never trained. `dilation` makes DC5: the last stage keeps stage 4's resolution and dilates instead.
    """

    def __init__(
        self, *, name: str, norm: str, stages: Sequence[int] = (5,), dilation: bool = False, frozen_stages: int = 0
    ):
        super().__init__()
        block, depths = RESNETS[name]
        network = resnet.ResNet(
            block, depths, norm_layer=NORMS[norm], replace_stride_with_dilation=[False, False, dilation]
        )
        self.stages = tuple(stages)
        self.channels = tuple(64 * 2 ** (stage - 2) * block.expansion for stage in self.stages)
        self.strides = tuple(2**stage // (2 if dilation and stage == 5 else 1) for stage in self.stages)
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.layers = nn.ModuleList(
            [network.layer1, network.layer2, network.layer3, network.layer4][: max(self.stages) - 1]
        )
        self.freeze([self.conv1, self.bn1, *self.layers[: frozen_stages - 1]] if frozen_stages else [])

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> one (B, C, h, w) per stage

        Computed channels last: convolutions keep that order, and are up to 1.5 times as fast in it, on a CPU too.
        """
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        values = F.max_pool2d(F.relu(self.bn1(self.conv1(pixels))), kernel_size=3, stride=2, padding=1)
        features = []
        for stage, layer in enumerate(self.layers, start=2):
            values = layer(values)
            if stage in self.stages:
                features.append(values)
        return tuple(features)

    def load_published(self, weights: dict[str, Tensor], *, source: str = "weights") -> None:
        """Take a torchvision state dict: `layer1.0.conv1.weight` and so on; the classifier is left aside."""
        take_weights(self, {_own_name(name): value for name, value in weights.items()}, source=source)


def _own_name(published: str) -> str:
    """`layer3.0.conv1.weight` -> `layers.2.0.conv1.weight`"""
    head, _, rest = published.partition(".")
    number = head.removeprefix("layer")
    return f"layers.{int(number) - 1}.{rest}" if head != number and number.isdigit() else published


class Backbone(nn.Module):
    """Any network with `channels` that maps pixels to feature maps, plus the padding mask at each map's resolution.

    `channels` and `strides` (pixels per cell) stand for the maps in their order; a network of somebody's own need not
    know its strides, which are empty then.
    """

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        channels: Any = body.channels
        strides: Any = getattr(body, "strides", ())
        self.channels, self.strides = _each(channels), _each(strides)

    def forward(self, images: ImageBatch) -> tuple[FeatureMap, ...]:
        features = self.body(images.pixels)
        features = (features,) if isinstance(features, Tensor) else features
        return tuple(FeatureMap(values, shrink_mask(images.is_padding, values.shape[-2:])) for values in features)


def _each(numbers: int | Sequence[int]) -> tuple[int, ...]:
    return (numbers,) if isinstance(numbers, int) else tuple(numbers)


def shrink_mask(is_padding: Tensor, size_hw: Sequence[int]) -> Tensor:
    """(B, H, W) bool -> (B, h, w) bool by the nearest pixel, as the published models do."""
    return F.interpolate(is_padding[:, None].float(), size=tuple(size_hw))[:, 0].to(torch.bool)
