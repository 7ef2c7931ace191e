"""Starting from a checkpoint (`--init-from`): whose model is trained, and what is doubtful about its weights there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrctl.engine.build import require_trust
from detrctl.engine.checkpoint import find_checkpoint
from detrctl.engine.open_weights import Opened, open_weights
from detrctl.errors import Problem, RecipeError
from detrctl.recipe.lending import Lender
from detrctl.recipe.load import Loaded, load_recipe
from detrctl.recipe.schema import Recipe
from detrctl.weights.fitting import differences

MOST_TOLD = 6
NOT_TOLD = {"nheads": "model.heads", "dilation": "model.backbone.dilation", "num_queries": "model.queries"}
"""Official build arguments that a file of others need not tell, and the fields that say them here."""


def with_lent_model(recipe: str, overrides: Sequence[str], source: Path, *, trust: bool) -> tuple[Loaded, str]:
    """A recipe that borrows its model, on the model of the checkpoint `source`; and what that is, in a line.

    CheckpointError if the checkpoint names somebody's own parts and is not trusted; RecipeError where the recipe writes
    something of the model that its weights contradict.
    """
    path = find_checkpoint(source)
    opened = open_weights(path)
    require_trust(opened.checkpoint.recipe, trust=trust, data=False)
    loaded = load_recipe(recipe, overrides, lender=Lender(str(path), opened.checkpoint.recipe))
    wrong = [
        Problem(loaded.where(field), field, f"found {values} as in {path}, whose model this recipe trains; {_CURE}")
        for field, values in differing(opened, loaded.recipe)
    ]
    if wrong:
        raise RecipeError(wrong)
    return loaded, _described(path, loaded.recipe)


_CURE = "leave it away, or start from a recipe with a model of its own"


def settled(recipe: Recipe) -> Recipe:
    """The recipe that stands for itself, now that its model is written in it."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"init_model": "recipe"})})


def _described(path: Path, recipe: Recipe) -> str:
    model, data = recipe.model, recipe.data
    queries = [f"{model.queries} queries"] if hasattr(model, "queries") else []
    size = f"{data.eval_size} x {data.eval_size}" if data.eval_square else f"{data.eval_size}"
    said = ", ".join([f"{model.family} on {model.backbone.name}", *queries, f"evaluated at {size} pixels"])
    return f"model, objective and image sizes of {path}: {said}"


def differing(opened: Opened, recipe: Recipe) -> list[tuple[str, str]]:
    """Fields in which the checkpoint's model is known to be another than the recipe's: ("model.heads", "4, not 8")."""
    found = (line.split(": ", 1) for line in differences(opened.checkpoint.recipe.model, recipe.model))
    return [(field, values) for field, values in found if field not in _assumed(opened)]


def _assumed(opened: Opened) -> set[str]:
    assumed = opened.published.identity.assumed if opened.published else ()
    return {NOT_TOLD[name] for name in assumed if name in NOT_TOLD}


def doubts(opened: Opened, recipe: Recipe) -> tuple[str, ...]:
    """What is worth a line before the weights are trained in the recipe's model."""
    notes = list(opened.published.notes) if opened.published else []
    if _is_ambiguous(opened, recipe.model):
        twins = " or ".join(opened.published.identity.twins) if opened.published else ""
        notes.append(
            f"{opened.path} is trained as if without dilation, but its weights could be those of {twins} as well: "
            "if so, set model.backbone.dilation=true"
        )
    if fields := differing(opened, recipe):
        said = [f"{field}: {values}" for field, values in fields[:MOST_TOLD]]
        more = [f"and {len(fields) - MOST_TOLD} more"] if len(fields) > MOST_TOLD else []
        notes.append(f"the weights were trained in another model than this recipe's: {', '.join(said + more)}")
    return tuple(notes)


def _is_ambiguous(opened: Opened, model: Any) -> bool:
    return opened.published is not None and bool(opened.published.identity.twins) and not model.backbone.dilation
