"""Pixels -> feature maps: the convolutional network, with the padding mask carried along.

B batch, H, W canvas; h, w one stage's grid; C channels of a stage.
"""

from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model_weights, resnet
from torchvision.ops import FrozenBatchNorm2d

from detrctl.errors import DetrctlError
from detrctl.structures import FeatureMap, ImageBatch

RESNETS: dict[str, tuple[type[resnet.BasicBlock | resnet.Bottleneck], list[int]]] = {
    "resnet10": (resnet.BasicBlock, [1, 1, 1, 1]),
    "resnet18": (resnet.BasicBlock, [2, 2, 2, 2]),
    "resnet34": (resnet.BasicBlock, [3, 4, 6, 3]),
    "resnet50": (resnet.Bottleneck, [3, 4, 6, 3]),
    "resnet101": (resnet.Bottleneck, [3, 4, 23, 3]),
}
NORMS: dict[str, Callable[..., nn.Module]] = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d}


class ResNet(nn.Module):
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
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.layers = nn.ModuleList(
            [network.layer1, network.layer2, network.layer3, network.layer4][: max(self.stages) - 1]
        )
        frozen = [self.conv1, self.bn1, *self.layers[: frozen_stages - 1]] if frozen_stages else []
        self._frozen: tuple[nn.Module, ...] = tuple(frozen)
        for part in self._frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> "ResNet":
        """Frozen stages stay in evaluation mode, so that a trainable norm's statistics stand still there too."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> one (B, C, h, w) per stage"""
        values = F.max_pool2d(F.relu(self.bn1(self.conv1(pixels))), kernel_size=3, stride=2, padding=1)
        features = []
        for stage, layer in enumerate(self.layers, start=2):
            values = layer(values)
            if stage in self.stages:
                features.append(values)
        return tuple(features)

    def load_published(self, weights: dict[str, Tensor]) -> None:
        """Take a torchvision state dict: `layer1.0.conv1.weight` and so on; the classifier is left aside."""
        renamed = {_own_name(name): value for name, value in weights.items()}
        own = self.state_dict()
        wrong = [
            n
            for n in own
            if not n.endswith("num_batches_tracked") and getattr(renamed.get(n), "shape", None) != own[n].shape
        ]
        if wrong:
            raise DetrctlError(
                f"the weights do not fit the backbone: {len(wrong)} of {len(own)} tensors, first {wrong[0]}"
            )
        self.load_state_dict({name: renamed[name] for name in own if name in renamed}, strict=False)


def _own_name(published: str) -> str:
    """`layer3.0.conv1.weight` -> `layers.2.0.conv1.weight`"""
    head, _, rest = published.partition(".")
    return f"layers.{int(head[5:]) - 1}.{rest}" if head.startswith("layer") else published


def read_weights(source: str, name: str) -> dict[str, Tensor]:
    """A torchvision state dict: `imagenet` downloads the one published for `name`, anything else is a file's path."""
    if source == "imagenet":
        return _download(name)
    path = Path(source)
    if not path.is_file():
        raise DetrctlError(
            f"{source}: no such file of backbone weights (model.backbone.weights: imagenet, none or a path)"
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DetrctlError(f"{source}: not a file of weights that can be read safely") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise DetrctlError(f"{source}: holds no state dict (a mapping of names to tensors)")
    return weights


def _download(name: str) -> dict[str, Tensor]:
    if name == "resnet10":
        raise DetrctlError(
            "model.backbone.weights: no ImageNet weights are published for resnet10; choose none or resnet18"
        )
    try:
        # Version 1 of the weights, as in the published DETR: later recipes (V2) shift every statistic.
        return dict(get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError, HTTPException) as error:  # no network, a wrong hash, a broken transfer
        raise DetrctlError(
            f"ImageNet weights of {name} could not be downloaded ({error}); "
            "set model.backbone.weights to a local file or to none"
        ) from error


class Backbone(nn.Module):
    """Any network with `channels` that maps pixels to feature maps, plus the padding mask at each map's resolution."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        channels: Any = body.channels
        self.channels: tuple[int, ...] = (channels,) if isinstance(channels, int) else tuple(channels)

    def forward(self, images: ImageBatch) -> tuple[FeatureMap, ...]:
        features = self.body(images.pixels)
        features = (features,) if isinstance(features, Tensor) else features
        return tuple(FeatureMap(values, shrink_mask(images.is_padding, values.shape[-2:])) for values in features)


def shrink_mask(is_padding: Tensor, size_hw: Sequence[int]) -> Tensor:
    """(B, H, W) bool -> (B, h, w) bool by the nearest pixel, as the published models do."""
    return F.interpolate(is_padding[:, None].float(), size=tuple(size_hw))[:, 0].to(torch.bool)
