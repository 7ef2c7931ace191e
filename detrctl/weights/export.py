"""Our weights under other projects' names, in files that read back as the same model."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from detrctl.errors import CheckpointError
from detrctl.structures import Categories
from detrctl.weights import huggingface
from detrctl.weights.files import WeightFile, model_file, written_whole
from detrctl.weights.fitting import differences
from detrctl.weights.formats import FORMATS, project_of
from detrctl.weights.identify import identify
from detrctl.weights.interpret import interpret
from detrctl.weights.names import published_names

RESNETS = {
    "resnet10": ("basic", [1, 1, 1, 1]),
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
    "resnet101": ("bottleneck", [3, 4, 23, 3]),
}


def official_file(model: Any, weights: Mapping[str, Tensor], categories: Categories, path: Path) -> WeightFile:
    """What the official code would have saved. CheckpointError where no official code builds such a model."""
    project = project_of(model)
    if project is None:
        raise CheckpointError(f"a model of family {model.family} has no official format: convert it --to detrctl only")
    table = FORMATS[project].names(model)
    tensors: dict[str, Tensor] = {}
    for ours, value in weights.items():
        names = published_names(ours, table, layers=model.decoder_layers)
        if not names and not ours.endswith("num_batches_tracked"):
            raise CheckpointError(f"{ours} has no name in the official format")
        tensors |= dict.fromkeys(names, value)
    tensors = _only_official(tensors, project, model)
    classes = {"class_names": list(categories.names), "class_ids": list(categories.ids)}
    made = WeightFile(path, "PyTorch", tensors, arguments={**_arguments(model), **classes})
    _require_same(made, model, weights, "official")
    return made


def _only_official(tensors: dict[str, Tensor], project: str, model: Any) -> dict[str, Tensor]:
    """Second names inside the decoder tell refinement and two stages: other models have none there."""
    if FORMATS[project].family not in ("deformable", "dab_deformable"):
        return tensors
    two_stage = getattr(model, "query_source", "learned") == "proposals"
    absent = {"bbox": model.reference == "fixed", "class": not two_stage}
    dropped = tuple(f"transformer.decoder.{kind}_embed." for kind, is_absent in absent.items() if is_absent)
    return {name: value for name, value in tensors.items() if not name.startswith(dropped)}


def _arguments(model: Any) -> dict[str, Any]:
    """The build arguments that weights do not tell."""
    told = {
        "nheads": model.heads,
        "dilation": model.backbone.dilation,
        "dropout": model.dropout,
        "num_queries": model.queries,
        "pe_temperatureH": model.position.temperature,
        "pe_temperatureW": model.position.temperature,
        "num_select": getattr(model, "detections", None),
        "transformer_activation": getattr(model, "activation", None),
    }
    if model.family == "dino":
        told["use_detached_boxes_dec_out"] = model.reference == "refined"
    return {name: value for name, value in told.items() if value is not None}


def _require_same(made: WeightFile, model: Any, weights: Mapping[str, Tensor], form: str) -> None:
    """Reads back what was made: a model that comes out different is one that the format cannot say."""
    try:
        back = interpret(made)
    except CheckpointError as error:
        text = str(error).removeprefix(f"{made.path}: ")
        raise CheckpointError(
            f"the {form} format cannot say this model ({text}): convert it --to detrctl only"
        ) from error
    if off := differences(back.model, model):
        raise CheckpointError(f"the {form} format cannot say this model ({off[0]}): convert it --to detrctl only")
    wanted = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    lost = [
        name for name, value in wanted.items() if name not in back.weights or not torch.equal(back.weights[name], value)
    ]
    if lost or back.unused:
        raise CheckpointError(f"the {form} format does not hold {(lost or list(back.unused))[0]} of this model")


def save_official(file: WeightFile) -> Path:
    """As `torch.save` of {"model": ..., "args": ...}, whole or not at all."""
    with written_whole(file.path) as part:
        torch.save({"model": file.tensors, "args": Namespace(**file.arguments)}, part)
    return file.path


# ---- Hugging Face ----


def hugging_face_file(model: Any, weights: Mapping[str, Tensor], categories: Categories, folder: Path) -> WeightFile:
    """Names of the generation that the Hub's files have. CheckpointError where transformers has no such model."""
    project = project_of(model)
    if project not in huggingface.NAMINGS:
        what = "DN-DAB-DETR" if project == "dn_dab" else f"a model of family {model.family}"
        raise CheckpointError(f"{what} has no Hugging Face format: transformers has no such model")
    official = official_file(model, weights, categories, folder).tensors
    dilated = model.backbone.dilation  # transformers' own ResNet cannot dilate, timm's can
    tensors = huggingface.from_official(official, project, native=not dilated)
    made = WeightFile(
        folder / "model.safetensors", "safetensors", tensors, config=_config(project, model, categories, official)
    )
    _require_same(made, model, weights, "Hugging Face")
    return made


def _config(project: str, model: Any, categories: Categories, official: Mapping[str, Tensor]) -> dict[str, Any]:
    arguments = identify(
        {name: tuple(value.shape) for name, value in official.items()}, known=_arguments(model)
    ).arguments
    width = "hidden_size" if project == "dab" else "d_model"
    config: dict[str, Any] = {
        "architectures": [_CLASSES[project]],
        "model_type": huggingface.NAMINGS[project].model_type,
        width: model.width,
        "encoder_layers": model.encoder_layers,
        "decoder_layers": model.decoder_layers,
        "encoder_attention_heads": model.heads,
        "decoder_attention_heads": model.heads,
        "encoder_ffn_dim": model.feedforward,
        "decoder_ffn_dim": model.feedforward,
        "num_queries": model.queries,
        "dropout": model.dropout,
        "dilation": model.backbone.dilation,
        "position_embedding_type": model.position.kind,
        "id2label": {str(row): name for row, name in enumerate(categories.names)},
        "label2id": {name: row for row, name in enumerate(categories.names)},
        "detrctl_category_ids": list(categories.ids),
        **_backbone(model, project),
    }
    if project == "dab":
        temperature = model.position.temperature
        if temperature != int(temperature):
            raise CheckpointError(f"transformers wants a whole number, not model.position.temperature {temperature}")
        config |= {
            "temperature_height": int(temperature),
            "temperature_width": int(temperature),
            "activation_function": model.activation,
            "num_patterns": model.patterns,
        }
    if project == "deformable":
        config |= {
            "num_feature_levels": arguments["num_feature_levels"],
            "encoder_n_points": model.encoder_points,
            "decoder_n_points": model.decoder_points,
            "with_box_refine": arguments["with_box_refine"],
            "two_stage": arguments["two_stage"],
            "two_stage_num_proposals": model.queries,
        }
    return config


_CLASSES = {
    "detr": "DetrForObjectDetection",
    "conditional": "ConditionalDetrForObjectDetection",
    "dab": "DabDetrForObjectDetection",
    "deformable": "DeformableDetrForObjectDetection",
}


def _backbone(model: Any, project: str) -> dict[str, Any]:
    """Transformers' own ResNet; timm's where the last stage is dilated."""
    name = model.backbone.name
    if model.backbone.dilation:
        return {"use_timm_backbone": True, "use_pretrained_backbone": False, "backbone": name, "backbone_config": None}
    kind, depths = RESNETS[name]
    wide = 4 if kind == "bottleneck" else 1
    stages: Sequence[int] = model.backbone.stages if project == "deformable" else [model.backbone.stage]
    return {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": {
            "model_type": "resnet",
            "embedding_size": 64,
            "hidden_sizes": [64 * wide, 128 * wide, 256 * wide, 512 * wide],
            "depths": depths,
            "layer_type": kind,
            "out_features": [f"stage{stage - 1}" for stage in stages],
        },
    }


def save_hugging_face(file: WeightFile) -> Path:
    """A folder with model.safetensors and config.json, whole or not at all."""
    # A tensor under two names has to be stored twice: safetensors refuses shared memory.
    tensors = {name: value.contiguous().clone() for name, value in file.tensors.items()}
    with written_whole(file.path.parent) as part:
        part.mkdir()
        save_file(tensors, part / file.path.name, {"format": "pt"})
        (part / "config.json").write_text(json.dumps(dict(file.config), indent=2) + "\n", encoding="utf-8")
    assert model_file(file.path.parent) == file.path
    return file.path.parent
