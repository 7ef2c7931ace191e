"""What a file of weights is, which recipe fits it, and what does not fit."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from detrctl.engine.build import build_learner, require_trust
from detrctl.engine.open_weights import Opened, open_weights
from detrctl.weights.classes import described
from detrctl.weights.files import printable
from detrctl.weights.fitting import shipped_fits


@dataclass(frozen=True)
class TensorRow:
    """`kind` is `loaded`, `fresh` (the model has it, the file has not), `misfit` (of another shape) or `unused`."""

    name: str
    kind: str
    detail: str


@dataclass(frozen=True)
class Inspection:
    """`recipe` is the nearest shipped one, None where the family has none, `differences` what its model has different.

    `assumed` are build arguments that weights do not tell, with what was taken.
    """

    path: Path
    container: str
    what: str
    recipe: str | None
    differences: tuple[str, ...]
    classes: str
    numbers: int
    assumed: Mapping[str, Any]
    notes: tuple[str, ...]
    rows: tuple[TensorRow, ...]

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(row.kind for row in self.rows)
        return {kind: found[kind] for kind in ("loaded", "fresh", "misfit", "unused")}


def inspect_weights(path: Path, *, recipe: str | None = None, trust: bool = False) -> Inspection:
    """Of our checkpoints, official files and Hugging Face ones. `recipe` is what a file of others is believed to be of.

    CheckpointError, one line, for any other file.
    """
    opened = open_weights(path, recipe=recipe)
    checkpoint = opened.checkpoint
    require_trust(checkpoint.recipe, trust=trust, data=False)
    fits = shipped_fits(checkpoint.recipe.model)
    best = next((fit for fit in fits if fit.name == opened.basis), fits[0] if fits else None)
    source = opened.as_source().evaluated
    network = build_learner(checkpoint.recipe, checkpoint.categories, pretrained=False).network
    return Inspection(
        path=opened.path,
        container=_container(opened),
        what=_what(opened),
        recipe=None if best is None else best.name,
        differences=() if best is None else best.differences,
        classes=described(checkpoint.categories),
        numbers=sum(value.numel() for value in source.values()),
        assumed=_assumed(opened),
        notes=opened.notes,
        rows=tuple(_compare(network.state_dict(), source)),
    )


def _container(opened: Opened) -> str:
    if opened.published is None:
        return "detrctl checkpoint"
    file = opened.published.file
    part = f", its '{file.part}'" if file.part else ""
    return file.container + part + (f"; also there: {', '.join(map(printable, file.aside))}" if file.aside else "")


def _what(opened: Opened) -> str:
    published = opened.published
    if published is not None:
        return f"{published.identity.variant}, in {published.naming} names"
    checkpoint = opened.checkpoint
    more = [
        text
        for text, held in (("an average", checkpoint.ema), ("a state to go on from", checkpoint.training))
        if held is not None
    ]
    return f"family {checkpoint.recipe.model.family}" + (f", with {' and '.join(more)}" if more else "")


def _assumed(opened: Opened) -> dict[str, Any]:
    if opened.published is None:
        return {}
    identity = opened.published.identity
    return {name: identity.arguments.get(name) for name in identity.assumed}


def _compare(model: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[TensorRow]:
    rows = []
    for name, value in model.items():
        found = held.get(name)
        if found is None:
            rows.append(TensorRow(name, "fresh", "not in the file"))
        elif found.shape != value.shape:
            rows.append(
                TensorRow(name, "misfit", f"{tuple(found.shape)} in the file, {tuple(value.shape)} in the model")
            )
        else:
            rows.append(TensorRow(name, "loaded", ""))
    rows += [TensorRow(name, "unused", "the model has no such tensor") for name in held if name not in model]
    return rows
