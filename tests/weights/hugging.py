"""Small models of transformers, with random weights everywhere: nothing is downloaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

ONE, SEVERAL = ["stage4"], ["stage2", "stage3", "stage4"]
SIZES: dict[str, Any] = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "num_queries": 7,
    "use_timm_backbone": False,
}


@dataclass(frozen=True)
class Kind:
    """Name of the classes without Config and ForObjectDetection, stages that are used, and arguments."""

    name: str
    stages: list[str]
    arguments: dict[str, Any]


KINDS = {
    "DETR": Kind("Detr", ONE, {"d_model": 32}),
    "Conditional DETR": Kind("ConditionalDetr", ONE, {"d_model": 32}),
    "DAB-DETR": Kind("DabDetr", ONE, {"hidden_size": 32}),
    "Deformable DETR": Kind("DeformableDetr", SEVERAL, {"d_model": 32, "encoder_n_points": 3}),
    "Deformable DETR, single-scale": Kind("DeformableDetr", ONE, {"d_model": 32, "num_feature_levels": 1}),
    "Deformable DETR, refined": Kind("DeformableDetr", SEVERAL, {"d_model": 32, "with_box_refine": True}),
    "Deformable DETR, refined, in two stages": Kind(
        "DeformableDetr",
        SEVERAL,
        {"d_model": 32, "with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 9},
    ),
}


def build(variant: str, *, classes: int = 5, random: bool = True, **arguments: Any) -> Any:
    """In evaluation mode; what the library ties stays tied."""
    kind = KINDS[variant]
    backbone = transformers.ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=kind.stages,
    )
    config = getattr(transformers, f"{kind.name}Config")(
        backbone_config=backbone, num_labels=classes, **{**SIZES, **kind.arguments, **arguments}
    )
    model = getattr(transformers, f"{kind.name}ForObjectDetection")(config).eval()
    if random:
        randomise(model)
    return model


@torch.no_grad()
def randomise(model: Any, seed: int = 0) -> None:
    """Every matrix of the same gain, every vector near what it was."""
    draw = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        noise = torch.randn(value.shape, generator=draw)
        value.copy_(noise * 1.2 / value[0].numel() ** 0.5 if value.ndim > 1 else value + 0.1 * noise)
    for name, value in model.named_buffers():
        if "normalization" in name:
            noise = torch.rand(value.shape, generator=draw)
            value.copy_(noise if name.endswith(("weight", "running_var")) else noise - 0.5)
            if name.endswith(("weight", "running_var")):
                value.add_(0.5)


def images() -> tuple[Tensor, Tensor]:
    """Two images on one canvas, (2, 3, 64, 96), the second one smaller; and what is padding, True there."""
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    is_padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    is_padding[1, 45:] = True
    is_padding[1, :, 70:] = True
    return pixels.masked_fill(is_padding[:, None], 0.0), is_padding


@torch.no_grad()
def outputs(model: Any) -> tuple[Tensor, Tensor]:
    pixels, is_padding = images()
    out = model(pixel_values=pixels, pixel_mask=(~is_padding).long())
    return out.logits, out.pred_boxes


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder
