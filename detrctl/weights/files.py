"""Files of weights by others: PyTorch's own, safetensors, and either in several parts. Opening one never runs code."""

import contextlib
import json
import os
import pickle
import re
import shutil
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detrctl.errors import CheckpointError

ALLOWED = (Namespace,)
"""What official files hold besides tensors and plain values: the command line of their training."""

ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""How torch.save's archives begin, since PyTorch 1.6 and before."""

FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What a Hugging Face folder calls its weights, the best first."""

LARGEST_JSON = 64 * 2**20
WRAPPERS = (("ema", "module"), ("ema_model",), ("model_ema",), ("ema",), ("model",), ("state_dict",))
"""Where a training state keeps its weights; an average comes first, since its scores are the published ones."""

PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""What DistributedDataParallel and torch.compile put before every name."""

COUNTERS = re.compile(r"(?:^|\.)total_(?:params|ops)$")
"""What thop, which counts operations, leaves behind in a model."""


@dataclass(frozen=True)
class WeightFile:
    """`tensors` by name, out of `part` of the file; `aside` names what else it holds.

    `arguments` are the command line of the training, where an official file tells it, `config` what a `config.json`
    beside a Hugging Face file says.
    """

    path: Path
    container: str
    tensors: dict[str, Tensor]
    part: str = ""
    aside: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """What a file holds, as it is: a flat mapping of tensors, or the training state around one."""

    path: Path
    container: str
    value: Any


# ---- opening ----


def model_file(folder: Path) -> Path | None:
    """The file of weights in a Hugging Face folder, or the index of its parts."""
    return next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)


def read_content(path: Path) -> Content:
    """Whatever a file of weights holds, tensors on the CPU. CheckpointError, one line, for anything else."""
    if path.is_dir():
        found = model_file(path)
        if found is None:
            raise CheckpointError(f"{path}: a folder without a file of weights ({', '.join(FOLDER_FILES)})")
        path = found
    start = _start(path)
    if path.suffix == ".json":
        return Content(path, "parts of one model", _read_parts(path))
    if start.startswith(ZIP) or start.startswith(LEGACY):
        return Content(path, "PyTorch", _read_torch(path, start))
    if len(start) >= 9 and start[8:9] == b"{":
        return Content(path, "safetensors", _read_safetensors(path))
    raise CheckpointError(f"{path}: not a file of weights (.pth, .pt, .bin, .safetensors, or a .json index of parts)")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """with written_whole(path) as part: write `part`, a file or a folder; it is `path` once the block has ended.

    What was at `path` stays as it is until then. CheckpointError when the disk does not take it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer makes a RuntimeError of an OSError
        reason = error.strerror if isinstance(error, OSError) else "the disk did not take all of it"
        kept = "; the file that was there is untouched" if path.exists() else ""
        raise CheckpointError(f"{path}: could not be written: {reason}{kept}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)  # which leaves files
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read: {error.strerror}") from error


def _read_torch(path: Path, start: bytes) -> Any:
    if start.startswith(ZIP):
        _check_archive(path)
    try:
        with torch.serialization.safe_globals(list(ALLOWED)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)|global (\S+)", str(error))
        if named is None:
            raise CheckpointError(f"{path}: {DAMAGED}") from None
        what = next(filter(None, named.groups())).rstrip(".")
        raise CheckpointError(
            f"{path}: refused: it names {what}, and opening what is no tensor or plain value could run code"
        ) from None
    except Exception as error:  # whatever a malformed file makes torch's reader raise
        cut = start.startswith(LEGACY) and (isinstance(error, EOFError) or "unexpected EOF" in str(error))
        raise CheckpointError(f"{path}: {CUT if cut else DAMAGED}") from error


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:  # the archive's table of contents is at its end
        raise CheckpointError(f"{path}: {CUT}") from None
    except Exception as error:  # a changed byte in that table: versions, flags and names that cannot be
        raise CheckpointError(f"{path}: {DAMAGED}") from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path}: a TorchScript program, not a file of weights; save the model's state_dict()")


def printable(name: str) -> str:
    """A name out of a file, whatever it holds, as part of one line."""
    shown = name if name.isprintable() else ascii(name)[1:-1]
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


CUT = "cut short: the end of the file is missing; copy or download it again"
DAMAGED = "damaged, or not a file of weights"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: a safetensors file cut short or damaged; copy or download it again") from error


def _read_parts(index: Path) -> dict[str, Tensor]:
    """The tensors of an index {"weight_map": {name: file beside it}}, of both kinds of file."""
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f"{index}: not an index of files of weights (it has no weight_map)")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if name != Path(name).name or name.endswith(".json"):
            raise CheckpointError(f"{index}: names the file '{name}', where only files of weights beside it may stand")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: its part {name} is missing; copy or download it, too")
        part = read_content(index.parent / name).value
        tensors.update(_tensors_of(part, index.parent / name))
    missing = [name for name in places if name not in tensors]
    if missing:
        raise CheckpointError(f"{index}: {len(missing)} of its tensors are in none of the files, first {missing[0]}")
    return tensors


def read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{path}: too large to be what its name says")
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # json's and Unicode's errors are ValueErrors
        raise CheckpointError(f"{path}: not a JSON file, or cut short") from error
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read: {error.strerror}") from error


# ---- finding the weights inside ----


def weight_file(content: Content) -> WeightFile:
    """The weights inside, without the names' prefixes. CheckpointError where there are none."""
    part, found = _weights_in(content.value)
    whole = content.value if part else {}
    tensors = {name: value.detach() for name, value in _tensors_of(found, content.path).items()}
    tensors = {PREFIXES.sub("", name): value for name, value in tensors.items() if not COUNTERS.search(name)}
    arguments = whole.get("args")
    return WeightFile(
        path=content.path,
        container=content.container,
        tensors=tensors,
        part=".".join(part),
        aside=tuple(sorted(str(name) for name in whole if name != (part or ("",))[0])),
        arguments=dict(vars(arguments)) if isinstance(arguments, Namespace) else {},
        config=read_config(content.path),
    )


def _weights_in(value: Any) -> tuple[tuple[str, ...], Any]:
    """Where the weights stand, as the keys that lead there, and what stands there."""
    if not isinstance(value, Mapping):
        return (), None
    for keys in WRAPPERS:
        inner: Any = value
        for key in keys:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        if _holds_tensors(inner):
            return keys, inner
    return (), value


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _tensors_of(value: Any, path: Path) -> dict[str, Tensor]:
    if not _holds_tensors(value):
        raise CheckpointError(f"{path}: holds no weights: tensors by name, or these as its 'model' or 'state_dict'")
    return {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, Tensor)}


def read_config(path: Path) -> Mapping[str, Any]:
    """The `config.json` of a Hugging Face model, beside its weights; empty where there is none."""
    config = path.parent / "config.json"
    content = read_json(config) if config.is_file() else {}
    return content if isinstance(content, dict) and "model_type" in content else {}
