"""A file of weights by others becomes a model section, classes, and weights under our names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detrctl.errors import CheckpointError, DetrctlError
from detrctl.recipe.schema import Recipe
from detrctl.recipe.validate import model_problems
from detrctl.structures import Categories
from detrctl.weights import huggingface
from detrctl.weights.classes import published_categories
from detrctl.weights.files import WeightFile
from detrctl.weights.formats import FORMATS
from detrctl.weights.identify import Identity, identify
from detrctl.weights.names import renamed
from detrctl.weights.tables import our_name

SEGMENTATION = "detr."
"""What DETR's segmentation models put before the names of the detector inside."""

MALFORMED = (LookupError, ValueError, TypeError, ArithmeticError, RuntimeError)
"""What names, shapes and values that no training has written can raise, past all that is looked for."""

MOST_CLASSES = 100_000
LABELS = "denoising.labels.weight"


@dataclass(frozen=True)
class Published:
    """What a file is: `naming` is whose names it has; `model` and `objective` are sections of a recipe.

    `weights` have our names, `unused` the file's own: parts that the detector does not have. `notes` are worth a line.
    """

    file: WeightFile
    naming: str
    identity: Identity
    model: Any
    objective: Any
    categories: Categories
    weights: dict[str, Tensor]
    unused: dict[str, Tensor]
    notes: tuple[str, ...]


def interpret(file: WeightFile, *, model: Any = None, hints: Mapping[str, Any] | None = None) -> Published:
    """What the file is and holds. `model`, a recipe's section, replaces what is inferred and has to be of its family.

    `hints` are official build arguments, for those that the file does not tell. CheckpointError, one line, for weights
    of anything that detrctl does not have.
    """
    try:
        return _interpret(file, model, hints or {})
    except DetrctlError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    except MALFORMED as error:
        raise CheckpointError(
            f"{file.path}: damaged or altered: its weights do not belong together "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


def _interpret(file: WeightFile, model: Any, hints: Mapping[str, Any]) -> Published:
    official, unused, naming, told = _official(file)
    name_says, notes = _from_file_name(file, told if model is None else {**told, "dilation": None})
    known = {**hints, **name_says, **told, **_from_model(model)}
    identity = identify({name: tuple(value.shape) for name, value in official.items()}, known=known)
    if not 1 <= identity.classes <= MOST_CLASSES:
        raise CheckpointError(f"weights of {identity.variant} for {identity.classes} classes")
    arguments = {**identity.arguments, **_sharing(identity, official)}
    form = FORMATS[identity.project]
    try:
        inferred, objective = form.sections(arguments)
    except ValueError as error:  # what pydantic raises
        raise CheckpointError(f"{identity.variant}, built in a way that no recipe says: {_first_line(error)}") from None
    if model is None:
        model = inferred
        problems = model_problems(Recipe(model=model, objective=objective))
        if problems and not hints:  # with hints only tensors are wanted, and their model is not built
            raise CheckpointError(f"{identity.variant}, built in a way that no recipe says: {problems[0]}")
    elif model.family != form.family:
        raise CheckpointError(f"weights of {identity.variant}, while the recipe's model is of family {model.family}")
    ours, strange = renamed(_merged(official, form.names(model)), lambda name: name if name.startswith(OURS) else None)
    weights, idle, about_labels = _fitted_labels(
        {name.removeprefix(OURS): value for name, value in ours.items()}, identity, model
    )
    return Published(
        file=file,
        naming=naming,
        identity=identity,
        model=model,
        objective=objective,
        categories=published_categories(identity.classes, _class_names(file), _class_ids(file)),
        weights=weights,
        unused={**unused, **strange, **idle},
        notes=(*notes, *about_labels),
    )


def _fitted_labels(
    weights: dict[str, Tensor], identity: Identity, model: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[str, ...]]:
    """Weights with one label vector a class and one more, what of them has no use, and what is to be said of it.

    DINO's book has dn_labelbook_size + 1 rows, whatever the number of classes, and users are told to make it large.
    """
    book, wanted = weights.get(LABELS), identity.classes + 1
    if book is None:
        return weights, {}, ()
    others = {name: value for name, value in weights.items() if name != LABELS}
    if model.family == "dino" and model.denoising.copies == 0:
        return others, {"label_enc.weight": book}, ()
    if len(book) == wanted:
        return weights, {}, ()
    if len(book) == 0 or (len(book) < wanted and identity.project == "dn_dab"):  # its queries start from the last row
        raise CheckpointError(f"label_enc.weight has {len(book)} rows, where {identity.classes} classes need {wanted}")
    missing = wanted - len(book)
    fitted = torch.cat([book, book.mean(0, keepdim=True).repeat(max(missing, 0), 1)])[:wanted]
    what = f"{missing} more are the mean of these" if missing > 0 else f"the first {wanted} are used"
    note = f"label_enc.weight has {len(book)} rows for {identity.classes} classes and one more: {what}"
    return {**others, LABELS: fitted}, {}, (note,)


def _class_names(file: WeightFile) -> tuple[str, ...]:
    """From a config.json, or from the arguments of a file that detrctl has written."""
    written = file.arguments.get("class_names")
    if isinstance(written, list) and all(isinstance(name, str) for name in written):
        return tuple(written)
    return huggingface.class_names(file.config)


def _class_ids(file: WeightFile) -> tuple[int, ...]:
    """Category ids, which only files that detrctl has written tell: among the arguments, or in config.json."""
    written = file.arguments.get("class_ids", file.config.get("detrctl_category_ids"))
    if not isinstance(written, list) or not all(type(number) is int for number in written):
        return ()
    return tuple(written) if len(set(written)) == len(written) else ()


def _official(file: WeightFile) -> tuple[dict[str, Tensor], dict[str, Tensor], str, dict[str, Any]]:
    """Tensors under official names, those without one, whose names the file has, and which arguments it tells."""
    naming = huggingface.naming_of(file.tensors)
    tensors = {name: _whole_precision(value) for name, value in file.tensors.items()}
    if naming is None:
        inner = {name.removeprefix(SEGMENTATION): value for name, value in tensors.items()}
        return inner, {}, "official", dict(file.arguments)
    official, unused = huggingface.to_official(tensors, naming)
    if file.config.get("with_box_refine"):
        for name in [name for name in official if name.startswith("bbox_embed.")]:
            official.setdefault(f"transformer.decoder.{name}", official[name])
    return official, unused, "Hugging Face", huggingface.known_arguments(file.config)


def _whole_precision(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _from_file_name(file: WeightFile, told: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """DC5 leaves no trace in weights; official files say it in their names."""
    if "dilation" in told or "dc5" not in file.path.name.lower():
        return {}, ()
    return {"dilation": True}, ("taken for a DC5 model, as its name says: weights do not tell",)


def _from_model(model: Any) -> dict[str, Any]:
    """What a recipe's model says about arguments that weights do not tell."""
    if model is None:
        return {}
    said = {"nheads": "heads", "num_queries": "queries"}
    known = {official: getattr(model, name) for official, name in said.items() if hasattr(model, name)}
    return {**known, "dilation": model.backbone.dilation}


def _sharing(identity: Identity, official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Whether DINO's layers and its encoder share heads, which only values tell: files list all of them either way."""
    if identity.project != "dino":
        return {}
    shared = {kind: _is_shared(kind, official) for kind in ("class", "bbox")}
    layers = {f"dec_pred_{kind}_embed_share": value for kind, value in shared.items()}
    # The official code shares the encoder's only where all layers share theirs.
    encoder = {
        f"two_stage_{kind}_embed_share": all(shared.values()) and _is_encoders(kind, official) for kind in shared
    }
    return {**layers, **encoder}


def _is_encoders(kind: str, official: Mapping[str, Tensor]) -> bool:
    return _all_as_first(rf"transformer\.enc_out_{kind}_embed\.(.+)", kind, official)


def _is_shared(kind: str, official: Mapping[str, Tensor]) -> bool:
    return _all_as_first(rf"{kind}_embed\.\d+\.(.+)", kind, official)


def _all_as_first(heads: str, kind: str, official: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of these heads, a pattern with the name inside a head, equal those of the first layer's."""
    found = {name: match[1] for name in official if (match := re.match(heads, name))}
    for inside in found.values():
        if (first := f"{kind}_embed.0.{inside}") not in official:
            raise CheckpointError(f"a part of its weights is missing: {first}")
    return all(torch.equal(official[name], official[f"{kind}_embed.0.{inside}"]) for name, inside in found.items())


OURS = "="
"""Marks names that are ours already, while a state dict is being renamed."""


def _merged(official: Mapping[str, Tensor], table: Any) -> dict[str, Tensor]:
    """Ours marked, others as they are. Tensors of several names must be equal: they become one."""
    result: dict[str, Tensor] = {}
    first: dict[str, str] = {}
    for theirs, value in official.items():
        ours = our_name(theirs, table)
        name = theirs if ours is None else OURS + ours
        if name in result and not torch.equal(result[name], value):
            raise CheckpointError(f"{first[name]} and {theirs} differ, where this model has one tensor for both")
        result[name] = value
        first.setdefault(name, theirs)
    return result


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r" \[type=.*", "", ": ".join(lines[1:3])) if len(lines) > 2 else (lines or [""])[0]
