"""The published projects: how their build arguments become our sections, and their names ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from detrctl.recipe.schema import Model, SetObjective
from detrctl.weights.official import (
    conditional_sections,
    dab_deformable_names,
    dab_deformable_sections,
    dab_sections,
    deformable_names,
    deformable_sections,
    detr_sections,
    dino_names,
    dino_sections,
    dn_dab_deformable_sections,
    dn_dab_sections,
)
from detrctl.weights.tables import CONDITIONAL, DAB, DETR, Table


@dataclass(frozen=True)
class Format:
    """`family` is the one of ours that builds it, `names` the table of a model's parameters (theirs, ours)."""

    family: str
    sections: Callable[[Mapping[str, Any]], tuple[Model, SetObjective]]
    names: Callable[[Any], Table]


FORMATS: dict[str, Format] = {
    "detr": Format("detr", detr_sections, lambda model: DETR),
    "conditional": Format("conditional", conditional_sections, lambda model: CONDITIONAL),
    "dab": Format("dab", dab_sections, lambda model: DAB),
    "dn_dab": Format("dab", dn_dab_sections, lambda model: DAB),
    "deformable": Format("deformable", deformable_sections, deformable_names),
    "dab_deformable": Format("dab_deformable", dab_deformable_sections, dab_deformable_names),
    "dn_dab_deformable": Format("dab_deformable", dn_dab_deformable_sections, dab_deformable_names),
    "dino": Format("dino", dino_sections, dino_names),
}


def project_of(model: Any) -> str | None:
    """The project whose code builds such a model, None where no published code does."""
    if model.family in ("dab", "dab_deformable") and model.denoising.kind != "none":
        return f"dn_{model.family}"
    return model.family if model.family in FORMATS else None
