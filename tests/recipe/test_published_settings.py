"""Every published recipe says what its paper's authors trained with, number by number.

The tables below were written from the official repositories, not from the recipes: `main.py` and README of
facebookresearch/detr, fundamentalvision/Deformable-DETR, Atten4Vis/ConditionalDETR, IDEA-Research/DAB-DETR and
IDEA-Research/DN-DETR, config/DINO and scripts of IDEA-Research/DINO, projects/dino of IDEA-Research/detrex (Swin-T),
and references/detection of pytorch/vision (Faster R-CNN).
"""

from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml

from detrctl.recipe.load import load_recipe
from detrctl.recipe.locate import shipped

Settings = dict[str, Any]

OF_THIS_PROJECT = {"quickstart", "small_data", "finetune", "faster_rcnn_small_data"}

TRAINING: Settings = {
    "train.optimizer": "adamw",
    "train.batch_size": 16,
    "train.reference_batch_size": 16,
    "train.accumulate": 1,
    "train.lr": 1e-4,
    "train.backbone_lr": 1e-5,
    "train.sampling_lr_factor": 1,
    "train.scale_lr": "none",
    "train.weight_decay": 1e-4,
    "train.clip_norm": 0.1,
    "train.epochs": 50,
    "train.schedule.kind": "step",
    "train.schedule.drop_epochs": [40],
    "train.schedule.drop_factor": 0.1,
    "train.schedule.warmup_steps": 0,
    "train.ema": 0,
    "train.precision": "fp32",
    "data.augment.policy": "detr",
    "data.augment.sizes": [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
    "data.augment.max_size": 1333,
    "data.augment.crop_first": [400, 500, 600],
    "data.augment.crop_size": (384, 600),
    "data.augment.flip": 0.5,
    "data.augment.vertical_flip": 0,
    "data.augment.photometric": False,
    "data.eval_size": 800,
    "data.eval_max_size": 1333,
    "data.eval_square": False,
}
RESNET50: Settings = {
    "model.backbone.name": "resnet50",
    "model.backbone.weights": "imagenet",
    "model.backbone.norm": "frozen",
    "model.backbone.frozen_stages": 2,
    "model.backbone.dilation": False,
}
DETR_FAMILY: Settings = {
    **TRAINING,
    **RESNET50,
    "model.position.kind": "sine",
    "model.position.temperature": 10000,
    "model.position.offset": 0,
    "model.position.cycles": 1,
    "model.position.added_to": "attention",
    "model.width": 256,
    "model.heads": 8,
    "model.feedforward": 2048,
    "model.encoder_layers": 6,
    "model.decoder_layers": 6,
    "model.dropout": 0.1,
    "model.query_groups": 1,
    "objective.match.l1": 5,
    "objective.match.giou": 2,
    "objective.l1": 5,
    "objective.giou": 2,
    "objective.auxiliary": True,
}
ONE_STAGE: Settings = {"model.backbone.stage": 5}
FOCAL: Settings = {
    "objective.kind": "focal",
    "objective.match.class_weight": 2,
    "objective.alpha": 0.25,
    "objective.gamma": 2,
    "objective.class_target": "one",
    "objective.encoder_matches": 1,
    "model.queries": 300,
}
MULTI_SCALE: Settings = {
    "model.backbone.stages": [3, 4, 5],
    "model.extra_levels": 1,
    "model.encoder_points": 4,
    "model.decoder_points": 4,
}
GROUPED: Settings = {
    "model.denoising.kind": "grouped",
    "model.denoising.groups": 5,
    "model.denoising.label_noise": 0.2,
    "model.denoising.box_noise": 0.4,
}

DETR: Settings = {
    **DETR_FAMILY,
    **ONE_STAGE,
    "model.family": "detr",
    "model.norm_first": False,
    "model.queries": 100,
    "model.query_content": "zero",
    "objective.kind": "softmax",
    "objective.match.class_weight": 1,
    "objective.class_weight": 1,
    "objective.no_object": 0.1,
    "train.epochs": 500,
    "train.schedule.drop_epochs": [400],
}
DETR_DC5: Settings = {**DETR, "model.backbone.dilation": True, "train.accumulate": 2, "evaluate.batch_size": 1}
CONDITIONAL: Settings = {
    **DETR_FAMILY,
    **ONE_STAGE,
    **FOCAL,
    "model.family": "conditional",
    "model.detections": 100,
    "objective.class_weight": 2,
}
DEFORMABLE: Settings = {
    **DETR_FAMILY,
    **MULTI_SCALE,
    **FOCAL,
    "model.family": "deformable",
    "model.position.offset": -0.5,
    "model.feedforward": 1024,
    "model.query_source": "learned",
    "model.reference": "fixed",
    "model.prediction_heads": "shared",
    "model.smallest_anchor": 0.05,
    "model.proposal_nms": None,
    "model.detections": 100,
    "objective.class_weight": 2,
    "train.batch_size": 32,
    "train.reference_batch_size": 32,
    "train.lr": 2e-4,
    "train.backbone_lr": 2e-5,
    "train.sampling_lr_factor": 0.1,
}
SINGLE_SCALE: Settings = {**DEFORMABLE, "model.backbone.stages": [5], "model.extra_levels": 0}
REFINED: Settings = {**DEFORMABLE, "model.reference": "refined", "model.prediction_heads": "per_layer"}
DAB: Settings = {
    **DETR_FAMILY,
    **ONE_STAGE,
    **FOCAL,
    "model.family": "dab",
    "model.position.temperature": 20,
    "model.activation": "prelu",
    "model.dropout": 0,
    "model.patterns": 0,
    "model.reference": "refined_twice",
    "model.detections": 300,
    "model.denoising.kind": "none",
    "objective.class_weight": 1,
}
DAB_DEFORMABLE: Settings = {
    **DETR_FAMILY,
    **MULTI_SCALE,
    **FOCAL,
    "model.family": "dab_deformable",
    # Whatever main.py's arguments say: its position_encoding.py is Deformable DETR's, its PostProcess takes 100.
    "model.position.offset": -0.5,
    "model.detections": 100,
    "model.dropout": 0,
    "model.reference": "refined",
    "model.prediction_heads": "per_layer",
    "model.denoising.kind": "none",
    "objective.class_weight": 1,
}
DINO: Settings = {
    **DETR_FAMILY,
    **MULTI_SCALE,
    **FOCAL,
    "model.family": "dino",
    "model.position.temperature": 20,
    "model.dropout": 0,
    "model.queries": 900,
    "model.reference": "refined_twice",
    "model.prediction_heads": "shared",
    "model.proposal_heads": "own",
    "model.smallest_anchor": 0.05,
    "model.proposal_nms": None,
    "model.detections": 300,
    "model.denoising.copies": 100,
    "model.denoising.label_noise": 0.5,
    "model.denoising.box_noise": 1.0,  # scripts/DINO_train.sh; the configuration alone says 0.4
    "objective.class_weight": 1,
    "objective.encoder": "selected_proposals",
    "train.epochs": 12,
    "train.schedule.drop_epochs": [11],
}
SWIN: Settings = {**DINO, "model.backbone.frozen_stages": 0, "model.backbone.drop_path": 0.1}
FASTER_RCNN: Settings = {
    **TRAINING,
    **RESNET50,
    "model.family": "faster_rcnn",
    "model.pyramid_width": 256,
    "model.anchor_sizes": [32, 64, 128, 256, 512],
    "model.anchor_ratios": [0.5, 1.0, 2.0],
    "model.proposals.before_nms": 1000,
    "model.proposals.after_nms": 1000,
    "model.proposals.train_before_nms": 2000,
    "model.proposals.train_after_nms": 2000,
    "model.proposals.nms": 0.7,
    "model.box_head_width": 1024,
    "model.score_threshold": 0.05,
    "model.nms": 0.5,
    "model.detections": 100,
    "objective.kind": "rcnn",
    "objective.anchors_per_image": 256,
    "objective.rois_per_image": 512,
    "data.augment.sizes": [800],
    "data.augment.crop_first": [],
    "train.optimizer": "sgd",
    "train.epochs": 26,
    "train.lr": 0.02,
    "train.backbone_lr": 0.02,
    "train.clip_norm": 0,
    "train.schedule.drop_epochs": [16, 22],
    "train.schedule.warmup_steps": 1000,
}

PUBLISHED: dict[str, Settings] = {
    "detr_r50": DETR,
    "detr_r101": {**DETR, "model.backbone.name": "resnet101"},
    "detr_dc5_r50": DETR_DC5,
    "detr_dc5_r101": {**DETR_DC5, "model.backbone.name": "resnet101"},
    "conditional_r50": CONDITIONAL,
    "dab_r50": DAB,
    "dn_dab_r50": {**DAB, **GROUPED},
    "deformable": DEFORMABLE,
    "deformable_ss": SINGLE_SCALE,
    "deformable_ss_dc5": {**SINGLE_SCALE, "model.backbone.dilation": True},
    "deformable_refine": REFINED,
    "deformable_two_stage": {
        **REFINED,
        "model.query_source": "proposals",
        "model.ranking": "foreground",
        "objective.encoder": "all_proposals",
    },
    "dab_deformable_r50": DAB_DEFORMABLE,
    "dn_deformable_r50": {**DAB_DEFORMABLE, **GROUPED},
    "dino_4scale_r50": DINO,
    "dino_5scale_r50": {**DINO, "model.backbone.stages": [2, 3, 4, 5]},
    "dino_4scale_swin_t": {**SWIN, "model.backbone.name": "swin_t"},
    "dino_4scale_swin_v2_t": {**SWIN, "model.backbone.name": "swin_v2_t"},
    "faster_rcnn_r50": FASTER_RCNN,
}


def test_every_recipe_but_those_of_this_project_is_in_the_table() -> None:
    assert set(PUBLISHED) == set(shipped()) - OF_THIS_PROJECT


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_has_the_authors_settings(name: str) -> None:
    recipe = load_recipe(name).recipe
    assert {path: attrgetter(path)(recipe) for path in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_that_a_published_recipe_says_is_left_out_of_the_table(name: str) -> None:
    assert said(shipped()[name]) - set(PUBLISHED[name]) == set()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_score_is_not_claimed(name: str) -> None:
    assert "# reproduced:    no, not by this project" in shipped()[name].read_text(encoding="utf-8")


def said(path: Path) -> set[str]:
    """The fields that a recipe's file names, and those of the recipe that it extends."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = content.pop("extends", None)
    return set(leaves(content)) | (said(shipped()[base]) if base else set())


def leaves(section: Settings, before: str = "") -> list[str]:
    found = []
    for key, value in section.items():
        found += leaves(value, f"{before}{key}.") if isinstance(value, dict) else [f"{before}{key}"]
    return found
