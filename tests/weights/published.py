"""Names and shapes of published weights, made by rule: what the official code gives for these build arguments.

The rules were checked against the names and shapes that the official code gave (tests/parity, DETRCTL_PARITY).
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from detrctl.weights.arguments import ONLY

Shapes = dict[str, tuple[int, ...]]

BLOCKS = {
    "resnet10": [1, 1, 1, 1],
    "resnet18": [2, 2, 2, 2],
    "resnet34": [3, 4, 6, 3],
    "resnet50": [3, 4, 6, 3],
    "resnet101": [3, 4, 23, 3],
}
BASE: dict[str, Any] = {
    "backbone": "resnet18",
    "hidden_dim": 16,
    "dim_feedforward": 24,
    "nheads": 8,
    "enc_layers": 1,
    "dec_layers": 2,
    "num_queries": 5,
    "num_classes": 91,
    "num_feature_levels": 4,
    "enc_n_points": 4,
    "dec_n_points": 4,
    "with_box_refine": False,
    "two_stage": False,
}


def published(variant: str, **arguments: Any) -> Shapes:
    """`variant`: detr, conditional, dab, dn_dab, deformable, dab_deformable, dn_dab_deformable or dino."""
    return dict(_MAKERS[variant]({**BASE, **arguments}))


def tensors(variant: str, **arguments: Any) -> dict[str, Tensor]:
    """Weights of these names and shapes, made up and tame; all layers have the same heads."""
    draw = torch.Generator().manual_seed(0)
    made: dict[str, Tensor] = {}
    for name, shape in published(variant, **{"backbone": "resnet10", "num_classes": 5, **arguments}).items():
        first = re.sub(r"^(?:transformer\.decoder\.)?((?:class|bbox)_embed\.)\d+\.", r"\g<1>0.", name)
        first = first.removeprefix("transformer.decoder.") if "decoder.bbox_embed" in first else first
        if first not in made:
            matrix = torch.randn(shape, generator=draw) * 0.1
            made[first] = matrix if len(shape) > 1 else torch.rand(shape, generator=draw) + 0.5
        made[name] = made[first]
    return made


def covers(variant: str, arguments: dict[str, Any]) -> bool:
    """Whether the rules below say what these build arguments give."""
    fixed = {"masks": False, "batch_norm_type": "FrozenBatchNorm2d", **ONLY.get(variant, {})}
    known = all(arguments.get(name, value) == value for name, value in fixed.items())
    return known and arguments["backbone"] in BLOCKS and arguments["enc_layers"] > 0


def linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def mlp(name: str, *widths: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer, (columns, rows) in enumerate(pairwise(widths)):
        yield from linear(f"{name}.layers.{layer}", rows, columns)


def packed(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.in_proj_weight", (3 * width, width)
    yield f"{name}.in_proj_bias", (3 * width,)
    yield from linear(f"{name}.out_proj", width, width)


def frozen(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)


def resnet(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    body, bottleneck = "backbone.0.body", name in ("resnet50", "resnet101")
    yield f"{body}.conv1.weight", (64, 3, 7, 7)
    yield from frozen(f"{body}.bn1", 64)
    incoming = 64
    for stage, blocks in enumerate(BLOCKS[name]):
        width = 64 * 2**stage
        outgoing = width * (4 if bottleneck else 1)
        for block in range(blocks):
            here = f"{body}.layer{stage + 1}.{block}"
            shapes = (
                [(width, incoming, 1, 1), (width, width, 3, 3), (outgoing, width, 1, 1)]
                if bottleneck
                else [(width, incoming, 3, 3), (width, width, 3, 3)]
            )
            for number, shape in enumerate(shapes, start=1):
                yield f"{here}.conv{number}.weight", shape
                yield from frozen(f"{here}.bn{number}", shape[0])
            if block == 0 and (stage > 0 or bottleneck):
                yield f"{here}.downsample.0.weight", (outgoing, incoming, 1, 1)
                yield from frozen(f"{here}.downsample.1", outgoing)
            incoming = outgoing


def channels(name: str) -> list[int]:
    return [64 * 2**stage * (4 if name in ("resnet50", "resnet101") else 1) for stage in range(4)]


def position(a: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    if a.get("position_embedding") in ("learned", "v3"):
        for part in ("row", "col"):
            yield f"backbone.1.{part}_embed.weight", (50, a["hidden_dim"] // 2)


def feedforward(name: str, a: dict[str, Any], norms: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from linear(f"{name}.linear1", a["dim_feedforward"], a["hidden_dim"])
    yield from linear(f"{name}.linear2", a["hidden_dim"], a["dim_feedforward"])
    for number in range(1, norms + 1):
        yield from norm(f"{name}.norm{number}", a["hidden_dim"])


def dense(a: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What DETR, Conditional DETR and DAB-DETR have in common."""
    width = a["hidden_dim"]
    yield from resnet(a["backbone"])
    yield from position(a)
    for layer in range(a["enc_layers"]):
        name = f"transformer.encoder.layers.{layer}"
        yield from packed(f"{name}.self_attn", width)
        yield from feedforward(name, a, 2)
    for layer in range(a["dec_layers"]):
        yield from feedforward(f"transformer.decoder.layers.{layer}", a, 3)
    yield from norm("transformer.decoder.norm", width)
    yield "input_proj.weight", (width, channels(a["backbone"])[3], 1, 1)
    yield "input_proj.bias", (width,)
    yield from mlp("bbox_embed", width, width, width, 4)


def detr(a: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = a["hidden_dim"]
    yield from dense(a)
    for layer in range(a["dec_layers"]):
        for attention in ("self_attn", "multihead_attn"):
            yield from packed(f"transformer.decoder.layers.{layer}.{attention}", width)
    yield from linear("class_embed", a["num_classes"] + 1, width)
    yield "query_embed.weight", (a["num_queries"], width)
    if a.get("pre_norm"):
        yield from norm("transformer.encoder.norm", width)


def conditional_layers(a: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = a["hidden_dim"]
    yield from dense(a)
    for layer in range(a["dec_layers"]):
        name = f"transformer.decoder.layers.{layer}"
        parts = ["sa_qcontent", "sa_qpos", "sa_kcontent", "sa_kpos", "sa_v"]
        parts += ["ca_qcontent", "ca_kcontent", "ca_kpos", "ca_v", "ca_qpos_sine"] + ["ca_qpos"] * (layer == 0)
        for part in parts:
            yield from linear(f"{name}.{part}_proj", width, width)
        yield from linear(f"{name}.self_attn.out_proj", width, width)
        yield from linear(f"{name}.cross_attn.out_proj", width, width)
    yield from mlp("transformer.decoder.query_scale", width, width, width)
    yield from linear("class_embed", a["num_classes"], width)


def conditional(a: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from conditional_layers(a)
    yield from mlp("transformer.decoder.ref_point_head", a["hidden_dim"], a["hidden_dim"], 2)
    yield "query_embed.weight", (a["num_queries"], a["hidden_dim"])


def dab(a: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = a["hidden_dim"]
    yield from conditional_layers(a)
    yield from mlp("transformer.encoder.query_scale", width, width, width)
    if a.get("transformer_activation", "prelu") == "prelu":
        for part in ("encoder", "decoder"):
            for layer in range(a["enc_layers" if part == "encoder" else "dec_layers"]):
                yield f"transformer.{part}.layers.{layer}.activation.weight", (1,)
    yield from mlp("transformer.decoder.ref_point_head", 2 * width, width, width)
    yield from mlp("transformer.decoder.ref_anchor_head", width, width, 2)
    yield from mlp("transformer.decoder.bbox_embed", width, width, width, 4)
    yield "refpoint_embed.weight", (a["num_queries"], 4)
    if a.get("num_patterns"):
        yield "transformer.patterns.weight", (a["num_patterns"], width)


def dn_dab(a: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from dab(a)
    yield "label_enc.weight", (a["num_classes"] + 1, a["hidden_dim"] - 1)


def sampling(name: str, a: dict[str, Any], points: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, samples = a["hidden_dim"], a["nheads"] * a["num_feature_levels"] * points
    yield from linear(f"{name}.sampling_offsets", 2 * samples, width)
    yield from linear(f"{name}.attention_weights", samples, width)
    yield from linear(f"{name}.value_proj", width, width)
    yield from linear(f"{name}.output_proj", width, width)


def deformable_layers(a: dict[str, Any], stages: list[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, levels = a["hidden_dim"], a["num_feature_levels"]
    yield from resnet(a["backbone"])
    yield from position(a)
    yield "transformer.level_embed", (levels, width)
    for layer in range(a["enc_layers"]):
        name = f"transformer.encoder.layers.{layer}"
        yield from sampling(f"{name}.self_attn", a, a["enc_n_points"])
        yield from feedforward(name, a, 2)
    for layer in range(a["dec_layers"]):
        name = f"transformer.decoder.layers.{layer}"
        yield from sampling(f"{name}.cross_attn", a, a["dec_n_points"])
        yield from packed(f"{name}.self_attn", width)
        yield from feedforward(name, a, 3)
    sources = [channels(a["backbone"])[stage] for stage in stages]
    kernels = [1] * len(stages)
    while len(sources) < levels:
        sources.append(sources[-1] if kernels[-1] == 1 else width)
        kernels.append(3)
    for level, (source, kernel) in enumerate(zip(sources, kernels, strict=True)):
        yield f"input_proj.{level}.0.weight", (width, source, kernel, kernel)
        yield f"input_proj.{level}.0.bias", (width,)
        yield from norm(f"input_proj.{level}.1", width)


def heads(count: int, a: dict[str, Any], *places: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = a["hidden_dim"]
    for place in places:
        for number in range(count):
            if place.endswith("class_embed"):
                yield from linear(f"{place}.{number}", a["num_classes"], width)
            else:
                yield from mlp(f"{place}.{number}", width, width, width, 4)


def deformable(a: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inside = a["hidden_dim"], "transformer.decoder."
    yield from deformable_layers(a, [1, 2, 3] if a["num_feature_levels"] > 1 else [3])
    places = ["class_embed", "bbox_embed"]
    if a["with_box_refine"] or a["two_stage"]:
        places.append(f"{inside}bbox_embed")
    if not a["two_stage"]:
        yield from heads(a["dec_layers"], a, *places)
        yield from linear("transformer.reference_points", 2, width)
        yield "query_embed.weight", (a["num_queries"], 2 * width)
        return
    yield from heads(a["dec_layers"] + 1, a, *places, f"{inside}class_embed")
    yield from linear("transformer.enc_output", width, width)
    yield from norm("transformer.enc_output_norm", width)
    yield from linear("transformer.pos_trans", 2 * width, 2 * width)
    yield from norm("transformer.pos_trans_norm", 2 * width)


def dab_deformable(a: dict[str, Any], content: int | None = None) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inside = a["hidden_dim"], "transformer.decoder."
    yield from deformable_layers(a, [1, 2, 3] if a["num_feature_levels"] > 1 else [3])
    places = ["class_embed", "bbox_embed"] + [f"{inside}bbox_embed"] * a["with_box_refine"]
    yield from heads(a["dec_layers"], a, *places)
    yield from mlp(f"{inside}ref_point_head", 2 * width, width, width)
    yield from mlp(f"{inside}query_scale", width, width, width)
    yield "tgt_embed.weight", (a["num_queries"], content or width)
    yield "refpoint_embed.weight", (a["num_queries"], 4)


def dn_dab_deformable(a: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A channel of the content is left free for the mark of noised queries."""
    yield from dab_deformable(a, content=a["hidden_dim"] - 1)
    yield "label_enc.weight", (a["num_classes"] + 1, a["hidden_dim"] - 1)


def dino(a: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inside = a["hidden_dim"], "transformer.decoder."
    yield from deformable_layers(a, a.get("return_interm_indices", [1, 2, 3]))
    places = ["class_embed", "bbox_embed"]
    yield from heads(a["dec_layers"], a, *places, *(f"{inside}{place}" for place in places))
    yield from norm(f"{inside}norm", width)
    yield from mlp(f"{inside}ref_point_head", 2 * width, width, width)
    yield "transformer.tgt_embed.weight", (a["num_queries"], width)
    yield from linear("transformer.enc_output", width, width)
    yield from norm("transformer.enc_output_norm", width)
    yield from linear("transformer.enc_out_class_embed", a["num_classes"], width)
    yield from mlp("transformer.enc_out_bbox_embed", width, width, width, 4)
    yield "label_enc.weight", (a.get("dn_labelbook_size", a["num_classes"]) + 1, width)


_MAKERS = {
    "detr": detr,
    "conditional": conditional,
    "dab": dab,
    "dn_dab": dn_dab,
    "deformable": deformable,
    "dab_deformable": dab_deformable,
    "dn_dab_deformable": dn_dab_deformable,
    "dino": dino,
}
