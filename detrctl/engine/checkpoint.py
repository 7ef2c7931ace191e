"""A checkpoint: everything needed to go on with a run, or to use what it learned. One file of tensors and plain values.

The file is a dict saved with `torch.save` and read with `weights_only=True`, so that opening one never runs code.
"""

import os
import pickle
import re
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from detrctl.errors import CheckpointError
from detrctl.recipe.schema import Recipe
from detrctl.recipe.validate import model_problems
from detrctl.structures import Categories
from detrctl.weights.files import model_file, written_whole

FORMAT = "detrctl checkpoint"
VERSION = 1
BEST, LAST = "best.pt", "last.pt"
_STAMP = re.compile(r"\d{8}-\d{6}")


@dataclass(frozen=True)
class Checkpoint:
    """`weights` is the network's state dict as trained, `ema` its running average (None without one).

    `training` is what `--resume` needs (see `engine.train`): nested dicts and lists of tensors, numbers and text.
    """

    recipe: Recipe
    categories: Categories
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None = None
    training: dict[str, Any] | None = None

    @property
    def evaluated(self) -> dict[str, Tensor]:
        """The weights to predict with, to which the scores of the run belong: the average where there is one."""
        return self.weights if self.ema is None else self.ema


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write `path`, or leave the file that was there as it is. CheckpointError when the disk does not take it."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": checkpoint.recipe.model_dump(mode="json"),
        "categories": {"names": list(checkpoint.categories.names), "ids": list(checkpoint.categories.ids)},
        "weights": checkpoint.weights,
        "ema": checkpoint.ema,
        "training": checkpoint.training,
    }
    with written_whole(path) as part, part.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> Checkpoint:
    """Read a file that `save` wrote, all tensors on the CPU. CheckpointError, one line, for any other file."""
    return parse(_read(path), path)


def parse(content: Any, path: Path) -> Checkpoint:
    """What a file that `save` wrote holds. CheckpointError for the content of any other."""
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a detrctl checkpoint, but some other file of weights")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: written in format {content.get('version')}; this detrctl reads format {VERSION}: "
            "use the version that wrote it"
        )
    weights, ema, training = content.get("weights"), content.get("ema"), content.get("training")
    if weights is None or not all(_is_state_dict(part) for part in (weights, ema) if part is not None):
        raise CheckpointError(f"{path}: damaged: its weights are not tensors by name")
    if not (training is None or isinstance(training, dict)):
        raise CheckpointError(f"{path}: damaged: its training state is not a table")
    return Checkpoint(_recipe(content, path), _categories(content, path), weights, ema, training)


def _read(path: Path) -> Any:
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, not a checkpoint file")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read: {error.strerror}") from error
    if not start.startswith(b"PK\x03\x04"):  # torch.save writes a zip archive
        raise CheckpointError(f"{path}: not a detrctl checkpoint")
    if not zipfile.is_zipfile(path):  # the archive's table of contents is at its end
        raise CheckpointError(f"{path}: cut short: the end of the file is missing; copy or download it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused: it holds more than tensors and plain values, and opening it could run code"
        ) from None
    except Exception as error:  # whatever a malformed archive makes torch's reader raise
        raise CheckpointError(f"{path}: damaged, or not a detrctl checkpoint") from error


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _recipe(content: Mapping[str, Any], path: Path) -> Recipe:
    try:
        recipe = Recipe.model_validate(content.get("recipe"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise CheckpointError(
            f"{path}: its recipe does not fit this version of detrctl: {where}: {first['msg']}"
        ) from None
    if problems := model_problems(recipe):
        raise CheckpointError(f"{path}: damaged: its recipe contradicts itself: {problems[0]}")
    return recipe


def _categories(content: Mapping[str, Any], path: Path) -> Categories:
    stored = content.get("categories")
    names, ids = (stored.get("names"), stored.get("ids")) if isinstance(stored, Mapping) else (None, None)
    if not (isinstance(names, list) and isinstance(ids, list) and len(names) == len(ids)):
        raise CheckpointError(f"{path}: damaged: its classes are not pairs of a name and an id")
    if not all(isinstance(number, int) for number in ids):
        raise CheckpointError(f"{path}: damaged: the ids of its classes are not whole numbers")
    return Categories(tuple(str(name) for name in names), tuple(ids))


def find_checkpoint(ckpt: Path | None = None, runs: Path = Path("runs")) -> Path:
    """The checkpoint file that is meant: a file itself, a run folder's best (else last), or the newest run's. Of a
    Hugging Face folder it is the file of weights.

    The newest run has the latest time in its name or, where the name has none, the latest checkpoint file.
    """
    if ckpt is None:
        return _newest(runs)
    if not ckpt.exists():
        raise CheckpointError(f"{ckpt}: no such checkpoint file or run folder")
    if ckpt.is_file():
        return ckpt
    found = _in_run(ckpt) or model_file(ckpt)
    if found is None:
        raise CheckpointError(f"{ckpt}: no checkpoint in this folder (looked for checkpoints/{BEST} and {LAST})")
    return found


def _in_run(folder: Path) -> Path | None:
    places = (base / name for name in (BEST, LAST) for base in (folder / "checkpoints", folder))
    return next((place for place in places if place.is_file()), None)


def _newest(runs: Path) -> Path:
    folders = [folder for folder in runs.iterdir() if folder.is_dir()] if runs.is_dir() else []
    found = {folder: checkpoint for folder in folders if (checkpoint := _in_run(folder)) is not None}
    if not found:
        raise CheckpointError(
            f"no checkpoint under {runs}/: train one (`detrctl train quickstart`) or name one with --ckpt FILE_OR_RUN"
        )
    return found[max(found, key=lambda folder: _age_key(folder, found[folder]))]


def _age_key(folder: Path, checkpoint: Path) -> tuple[str, float]:
    written = checkpoint.stat().st_mtime
    stamp = _STAMP.search(folder.name)
    return (stamp.group() if stamp else time.strftime("%Y%m%d-%H%M%S", time.localtime(written))), written
