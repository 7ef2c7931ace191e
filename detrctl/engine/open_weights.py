"""Weights wherever they come from: our own checkpoints as they are, those of others with a recipe made for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrctl.engine.checkpoint import FORMAT, Checkpoint, parse
from detrctl.errors import CheckpointError
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Recipe
from detrctl.weights.files import Content, printable, read_content, weight_file
from detrctl.weights.fitting import shipped_fits
from detrctl.weights.interpret import Published, interpret


@dataclass(frozen=True)
class Opened:
    """`published` is None for a checkpoint of our own. `basis` names the recipe whose settings are used, if any.

    `notes` are worth a line to whoever uses the weights as they are.
    """

    path: Path
    checkpoint: Checkpoint
    published: Published | None = None
    basis: str | None = None
    notes: tuple[str, ...] = ()

    def as_source(self) -> Checkpoint:
        """For taking weights over: with the tensors that this model does not have, so that these are reported."""
        if self.published is None:
            return self.checkpoint
        return Checkpoint(
            self.checkpoint.recipe, self.checkpoint.categories, {**self.checkpoint.weights, **self.published.unused}
        )


def open_weights(path: Path, *, recipe: str | None = None, hints: Mapping[str, Any] | None = None) -> Opened:
    """A checkpoint, an official or a Hugging Face file, or a folder of the latter.

    `recipe` names the recipe that a file of others is of, where it cannot tell; `hints` are official build arguments
    that count where the file does not tell them. CheckpointError, one line, for whatever cannot be used.
    """
    content = read_content(path)
    if _is_own(content):
        if recipe is not None:
            raise CheckpointError(f"{path}: a detrctl checkpoint, which brings its recipe: leave --recipe away")
        return Opened(content.path, parse(content.value, content.path))
    file = weight_file(content)
    if recipe is not None:
        loaded = load_recipe(recipe)
        published = interpret(file, model=loaded.recipe.model, hints=hints)
        return _opened(published, loaded.name, loaded.recipe)
    published = interpret(file, hints=hints)
    fits = shipped_fits(published.model)
    exact = fits[0] if fits and not fits[0].differences else None
    if exact is None:
        plain = Recipe(model=published.model, objective=published.objective)
        return _opened(published, None, plain)
    fitting = exact.recipe.model_copy(update={"model": published.model, "objective": published.objective})
    return _opened(published, exact.name, fitting)


def _is_own(content: Content) -> bool:
    return isinstance(content.value, Mapping) and content.value.get("format") == FORMAT


def _opened(published: Published, basis: str | None, recipe: Recipe) -> Opened:
    # The file brings the backbone's weights, and a rate of 0 for it would be the recipe's business.
    backbone = recipe.model.backbone.model_copy(update={"weights": "none"})
    plain = recipe.model_copy(update={"model": recipe.model.model_copy(update={"backbone": backbone})})
    checkpoint = Checkpoint(plain, published.categories, published.weights)
    return Opened(published.file.path, checkpoint, published, basis, tuple(_notes(published)))


def _notes(published: Published) -> list[str]:
    notes = list(published.notes)
    identity = published.identity
    if identity.twins:
        twin = " or ".join(identity.twins)
        notes.append(
            f"taken for {identity.variant}: its weights could be those of {twin} as well; --recipe says which it is"
        )
    if published.unused:
        first = printable(next(iter(published.unused)))
        notes.append(f"tensors that this model does not have, left aside: {len(published.unused)} (first {first})")
    return notes
