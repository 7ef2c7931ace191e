"""What the published repositories' build arguments say, as sections of a recipe."""

from collections.abc import Mapping
from typing import Any

from detrctl.errors import DetrctlError
from detrctl.recipe.schema import (
    ConditionalModel,
    ContrastiveDenoising,
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
from detrctl.weights.tables import Table, deformable_table, dino_table

NORMS = {"FrozenBatchNorm2d": "frozen", "BatchNorm2d": "batch", "SyncBatchNorm": "batch"}
POSITIONS = {"sine": "sine", "v2": "sine", "learned": "learned", "v3": "learned"}


def detr_sections(arguments: Mapping[str, Any]) -> tuple[DetrModel, SoftmaxObjective]:
    """The model and the objective that facebookresearch/detr builds from these command-line arguments."""
    model = DetrModel(
        backbone=OneStage(
            name=arguments["backbone"],
            dilation=arguments["dilation"],
            # A backbone rate of 0 leaves the whole backbone untrained there; any other trains stages 3 to 5.
            frozen_stages=2 if arguments["lr_backbone"] > 0 else 5,
        ),
        position=PositionEncoding(kind=POSITIONS[arguments["position_embedding"]]),
        width=arguments["hidden_dim"],
        heads=arguments["nheads"],
        feedforward=arguments["dim_feedforward"],
        encoder_layers=arguments["enc_layers"],
        decoder_layers=arguments["dec_layers"],
        dropout=arguments["dropout"],
        norm_first=arguments["pre_norm"],
        queries=arguments["num_queries"],
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
    model = ConditionalModel(
        backbone=OneStage(
            name=arguments["backbone"],
            dilation=arguments["dilation"],
            frozen_stages=2 if arguments["lr_backbone"] > 0 else 5,
        ),
        position=PositionEncoding(kind=POSITIONS[arguments["position_embedding"]]),
        width=arguments["hidden_dim"],
        heads=arguments["nheads"],
        feedforward=arguments["dim_feedforward"],
        encoder_layers=arguments["enc_layers"],
        decoder_layers=arguments["dec_layers"],
        dropout=arguments["dropout"],
        queries=arguments["num_queries"],
    )
    return model, _focal_objective(arguments)


def dn_dab_sections(arguments: Mapping[str, Any]) -> tuple[DabModel, FocalObjective]:
    """The model and the objective that IDEA-Research/DN-DETR builds from its DN-DAB-DETR's command-line arguments."""
    if arguments["pe_temperatureH"] != arguments["pe_temperatureW"]:
        raise DetrctlError("pe_temperatureH and pe_temperatureW differ: detrctl has one temperature for both")
    model = DabModel(
        backbone=OneStage(
            name=arguments["backbone"],
            norm=NORMS[arguments["batch_norm_type"]],
            dilation=arguments["dilation"],
            frozen_stages=2 if arguments["lr_backbone"] > 0 else 5,
        ),
        position=PositionEncoding(
            kind=POSITIONS[arguments["position_embedding"]], temperature=arguments["pe_temperatureH"]
        ),
        width=arguments["hidden_dim"],
        heads=arguments["nheads"],
        feedforward=arguments["dim_feedforward"],
        encoder_layers=arguments["enc_layers"],
        decoder_layers=arguments["dec_layers"],
        dropout=arguments["dropout"],
        queries=arguments["num_queries"],
        activation=arguments["transformer_activation"],
        patterns=arguments["num_patterns"],
        detections=arguments["num_select"],
        denoising=GroupedDenoising(
            kind="grouped",
            groups=arguments["scalar"],
            label_noise=arguments["label_noise_scale"],
            box_noise=arguments["box_noise_scale"],
        ),
    )
    return model, _focal_objective(arguments)


def _focal_objective(arguments: Mapping[str, Any], **more: Any) -> FocalObjective:
    return FocalObjective(
        match=FocalMatchCost(
            class_weight=arguments["set_cost_class"], l1=arguments["set_cost_bbox"], giou=arguments["set_cost_giou"]
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
    levels, refined = arguments["num_feature_levels"], arguments["with_box_refine"]
    model = DeformableModel(
        backbone=SeveralStages(
            name=arguments["backbone"],
            dilation=arguments["dilation"],
            frozen_stages=2 if arguments["lr_backbone"] > 0 else 5,
            stages=[3, 4, 5] if levels > 1 else [5],
        ),
        extra_levels=max(levels - 3, 0),
        position=PositionEncoding(kind=POSITIONS[arguments["position_embedding"]], offset=-0.5),
        width=arguments["hidden_dim"],
        heads=arguments["nheads"],
        feedforward=arguments["dim_feedforward"],
        encoder_layers=arguments["enc_layers"],
        decoder_layers=arguments["dec_layers"],
        dropout=arguments["dropout"],
        queries=arguments["num_queries"],
        encoder_points=arguments["enc_n_points"],
        decoder_points=arguments["dec_n_points"],
        reference="refined" if refined else "fixed",
        prediction_heads="per_layer" if refined else "shared",
        query_source="proposals" if arguments["two_stage"] else "learned",
    )
    return model, _focal_objective(arguments)


def deformable_names(model: DeformableModel) -> Table:
    return deformable_table(
        layers=model.decoder_layers,
        per_layer=model.prediction_heads == "per_layer",  # mixed heads have no official names
        two_stage=model.query_source == "proposals",
    )


def dino_sections(arguments: Mapping[str, Any]) -> tuple[DinoModel, FocalObjective]:
    """The model and the objective that IDEA-Research/DINO builds from its configuration."""
    stages = [index + 2 for index in arguments["return_interm_indices"]]
    model = DinoModel(
        backbone=SeveralStages(
            name=arguments["backbone"],
            dilation=arguments["dilation"],
            frozen_stages=2 if arguments["lr_backbone"] > 0 else 5,
            stages=stages,
        ),
        extra_levels=arguments["num_feature_levels"] - len(stages),
        position=PositionEncoding(
            kind=POSITIONS[arguments["position_embedding"]], temperature=arguments["pe_temperatureH"]
        ),
        width=arguments["hidden_dim"],
        heads=arguments["nheads"],
        feedforward=arguments["dim_feedforward"],
        encoder_layers=arguments["enc_layers"],
        decoder_layers=arguments["dec_layers"],
        dropout=arguments["dropout"],
        queries=arguments["num_queries"],
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
    return model, _focal_objective(arguments, encoder="selected_proposals")


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
