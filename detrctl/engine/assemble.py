"""Everything that a run needs, put together: images, model, optimizer, average."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detrctl.engine import events
from detrctl.engine.board import require_tensorboard
from detrctl.engine.build import (
    DataSplit,
    build_data,
    build_learner,
    evaluation_loader,
    has_labels,
    training_loader,
    training_order,
)
from detrctl.engine.checkpoint import Checkpoint, find_checkpoint
from detrctl.engine.distributed import Processes, on_first, share_cores
from detrctl.engine.ema import Average
from detrctl.engine.evaluate import match_categories
from detrctl.engine.initial import doubts
from detrctl.engine.loop import Feed
from detrctl.engine.open_weights import open_weights
from detrctl.engine.optim import build_optimizer, freeze_still_groups
from detrctl.engine.start import Start
from detrctl.engine.state import seed_everything
from detrctl.errors import CheckpointError, DataError
from detrctl.families.learner import Learner
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories
from detrctl.weights.transfer import Row, Transfer, transfer

BACKBONE = "backbone."
"""What the names of a backbone's tensors begin with, in every family."""


@dataclass(frozen=True)
class Assembly:
    """`taken` says which weights came from elsewhere; `threads` is what each process computes with on a CPU.

    `notes` are what is doubtful about those weights.
    """

    feed: Feed
    learner: Learner
    optimizer: torch.optim.Optimizer
    average: Average | None
    taken: events.WeightsTaken | None
    threads: int
    notes: tuple[str, ...] = ()


def assemble(start: Start, device: torch.device, processes: Processes) -> Assembly:
    """Seeds the global generators: alike for the initial weights, by process for what is drawn in training."""
    train, threads = start.recipe.train, share_cores(device)
    if train.tensorboard:
        require_tensorboard()
    feed = build_feed(start.recipe, device, processes)
    learner, taken, notes = _learner(start, feed.train.categories)
    groups = learner.parameter_groups()
    freeze_still_groups(groups, train)
    # In this order of memory, convolutions took 15 % less time on a CPU; on a GPU, bf16 wants it.
    learner.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(groups, train)
    average = Average(learner.network, decay=train.ema, warmup=train.ema_warmup) if train.ema else None
    seed_everything(train.seed + processes.rank)
    return Assembly(feed, learner, optimizer, average, taken, threads, notes)


# ---- images ----


def build_feed(recipe: Recipe, device: torch.device, processes: Processes) -> Feed:
    training, val = _splits(recipe, processes)
    order = training_order(recipe, training.images, processes)
    workers = recipe.data.workers
    batches = training_loader(training.dataset, order, workers=workers, device=device)
    if val is None:
        return Feed(training, order, batches, None, ())
    val_batches = evaluation_loader(
        val.dataset, batch_size=recipe.evaluate.batch_size, workers=workers, device=device, processes=processes
    )
    return Feed(training, order, batches, val, val_batches)


def _splits(recipe: Recipe, processes: Processes) -> tuple[DataSplit, DataSplit | None]:
    """The training split and, where there is one with boxes, the validation split."""
    if recipe.data.root == "shapes":
        on_first(processes, lambda: build_data(recipe, "train").images)  # drawn once, not by every process
    training = build_data(recipe, "train", augment=True)
    if training.boxes == 0:
        raise DataError("the training split has no boxes: there is nothing to learn from it")
    if not has_labels(recipe, "val"):
        return training, None
    val = build_data(recipe, "val")
    if not len(val.ground_truth.category_of):
        return training, None  # no AP can be made of it
    match_categories(training.categories, val.ground_truth, whose="training split", other="validation split")
    return training, val.first(recipe.train.eval_limit)


# ---- the model ----


def _learner(start: Start, categories: Categories) -> tuple[Learner, events.WeightsTaken | None, tuple[str, ...]]:
    """Freshly initialised, or with weights from `--init-from` where they fit, and what is doubtful about these."""
    seed = start.recipe.train.seed
    seed_everything(seed)
    if start.init_from is None:
        return build_learner(start.recipe, categories, pretrained=start.resumed is None), None, ()
    path = find_checkpoint(start.init_from)
    learner = build_learner(start.recipe, categories, pretrained=False)
    opened = open_weights(path, hints=_hints(start.recipe))
    source = opened.as_source()
    moved = _move(learner, source, categories)
    if fresh := _fresh_backbone(moved):
        _require_trained_backbone(start, fresh)
        if start.recipe.model.backbone.weights != "none":
            # Another backbone than the checkpoint's. Tensors that fit by accident would spoil its pretrained weights.
            seed_everything(seed)
            learner = build_learner(start.recipe, categories)
            moved = _with_left_backbone(_move(learner, _without_backbone(source), categories), source)
    if not any(row.kind in ("loaded", "remapped") for row in moved.rows):
        raise CheckpointError(
            f"--init-from {start.init_from}: none of its weights fits this model; "
            "the recipe finetune trains the checkpoint's own"
        )
    learner.network.load_state_dict(moved.weights)
    return learner, _told(path, moved, start.lent), doubts(opened, start.recipe)


def _hints(recipe: Recipe) -> dict[str, Any]:
    """What the recipe says of an official file that does not tell it, and that changes no tensor of it."""
    return {"nheads": recipe.model.heads} if hasattr(recipe.model, "heads") else {}


def _move(learner: Learner, old: Checkpoint, categories: Categories) -> Transfer:
    return transfer(
        learner.network.state_dict(),
        old.evaluated,
        class_rows=learner.class_rows(),
        ordered_rows=learner.ordered_rows(),
        new_categories=categories,
        old_categories=old.categories,
    )


def _fresh_backbone(moved: Transfer) -> list[str]:
    """Names of its tensors that the checkpoint has not, but for the count of batches, which frozen norms have not."""
    fresh = [row.name for row in moved.rows if row.kind == "fresh" and row.name.startswith(BACKBONE)]
    return [name for name in fresh if not name.endswith("num_batches_tracked")]


def _require_trained_backbone(start: Start, fresh: Sequence[str]) -> None:
    """CheckpointError where random weights would stay: statistics, stages or a whole backbone that never train."""
    backbone = start.recipe.model.backbone
    still = {
        "norm frozen": backbone.has_frozen_norm,
        f"frozen_stages {backbone.frozen_stages}": backbone.frozen_stages > 0,
        "train.backbone_lr 0": start.recipe.train.backbone_lr == 0,
    }
    reasons = [reason for reason, holds in still.items() if holds]
    if backbone.weights == "none" and ":" not in backbone.name and reasons:
        raise CheckpointError(
            f"--init-from {start.init_from}: its backbone is not this {backbone.name}: {len(fresh)} tensors stay "
            f"random (first {fresh[0]}), which {', '.join(reasons)} would never train; "
            "take the checkpoint's model.backbone, or set model.backbone.weights to imagenet"
        )


def _without_backbone(old: Checkpoint) -> Checkpoint:
    rest = {name: value for name, value in old.evaluated.items() if not name.startswith(BACKBONE)}
    return Checkpoint(old.recipe, old.categories, rest)


def _with_left_backbone(moved: Transfer, source: Checkpoint) -> Transfer:
    """What was held back is told as well, and what stands in its place."""
    rows = [
        replace(row, detail="pretrained; the checkpoint's backbone is another")
        if row.kind == "fresh" and row.name.startswith(BACKBONE)
        else row
        for row in moved.rows
    ]
    left = [
        Row(name, "unused", "of another backbone")
        for name in source.evaluated
        if name.startswith(BACKBONE) and name not in moved.weights
    ]
    return replace(moved, rows=(*rows, *left))


def _told(path: Path, moved: Transfer, lent: str) -> events.WeightsTaken:
    return events.WeightsTaken(path, moved.summary, tuple((row.name, row.kind, row.detail) for row in moved.rows), lent)
