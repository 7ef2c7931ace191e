"""Whether the runs differ by more than the choice of images: their detections on one split, and intervals from these.

Detections are kept in the run folder, detections/WEIGHTS-SPLIT-KEY.json: a COCO result list, so that `detrctl eval
--predictions` reads it as well. The key is made of the checkpoint's bytes and of the truths.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detrctl import __version__
from detrctl.engine.build import build_data, require_trust, with_data
from detrctl.engine.checkpoint import BEST, LAST, load
from detrctl.engine.compare import Group, require_bootstrap
from detrctl.engine.evaluate import evaluate_checkpoint
from detrctl.engine.run_records import RunRecord
from detrctl.errors import CheckpointError, DataError, DetrctlError
from detrctl.evaluation.bootstrap import Interval, Resampled, draw_images, interval_of_difference, match_images, mean_of
from detrctl.evaluation.bootstrap import resampled as resample
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.results import Result, read_results

Progress = Callable[[str, int, int], None]

SPLIT = "val"
SEED = 0
LEVEL = 0.95


@dataclass(frozen=True)
class Differences:
    """One group against the first one. `intervals` by score (AP, AP50, APs), without those that have no truths."""

    group: Group
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Bootstrap:
    """Scores of every group on the whole split, and the differences of all but the first to the first."""

    scores: tuple[dict[str, float], ...]
    differences: tuple[Differences, ...]
    images: int
    resamples: int
    max_dets: int
    notes: tuple[str, ...] = ()
    seed: int = SEED
    level: float = LEVEL


def bootstrap(
    groups: Sequence[Group],
    *,
    resamples: int,
    best: bool = False,
    data: str | None = None,
    device: str = "auto",
    trust: bool = False,
    on_progress: Progress = lambda what, done, total: None,
) -> Bootstrap:
    """Compare every group with the first, image draw by image draw; a group's score is the mean over its runs.

    Evaluates the runs' last checkpoints (`best`: their best ones) on the whole validation split where that was not
    done before; `data` names the dataset folder where it is not that of the recipes. `on_progress` hears what is being
    done and how far it is. The intervals cover the choice of images, not the luck of a training run.

    DetrctlError if there is only one group, or the runs' images differ.
    """
    runs = [run for group in groups for run in group.runs]
    require_bootstrap(groups, other_data=data is not None)
    use = _Use(data, device, trust)
    found = [_detections(run, _checkpoint(run, best=best), use, on_progress) for run in runs]
    truths = found[0].truths
    for run, other in zip(runs, found, strict=True):
        if fingerprint(other.truths) != fingerprint(truths):
            raise DataError(
                f"--bootstrap needs the same images and truths, but those of {run.name} are not those of {runs[0].name}"
            )
    max_dets = _common_limit(runs)
    draws = draw_images(len(truths.image_ids), resamples=resamples, seed=SEED)
    scored: dict[Path, dict[str, Resampled]] = {}
    for done, (run, detections) in enumerate(zip(runs, found, strict=True)):
        on_progress("drawing images", done, len(runs))
        scored[run.path] = _resampled(truths, detections.results, draws, max_dets=max_dets)
    means = [_means([scored[run.path] for run in group.runs]) for group in groups]
    return Bootstrap(
        scores=tuple({name: score.whole for name, score in mean.items()} for mean in means),
        differences=tuple(
            Differences(group, _intervals(mean, means[0])) for group, mean in zip(groups[1:], means[1:], strict=True)
        ),
        images=len(truths.image_ids),
        resamples=resamples,
        max_dets=max_dets,
        notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
    )


def _common_limit(runs: Sequence[RunRecord]) -> int:
    """The recipes' evaluate.max_dets where they agree, else COCO's 100."""
    limits = {run.fields.get("evaluate.max_dets") for run in runs}
    limit = limits.pop() if len(limits) == 1 else None
    return limit if isinstance(limit, int) else 100


def _resampled(
    truths: GroundTruth, results: Sequence[Result], draws: np.ndarray, *, max_dets: int
) -> dict[str, Resampled]:
    matches = match_images(truths, results, max_dets=max_dets)
    ap, ap50 = resample(matches["all"], draws)
    small, _ = resample(matches["small"], draws)
    return {"AP": ap, "AP50": ap50, "APs": small}


def _means(runs: Sequence[dict[str, Resampled]]) -> dict[str, Resampled]:
    means = {name: mean_of([run[name] for run in runs]) for name in runs[0]}
    return {name: mean for name, mean in means.items() if np.isfinite(mean.whole)}


def _intervals(mean: dict[str, Resampled], first: dict[str, Resampled]) -> dict[str, Interval]:
    return {name: interval_of_difference(mean[name], first[name], level=LEVEL) for name in mean}


# ---- detections, kept ----


@dataclass(frozen=True, eq=False)
class _Detections:
    truths: GroundTruth
    results: Sequence[Result]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Use:
    """On which data and device, and whether somebody's own parts may be imported."""

    data: str | None
    device: str
    trust: bool


def _detections(run: RunRecord, checkpoint: Path, use: _Use, on_progress: Progress) -> _Detections:
    """Read from the run folder, or made and kept there."""
    recipe = with_data(load(checkpoint).recipe, use.data)
    require_trust(recipe, trust=use.trust)
    truths = build_data(recipe, SPLIT).ground_truth
    place = kept_at(run.path, checkpoint, truths)
    if place.is_file():
        with contextlib.suppress(DataError):  # cut short: made anew
            return _Detections(truths, read_results(place))
    try:
        done = evaluate_checkpoint(
            checkpoint,
            data=use.data,
            device=use.device,
            trust=use.trust,
            on_progress=lambda images, of: on_progress(f"evaluating {run.name}", images, of),
        )
    except DetrctlError as error:  # which of the runs it was
        said = str(error)
        raise type(error)(said if str(run.path) in said else f"{checkpoint}: {said}") from error
    notes = tuple(f"{run.name}: {note}" for note in done.notes)
    return _Detections(truths, done.results, notes + _keep(done.results, place))


def _checkpoint(run: RunRecord, *, best: bool) -> Path:
    names = (BEST, LAST) if best else (LAST, BEST)
    for name in names:
        if (file := run.path / "checkpoints" / name).is_file():
            return file
    raise CheckpointError(f"{run.path}: has no checkpoint any more, so that --bootstrap cannot evaluate it")


def kept_at(run: Path, checkpoint: Path, truths: GroundTruth) -> Path:
    """The file for the detections of a checkpoint. Other bytes, other truths or another version: another name."""
    key = hashlib.sha256(f"{__version__}\n{fingerprint(truths)}\n".encode())
    with checkpoint.open("rb") as file:
        key.update(hashlib.file_digest(file, "sha256").digest())
    return run / "detections" / f"{checkpoint.stem}-{SPLIT}-{key.hexdigest()[:16]}.json"


def fingerprint(truths: GroundTruth) -> str:
    """Equal for the same images, categories and annotations in the same order."""
    digest = hashlib.sha256(repr((truths.category_ids, truths.category_names, truths.file_names)).encode())
    for array in (
        truths.image_ids,
        truths.image_of,
        truths.category_of,
        truths.boxes_xywh,
        truths.areas,
        truths.is_crowd,
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _keep(results: Sequence[Result], place: Path) -> tuple[str, ...]:
    """Whole or not at all, in the stead of older ones; a run folder that cannot be written to is worth a note only."""
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(exist_ok=True)
        part.write_text(json.dumps(list(results)), encoding="utf-8")
        for old in place.parent.glob(f"{place.name.rsplit('-', 1)[0]}-*.json"):
            old.unlink()
        os.replace(part, place)
    except OSError as error:
        return (f"{place.parent}: detections could not be kept ({error.strerror or error})",)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return ()
