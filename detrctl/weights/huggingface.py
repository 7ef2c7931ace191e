"""Hugging Face's names of published models, and what their config.json says, against the official ones.

Two generations of names are read: those of transformers 4, which the files of the Hub hold and which transformers 5
still writes, and those that transformers 5 gives its modules. The first are written.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from detrctl.errors import CheckpointError
from detrctl.weights.names import packed, rename, renamed, swapped, unpacked
from detrctl.weights.tables import Table

# ---- backbones ----


def _native_resnet() -> Table:
    """transformers' own ResNet against torchvision's names, which timm's are, too."""
    rows = [("embedder.embedder.convolution", "conv1"), ("embedder.embedder.normalization", "bn1")]
    for stage in range(4):
        theirs, ours = f"encoder.stages.{stage}.layers.*", f"layer{stage + 1}.*"
        rows += [
            (f"{theirs}.shortcut.convolution", f"{ours}.downsample.0"),
            (f"{theirs}.shortcut.normalization", f"{ours}.downsample.1"),
        ]
        for place in range(3):
            rows += [
                (f"{theirs}.layer.{place}.convolution", f"{ours}.conv{place + 1}"),
                (f"{theirs}.layer.{place}.normalization", f"{ours}.bn{place + 1}"),
            ]
    return rows


BODY = "model.backbone.conv_encoder.model"
_NATIVE_BACKBONE: Table = [(f"{BODY}.{theirs}", f"backbone.0.body.{official}") for theirs, official in _native_resnet()]
_TIMM_BACKBONE: Table = [(BODY, "backbone.0.body")]
_POSITION: Table = [
    ("model.position_embedding.row_embeddings", "backbone.1.row_embed"),
    ("model.position_embedding.column_embeddings", "backbone.1.col_embed"),
    ("model.backbone.position_embedding.row_embeddings", "backbone.1.row_embed"),
    ("model.backbone.position_embedding.column_embeddings", "backbone.1.col_embed"),
]

# ---- models: generation 4 names, official names ----

_ENCODER: Table = [
    ("model.encoder.layers.*.self_attn_layer_norm", "transformer.encoder.layers.*.norm1"),
    ("model.encoder.layers.*.final_layer_norm", "transformer.encoder.layers.*.norm2"),
    ("model.encoder.layers.*.fc1", "transformer.encoder.layers.*.linear1"),
    ("model.encoder.layers.*.fc2", "transformer.encoder.layers.*.linear2"),
    ("model.encoder.layers.*.activation_fn", "transformer.encoder.layers.*.activation"),
    ("model.encoder.layers.*.self_attn", "transformer.encoder.layers.*.self_attn"),
]
_DECODER: Table = [
    ("model.decoder.layers.*.final_layer_norm", "transformer.decoder.layers.*.norm3"),
    ("model.decoder.layers.*.fc1", "transformer.decoder.layers.*.linear1"),
    ("model.decoder.layers.*.fc2", "transformer.decoder.layers.*.linear2"),
    ("model.decoder.layers.*.self_attn", "transformer.decoder.layers.*.self_attn"),
]
_SELF_FIRST: Table = [
    ("model.decoder.layers.*.self_attn_layer_norm", "transformer.decoder.layers.*.norm1"),
    ("model.decoder.layers.*.encoder_attn_layer_norm", "transformer.decoder.layers.*.norm2"),
]
_DENSE: Table = [
    *_POSITION,
    *_ENCODER,
    ("model.encoder.layernorm", "transformer.encoder.norm"),
    ("model.decoder.layernorm", "transformer.decoder.norm"),
    ("model.input_projection", "input_proj"),
    ("bbox_predictor", "bbox_embed"),
]
_SLOTS: Table = [
    ("model.query_position_embeddings", "query_embed"),
    ("class_labels_classifier", "class_embed"),
]
DETR: Table = [
    *_DENSE,
    *_SLOTS,
    *_SELF_FIRST,
    *_DECODER,
    ("model.decoder.layers.*.encoder_attn", "transformer.decoder.layers.*.multihead_attn"),
]
_CONDITIONAL_PARTS = (
    *(f"sa_{part}_proj" for part in ("qcontent", "qpos", "kcontent", "kpos", "v")),
    *(f"ca_{part}_proj" for part in ("qcontent", "qpos", "kcontent", "kpos", "v", "qpos_sine")),
)
CONDITIONAL: Table = [
    *_DENSE,
    *_SLOTS,
    *_SELF_FIRST,
    *_DECODER,
    *((f"model.decoder.layers.*.{part}", f"transformer.decoder.layers.*.{part}") for part in _CONDITIONAL_PARTS),
    ("model.decoder.layers.*.encoder_attn", "transformer.decoder.layers.*.cross_attn"),
    ("model.decoder.query_scale", "transformer.decoder.query_scale"),
    ("model.decoder.ref_point_head", "transformer.decoder.ref_point_head"),
]
_SPELT_OUT = {"sa": "self_attn", "ca": "cross_attn", "q": "query", "k": "key", "v": "value"}


def _dab_part(part: str) -> str:
    """`ca_qpos_sine_proj` -> `cross_attn.cross_attn_query_pos_sine_proj`"""
    where, what = part.split("_", 1)
    attention = _SPELT_OUT[where]
    rest = what[1:] if what.startswith("v_") else f"_{what[1:]}"
    return f"{attention}.{attention}_{_SPELT_OUT[what[0]]}{rest}"


DAB: Table = [
    *_DENSE,
    *(
        (f"model.decoder.layers.*.{_dab_part(part)}", f"transformer.decoder.layers.*.{part}")
        for part in _CONDITIONAL_PARTS
    ),
    ("model.decoder.layers.*.self_attn.self_attn_layer_norm", "transformer.decoder.layers.*.norm1"),
    ("model.decoder.layers.*.cross_attn.cross_attn_layer_norm", "transformer.decoder.layers.*.norm2"),
    ("model.decoder.layers.*.mlp.final_layer_norm", "transformer.decoder.layers.*.norm3"),
    ("model.decoder.layers.*.self_attn.self_attn.output_proj", "transformer.decoder.layers.*.self_attn.out_proj"),
    ("model.decoder.layers.*.cross_attn.cross_attn.output_proj", "transformer.decoder.layers.*.cross_attn.out_proj"),
    ("model.decoder.layers.*.mlp.fc1", "transformer.decoder.layers.*.linear1"),
    ("model.decoder.layers.*.mlp.fc2", "transformer.decoder.layers.*.linear2"),
    ("model.decoder.layers.*.mlp.activation_fn", "transformer.decoder.layers.*.activation"),
    ("model.encoder.query_scale", "transformer.encoder.query_scale"),
    ("model.decoder.query_scale", "transformer.decoder.query_scale"),
    ("model.decoder.ref_point_head", "transformer.decoder.ref_point_head"),
    ("model.decoder.ref_anchor_head", "transformer.decoder.ref_anchor_head"),
    ("model.decoder.bbox_embed", "transformer.decoder.bbox_embed"),
    ("model.query_refpoint_embeddings", "refpoint_embed"),
    ("model.patterns", "transformer.patterns"),
    ("class_embed", "class_embed"),
]
DEFORMABLE: Table = [
    *_POSITION,
    *_ENCODER,
    # Official norms are numbered in the order of the code: 1 is the cross-attention's, against DETR.
    ("model.decoder.layers.*.encoder_attn_layer_norm", "transformer.decoder.layers.*.norm1"),
    ("model.decoder.layers.*.self_attn_layer_norm", "transformer.decoder.layers.*.norm2"),
    *_DECODER,
    ("model.decoder.layers.*.encoder_attn", "transformer.decoder.layers.*.cross_attn"),
    ("model.decoder.bbox_embed", "transformer.decoder.bbox_embed"),
    ("model.decoder.class_embed", "transformer.decoder.class_embed"),
    ("model.input_proj", "input_proj"),
    ("model.query_position_embeddings", "query_embed"),
    *((f"model.{part}", f"transformer.{part}") for part in ("level_embed", "reference_points", "enc_output")),
    *((f"model.{part}", f"transformer.{part}") for part in ("enc_output_norm", "pos_trans", "pos_trans_norm")),
    ("class_embed", "class_embed"),
    ("bbox_embed", "bbox_embed"),
]


# ---- the later generation ----


def _plain_renames(name: str) -> str:
    name = re.sub(r"^model\.backbone\.(?!conv_encoder|position_embedding)", "model.backbone.conv_encoder.", name)
    name = re.sub(r"\.o_proj\.", ".out_proj.", name)
    return re.sub(r"(layers\.\d+)\.mlp\.(fc[12])\.", r"\1.\2.", name)


_MOVED = {"self_attn": "sa", "encoder_attn": "ca"}


def _conditional_renames(name: str) -> str:
    """`decoder.layers.0.encoder_attn.q_pos_sine_proj` -> `decoder.layers.0.ca_qpos_sine_proj`"""
    name = _plain_renames(name)
    found = re.match(r"(model\.decoder\.layers\.\d+)\.(self_attn|encoder_attn)\.(v|[qk]_\w+)_proj\.(\w+)$", name)
    if found is None:
        return name
    stem, attention, what, kind = found.groups()
    return f"{stem}.{_MOVED[attention]}_{what.replace('_', '', 1)}_proj.{kind}"


def _dab_renames(name: str) -> str:
    """Both generations are alike but for the backbone's prefix."""
    return re.sub(r"^model\.backbone\.(?!conv_encoder)", "model.backbone.conv_encoder.", name)


@dataclass(frozen=True)
class Naming:
    """How one model is named there: its `model_type`, a name that gives it away, its table, and the way back to it."""

    model_type: str
    sign: str
    table: Table
    earlier: Callable[[str], str]


NAMINGS: dict[str, Naming] = {
    "dab": Naming("dab-detr", r"^model\.query_refpoint_embeddings\.", DAB, _dab_renames),
    "conditional": Naming(
        "conditional_detr",
        r"^model\.decoder\.layers\.\d+\.(ca_qcontent_proj|encoder_attn\.q_content_proj)\.",
        CONDITIONAL,
        _conditional_renames,
    ),
    "deformable": Naming(
        "deformable_detr", r"^model\.decoder\.layers\.\d+\.encoder_attn\.sampling_offsets\.", DEFORMABLE, _plain_renames
    ),
    "detr": Naming("detr", r"^model\.decoder\.layers\.\d+\.encoder_attn\.q_proj\.", DETR, _plain_renames),
}
"""By project; the first whose sign is found."""

_RELATIVE = re.compile(r"^model\.(decoder_input_proj|enc_score_head|aifi|encoder\.(aifi|encoder)\.\d)")
_SEGMENTATION = re.compile(r"^detr\.")


def naming_of(names: Iterable[str]) -> Naming | None:
    """Which model these are the Hugging Face names of, None for other names. CheckpointError for a known relative."""
    plain = [_SEGMENTATION.sub("", name) for name in names]
    if any(_RELATIVE.match(name) for name in plain):
        raise CheckpointError("these are weights of an RT-DETR or a relative of it, which detrctl does not have")
    return next((naming for naming in NAMINGS.values() if any(re.match(naming.sign, name) for name in plain)), None)


def to_official(tensors: Mapping[str, Tensor], naming: Naming) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Under official names, heads repeated as the official files repeat them; and what has no official name."""
    table = [*_NATIVE_BACKBONE, *_TIMM_BACKBONE, *naming.table]
    earlier = {naming.earlier(_SEGMENTATION.sub("", name)): value for name, value in tensors.items()}
    known, unknown = renamed(earlier, lambda name: rename(name, table))
    return _with_second_names(packed(known)), unknown


def _with_second_names(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face writes a tensor with several names once."""
    inside = "transformer.decoder."
    layers = 1 + max((int(found[1]) for name in official if (found := _LAYER.match(name))), default=-1)
    for name, value in list(official.items()):
        found = re.match(r"(?:transformer\.decoder\.)?((?:bbox|class)_embed\..*)", name)
        if found is None:
            continue
        official.setdefault(found[1], value)
        if re.match(r"bbox_embed\.layers\.", found[1]) and f"{inside}ref_anchor_head.layers.0.weight" in official:
            official.setdefault(inside + found[1], value)
    for name in [name for name in official if re.match(r"(bbox|class)_embed\.0\.", name)]:
        for layer in range(1, layers):
            official.setdefault(name.replace(".0.", f".{layer}.", 1), official[name])
    return official


_LAYER = re.compile(r"transformer\.decoder\.layers\.(\d{1,3})\.")


def from_official(tensors: Mapping[str, Tensor], project: str, *, native: bool) -> dict[str, Tensor]:
    """Under generation 4 names; `native`: the backbone as transformers' own ResNet, otherwise as timm's."""
    naming = NAMINGS[project]
    table = swapped([*(_NATIVE_BACKBONE if native else _TIMM_BACKBONE), *naming.table])
    known, unknown = renamed(unpacked(tensors), lambda name: rename(name, table))
    if unknown:
        raise CheckpointError(f"{len(unknown)} of its tensors have no name there, first {next(iter(unknown))}")
    return known


# ---- config.json ----

_CONFIG = {
    "dilation": "dilation",
    "dropout": "dropout",
    "encoder_attention_heads": "nheads",
    "num_queries": "num_queries",
    "position_embedding_type": "position_embedding",
    "class_cost": "set_cost_class",
    "bbox_cost": "set_cost_bbox",
    "giou_cost": "set_cost_giou",
    "cls_loss_coefficient": "cls_loss_coef",
    "bbox_loss_coefficient": "bbox_loss_coef",
    "giou_loss_coefficient": "giou_loss_coef",
    "eos_coefficient": "eos_coef",
    "focal_alpha": "focal_alpha",
    "temperature_height": "pe_temperatureH",
    "temperature_width": "pe_temperatureW",
}
"""config.json's words for official build arguments."""


def known_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The official build arguments that a config.json tells. CheckpointError for what no official code can build."""
    heads = [config.get(f"{part}_attention_heads") for part in ("encoder", "decoder")]
    if heads[0] != heads[1]:
        raise CheckpointError(f"its config.json has {heads[0]} heads in the encoder and {heads[1]} in the decoder")
    known = {official: config[theirs] for theirs, official in _CONFIG.items() if theirs in config}
    if config.get("two_stage"):
        known["num_queries"] = config.get("two_stage_num_proposals", known.get("num_queries"))
    activation = config.get("activation_function")
    if config.get("model_type") == NAMINGS["dab"].model_type and isinstance(activation, str):
        known["transformer_activation"] = activation
    elif activation not in (None, "relu"):
        raise CheckpointError(f"its config.json has activation_function {activation}; this model has relu only")
    if config and "dilation" not in known:
        known["dilation"] = False  # only differences to the defaults are written
    return known


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that a config.json gives to the classes, in order; empty where it has none but LABEL_0, LABEL_1, ..."""
    names = config.get("id2label")
    if not isinstance(names, Mapping):
        return ()
    ordered = [names.get(str(row), names.get(row)) for row in range(len(names))]
    if not all(isinstance(name, str) for name in ordered) or all(re.match(r"LABEL_\d+$", str(n)) for n in ordered):
        return ()
    return tuple(str(name) for name in ordered)
