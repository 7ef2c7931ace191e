"""What several families build alike."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detrctl.losses.classification import Classification, FocalClassification, VarifocalClassification
from detrctl.losses.criterion import Criterion, LossWeights
from detrctl.losses.matcher import Matcher, focal_cost
from detrctl.losses.plan import Plan
from detrctl.model.layers import MLP
from detrctl.model.neck import PositionsApart, PositionsInValues
from detrctl.model.position_encoding import LearnedPosition, SinePosition
from detrctl.parts import build_part
from detrctl.recipe import schema

PLACEMENTS = {"attention": PositionsApart, "values": PositionsInValues}

CLASS_TARGETS: dict[str, Callable[[float, float], Classification]] = {
    "one": FocalClassification,
    "iou": VarifocalClassification,
}

PRIOR = 0.01
"""What a sigmoid class head says before training: focal loss starts badly from one half (Lin et al. 2017, 3.3)."""


def build_position(position: schema.PositionEncoding, width: int) -> nn.Module:
    if position.kind == "learned":
        return LearnedPosition(width=width)
    return SinePosition(width=width, temperature=position.temperature, offset=position.offset, cycles=position.cycles)


# ---- heads ----


def build_class_head(model: schema.Model, outputs: int) -> nn.Module:
    if model.class_head:
        return build_part(model.class_head, nn.Module, model.width, outputs)
    return nn.Linear(model.width, outputs)


def build_box_head(model: schema.Model) -> nn.Module:
    if model.box_head:
        return build_part(model.box_head, nn.Module, model.width)
    return MLP(width=model.width, outputs=4, depth=3)


def build_prior_class_head(model: schema.Model, outputs: int) -> nn.Module:
    """A class head for sigmoids, with the published prior; one of somebody's own brings its own."""
    head = build_class_head(model, outputs)
    if isinstance(head, nn.Linear):
        nn.init.constant_(head.bias, -torch.tensor((1 - PRIOR) / PRIOR).log().item())
    return head


def build_moving_box_head(model: schema.Model, *, size_bias: float = 0.0) -> nn.Module:
    """A box head that starts by leaving its reference where it is; `size_bias` goes to width and height, in logits."""
    head = build_box_head(model)
    if isinstance(head, MLP):
        last = head.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[2:], size_bias)
    return head


def head_rows(model: schema.Model, outputs: int, *places: str) -> list[str]:
    """The class heads' tensors with one row per output: those that grow when the head gets one output more."""
    with torch.device("meta"):  # shapes only: no memory, and no random number is drawn
        shapes, larger = (
            {name: value.shape for name, value in build_class_head(model, count).state_dict().items()}
            for count in (outputs, outputs + 1)
        )
    grown = [name for name in shapes if shapes[name] != larger[name]]
    return [f"{place}.{name}" for place in places for name in grown]


# ---- objective ----


def build_matcher(match: schema.MatchCost, class_cost: Callable[[Tensor, Tensor], Tensor]) -> Matcher:
    return Matcher(class_cost, class_weight=match.class_weight, l1=match.l1, giou=match.giou)


def loss_weights(objective: schema.SetObjective) -> LossWeights:
    return LossWeights(objective.class_weight, objective.l1, objective.giou)


def focal_criterion(objective: schema.FocalObjective, *, foreground_only: bool = False) -> Criterion:
    """`foreground_only`: the encoder's proposals learn object or not, instead of classes."""
    cost = focal_cost(alpha=objective.match.alpha, gamma=objective.gamma)
    return Criterion(
        plan=Plan(
            build_matcher(objective.match, cost),
            auxiliary=objective.auxiliary,
            encoder=objective.encoder,
            encoder_matches=objective.encoder_matches,
            foreground_only=foreground_only,
        ),
        classification=CLASS_TARGETS[objective.class_target](objective.alpha, objective.gamma),
        weights=loss_weights(objective),
    )
