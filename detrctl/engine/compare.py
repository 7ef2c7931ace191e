"""Several runs side by side: final scores, and how soon given APs were reached. Numbers only, and no torch.

Runs that are seeds of one setting form a group, and each number of a group is a mean with its range.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from detrctl.data.layouts import find_splits
from detrctl.engine.run_records import RunRecord, Scored
from detrctl.errors import DetrctlError

SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
GroupBy = Literal["seed", "recipe", "none"]

_SEED_AT_END = re.compile(r"([-_.](seed|s))?[-_.\d]*$", re.IGNORECASE)


@dataclass(frozen=True)
class Spread:
    """A number of each run of a group: mean, lowest, highest."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """None if a run has no such number: a mean over the others would be that of another group."""
        present = [value for value in values if value is not None]
        if not present or len(present) < len(values):
            return None
        return cls(sum(present) / len(present), min(present), max(present))


@dataclass(frozen=True)
class Group:
    """Runs that are told of together: at least one."""

    name: str
    runs: tuple[RunRecord, ...]

    def spread(self, number: Callable[[RunRecord], float | None]) -> Spread | None:
        return Spread.of([number(run) for run in self.runs])


@dataclass(frozen=True)
class Reached:
    """When a group first had an AP of at least `ap`; `epochs`, `minutes` are None unless `reached` counts all runs."""

    ap: float
    epochs: Spread | None
    minutes: Spread | None
    images: Spread | None
    reached: int


@dataclass(frozen=True)
class Row:
    """One group in numbers; `scores` has a key for each of SCORES."""

    group: Group
    scores: Mapping[str, Spread | None]
    best: Spread | None
    reached: tuple[Reached, ...]


@dataclass(frozen=True)
class Comparison:
    """`notes` say what makes the numbers hard to compare, a line each."""

    rows: tuple[Row, ...]
    thresholds: tuple[float, ...]
    notes: tuple[str, ...]
    best: bool

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(row.group for row in self.rows)


def compare(
    runs: Sequence[RunRecord], *, by: GroupBy = "seed", reach: Sequence[float] | None = None, best: bool = False
) -> Comparison:
    """Groups the runs, in the order given, and counts.

    `reach` are APs from 0 to 1 (default: three that suit these runs). Scores are those of the last evaluation, or of
    the one with the highest AP if `best`.
    """
    thresholds = tuple(sorted(set(reach))) if reach is not None else suitable_thresholds(runs)
    groups = grouped(runs, by)
    rows = tuple(_row(group, thresholds, best=best) for group in groups)
    return Comparison(rows, thresholds, (*_doubts(runs), *_mixed(groups)), best)


def shown(run: RunRecord, *, best: bool) -> Scored:
    """The evaluation that a run is judged by."""
    return run.best if best else run.final


def _row(group: Group, thresholds: Sequence[float], *, best: bool) -> Row:
    def score(name: str) -> Spread | None:
        return group.spread(lambda run: shown(run, best=best).scores.get(name))

    return Row(
        group=group,
        scores={name: score(name) for name in SCORES},
        best=group.spread(lambda run: run.best.ap),
        reached=tuple(_reached(group, ap) for ap in thresholds),
    )


def _reached(group: Group, ap: float) -> Reached:
    found = [run.reached(ap) for run in group.runs]

    def spread(number: Callable[[Scored], float]) -> Spread | None:
        return Spread.of([None if scored is None else number(scored) for scored in found])

    return Reached(
        ap=ap,
        epochs=spread(lambda scored: scored.epoch),
        minutes=spread(lambda scored: scored.minutes),
        images=spread(lambda scored: scored.images),
        reached=sum(scored is not None for scored in found),
    )


def suitable_thresholds(runs: Sequence[RunRecord]) -> tuple[float, ...]:
    """Up to three round APs: one that every run reached, then half and three quarters of the best run's."""
    peaks = [run.best.ap for run in runs]
    step = next((step for step in (0.05, 0.01, 0.001) if max(peaks) >= 5 * step), None)
    if step is None:
        return ()
    wanted = (min(peaks), 0.5 * max(peaks), 0.75 * max(peaks))
    rounded = {round(math.floor(value / step + 1e-9) * step, 3) for value in wanted}
    return tuple(sorted(value for value in rounded if value > 0))


# ---- groups ----


def grouped(runs: Sequence[RunRecord], by: GroupBy) -> list[Group]:
    """`seed`: recipes that differ in train.seed at most; `recipe`: by the recipe's name; `none`: each run alone."""
    keys: dict[GroupBy, Callable[[RunRecord], object]] = {
        "seed": lambda run: tuple(sorted((k, repr(v)) for k, v in run.fields.items() if k != "train.seed")),
        "recipe": lambda run: run.recipe,
        "none": lambda run: run.path,
    }
    parts: dict[object, list[RunRecord]] = {}
    for run in runs:
        parts.setdefault(keys[by](run), []).append(run)
    recipes = [part[0].recipe for part in parts.values()]
    names = [_group_name(part, by, recipes) for part in parts.values()]
    return [
        Group(name if names.count(name) == 1 else f"{part[0].name} and its like", tuple(part))
        for name, part in zip(names, parts.values(), strict=True)
    ]


def _group_name(runs: Sequence[RunRecord], by: GroupBy, recipes: Sequence[str]) -> str:
    """The recipe's, where only one of the groups has it; else what the names of its runs begin with."""
    if len(runs) == 1 and by != "recipe":
        return runs[0].name
    if recipes.count(runs[0].recipe) == 1:
        return runs[0].recipe
    return _SEED_AT_END.sub("", _common_start([run.name for run in runs])) or runs[0].recipe


def _common_start(texts: Sequence[str]) -> str:
    letters = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
    return "".join(column[0] for column in letters)


def _mixed(groups: Sequence[Group]) -> Iterator[str]:
    """What runs of one group do not share, besides the seed."""
    for group in groups:
        names = dict.fromkeys(name for run in group.runs for name in run.fields if name != "train.seed")
        differing = [name for name in names if len({repr(run.fields.get(name)) for run in group.runs}) > 1]
        if differing:
            more = f" and {len(differing) - 4} more fields" if len(differing) > 4 else ""
            yield f"{group.name}: grouped by name, but its recipes differ in {', '.join(differing[:4])}{more}"


# ---- what stands in the way of comparing ----


def _doubts(runs: Sequence[RunRecord]) -> Iterator[str]:
    if not same_data(runs):
        yield f"scored on different data, so that these APs do not compare: {_by(runs, data_of)}"
    for field, said in (
        ("train.eval_limit", "scored on different numbers of validation images (train.eval_limit)"),
        ("evaluate.max_dets", "scored with different limits on detections per image (evaluate.max_dets)"),
    ):
        if len({run.fields.get(field) for run in runs}) > 1:
            yield f"{said}: {_by(runs, partial(_limit, field))}"
    if len({run.machine for run in runs}) > 1:
        yield f"trained on different machines, so that minutes do not compare: {_by(runs, lambda run: run.machine)}"
    if going := [run.name for run in runs if run.state != "finished"]:
        yield f"not finished, shown as far as they are: {', '.join(going)}"


def _limit(field: str, run: RunRecord) -> str:
    value = run.fields.get(field)
    return "no limit" if value is None else str(value)


def _by(runs: Sequence[RunRecord], what: Callable[[RunRecord], str]) -> str:
    """`shapes (a, b); /data/cells (c)`"""
    users: dict[str, list[str]] = {}
    for run in runs:
        users.setdefault(what(run), []).append(run.name)
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in users.items())


def data_of(run: RunRecord) -> str:
    """What a run was scored on, in words."""
    fields = run.fields
    if own := fields.get("data.dataset"):
        return f"{own} on {fields.get('data.root')}"
    return str(fields.get("data.val.annotations") or fields.get("data.root"))


def same_data(runs: Sequence[RunRecord]) -> bool:
    """Whether all were scored on the same validation split: by what their recipes name, else by the files' content."""
    if len({data_of(run) for run in runs}) <= 1:
        return True
    contents = {_fingerprint(run) for run in runs}
    return len(contents) == 1 and None not in contents


def require_bootstrap(groups: Sequence[Group], *, other_data: bool = False) -> None:
    """DetrctlError, one line, unless there are two groups at least, on one validation split.

    With `other_data` all will be evaluated anew on that, whatever they were scored on.
    """
    runs = [run for group in groups for run in group.runs]
    if len(groups) < 2:
        raise DetrctlError(
            "--bootstrap compares with the first run: name two at least that are not seeds of one recipe"
        )
    if not other_data and not same_data(runs):
        raise DetrctlError(
            f"--bootstrap needs runs on one validation split, but these are of several: {_by(runs, data_of)}; "
            "leave it away, compare the runs of one, or name the dataset for all with --data"
        )


def _fingerprint(run: RunRecord) -> str | None:
    """Of the annotations of the validation split, where they are still there."""
    try:
        file = _annotations(run)
        return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
    except (OSError, DetrctlError):
        return None


def _annotations(run: RunRecord) -> Path | None:
    named, root = run.fields.get("data.val.annotations"), run.fields.get("data.root")
    if run.fields.get("data.dataset") or not (named or root):
        return None
    if named:
        return Path(named)
    found = find_splits(Path(str(root))).get("val")
    return None if found is None else found.annotations
