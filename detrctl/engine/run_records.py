"""What run folders, finished or not, say of themselves: scores over epochs and time, recipe, machine. No torch."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from detrctl.engine.runs import RunFolder
from detrctl.errors import DetrctlError

Scores = Mapping[str, float | None]
State = Literal["finished", "stopped", "unfinished"]

_STAMP_OR_SEED = re.compile(r"[-_.](\d{8}-\d{6}(-\d+)?|s(eed)?[-_]?\d+|\d+)$", re.IGNORECASE)
_SWITCHES = ("--trust", "--dry-run")


@dataclass(frozen=True)
class Scored:
    """One evaluation that has an AP: where the run stood, evaluations before it included in the minutes."""

    epoch: float
    minutes: float
    images: int
    scores: Scores

    @property
    def ap(self) -> float:
        value = self.scores["AP"]
        assert value is not None
        return value


@dataclass(frozen=True)
class RunRecord:
    """One run. `fields` is its recipe as {"train.lr": 0.0001, ...}; `evaluations` are in order, and at least one.

    `epochs`, `minutes`, `images` are where the run stands. `state` is `stopped` after a Ctrl-C and `unfinished` while
    it runs or after a crash. `machine` is what the minutes were measured on; `parameters` counts all of the network.
    """

    path: Path
    name: str
    recipe: str
    fields: Mapping[str, Any]
    evaluations: tuple[Scored, ...]
    epochs: float
    minutes: float
    images: int
    images_per_second: float | None
    parameters: int | None
    machine: str
    state: State

    @property
    def final(self) -> Scored:
        return self.evaluations[-1]

    @property
    def best(self) -> Scored:
        return max(self.evaluations, key=lambda scored: scored.ap)

    @property
    def seed(self) -> int | None:
        return self.fields.get("train.seed")

    def reached(self, ap: float) -> Scored | None:
        """The first evaluation with at least this AP."""
        return next((scored for scored in self.evaluations if scored.ap >= ap), None)


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Reads run folders; their names become as long as it takes to tell them apart. DetrctlError for what is none."""
    seen: dict[Path, Path] = {}
    for path in paths:
        if (place := path.resolve()) in seen:
            raise DetrctlError(f"{path}: named twice")
        seen[place] = path
    runs = [read_run(path) for path in paths]
    return [replace(run, name=name) for run, name in zip(runs, _short_names(list(seen)), strict=True)]


def read_run(path: Path) -> RunRecord:
    """Reads one run folder, of this version or an earlier one.

    DetrctlError, one line, if there is no such folder, it is no run, or nothing in it has an AP yet.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise DetrctlError(f"{path}: {'a file, not a run folder' if path.exists() else 'no such run folder'}")
    if not folder.recipe.is_file():
        raise DetrctlError(f"{path}: not a run folder (recipe.yaml is missing)")
    fields, rows = dict(_leaves(_yaml(folder.recipe))), _rows(folder)
    evaluated = [row for row in rows if row.get("kind") == "eval"]
    environment, summary = (_json(path / name) for name in ("environment.json", "summary.json"))
    try:
        evaluations = tuple(_scored(row) for row in evaluated if row["scores"].get("AP") is not None)
        if not evaluations:
            raise DetrctlError(f"{path}: {_why_no_ap(bool(evaluated), summary)}")
        last = rows[-1]
        training = 60 * last["minutes"] - sum(row.get("seconds") or 0.0 for row in evaluated)
        return RunRecord(
            path=path,
            name=path.resolve().name,
            recipe=_recipe_name(environment, path),
            fields=fields,
            evaluations=evaluations,
            epochs=float(last["epoch"]),
            minutes=float(last["minutes"]),
            images=int(last["images"]),
            images_per_second=last["images"] / training if training > 0 else None,
            parameters=summary.get("parameters"),
            machine=_machine(environment, summary),
            state=_state(summary, last["step"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DetrctlError(
            f"{folder.metrics}: not as `detrctl train` writes it; is it of another program or version?"
        ) from None


def _scored(row: Mapping[str, Any]) -> Scored:
    scores = {str(name): None if value is None else float(value) for name, value in row["scores"].items()}
    return Scored(float(row["epoch"]), float(row["minutes"]), int(row["images"]), scores)


def _why_no_ap(evaluated: bool, summary: Mapping[str, Any]) -> str:
    if evaluated:
        return "no evaluation in it has an AP: its validation split has no boxes"
    if summary:
        return "nothing was evaluated in this run, so there is nothing to compare"
    return "not evaluated yet; compare it when its first evaluation is done (train.eval_every)"


def _state(summary: Mapping[str, Any], step: int) -> State:
    """A run that goes on after its summary was written has later lines than that."""
    if not summary or summary.get("steps", 0) < step:
        return "unfinished"
    return "stopped" if summary.get("ended_by") == "signal" else "finished"


def _machine(environment: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    processes = summary.get("processes") or 1
    times = f"{processes} x " if processes > 1 and environment.get("gpu") else ""
    return times + str(
        environment.get("gpu") or f"{environment.get('device') or 'cpu'}, {environment.get('cpus')} cores"
    )


# ---- names ----


def _recipe_name(environment: Mapping[str, Any], path: Path) -> str:
    """The word behind `train` in the command; where the run was resumed since, its folder without time and seed."""
    command = [str(word) for word in environment.get("command") or ()]
    words = iter(command[command.index("train") + 1 :] if "train" in command else ())
    for word in words:
        if not word.startswith("-"):
            named = Path(word)
            return named.stem if named.suffix in (".yaml", ".yml") else named.name or str(named)
        if word not in _SWITCHES and "=" not in word:
            next(words, None)
    return without_stamp(path.resolve().name)


def without_stamp(name: str) -> str:
    """`dino-20260801-120000`, `dino-s1` and `dino_seed2` are `dino`."""
    shorter = _STAMP_OR_SEED.sub("", name)
    return shorter or name


def _short_names(places: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many parts as tell all of them apart."""
    deepest = max((len(place.parts) for place in places), default=1)
    for parts in range(1, deepest + 1):
        names = [os.sep.join(place.parts[-parts:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


# ---- files ----


def _rows(folder: RunFolder) -> list[dict[str, Any]]:
    try:
        rows = folder.rows()
    except (OSError, UnicodeDecodeError):
        raise DetrctlError(f"{folder.metrics}: cannot be read") from None
    if not rows:
        summary = _json(folder.path / "summary.json")
        raise DetrctlError(f"{folder.path}: {_why_no_ap(False, summary)}")
    return rows


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise DetrctlError(f"{file}: cannot be read as YAML") from None


def _json(file: Path) -> dict[str, Any]:
    """Empty where there is no such file or it was cut short: these files only add to what the metrics say."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}".removeprefix("."))
    else:
        yield path, value
