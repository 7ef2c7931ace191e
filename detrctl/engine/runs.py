"""A run folder: everything that a training leaves behind.

RUN/recipe.yaml         the resolved recipe          RUN/checkpoints/last.pt, best.pt
RUN/metrics.jsonl       one JSON object a line       RUN/plots/loss.png, shares.png, ap.png, matching.png
RUN/summary.json        the outcome                  RUN/environment.json   versions, machine, git state
RUN/skipped.jsonl       steps with NaN or infinite losses or gradients, if there were any
RUN/initial_weights.csv what `--init-from` did with each tensor, if it was given
"""

import csv
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from detrctl.errors import DetrctlError
from detrctl.recipe.dump import dump_recipe
from detrctl.recipe.schema import Recipe

PACKAGES = ("detrctl", "torch", "torchvision", "numpy", "scipy", "pycocotools", "pillow", "pydantic")


class RunFolder:
    """The files of one run. Only the first process of a run holds one."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.pt"

    def kept(self, epoch: int) -> Path:
        return self.path / "checkpoints" / f"epoch-{epoch:04d}.pt"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def initial_weights(self) -> Path:
        return self.path / "initial_weights.csv"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    def open(self, recipe: Recipe, step: int, versions: Mapping[str, Any]) -> None:
        """Before the first step, or the first one after `step`, which a resumed run goes on from."""
        self.write_recipe(recipe)
        self.write_json("environment.json", versions)
        self.forget_after(step)

    def write_recipe(self, recipe: Recipe) -> None:
        self.recipe.write_text(dump_recipe(recipe), encoding="utf-8")

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        (self.path / name).write_text(json.dumps(tidy(content), indent=2) + "\n", encoding="utf-8")

    def write_csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        with (self.path / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """One line of a .jsonl file, in the file before this returns."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(tidy(row)) + "\n")

    def rows(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, of one `kind` (`train`, `eval`) or all."""
        return [row for row in _rows(self.metrics) if kind is None or row["kind"] == kind]

    def forget_after(self, step: int) -> None:
        """Drop what was logged after the step that a resumed run goes on from."""
        for file in (self.metrics, self.path / "skipped.jsonl"):
            if file.exists():
                kept = [row for row in _rows(file) if row["step"] <= step]
                file.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # a last line that a crash cut short
            continue
        if isinstance(row, dict) and "step" in row:
            yield row


def tidy(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: tidy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(item) for item in value]
    return value


def new_run(out: Path | None, recipe_name: str, *, runs: Path = Path("runs")) -> RunFolder:
    """Make the folder of a new run: `out`, or `runs/<recipe>-<time>`. An existing run is never written into."""
    if out is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        names = (f"{recipe_name}-{stamp}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 100))))
        out = next(runs / name for name in names if not (runs / name).exists())
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DetrctlError(
                f"{out}: exists already and is never overwritten; choose another --out, "
                f"or go on with it: detrctl train --resume {out}"
            )
        (out / "checkpoints").mkdir(parents=True)
    except OSError as error:
        raise DetrctlError(f"{out}: this run folder cannot be made: {error.strerror}") from error
    return RunFolder(out)


def existing_run(path: Path) -> RunFolder:
    """The folder that `--resume` names."""
    run = RunFolder(path)
    if not path.is_dir():
        raise DetrctlError(f"--resume {path}: no such run folder")
    if not run.last.is_file():
        raise DetrctlError(f"--resume {path}: nothing to go on from (checkpoints/last.pt is missing)")
    return run


def environment(threads: int, device: str) -> dict[str, Any]:
    """Versions, machine and the state of the code, for `environment.json`."""
    import torch

    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpus": os.cpu_count(),
        "threads": threads,
        "device": device,
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "git": git_state(Path(__file__).parent, Path(__file__)),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state(folder: Path, tracked: Path) -> dict[str, Any] | None:
    """Commit, and whether tracked files differ from it; None unless `tracked` belongs to a git checkout.

    A package installed into somebody's repository (a virtual environment inside it) is not tracked there.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(tracked))
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
