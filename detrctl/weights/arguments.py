"""Official build arguments: published values of those that no weight tells, and what detrctl has one value only of."""

from collections.abc import Mapping
from typing import Any

from detrctl.errors import DetrctlError

_COMMON: dict[str, Any] = {
    "lr_backbone": 1e-5,
    "dilation": False,
    "position_embedding": "sine",
    "dropout": 0.1,
    "pre_norm": False,
    "aux_loss": True,
    "set_cost_class": 2.0,
    "set_cost_bbox": 5.0,
    "set_cost_giou": 2.0,
    "cls_loss_coef": 2.0,
    "bbox_loss_coef": 5.0,
    "giou_loss_coef": 2.0,
    "focal_alpha": 0.25,
}
_ANCHORS: dict[str, Any] = {
    "pe_temperatureH": 20,
    "pe_temperatureW": 20,
    "num_select": 300,
    "dropout": 0.0,
    "cls_loss_coef": 1.0,
    "batch_norm_type": "FrozenBatchNorm2d",
}
_NOISE: dict[str, Any] = {"scalar": 5, "label_noise_scale": 0.2, "box_noise_scale": 0.4}
DEFAULTS: dict[str, dict[str, Any]] = {
    "detr": {**_COMMON, "set_cost_class": 1.0, "eos_coef": 0.1},
    "conditional": _COMMON,
    "dab": {**_COMMON, **_ANCHORS, "num_patterns": 0},
    "dn_dab": {**_COMMON, **_ANCHORS, "num_patterns": 0, **_NOISE},
    "deformable": _COMMON,
    "dab_deformable": {**_COMMON, **_ANCHORS},
    "dn_dab_deformable": {**_COMMON, **_ANCHORS, **_NOISE},
    "dino": {
        **_COMMON,
        **_ANCHORS,
        "dn_number": 100,
        "dn_label_noise_ratio": 0.5,
        "dn_box_noise_scale": 1.0,
        "use_detached_boxes_dec_out": False,
        "dec_pred_class_embed_share": True,
        "dec_pred_bbox_embed_share": True,
    },
}
"""By project: the published value of every argument that changes no name and no shape."""

ONLY: dict[str, dict[str, Any]] = {
    "conditional": {"pre_norm": False},
    "dab": {"pre_norm": False},
    "dn_dab": {"pre_norm": False},
    "dab_deformable": {"num_patterns": 0, "two_stage": False},
    "dn_dab_deformable": {"num_patterns": 0, "two_stage": False},
    "dino": {
        "pre_norm": False,
        "transformer_activation": "relu",
        "num_patterns": 0,
        "two_stage_type": "standard",
        "two_stage_pat_embed": 0,
        "two_stage_add_query_num": 0,
        "two_stage_learn_wh": False,
        "embed_init_tgt": True,
        "decoder_sa_type": "sa",
        "decoder_module_seq": ["sa", "ca", "ffn"],
        "dec_layer_number": None,
        "use_deformable_box_attn": False,
        "add_channel_attention": False,
        "add_pos_value": False,
    },
}
"""By project: arguments that decide what weights mean, with the value that detrctl has."""

ONLY_TRAINED: dict[str, dict[str, Any]] = {
    "dn_dab": {"use_dn": True, "contrastive": False, "use_mqs": False, "use_lft": False},
    "dn_dab_deformable": {"use_dn": True, "contrastive": False},
    "dino": {
        "interm_loss_coef": 1.0,
        "no_interm_box_loss": False,
        "decoder_layer_noise": False,
        "matcher_type": "HungarianMatcher",
        "nms_iou_threshold": -1,
    },
}
"""The same of arguments that trained weights mean the same without. Those of a file are not asked for these."""


def require_known(project: str, arguments: Mapping[str, Any]) -> None:
    """DetrctlError for the first argument of a value that detrctl does not have."""
    for name, value in {**ONLY.get(project, {}), **ONLY_TRAINED.get(project, {})}.items():
        if arguments.get(name, value) != value:
            raise DetrctlError(f"built with {name} {arguments[name]}; detrctl has {name} {value} only")


def choice(name: str, arguments: Mapping[str, Any], choices: Mapping[str, Any]) -> Any:
    """What an argument chooses. DetrctlError for a choice that detrctl does not have."""
    if arguments[name] not in choices:
        raise DetrctlError(f"built with {name} {arguments[name]}; detrctl has {name} {', '.join(choices)} only")
    return choices[arguments[name]]


def alike(value: Any, published: Any) -> bool:
    """Whether a value is of the kind of the published one."""
    if isinstance(published, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(published, bool)
    return isinstance(value, int | float) if isinstance(published, int | float) else isinstance(value, type(published))
