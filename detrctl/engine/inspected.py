"""What every inspecting command opens: a checkpoint, or a recipe with random weights, and images to look at it on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from detrctl.data.transforms import MEAN, STD
from detrctl.engine.build import (
    DataSplit,
    build_data,
    evaluation_loader,
    learner_from,
    random_learner,
    require_trust,
    with_data,
)
from detrctl.engine.checkpoint import BEST, Checkpoint
from detrctl.engine.distributed import Alone, choose_device
from detrctl.engine.evaluate import on_device
from detrctl.engine.matching_watch import to_classes
from detrctl.engine.open_weights import open_weights
from detrctl.errors import DataError
from detrctl.families.learner import Learner
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Recipe
from detrctl.structures import Batch, Categories, ImageBatch, Targets


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
        if self.path is None or self.path.name == BEST or self.path.stem == self.run:
            return self.run
        return f"{self.run} {self.path.stem}"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What to look at it on: the first `limit` images of a split, or one image; None is the recipe's own choice."""

    data: str | None = None
    split: str = "val"
    limit: int | None = None
    image_id: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    trust: bool = False


@dataclass(frozen=True)
class Setting:
    """A source that was read, its recipe with the data asked for. `checkpoint` is None for random weights."""

    source: Source
    recipe: Recipe
    checkpoint: Checkpoint | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspected:
    """A model in evaluation mode, with its categories."""

    learner: Learner
    recipe: Recipe
    categories: Categories
    device: torch.device


def random_source(recipe: str) -> Source:
    return Source(f"{Path(recipe).stem}, random weights", None, None)


def run_folder(path: Path) -> Path:
    """That of a checkpoint file, or the folder that it lies in."""
    folder = path.resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def read_source(source: Source, recipe: str | None, wish: Wish) -> Setting:
    """`recipe` is that of random weights, or says which one a published file is of."""
    if source.path is None:
        assert recipe is not None
        return Setting(source, with_data(load_recipe(recipe).recipe, wish.data), None)
    weights = open_weights(source.path, recipe=recipe)
    setting = with_data(weights.checkpoint.recipe, wish.data)
    require_trust(setting, trust=wish.trust)
    return Setting(source, setting, weights.checkpoint, weights.notes)


def build_inspected(setting: Setting, categories: Categories, wish: Wish) -> Inspected:
    """`categories` are those of random weights; a checkpoint has its own."""
    device = choose_device(wish.device)
    if setting.checkpoint is None:
        learner = random_learner(setting.recipe, categories)
    else:
        learner = learner_from(setting.checkpoint, trust=wish.trust)
        categories = setting.checkpoint.categories
    return Inspected(on_device(learner, device).eval(), setting.recipe, categories, device)


# ---- images ----


def images_of(recipe: Recipe, wish: Wish) -> DataSplit:
    """DataError, one line, where there are none."""
    part = build_data(recipe, wish.split).with_labels()
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


def batches(
    model: Inspected, part: DataSplit, batch_size: int | None
) -> Iterator[tuple[ImageBatch, tuple[Targets, ...]]]:
    """Truths carry the checkpoint's classes, which are told by name."""
    classes = to_classes(model.categories, part.categories)
    loader = evaluation_loader(
        part.dataset,
        batch_size=batch_size or model.recipe.evaluate.batch_size,
        workers=model.recipe.data.workers,
        device=model.device,
        processes=Alone(),
    )
    batch: Batch | None
    for batch in loader:
        if batch is not None:
            targets = tuple(replace(truth, labels=classes[truth.labels]) for truth in batch.targets)
            yield batch.images.to(model.device), tuple(truth.to(model.device) for truth in targets)


def picture_of(images: ImageBatch, i: int) -> Tensor:
    """What the model saw of one image, (H, W, 3) uint8."""
    seen = ~images.is_padding[i].cpu()
    height, width = int(seen.any(1).sum()), int(seen.any(0).sum())
    pixels = images.pixels[i, :, :height, :width].float().cpu()
    mean, deviation = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return ((pixels * deviation + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
