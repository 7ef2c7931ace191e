"""From a learner and a labelled split to COCO scores, by one process or several."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from detrctl.data.check import listed
from detrctl.engine.build import (
    DataSplit,
    build_data,
    evaluation_loader,
    learner_from,
    random_learner,
    require_trust,
    with_data,
)
from detrctl.engine.checkpoint import Checkpoint, find_checkpoint
from detrctl.engine.distributed import Alone, Processes, choose_device, connected, precision_of_use
from detrctl.engine.open_weights import open_weights
from detrctl.errors import DataError, DetrctlError, NonFiniteError
from detrctl.evaluation.coco_metrics import CocoScores, score
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.results import Result, coco_results
from detrctl.families.learner import Learner
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Recipe
from detrctl.structures import Batch, Categories, Detections, ImageBatch
from detrctl.weights.classes import is_unused, plain_name

NAMES_SHOWN = 8


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores and how they came about.

    `results` (COCO format, the dataset's category ids) are there on the first process only; the rest is on all. `notes`
    are worth a line to the user; `data` names the dataset where it is known. `image_ids` are those that were scored.
    """

    scores: CocoScores
    results: tuple[Result, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    data: str = ""
    image_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Opened:
    """What is about to be scored, on which images, by how many processes."""

    learner: Learner
    recipe: Recipe
    categories: Categories
    part: DataSplit
    processes: Processes


def evaluate(
    learner: Learner,
    batches: Iterable[Batch | None],
    ground_truth: GroundTruth,
    categories: Categories,
    *,
    device: torch.device,
    precision: str = "fp32",
    max_dets: int = 100,
    queries: bool = False,
    processes: Processes | None = None,
    on_progress: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Scores the learner, whose classes are `categories`, on the images of `batches` and on no others.

    Each process brings its own batches; an image that several of them saw counts once. A batch may be None (nothing in
    it could be read). With `queries` the results say which query each came from. `on_progress` hears how many images
    this process has done. The learner's mode is kept.

    Raises DataError if the categories do not fit or no image came, NonFiniteError if a prediction is NaN or infinite.
    """
    processes = processes or Alone()
    started = time.monotonic()
    category_ids = match_categories(categories, ground_truth)
    mine: dict[int, list[Result]] = {}
    for _, detections in detect_all(learner, batches, device=device, precision=precision):
        mine.update({found.image_id: coco_results([found], category_ids, queries=queries) for found in detections})
        on_progress(len(mine))
    merged = {image_id: found for part in processes.gather(mine) for image_id, found in part.items()}
    if not merged:
        raise DataError("nothing to evaluate: the split has no image that can be read")
    results = tuple(result for image_id in sorted(merged) for result in merged[image_id]) if processes.first else ()
    scores = _score_once(ground_truth.only(merged), results, max_dets, processes)
    seconds, notes = time.monotonic() - started, _notes(categories, category_ids)
    return Evaluation(scores, results, seconds, notes, image_ids=tuple(sorted(merged)))


def evaluate_checkpoint(
    ckpt: str | Path | None = None,
    *,
    data: str | None = None,
    split: str = "val",
    limit: int | None = None,
    batch_size: int | None = None,
    max_dets: int | None = None,
    device: str = "auto",
    trust: bool = False,
    recipe: str | None = None,
    on_oddities: Callable[[Sequence[str]], None] = lambda lines: None,
    on_learner: Callable[[Opened], None] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, images: None,
) -> Evaluation:
    """Scores a checkpoint file or a run folder (default: the newest run) on a labelled split, as training does.

    An official or Hugging Face file is one as well; `recipe` says which it is of where it cannot tell (DC5), and alone
    it is its model with random weights. `data` is a dataset folder or `shapes` (default: the one that it was trained
    on), `limit` takes the first images only. `batch_size` and `max_dets` are the recipe's by default. Before the model
    is built, `on_oddities` hears what is odd about the split, a line each; `on_learner`, which may watch the model from
    then on, hears what is about to be scored, and the results then name their queries; `on_progress` hears the images
    done, and all of them.
    """
    if ckpt is None and recipe is not None:
        checkpoint, remarks = random_checkpoint(recipe, data=data, split=split), tuple[str, ...]()
        trust = True  # what a recipe names, whoever gives it means
    else:
        opened = open_weights(find_checkpoint(None if ckpt is None else Path(ckpt)), recipe=recipe)
        checkpoint, remarks = opened.checkpoint, opened.notes
    setting, where = with_data(checkpoint.recipe, data), choose_device(device)
    precision, notes = precision_of_use(setting.train.precision, where)
    require_trust(setting, trust=trust)  # without --data it can name a dataset class, too
    part = build_data(setting, split).with_labels().first(limit)
    on_oddities(part.oddities)
    match_categories(checkpoint.categories, part.ground_truth)  # before the model is built, which takes longer
    with connected(where) as processes:
        loader = evaluation_loader(
            part.dataset,
            batch_size=batch_size or setting.evaluate.batch_size,
            workers=setting.data.workers,
            device=where,
            processes=processes,
        )
        learner = on_device(learner_from(checkpoint, trust=trust), where)
        if on_learner is not None:
            on_learner(Opened(learner, setting, checkpoint.categories, part, processes))
        done = evaluate(
            learner,
            loader,
            part.ground_truth,
            checkpoint.categories,
            device=where,
            precision=precision,
            max_dets=max_dets or setting.evaluate.max_dets,
            queries=on_learner is not None,
            processes=processes,
            on_progress=lambda done: on_progress(min(done * processes.world, part.images), part.images),
        )
        unread = sorted({file for files in processes.gather(part.unread()) for file in files})
    lost = (f"image files that could not be read, left out of the scores: {listed(unread)}",) if unread else ()
    return replace(done, notes=remarks + notes + done.notes + lost, data=setting.data.root or "the recipe's data")


def random_checkpoint(recipe: str, *, data: str | None, split: str) -> Checkpoint:
    """A recipe's model with random weights, for the classes of a split; for teaching."""
    setting = with_data(load_recipe(recipe).recipe, data)
    categories = build_data(setting, split).categories
    return Checkpoint(setting, categories, random_learner(setting, categories).network.state_dict())


def _score_once(
    ground_truth: GroundTruth, results: Sequence[Result], max_dets: int, processes: Processes
) -> CocoScores:
    """The first process counts, the others wait for what it says."""
    scores = score(ground_truth, results, max_dets=max_dets) if processes.first else None
    return cast(CocoScores, processes.from_first(scores))


def on_device(learner: Learner, device: torch.device) -> Learner:
    """In the memory format that training uses: faster convolutions, and the same scores to the last digit."""
    learner.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return learner


@torch.no_grad()
def detect_all(
    learner: Learner, batches: Iterable[Batch | None], *, device: torch.device, precision: str = "fp32"
) -> Iterator[tuple[ImageBatch, list[Detections]]]:
    """Every readable batch with its detections, in evaluation mode; the learner's own mode comes back afterwards."""
    with _evaluating(learner):
        for batch in batches:
            if batch is None:
                continue
            try:
                images = batch.images.to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    detections = learner.detect(images)
            except torch.OutOfMemoryError as error:
                raise DetrctlError(_out_of_memory(batch)) from error
            for found in detections:
                _check_finite(found)
            yield images, detections


def _out_of_memory(batch: Batch) -> str:
    count, _, height, width = batch.images.pixels.shape
    return (
        f"out of GPU memory on {count} images of {height} x {width}: detect fewer at once (--batch, "
        "evaluate.batch_size), or use --device cpu"
    )


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def _check_finite(found: Detections) -> None:
    if not (found.scores.isfinite().all() and found.boxes.isfinite().all()):
        raise NonFiniteError(
            f"image {found.image_id}: the detector's answer holds NaN or infinity, so its weights are probably spoilt"
        )


def match_categories(
    categories: Categories, ground_truth: GroundTruth, *, whose: str = "checkpoint", other: str = "dataset"
) -> tuple[int | None, ...]:
    """For each class of the checkpoint the dataset's id of the category with that name, None if it has none.

    Names decide, upper and lower case alike, since ids differ between copies of a dataset. Raises DataError, listing
    both, if the checkpoint lacks a category of which the dataset has truths, or if no name is common; and if two
    categories with truths share a name. `whose` and `other` are what it calls the two.
    """
    if (categories.names, categories.ids) == (ground_truth.category_names, ground_truth.category_ids):
        return categories.ids  # also where two categories share a name
    used = set(ground_truth.category_of.tolist())
    named = sorted(zip(ground_truth.category_ids, ground_truth.category_names, strict=True), key=lambda c: c[0] in used)
    ids = {name: number for number, name in named}  # of two with one name the one that is used
    twice = [name for name, count in Counter(name for number, name in named if number in used).items() if count > 1]
    if twice:
        raise DataError(
            f"the {other} has several categories named {_listed(twice)}, which cannot be told apart by name as the "
            f"{whose}'s table of categories, which is another, needs; give each a name of its own"
        )
    meant = _ids_of_alike(categories.names, ids)
    lacking = [name for name, number in ids.items() if number not in meant and number in used]
    if lacking or meant.count(None) == len(meant):
        raise DataError(
            f"the {other}'s categories do not match the {whose}'s: "
            f"{other} {_listed(ground_truth.category_names)}; {whose} {_listed(categories.names)}"
        )
    return meant


def _ids_of_alike(names: Sequence[str], ids: Mapping[str, int]) -> tuple[int | None, ...]:
    """By the very name, or else by the only one that differs in case and is no other class's very name."""
    alike = Counter(map(plain_name, ids))
    others = {plain_name(name): n for name, n in ids.items() if alike[plain_name(name)] == 1 and name not in names}
    return tuple(ids.get(name, others.get(plain_name(name))) for name in names)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown}, ... ({len(names)} in all)"


def _notes(categories: Categories, category_ids: Sequence[int | None]) -> tuple[str, ...]:
    pairs = zip(categories.names, category_ids, strict=True)
    unknown = [name for name, number in pairs if number is None and not is_unused(name)]
    if not unknown:
        return ()
    return (
        f"{len(unknown)} of the checkpoint's {len(categories)} classes are not in this dataset: {_listed(unknown)}",
    )
