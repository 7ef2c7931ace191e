"""What the published repositories' build arguments say, as sections of a recipe."""

from collections.abc import Mapping
from typing import Any

from detrctl.recipe.schema import DetrModel, MatchCost, OneStage, PositionEncoding, SoftmaxObjective

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
