"""A recipe becomes a learner and the data that it learns from."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from detrctl.data.batch import Sample, collate
from detrctl.data.check import check_split, listed, require_boxes
from detrctl.data.coco import CocoIndex, SplitFiles, find_splits
from detrctl.data.dataset import DetectionDataset
from detrctl.data.layouts import choose_split, named_split
from detrctl.data.shapes import ensure_shapes
from detrctl.data.transforms import PLAIN, eval_transform, train_transform
from detrctl.engine.checkpoint import Checkpoint
from detrctl.engine.distributed import Processes
from detrctl.engine.interrupt import ignore_in_worker
from detrctl.engine.loader import Loader
from detrctl.engine.own_data import OwnDataset, load_own_data, own_categories, own_ground_truth
from detrctl.engine.state import seed_everything
from detrctl.errors import CheckpointError, DataError
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.families.catalog import FAMILIES
from detrctl.families.learner import Learner
from detrctl.recipe.locate import expanded
from detrctl.recipe.schema import Recipe
from detrctl.structures import Batch, Categories

_PART = re.compile(r"[\w.]+:[\w.]+")


# ---- models ----


def build_learner(recipe: Recipe, categories: Categories, *, pretrained: bool = True) -> Learner:
    """The recipe's model with fresh weights, but for a pretrained backbone. Parts of the user's own are imported."""
    model = recipe.model
    if not pretrained:
        model = model.model_copy(update={"backbone": model.backbone.model_copy(update={"weights": "none"})})
    return FAMILIES[model.family](model, recipe.objective, len(categories))


def random_learner(recipe: Recipe, categories: Categories) -> Learner:
    """As training from scratch begins, without published weights."""
    seed_everything(recipe.train.seed)
    return build_learner(recipe, categories, pretrained=False)


def learner_from(checkpoint: Checkpoint, *, trust: bool = False) -> Learner:
    """The model of a checkpoint with the weights that its scores belong to.

    A checkpoint can name parts of somebody's own, and importing these runs code: only with `trust`. CheckpointError if
    it names some and is not trusted, or if weights and recipe do not fit each other.
    """
    require_trust(checkpoint.recipe, trust=trust, data=False)
    learner = build_learner(checkpoint.recipe, checkpoint.categories, pretrained=False)
    try:
        learner.network.load_state_dict(checkpoint.evaluated)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(f"this checkpoint's weights do not fit its recipe: {reason}") from error
    return learner


def require_trust(recipe: Recipe, *, trust: bool, data: bool = True) -> None:
    """For a recipe out of a checkpoint: CheckpointError if it names somebody's own parts and is not trusted.

    Without `data` the dataset class does not count, for where it is not imported.
    """
    parts = own_parts(recipe, data=data)
    if parts and not trust:
        raise CheckpointError(
            f"this checkpoint wants to import {', '.join(parts)}, which can run any code: add --trust if you know it"
        )


def own_parts(recipe: Recipe, *, data: bool = True) -> list[str]:
    """Everything of the form `package.module:Name` that building this recipe's model, and its `data`, would import."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for item in value.values():
                yield from texts(item)

    named = [recipe.model.model_dump(exclude={"backbone": {"options"}}), recipe.data.dataset if data else None]
    return [text for part in named for text in texts(part) if _PART.fullmatch(text)]


# ---- data ----

Found = dict[str, Mapping[Any, int]]
"""What is wrong, and how often it is so in which file or item."""
UNREAD = "image files that could not be read, skipped"


def together(parts: Sequence[Found]) -> Found:
    """What several processes have found, each in images of its own or in the same ones."""
    return {what: {at: n for part in parts for at, n in part.get(what, {}).items()} for part in parts for what in part}


def said(found: Found) -> tuple[str, ...]:
    """A line for each kind of thing, files by name."""
    return tuple(
        f"{what}: {listed(sorted(places)) if what == UNREAD else sum(places.values())}"
        for what, places in sorted(found.items(), key=lambda item: item[0] != UNREAD)
    )


@dataclass(frozen=True)
class DataSplit:
    """One split, ready to be loaded. `boxes` are those that are trained on, None in a dataset of the user's own.

    `lines` say what was found, the first `totals` of them how much, the others what is odd. `ground_truth` is made when
    it is first asked for. `unlabelled`: why it can only be predicted.
    """

    name: str
    dataset: Dataset[Sample | None]
    categories: Categories
    images: int
    boxes: int | None
    lines: tuple[str, ...]
    make_ground_truth: Callable[[], GroundTruth]
    totals: int = 1
    unlabelled: str | None = None

    def with_labels(self) -> "DataSplit":
        """Itself. DataError if it can only be predicted."""
        if self.unlabelled is not None:
            raise DataError(self.unlabelled)
        return self

    @property
    def oddities(self) -> tuple[str, ...]:
        return self.lines[self.totals :]

    @cached_property
    def ground_truth(self) -> GroundTruth:
        return self.make_ground_truth()

    def unread(self) -> tuple[str, ...]:
        """The files that were skipped so far because they could not be read, by this process or its loader's."""
        whole = _whole(self.dataset)
        return tuple(map(str, whole.unreadable())) if isinstance(whole, DetectionDataset) else ()

    def found(self) -> Found:
        """What only the reading of images and boxes has shown so far, to this process and its loader's."""
        whole = _whole(self.dataset)
        boxes: Found = {**whole.found()} if isinstance(whole, OwnDataset) else {}
        return boxes | ({UNREAD: dict.fromkeys(unread, 1)} if (unread := self.unread()) else {})

    def found_on_reading(self) -> tuple[str, ...]:
        """The same in lines."""
        return said(self.found())

    def pixels(self, image_id: int) -> Tensor | None:
        """An image as it was before the transforms, uint8 RGB (3, H, W); None where it cannot be read."""
        whole = _whole(self.dataset)
        assert isinstance(whole, DetectionDataset | OwnDataset)
        try:
            if isinstance(whole, OwnDataset):
                return whole.pixels(image_id)
            return whole.pixels(whole.index.image_ids.tolist().index(image_id))
        except DataError:
            return None

    @property
    def file_names(self) -> dict[int, str]:
        """By image id; a dataset of the user's own has none."""
        whole = _whole(self.dataset)
        if not isinstance(whole, DetectionDataset):
            return {}
        index = whole.index
        return {image.id: image.file_name for image in map(index.image, range(len(index)))}

    def first(self, limit: int | None) -> "DataSplit":
        """The first `limit` images only; what is scored follows from the images that are loaded."""
        if limit is None or limit >= self.images:
            return self
        part: Dataset[Sample | None] = Subset(self.dataset, range(limit))
        return replace(self, dataset=part, images=limit, make_ground_truth=lambda: self.ground_truth)


def _whole(dataset: Dataset[Sample | None]) -> Dataset[Sample | None]:
    return dataset.dataset if isinstance(dataset, Subset) else dataset


def with_data(recipe: Recipe, root: str | None) -> Recipe:
    """The recipe with another dataset: `--data DIR` replaces the root, splits named by hand, and a dataset class."""
    if root is None:
        return recipe
    return recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"root": root, "train": None, "val": None, "dataset": None})}
    )


def split_files(recipe: Recipe) -> dict[str, SplitFiles]:
    """Every split that the recipe names by hand or that lies in its dataset folder, by name."""
    data = recipe.data
    named = {
        name: named_split(expanded(split.images), expanded(split.annotations) if split.annotations else None)
        for name, split in (("train", data.train), ("val", data.val))
        if split is not None
    }
    if data.root is None and not named:
        raise DataError(
            "no dataset: give --data DIR (`--data shapes` for the built-in one), or data.root in the recipe"
        )
    if data.root is None:
        return named
    root = ensure_shapes() if data.root == "shapes" else expanded(data.root)
    return find_splits(root) | named


def has_labels(recipe: Recipe, name: str) -> bool:
    """Whether the recipe's data has a split `name` that can be trained on or scored."""
    if recipe.data.dataset is not None:
        return True
    files = split_files(recipe).get(name)
    return files is not None and files.annotations is not None


def build_data(recipe: Recipe, name: str, *, augment: bool = False) -> DataSplit:
    """Split `name` of the recipe's data, augmented for training or as evaluation sees it.

    DataError where there is no such split, it has no labels, no images or (for training) no boxes, and, unless the
    recipe skips them, where image files are missing, cannot be opened or have another size than annotated.
    """
    if recipe.data.dataset is not None:
        return _own_split(recipe, name, augment=augment)
    files = choose_split(split_files(recipe), name, recipe.data.root or "the recipe")
    if files.annotations is None:
        raise DataError(
            f"{files.images}: split '{name}' has no annotation file; it can only be predicted: "
            f"detrctl predict {files.images}"
        )
    index = CocoIndex.read(files.annotations)
    if augment:
        require_boxes(index)
    report = check_split(index, files.images, broken=recipe.data.broken_images)
    dataset = DetectionDataset(
        index,
        files.images,
        transform(recipe, augment=augment),
        plain=_plain(recipe, augment=augment),
        seed=recipe.train.seed,
        broken=recipe.data.broken_images,
        cache=True,
    )
    summary = index.summary
    return DataSplit(
        name,
        dataset,
        index.categories,
        summary.images,
        summary.boxes,
        tuple(report.lines()),
        lambda: GroundTruth.from_coco_dict(index.ground_truth(), source=str(files.annotations)),
        totals=2,
        unlabelled=None
        if index.labelled
        else f"{files.annotations}: has no `annotations`, so split '{name}' can only be predicted: "
        f"detrctl predict {files.images} --ids {files.annotations}",
    )


def _own_split(recipe: Recipe, name: str, *, augment: bool) -> DataSplit:
    assert recipe.data.dataset is not None
    own = load_own_data(recipe.data.dataset, root=recipe.data.root, split=name)
    if len(own) == 0:
        raise DataError(f"data.dataset: {recipe.data.dataset}: split '{name}' has no images")
    dataset = OwnDataset(
        own, transform(recipe, augment=augment), plain=_plain(recipe, augment=augment), seed=recipe.train.seed
    )
    categories = own_categories(own)
    lines = (f"{len(own)} images, {len(categories)} classes, from {recipe.data.dataset}",)
    return DataSplit(name, dataset, categories, len(own), None, lines, lambda: own_ground_truth(own))


def transform(recipe: Recipe, *, augment: bool, plain: bool = False) -> Callable[..., Any]:
    """What an image of this recipe goes through on its way to the model; `plain`: at the end of the training."""
    data = recipe.data
    if not augment:
        return eval_transform(size=data.eval_size, max_size=data.eval_max_size, square=data.eval_square)
    return train_transform(
        **data.augment.model_dump(exclude={"plain_end"}) | (PLAIN if plain else {}),
        eval_size=data.eval_size,
        eval_max_size=data.eval_max_size,
        eval_square=data.eval_square,
    )


def _plain(recipe: Recipe, *, augment: bool) -> Callable[..., Any] | None:
    """What training images go through in the last epochs, None where that is the same as before."""
    return transform(recipe, augment=True, plain=True) if augment and recipe.data.augment.plain_end else None


# ---- order and loading ----


@dataclass
class TrainingOrder:
    """Which images each micro-batch of this process holds: a batch sampler whose place can be set.

    An epoch is a permutation by (seed, epoch), cut into whole batches; what is left over waits for another epoch. A
    batch is dealt out image by image to the processes, and what a process got to its micro-batches, so that it holds
    the same images however many there are of either.
    """

    images: int
    batch_size: int
    accumulate: int
    seed: int
    rank: int
    world: int
    epoch: int = 0
    first_step: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch; a set smaller than one batch still gives one."""
        return max(1, self.images // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        permutation = np.random.default_rng([self.seed, self.epoch]).permutation(self.images).tolist()
        for step in range(self.first_step, self.steps):
            mine = permutation[step * self.batch_size : (step + 1) * self.batch_size][self.rank :: self.world]
            for part in range(self.accumulate):
                yield mine[part :: self.accumulate]

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate


def queries_per_image(recipe: Recipe) -> int | None:
    """How many truths of an image can be matched; None for Faster R-CNN, which has no queries."""
    queries: int | None = getattr(recipe.model, "queries", None)
    return None if queries is None else queries * max(1, getattr(recipe.model, "patterns", 0))


def training_order(recipe: Recipe, images: int, processes: Processes) -> TrainingOrder:
    """DataError where a batch cannot be dealt out."""
    train = recipe.train
    smallest, parts = min(train.batch_size, images), train.accumulate * processes.world
    if smallest < parts:
        cures = {
            "train.processes 1": smallest >= train.accumulate,
            "train.accumulate smaller": smallest >= processes.world,
            "train.batch_size greater": images >= parts,
        }
        what = "train.batch_size" if train.batch_size < images else "the training split"
        cure = " or ".join(name for name, helps in cures.items() if helps) or "train.processes and train.accumulate 1"
        raise DataError(
            f"{what}: {smallest} image(s) cannot be dealt out to {processes.world} process(es) "
            f"x {train.accumulate} micro-batch(es); make {cure}"
        )
    return TrainingOrder(images, train.batch_size, train.accumulate, train.seed, processes.rank, processes.world)


def training_loader(
    dataset: Dataset[Sample | None], order: TrainingOrder, *, workers: int, device: torch.device
) -> DataLoader[Batch | None]:
    """Micro-batches in the order's order; `accumulate` of them make one step. None where nothing could be read."""
    return Loader(dataset, batch_sampler=order, **_loading(workers, device))  # type: ignore[arg-type]


def evaluation_loader(
    dataset: Dataset[Sample | None], *, batch_size: int, workers: int, device: torch.device, processes: Processes
) -> DataLoader[Batch | None]:
    """Every image once, dealt out to the processes; nothing is dropped."""
    mine = range(processes.rank, len(dataset), processes.world)  # type: ignore[arg-type]
    part: Dataset[Sample | None] = Subset(dataset, mine)
    return Loader(part, batch_size=batch_size, **_loading(workers, device))  # type: ignore[arg-type]


def _loading(workers: int, device: torch.device) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "collate_fn": collate,
        "pin_memory": device.type == "cuda",
        "persistent_workers": workers > 0,
        "worker_init_fn": ignore_in_worker,
        # Otherwise every pass would draw a seed from the generator that dropout draws from, and resuming would differ.
        "generator": torch.Generator(),
    }
