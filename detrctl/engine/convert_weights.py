"""A file of weights in another format, whole or not at all."""

from pathlib import Path

from detrctl.engine.checkpoint import Checkpoint, save
from detrctl.engine.open_weights import open_weights
from detrctl.errors import CheckpointError
from detrctl.weights.export import hugging_face_file, official_file, save_hugging_face, save_official

ENDINGS = {"detrctl": ".pt", "official": ".pth", "hf": ""}


def convert_weights(source: Path, to: str, *, out: Path | None = None, recipe: str | None = None) -> Path:
    """`to`: `detrctl`, `official` or `hf`, which is a folder. The weights are those that its scores belong to.

    CheckpointError, one line, where a format has no such model, and where something is at `out` already.
    """
    if to not in ENDINGS:
        raise CheckpointError(f"--to {to}: no such format; there are {', '.join(ENDINGS)}")
    opened = open_weights(source, recipe=recipe)
    checkpoint = opened.checkpoint
    path = out or opened.path.with_name(f"{opened.path.stem}-{to}{ENDINGS[to]}")
    if path.exists():
        raise CheckpointError(f"{path}: is there already; name another with --out")
    if to == "detrctl":
        save(Checkpoint(checkpoint.recipe, checkpoint.categories, dict(checkpoint.evaluated)), path)
        return path
    make = official_file if to == "official" else hugging_face_file
    try:
        made = make(checkpoint.recipe.model, checkpoint.evaluated, checkpoint.categories, path)
    except CheckpointError as error:
        text = str(error).removeprefix(f"{path}: ").removeprefix(f"{path / 'model.safetensors'}: ")
        raise CheckpointError(f"{opened.path}: {text}") from error
    return save_official(made) if to == "official" else save_hugging_face(made)
