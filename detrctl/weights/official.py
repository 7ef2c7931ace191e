"""What the published repositories' build arguments say, as sections of a recipe."""

from collections.abc import Mapping
from typing import Any

from detrctl.errors import DetrctlError
from detrctl.recipe.schema import (
    ConditionalModel,
    ContrastiveDenoising,
    DabDeformableModel,
    DabModel,
    DeformableModel,
    DetrModel,
    DinoModel,
    FocalMatchCost,
    FocalObjective,
    GroupedDenoising,
    MatchCost,
    OneStage,
    PositionEncoding,
    SeveralStages,
    SoftmaxObjective,
)
from detrctl.weights.arguments import choice, require_known
from detrctl.weights.tables import Table, dab_deformable_table, deformable_table, dino_table

NORMS: dict[str, Any] = {"FrozenBatchNorm2d": "frozen", "BatchNorm2d": "batch", "SyncBatchNorm": "batch"}
POSITIONS: dict[str, Any] = {"sine": "sine", "v2": "sine", "learned": "learned", "v3": "learned"}


def _frozen_stages(arguments: Mapping[str, Any]) -> int:
    """A backbone rate of 0 leaves the whole backbone untrained there; any other trains stages 3 to 5."""
    return 2 if arguments["lr_backbone"] > 0 else 5


def _position(arguments: Mapping[str, Any], **more: float) -> PositionEncoding:
    return PositionEncoding(kind=choice("position_embedding", arguments, POSITIONS), **more)


def _position_with_temperature(arguments: Mapping[str, Any]) -> PositionEncoding:
    if arguments["pe_temperatureH"] != arguments["pe_temperatureW"]:
        raise DetrctlError("pe_temperatureH and pe_temperatureW differ: detrctl has one temperature for both")
    return _position(arguments, temperature=arguments["pe_temperatureH"])


def _sizes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What every model has, under our names."""
    return {
        "width": arguments["hidden_dim"],
        "heads": arguments["nheads"],
        "feedforward": arguments["dim_feedforward"],
        "encoder_layers": arguments["enc_layers"],
        "decoder_layers": arguments["dec_layers"],
        "dropout": arguments["dropout"],
        "queries": arguments["num_queries"],
    }


def detr_sections(arguments: Mapping[str, Any]) -> tuple[DetrModel, SoftmaxObjective]:
    """The model and the objective that facebookresearch/detr builds from these command-line arguments."""
    model = DetrModel(
        backbone=OneStage(
            name=arguments["backbone"],
            dilation=arguments["dilation"],
            frozen_stages=_frozen_stages(arguments),
        ),
        position=_position(arguments),
        **_sizes(arguments),
        norm_first=arguments["pre_norm"],
    )
    objective = SoftmaxObjective(
        match=MatchCost(
            class_weight=arguments["set_cost_class"], l1=arguments["set_cost_bbox"], giou=arguments["set_cost_giou"]
        ),
        l1=arguments["bbox_loss_coef"],
        giou=arguments["giou_loss_coef"],
        no_object=arguments["eos_coef"],
        auxiliary=arguments["aux_loss"],
    )
    return model, objective


def conditional_sections(arguments: Mapping[str, Any]) -> tuple[ConditionalModel, FocalObjective]:
    """The model and the objective that Atten4Vis/ConditionalDETR builds from these command-line arguments."""
    require_known("conditional", arguments)
    model = ConditionalModel(
        backbone=OneStage(
            name=arguments["backbone"],
            dilation=arguments["dilation"],
            frozen_stages=_frozen_stages(arguments),
        ),
        position=_position(arguments),
        **_sizes(arguments),
    )
    return model, _focal_objective(arguments, match_alpha=0.25)


def dab_sections(arguments: Mapping[str, Any]) -> tuple[DabModel, FocalObjective]:
    """The model and the objective that IDEA-Research/DAB-DETR builds from its DAB-DETR's command-line arguments."""
    require_known("dab", arguments)
    return _dab_model(arguments, GroupedDenoising()), _focal_objective(arguments)


def dn_dab_sections(arguments: Mapping[str, Any]) -> tuple[DabModel, FocalObjective]:
    """The model and the objective that IDEA-Research/DN-DETR builds from its DN-DAB-DETR's command-line arguments."""
    require_known("dn_dab", arguments)
    return _dab_model(arguments, _grouped_denoising(arguments)), _focal_objective(arguments)


def _dab_model(arguments: Mapping[str, Any], denoising: GroupedDenoising) -> DabModel:
    """`random_refpoints_xy` does not count: it says where boxes start, and trains them all the same."""
    return DabModel(
        backbone=OneStage(
            name=arguments["backbone"],
            norm=choice("batch_norm_type", arguments, NORMS),
            dilation=arguments["dilation"],
            frozen_stages=_frozen_stages(arguments),
        ),
        position=_position_with_temperature(arguments),
        **_sizes(arguments),
        activation=arguments["transformer_activation"],
        patterns=arguments["num_patterns"],
        detections=arguments["num_select"],
        denoising=denoising,
    )


def _grouped_denoising(arguments: Mapping[str, Any]) -> GroupedDenoising:
    return GroupedDenoising(
        kind="grouped",
        groups=arguments["scalar"],
        label_noise=arguments["label_noise_scale"],
        box_noise=arguments["box_noise_scale"],
    )


def _focal_objective(arguments: Mapping[str, Any], *, match_alpha: float | None = None, **more: Any) -> FocalObjective:
    """`match_alpha`: what the code's matcher has written into it; None where `focal_alpha` is its, too."""
    return FocalObjective(
        match=FocalMatchCost(
            class_weight=arguments["set_cost_class"],
            l1=arguments["set_cost_bbox"],
            giou=arguments["set_cost_giou"],
            alpha=arguments["focal_alpha"] if match_alpha is None else match_alpha,
        ),
        class_weight=arguments["cls_loss_coef"],
        l1=arguments["bbox_loss_coef"],
        giou=arguments["giou_loss_coef"],
        alpha=arguments["focal_alpha"],
        auxiliary=arguments["aux_loss"],
        **more,
    )


def deformable_sections(arguments: Mapping[str, Any]) -> tuple[DeformableModel, FocalObjective]:
    """The model and the objective that fundamentalvision/Deformable-DETR builds from these command-line arguments."""
    model = DeformableModel(
        backbone=SeveralStages(
            name=arguments["backbone"],
            dilation=arguments["dilation"],
            frozen_stages=_frozen_stages(arguments),
            stages=_stages(arguments),
        ),
        position=_position(arguments, offset=-0.5),
        **_sizes(arguments),
        **_levels_and_refinement(arguments),
        query_source="proposals" if arguments["two_stage"] else "learned",
    )
    return model, _focal_objective(arguments, match_alpha=0.25)


def _stages(arguments: Mapping[str, Any]) -> list[Any]:
    return [3, 4, 5] if arguments["num_feature_levels"] > 1 else [5]


def _levels_and_refinement(arguments: Mapping[str, Any]) -> dict[str, Any]:
    refined = arguments["with_box_refine"]
    return {
        "extra_levels": max(arguments["num_feature_levels"] - 3, 0),
        "encoder_points": arguments["enc_n_points"],
        "decoder_points": arguments["dec_n_points"],
        "reference": "refined" if refined else "fixed",
        "prediction_heads": "per_layer" if refined else "shared",
    }


DETECTIONS = 100
"""What DAB-Deformable-DETR's and DN-Deformable-DETR's authors keep of an image, whatever num_select says."""


def dab_deformable_sections(arguments: Mapping[str, Any]) -> tuple[DabDeformableModel, FocalObjective]:
    """The model and the objective that IDEA-Research/DAB-DETR builds from its DAB-Deformable-DETR's arguments."""
    require_known("dab_deformable", arguments)
    return _dab_deformable_model(arguments, GroupedDenoising()), _focal_objective(arguments)


def dn_dab_deformable_sections(arguments: Mapping[str, Any]) -> tuple[DabDeformableModel, FocalObjective]:
    """The model and the objective that IDEA-Research/DN-DETR builds from its DN-DAB-Deformable-DETR's arguments."""
    require_known("dn_dab_deformable", arguments)
    return _dab_deformable_model(arguments, _grouped_denoising(arguments)), _focal_objective(arguments)


def _dab_deformable_model(arguments: Mapping[str, Any], denoising: GroupedDenoising) -> DabDeformableModel:
    """Neither `random_refpoints_xy` counts (see `_dab_model`) nor `transformer_activation`: it is a ReLU there."""
    return DabDeformableModel(
        backbone=SeveralStages(
            name=arguments["backbone"],
            norm=choice("batch_norm_type", arguments, NORMS),
            dilation=arguments["dilation"],
            frozen_stages=_frozen_stages(arguments),
            stages=_stages(arguments),
        ),
        position=_position(arguments, temperature=10_000.0, offset=-0.5),  # fixed there, whatever pe_temperature* says
        **_sizes(arguments),
        **_levels_and_refinement(arguments),
        detections=DETECTIONS,
        denoising=denoising,
    )


def dab_deformable_names(model: DabDeformableModel) -> Table:
    return dab_deformable_table(per_layer=model.prediction_heads == "per_layer")  # mixed heads have no official names


def deformable_names(model: DeformableModel) -> Table:
    return deformable_table(
        layers=model.decoder_layers,
        per_layer=model.prediction_heads == "per_layer",  # mixed heads have no official names
        two_stage=model.query_source == "proposals",
    )


def dino_sections(arguments: Mapping[str, Any]) -> tuple[DinoModel, FocalObjective]:
    """The model and the objective that IDEA-Research/DINO builds from its configuration."""
    require_known("dino", arguments)
    stages = [index + 2 for index in arguments["return_interm_indices"]]
    model = DinoModel(
        backbone=SeveralStages(
            name=arguments["backbone"],
            norm=choice("batch_norm_type", arguments, NORMS),
            dilation=arguments["dilation"],
            frozen_stages=_frozen_stages(arguments),
            stages=stages,
        ),
        extra_levels=arguments["num_feature_levels"] - len(stages),
        position=_position_with_temperature(arguments),
        **_sizes(arguments),
        encoder_points=arguments["enc_n_points"],
        decoder_points=arguments["dec_n_points"],
        reference="refined" if arguments["use_detached_boxes_dec_out"] else "refined_twice",
        prediction_heads=_HEADS[arguments["dec_pred_class_embed_share"], arguments["dec_pred_bbox_embed_share"]],
        proposal_heads=_PROPOSAL_HEADS[
            arguments.get("two_stage_class_embed_share", False), arguments.get("two_stage_bbox_embed_share", False)
        ],
        detections=arguments["num_select"],
        denoising=ContrastiveDenoising(
            copies=arguments["dn_number"] if arguments["use_dn"] else 0,
            label_noise=arguments["dn_label_noise_ratio"],
            box_noise=arguments["dn_box_noise_scale"],
        ),
    )
    every = arguments.get("two_stage_keep_all_tokens", False)
    return model, _focal_objective(arguments, encoder="all_proposals" if every else "selected_proposals")


def dino_names(model: DinoModel) -> Table:
    return dino_table(
        per_layer_class=model.prediction_heads in ("per_layer", "class_per_layer"),
        per_layer_box=model.prediction_heads in ("per_layer", "box_per_layer"),
    )


_HEADS: dict[tuple[bool, bool], Any] = {
    (True, True): "shared",
    (False, False): "per_layer",
    (False, True): "class_per_layer",
    (True, False): "box_per_layer",
}
_PROPOSAL_HEADS: dict[tuple[bool, bool], Any] = {
    (False, False): "own",
    (True, False): "decoder_class",
    (False, True): "decoder_box",
    (True, True): "decoder",
}
"""By whether class heads and box heads are shared."""
