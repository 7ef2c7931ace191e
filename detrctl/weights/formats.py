"""The published projects: how their build arguments become our sections, and their names ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from detrctl.recipe.schema import DabModel, FocalObjective, Model, SetObjective
from detrctl.weights.official import (
    conditional_sections,
    deformable_names,
    deformable_sections,
    detr_sections,
    dino_names,
    dino_sections,
    dn_dab_sections,
)
from detrctl.weights.tables import CONDITIONAL, DAB, DETR, Table


@dataclass(frozen=True)
class Format:
    """`family` is the one of ours that builds it, `names` the table of a model's parameters (theirs, ours)."""

    family: str
    sections: Callable[[Mapping[str, Any]], tuple[Model, SetObjective]]
    names: Callable[[Any], Table]


def dab_sections(arguments: Mapping[str, Any]) -> tuple[DabModel, FocalObjective]:
    """The model and the objective that IDEA-Research/DAB-DETR builds: DN-DETR's, without noised queries."""
    noise = {"scalar": 5, "label_noise_scale": 0.2, "box_noise_scale": 0.4}
    model, objective = dn_dab_sections({**noise, "use_dn": False, **arguments})
    without = model.denoising.model_copy(update={"kind": "none"})
    return model.model_copy(update={"denoising": without}), objective


FORMATS: dict[str, Format] = {
    "detr": Format("detr", detr_sections, lambda model: DETR),
    "conditional": Format("conditional", conditional_sections, lambda model: CONDITIONAL),
    "dab": Format("dab", dab_sections, lambda model: DAB),
    "dn_dab": Format("dab", dn_dab_sections, lambda model: DAB),
    "deformable": Format("deformable", deformable_sections, deformable_names),
    "dino": Format("dino", dino_sections, dino_names),
}


def project_of(model: Any) -> str | None:
    """The project whose code builds such a model, None where no published code does."""
    if model.family == "dab":
        return "dab" if model.denoising.kind == "none" else "dn_dab"
    return model.family if model.family in FORMATS else None
