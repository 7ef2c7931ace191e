"""From checkpoints and a split to everything that `inspection` tells about their matchings."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from detrctl.engine.build import DataSplit
from detrctl.engine.checkpoint import Checkpoint, find_checkpoint
from detrctl.engine.evaluate import match_categories
from detrctl.engine.inspected import (
    Inspected,
    Source,
    Wish,
    batches,
    build_inspected,
    images_of,
    picture_of,
    random_source,
    read_source,
    run_folder,
)
from detrctl.errors import DataError, DetrctlError
from detrctl.inspection.denoising import ImageDenoising, Mask, denoise_batch, summarise_denoising
from detrctl.inspection.instability import between_checkpoints
from detrctl.inspection.matching import MatchRow, match_batch, match_rows
from detrctl.inspection.matching_report import DenoisingReport, MatchingReport, RunMatching, Shown, Weights
from detrctl.inspection.split_matching import SplitMatching, summarise
from detrctl.losses.criterion import Criterion
from detrctl.model.denoising import NoDenoising
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories, ImageBatch, Targets

KEPT = re.compile(r"epoch-(\d+)\.pt")
SHOWN = 8
"""Images told in detail, by default; the statistics are of all."""

DENOISED = 200
"""At most about so many images are denoised: each has hundreds of noised queries, which are all kept."""


@dataclass(frozen=True)
class _Opened:
    model: Inspected
    criterion: Criterion
    part: DataSplit
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Looked:
    data: str
    categories: Categories
    weights: Weights
    summary: SplitMatching
    rows: tuple[MatchRow, ...]
    shown: tuple[Shown, ...]
    image_ids: tuple[int, ...]
    two_stage: bool
    denoises: bool
    denoising: DenoisingReport | None


def inspect_matching(
    ckpts: Sequence[Path | None] = (None,),
    *,
    recipe: str | None = None,
    wish: Wish | None = None,
    shown: int = SHOWN,
    on_progress: Callable[[int, int], None] = lambda done, images: None,
) -> MatchingReport:
    """Looks at one or several checkpoints, all on the same images, unaugmented.

    A run folder with its epochs' checkpoints stands for all of these; None is the newest run. `recipe` alone gives its
    model with random weights, and otherwise says which recipe a published file is of. `shown` images are told in
    detail. `on_progress` hears the images done, over all checkpoints.

    Raises DetrctlError for a model without queries, and where checkpoints do not have the same images or classes.
    """
    wish = wish or Wish()
    runs = find_sources(ckpts, recipe)
    sources = [source for run in runs for source in run]
    main = runs[0][-1]
    looks: dict[Source, _Looked] = {}
    notes: dict[str, None] = {}
    opened: _Opened | None = None
    for number, source in enumerate(sources):
        opened = _open(source, recipe, wish, same=opened)
        heard = _counting(on_progress, number, len(sources), opened.part.images)
        looks[source] = _look(opened, source, wish, shown if source is main else None, on_images=heard)
        if looks[source].image_ids != looks[sources[0]].image_ids:
            raise DataError(f"{source.name}: not the same images as for {sources[0].name}")
        notes.update(dict.fromkeys((*opened.notes, *opened.part.found_on_reading())))
    notes.update(dict.fromkeys(_without_curve(runs)))
    look = looks[main]
    return MatchingReport(
        look.data,
        wish.split,
        look.categories,
        look.weights,
        tuple(_run(run[0].run, [looks[source] for source in run]) for run in runs),
        {source.name: looks[source].rows for source in sources},
        main.name,
        look.shown,
        look.two_stage,
        look.denoising,
        tuple(notes),
    )


def _without_curve(runs: Sequence[Sequence[Source]]) -> list[str]:
    """Of several checkpoints one would expect a curve over training."""
    if len(runs) == 1 and runs[0][0].epoch is None:
        return []
    return [
        f"{run[0].run}: one checkpoint, so nothing between epochs; train with train.keep_every=1 for instability"
        for run in runs
        if len(run) == 1 and run[0].path is not None
    ]


def _counting(
    on_progress: Callable[[int, int], None], before: int, checkpoints: int, images: int
) -> Callable[[int], None]:
    return lambda done: on_progress(before * images + done, checkpoints * images)


def _run(name: str, looks: Sequence[_Looked]) -> RunMatching:
    steps = [
        between_checkpoints(
            before.rows,
            after.rows,
            names=(before.summary.name, after.summary.name),
            epochs=_apart(before.summary.epoch, after.summary.epoch),
            images=after.summary.images,
        )
        for before, after in pairwise(looks)
    ]
    last = looks[-1]
    return RunMatching(name, tuple(look.summary for look in looks), tuple(steps), last.denoises, last.two_stage)


def _apart(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


# ---- checkpoints ----


def find_sources(ckpts: Sequence[Path | None], recipe: str | None) -> list[list[Source]]:
    """Runs, each with its checkpoints in the order of training. A file that lies in no run is one by itself."""
    if recipe is not None and not [ckpt for ckpt in ckpts if ckpt is not None]:
        return [[random_source(recipe)]]
    runs: dict[Path, list[Source]] = {}
    for ckpt in ckpts or (None,):
        kept = _kept(ckpt) if ckpt is not None else []
        for path in kept or [find_checkpoint(ckpt)]:
            home = path.resolve()
            in_a_run = home.parent.name == "checkpoints" or _epoch(path) is not None
            runs.setdefault(run_folder(path) if in_a_run else home, []).append(Source("", _epoch(path), path))
    names = _names(list(runs))
    return [
        [replace(source, run=name) for source in _ordered(found)]
        for name, found in zip(names, runs.values(), strict=True)
    ]


def _kept(folder: Path) -> list[Path]:
    """The epochs' checkpoints of a run folder, if it kept some (train.keep_every)."""
    return [path for path in (folder / "checkpoints").glob("epoch-*.pt") if KEPT.fullmatch(path.name)]


def _epoch(path: Path) -> int | None:
    found = KEPT.fullmatch(path.name)
    return int(found[1]) if found else None


def _ordered(sources: Sequence[Source]) -> list[Source]:
    """By epoch where all have one; otherwise as they were given."""
    unique = list(dict.fromkeys(sources))
    return sorted(unique, key=lambda source: source.epoch or 0) if all(s.epoch is not None for s in unique) else unique


def _names(folders: Sequence[Path]) -> list[str]:
    """The names of folders and files, longer where two are called alike."""
    short = [folder.stem if folder.is_file() else folder.name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _open(source: Source, recipe: str | None, wish: Wish, *, same: _Opened | None) -> _Opened:
    setting = read_source(source, recipe, wish)
    if same is not None:
        setting = replace(setting, recipe=_on_the_data_of(same.model.recipe, setting.recipe))
    known = same is not None and same.model.recipe.data == setting.recipe.data
    part = same.part if same is not None and known else images_of(setting.recipe, wish)
    if setting.checkpoint is not None:
        _require_same_classes(setting.checkpoint, part, same, source)
    model = build_inspected(setting, part.categories, wish)
    criterion = model.learner.criterion
    if not isinstance(criterion, Criterion):
        raise DetrctlError(
            f"{source.name}: {setting.recipe.model.family} has no object queries and matches nothing one to one"
        )
    return _Opened(model, criterion, part, setting.notes)


def _on_the_data_of(first: Recipe, recipe: Recipe) -> Recipe:
    """The first checkpoint's images, as this one's model is used to seeing them."""
    view = {name: getattr(recipe.data, name) for name in ("eval_size", "eval_max_size", "eval_square")}
    return recipe.model_copy(update={"data": first.data.model_copy(update=view)})


def _require_same_classes(checkpoint: Checkpoint, part: DataSplit, same: _Opened | None, source: Source) -> None:
    match_categories(checkpoint.categories, part.ground_truth)
    if same is not None and same.model.categories.names != checkpoint.categories.names:
        raise DetrctlError(
            f"{source.name}: its classes are not those of the checkpoints before; compare runs on one dataset"
        )


# ---- looking ----


@torch.no_grad()
def _look(
    opened: _Opened, source: Source, wish: Wish, shown: int | None, *, on_images: Callable[[int], None]
) -> _Looked:
    """Where `shown` is None there are no pictures and no denoising."""
    network, classes = opened.model.learner.network, len(opened.model.categories)
    rows: list[MatchRow] = []
    details: list[Shown] = []
    ids: list[int] = []
    noised: list[ImageDenoising] = []
    mask: Mask | None = None
    queries, two_stage = 0, False
    for images, targets in batches(opened.model, opened.part, wish.batch_size):
        output = network(images)
        two_stage, queries = output.proposals is not None, max(queries, output.final.boxes.shape[1])
        matched = match_batch(output, targets, images.original_sizes_hw, opened.criterion.matcher, num_classes=classes)
        for i, image in enumerate(matched):
            rows += match_rows(image, opened.model.categories)
            ids.append(image.image_id)
            if shown is not None and len(details) < shown:
                details.append(Shown(image, picture_of(images, i)))
        more = shown is not None and len(noised) < DENOISED
        if more and (told := _denoise(network, images, targets, opened)) is not None:
            noised += told[0]
            mask = mask or told[1]
        on_images(len(ids))
    if not ids:
        raise DataError("nothing to look at: the split has no image that can be read")
    summary = summarise(rows, name=source.name, epoch=source.epoch, images=len(ids), queries=queries)
    denoising = None
    if mask is not None:
        known = {image.matching.image_id for image in details}
        denoising = DenoisingReport(
            summarise_denoising(noised), mask, tuple(image for image in noised if image.image_id in known)
        )
    matcher = opened.criterion.matcher
    return _Looked(
        opened.model.recipe.data.root or "the recipe's data",
        opened.model.categories,
        Weights(matcher.class_weight, matcher.l1, matcher.giou),
        summary,
        tuple(rows),
        tuple(details),
        tuple(ids),
        two_stage,
        not isinstance(network.denoising, NoDenoising),
        denoising,
    )


def _denoise(
    network: nn.Module, images: ImageBatch, targets: Sequence[Targets], opened: _Opened
) -> tuple[list[ImageDenoising], Mask] | None:
    """With the same noise each time that the same images are looked at."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(images.image_ids[0] % 2**63)
        return denoise_batch(network, images, targets, num_classes=len(opened.model.categories))
