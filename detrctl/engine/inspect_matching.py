"""From checkpoints and a split to everything that `inspection` tells about their matchings."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from detrctl.data.transforms import MEAN, STD
from detrctl.engine.build import (
    DataSplit,
    build_data,
    build_learner,
    evaluation_loader,
    learner_from,
    require_trust,
    with_data,
)
from detrctl.engine.checkpoint import BEST, Checkpoint, find_checkpoint
from detrctl.engine.distributed import Alone, choose_device
from detrctl.engine.evaluate import match_categories, on_device
from detrctl.engine.open_weights import open_weights
from detrctl.engine.state import seed_everything
from detrctl.errors import DataError, DetrctlError
from detrctl.families.learner import Learner
from detrctl.inspection.denoising import ImageDenoising, Mask, denoise_batch, summarise_denoising
from detrctl.inspection.instability import between_checkpoints
from detrctl.inspection.matching import MatchRow, match_batch, match_rows
from detrctl.inspection.matching_report import DenoisingReport, MatchingReport, RunMatching, Shown, Weights
from detrctl.inspection.split_matching import SplitMatching, summarise
from detrctl.losses.criterion import Criterion
from detrctl.model.denoising import NoDenoising
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Recipe
from detrctl.structures import Batch, Categories, ImageBatch, Targets

KEPT = re.compile(r"epoch-(\d+)\.pt")
SHOWN = 8
"""Images told in detail, by default; the statistics are of all."""

DENOISED = 200
"""At most about so many images are denoised: each has hundreds of noised queries, which are all kept."""


@dataclass(frozen=True)
class Source:
    """One checkpoint to look at; `path` is None for fresh random weights."""

    run: str
    epoch: int | None
    path: Path | None

    @property
    def name(self) -> str:
        if self.epoch is not None:
            return f"{self.run} epoch {self.epoch}"
        return self.run if self.path is None or self.path.name == BEST else f"{self.run} {self.path.stem}"


@dataclass(frozen=True)
class Wish:
    """What to look at: the first `limit` images of a split or one image; of these `shown` in detail."""

    data: str | None = None
    split: str = "val"
    limit: int | None = None
    image_id: int | None = None
    shown: int = SHOWN
    batch_size: int | None = None
    device: str = "auto"
    trust: bool = False


@dataclass(frozen=True)
class _Opened:
    learner: Learner
    recipe: Recipe
    categories: Categories
    criterion: Criterion
    part: DataSplit
    device: torch.device
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
    on_progress: Callable[[int, int], None] = lambda done, images: None,
) -> MatchingReport:
    """Looks at one or several checkpoints, all on the same images, unaugmented.

    A run folder with its epochs' checkpoints stands for all of these; None is the newest run. `recipe` alone gives its
    model with random weights, and otherwise says which recipe a published file is of. `on_progress` hears the images
    done, over all checkpoints.

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
        looks[source] = _look(opened, source, wish, in_detail=source is main, on_images=heard)
        if looks[source].image_ids != looks[sources[0]].image_ids:
            raise DataError(f"{source.name}: not the same images as for {sources[0].name}")
        notes.update(dict.fromkeys(opened.notes))
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
    return RunMatching(name, tuple(look.summary for look in looks), tuple(steps), looks[-1].denoises)


def _apart(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


# ---- checkpoints ----


def find_sources(ckpts: Sequence[Path | None], recipe: str | None) -> list[list[Source]]:
    """Runs, each with its checkpoints in the order of training; files of one folder belong to one run."""
    if recipe is not None and not [ckpt for ckpt in ckpts if ckpt is not None]:
        return [[Source(f"{Path(recipe).stem}, random weights", None, None)]]
    runs: dict[Path, list[Source]] = {}
    for ckpt in ckpts or (None,):
        kept = _kept(ckpt) if ckpt is not None else []
        for path in kept or [find_checkpoint(ckpt)]:
            folder = _run_folder(path)
            runs.setdefault(folder, []).append(Source("", _epoch(path), path))
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


def _run_folder(path: Path) -> Path:
    folder = path.resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def _ordered(sources: Sequence[Source]) -> list[Source]:
    """By epoch where all have one; otherwise as they were given."""
    unique = list(dict.fromkeys(sources))
    return sorted(unique, key=lambda source: source.epoch or 0) if all(s.epoch is not None for s in unique) else unique


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, longer where two are called alike."""
    short = [folder.name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _open(source: Source, recipe: str | None, wish: Wish, *, same: _Opened | None) -> _Opened:
    device, notes = choose_device(wish.device), tuple[str, ...]()
    if source.path is None:
        assert recipe is not None
        setting = with_data(load_recipe(recipe).recipe, wish.data)
        part = same.part if same else _part(setting, wish)
        seed_everything(setting.train.seed)
        learner, categories = build_learner(setting, part.categories, pretrained=False), part.categories
    else:
        weights = open_weights(source.path, recipe=recipe)
        checkpoint, notes = weights.checkpoint, weights.notes
        setting = with_data(checkpoint.recipe, wish.data)
        require_trust(setting, trust=wish.trust)
        part = same.part if same else _part(setting, wish)
        _require_same_classes(checkpoint, part, same, source)
        learner, categories = learner_from(checkpoint, trust=wish.trust), checkpoint.categories
    if not isinstance(learner.criterion, Criterion):
        raise DetrctlError(
            f"{source.name}: {setting.model.family} has no object queries and matches nothing one to one"
        )
    return _Opened(on_device(learner, device).eval(), setting, categories, learner.criterion, part, device, notes)


def _part(recipe: Recipe, wish: Wish) -> DataSplit:
    part = build_data(recipe, wish.split)
    if wish.image_id is None:
        return part.first(wish.limit)
    ids = _image_ids(part)
    if wish.image_id not in ids:
        some = ", ".join(str(number) for number in ids[:5])
        raise DataError(f"--image-id {wish.image_id}: no such image in split '{wish.split}' (it has {some}, ...)")
    only: Dataset[Any] = Subset(part.dataset, [ids.index(wish.image_id)])
    return replace(part, dataset=only, images=1)


def _image_ids(part: DataSplit) -> list[int]:
    """In the order of the dataset; those of somebody's own dataset are in its ground truth alone."""
    index = getattr(part.dataset, "index", None)
    ids: list[int] = (part.ground_truth if index is None else index).image_ids.tolist()
    return ids


def _require_same_classes(checkpoint: Checkpoint, part: DataSplit, same: _Opened | None, source: Source) -> None:
    match_categories(checkpoint.categories, part.ground_truth)
    if same is not None and same.categories.names != checkpoint.categories.names:
        raise DetrctlError(
            f"{source.name}: its classes are not those of the checkpoints before; compare runs on one dataset"
        )


# ---- looking ----


@torch.no_grad()
def _look(opened: _Opened, source: Source, wish: Wish, *, in_detail: bool, on_images: Callable[[int], None]) -> _Looked:
    """Without details there are no pictures and no denoising."""
    network, classes = opened.learner.network, len(opened.categories)
    rows: list[MatchRow] = []
    details: list[Shown] = []
    ids: list[int] = []
    noised: list[ImageDenoising] = []
    mask: Mask | None = None
    queries, two_stage = 0, False
    for images, targets in _batches(opened, wish.batch_size):
        output = network(images)
        two_stage, queries = output.proposals is not None, max(queries, output.final.boxes.shape[1])
        matched = match_batch(output, targets, images.original_sizes_hw, opened.criterion.matcher, num_classes=classes)
        for i, image in enumerate(matched):
            rows += match_rows(image, opened.categories)
            ids.append(image.image_id)
            if in_detail and len(details) < wish.shown:
                details.append(Shown(image, _picture(images, i)))
        if in_detail and len(noised) < DENOISED and (told := _denoise(network, images, targets, opened)) is not None:
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
        opened.recipe.data.root or "the recipe's data",
        opened.categories,
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
        return denoise_batch(network, images, targets, num_classes=len(opened.categories))


def _batches(opened: _Opened, batch_size: int | None) -> Iterator[tuple[ImageBatch, tuple[Targets, ...]]]:
    """Truths carry the checkpoint's classes, which are told by name."""
    place = {name: number for number, name in enumerate(opened.categories.names)}
    part = opened.part
    alike = part.categories.names == opened.categories.names
    to_class = torch.tensor(
        list(range(len(place))) if alike else [place.get(name, -1) for name in part.categories.names]
    )
    loader = evaluation_loader(
        part.dataset,
        batch_size=batch_size or opened.recipe.evaluate.batch_size,
        workers=opened.recipe.data.workers,
        device=opened.device,
        processes=Alone(),
    )
    batch: Batch | None
    for batch in loader:
        if batch is not None:
            targets = tuple(replace(truth, labels=to_class[truth.labels]) for truth in batch.targets)
            yield batch.images.to(opened.device), tuple(truth.to(opened.device) for truth in targets)


def _picture(images: ImageBatch, i: int) -> Tensor:
    """What the model saw of one image, (H, W, 3) uint8."""
    seen = ~images.is_padding[i].cpu()
    height, width = int(seen.any(1).sum()), int(seen.any(0).sum())
    pixels = images.pixels[i, :, :height, :width].float().cpu()
    mean, deviation = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return ((pixels * deviation + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
