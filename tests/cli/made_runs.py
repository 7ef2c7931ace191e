"""Run folders as `detrctl train` leaves them, with made-up numbers and no weights."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

RECIPE: dict[str, Any] = {
    "model": {"family": "detr", "queries": 25},
    "data": {"root": "shapes", "train": None, "val": None, "dataset": None},
    "train": {"seed": 42, "lr": 0.0001, "eval_limit": None},
    "evaluate": {"max_dets": 100},
}
IMAGES_PER_EPOCH = 1000


def scores(ap: float | None) -> dict[str, float | None]:
    if ap is None:
        return dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"))
    return {"AP": ap, "AP50": min(1, 2 * ap), "AP75": 0.8 * ap, "APs": 0.5 * ap, "APm": ap, "APl": 1.5 * ap}


def make_run(
    folder: Path,
    aps: Sequence[float | None],
    *,
    command: Sequence[str] = ("detrctl", "train", "quickstart"),
    minutes_per_epoch: float = 1.0,
    changed: Mapping[str, Mapping[str, Any]] | None = None,
    summary: Mapping[str, Any] | None = None,
    finished: bool = True,
    gpu: str | None = None,
) -> Path:
    """An evaluation of 6 seconds after each epoch, with these APs; `changed` recipe sections and summary lines."""
    folder.mkdir(parents=True)
    recipe = {name: {**section, **(changed or {}).get(name, {})} for name, section in RECIPE.items()}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rows = [row for epoch, ap in enumerate(aps, start=1) for row in _rows(epoch, ap, minutes_per_epoch)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = {"command": list(command), "cpus": 2, "device": "cuda" if gpu else "cpu", "gpu": gpu}
    (folder / "environment.json").write_text(json.dumps(environment))
    if finished:
        told = {"ended_by": "epochs", "steps": 100 * len(aps), "parameters": 687_211, "processes": 1, **(summary or {})}
        (folder / "summary.json").write_text(json.dumps(told))
    return folder


def _rows(epoch: int, ap: float | None, minutes: float) -> list[dict[str, Any]]:
    where = {"step": 100 * epoch, "epoch": float(epoch), "images": IMAGES_PER_EPOCH * epoch, "minutes": epoch * minutes}
    return [
        {"kind": "train", **where, "loss": 1.0, "images_per_second": 9.0},
        {"kind": "eval", **where, "scores": scores(ap), "best_AP": ap, "seconds": 6.0},
    ]


def learning(final: float, *, slowness: float, epochs: int = 30) -> list[float]:
    """A curve that rises towards `final`, half of it after `slowness` epochs."""
    return [final * (1 - math.exp(-math.log(2) * epoch / slowness)) for epoch in range(1, epochs + 1)]
