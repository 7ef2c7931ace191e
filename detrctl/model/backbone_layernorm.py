"""Backbones with layer norms, as torchvision builds them: Swin Transformers and ConvNeXts.

B batch, H, W canvas; h, w one stage's grid; C channels of a stage.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import convnext, swin_transformer

from detrctl.model.backbone import PartlyFrozen
from detrctl.model.backbone_weights import take_weights

WIDTHS = (1, 2, 4, 8)
"""Channels of the stages 2 to 5, as multiples of the first one's."""
FIRST_STRIDE = 4


@dataclass(frozen=True)
class Swin:
    """Windows of 7 x 7 tokens (Liu et al. 2021); version 2 has 8 x 8 and cosine attention (Liu et al. 2022)."""

    width: int
    depths: tuple[int, ...]
    version: int = 1

    eps = 1e-5
    channels_last = True

    def build(self, drop_path: float) -> nn.Sequential:
        side = 7 if self.version == 1 else 8
        newer = {"block": swin_transformer.SwinTransformerBlockV2, "downsample_layer": swin_transformer.PatchMergingV2}
        network = swin_transformer.SwinTransformer(
            patch_size=[4, 4],
            embed_dim=self.width,
            depths=list(self.depths),
            num_heads=[self.width * times // 32 for times in WIDTHS],
            window_size=[side, side],
            stochastic_depth_prob=drop_path,
            **(newer if self.version == 2 else {}),
        )
        return network.features


@dataclass(frozen=True)
class ConvNeXt:
    """Depthwise 7 x 7 convolutions (Liu et al. 2022)."""

    width: int
    depths: tuple[int, ...]

    eps = 1e-6
    channels_last = False

    def build(self, drop_path: float) -> nn.Sequential:
        widths: list[int | None] = [self.width * times for times in WIDTHS]
        following = [*widths[1:], None]
        settings = [
            convnext.CNBlockConfig(width or 0, after, depth)
            for width, after, depth in zip(widths, following, self.depths, strict=True)
        ]
        features = convnext.ConvNeXt(settings, stochastic_depth_prob=drop_path).features
        for index in (2, 4, 6):
            norm, convolution = features[index]
            # Names stay torchvision's. Without the padding an odd last row or column would be lost.
            features[index] = nn.Sequential(OrderedDict({"0": norm, "even": PadToMultiple(2), "1": convolution}))
        return features


LAYER_NORM_NETWORKS: dict[str, Swin | ConvNeXt] = {
    "swin_t": Swin(96, (2, 2, 6, 2)),
    "swin_s": Swin(96, (2, 2, 18, 2)),
    "swin_b": Swin(128, (2, 2, 18, 2)),
    "swin_v2_t": Swin(96, (2, 2, 6, 2), version=2),
    "swin_v2_s": Swin(96, (2, 2, 18, 2), version=2),
    "swin_v2_b": Swin(128, (2, 2, 18, 2), version=2),
    "convnext_tiny": ConvNeXt(96, (3, 3, 9, 3)),
    "convnext_small": ConvNeXt(96, (3, 3, 27, 3)),
    "convnext_base": ConvNeXt(128, (3, 3, 27, 3)),
}


class LayerNormNetwork(PartlyFrozen):
    """A Swin Transformer or ConvNeXt without its classifier, giving the features of chosen stages.

    Stages are counted as a ResNet's: the stem is stage 1, and stages 2 to 5 have strides 4 to 32. A map has ceil(H /
    stride) rows, since pixels are padded to whole patches and grids to even sizes, always with zeros to the right and
    below. The first `frozen_stages` are never trained. Each stage that is given has a layer norm of its own
    (`output_norms`), as in the published detectors; it is no part of ImageNet's weights. `drop_path` is the stochastic
    depth of the last block, from 0 in the first one on.

    Where Swin's windows stand over the edge they are filled up in the same way. As in the published detectors the
    filling is not masked: it is zero where attention starts, so its keys and values are that layer's biases, and it
    takes a share of the attention of the window's other tokens. Padding of the canvas is a border of the mean colour,
    to a window as to a convolution: a token that has it in reach differs from that of the image alone. A grid that is
    no larger than one window is one window, which is not shifted.
    """

    def __init__(self, *, name: str, stages: Sequence[int] = (5,), frozen_stages: int = 0, drop_path: float = 0.0):
        super().__init__()
        kind = LAYER_NORM_NETWORKS[name]
        self.stages = tuple(stages)
        self.channels = tuple(kind.width * WIDTHS[stage - 2] for stage in self.stages)
        self.strides = tuple(FIRST_STRIDE * WIDTHS[stage - 2] for stage in self.stages)
        self.channels_last = kind.channels_last
        self.pad = PadToMultiple(FIRST_STRIDE)
        self.features = kind.build(drop_path)[: 2 * max(self.stages) - 2]
        norms = {str(s): nn.LayerNorm(width, eps=kind.eps) for s, width in zip(stages, self.channels, strict=True)}
        self.output_norms = nn.ModuleDict(norms)
        self.freeze(list(self.features[: max(1, 2 * frozen_stages - 2)]) if frozen_stages else [])

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> one (B, C, h, w) per stage"""
        values, features = self.pad(pixels), []
        for index, layer in enumerate(self.features):  # the stem, stage 2, downsampling, stage 3, ...
            values = layer(values)
            stage = (index + 3) // 2
            if index % 2 and stage in self.stages:
                features.append(self._output(values, self.output_norms[str(stage)]))
        return tuple(features)

    def _output(self, values: Tensor, norm: nn.Module) -> Tensor:
        rows_first = values if self.channels_last else values.permute(0, 2, 3, 1)
        return norm(rows_first).permute(0, 3, 1, 2)

    def load_published(self, weights: dict[str, Tensor], *, source: str = "weights") -> None:
        """Take a torchvision state dict; the classifier and its norm are left aside, `output_norms` stay fresh."""
        take_weights(self, weights, source=source, is_own=lambda name: name.startswith("output_norms."))


class PadToMultiple(nn.Module):
    """Zeros to the right and below until height and width are multiples: (B, C, H, W) -> (B, C, H', W')"""

    def __init__(self, multiple: int):
        super().__init__()
        self.multiple = multiple

    def forward(self, values: Tensor) -> Tensor:
        height, width = values.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        return F.pad(values, (0, right, 0, below)) if below or right else values
