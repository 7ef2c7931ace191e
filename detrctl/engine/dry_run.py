"""Whether a recipe fits the machine: two optimizer steps on the largest batch that training can meet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from detrctl.boxes import Cxcywh
from detrctl.engine.assemble import assemble
from detrctl.engine.clock import Pace
from detrctl.engine.distributed import Alone, choose_device
from detrctl.engine.journal import memory_mb
from detrctl.engine.optim import training_mode
from detrctl.engine.start import begin
from detrctl.engine.step import Stepper
from detrctl.errors import DetrctlError
from detrctl.recipe.load import Loaded
from detrctl.recipe.schema import Recipe
from detrctl.structures import Batch, ImageBatch, Targets

OBJECTS = 20
"""Truths in every made-up image; their number hardly changes what a step costs."""


@dataclass(frozen=True)
class DryRun:
    """`canvas_hw` is the largest that the recipe's sizes can give; `memory_mb` the most that was in use."""

    images: int
    micro_batch: int
    canvas_hw: tuple[int, int]
    parameters: int
    steps_per_epoch: int
    seconds_per_step: float
    memory_mb: float | None
    device: str


def dry_run(
    recipe: str | Path | Recipe | Loaded | None,
    *,
    overrides: Sequence[str] = (),
    data: str | Path | None = None,
    init_from: str | Path | None = None,
    device: str = "auto",
    trust: bool = False,
) -> DryRun:
    """Build everything as `train` does and make two steps on made-up images. Nothing is written."""
    start = begin(recipe, overrides=overrides, data=data, out=None, resume=None, init_from=init_from, trust=trust)
    place, processes = choose_device(device), Alone()
    parts = assemble(start, place, processes)
    train, canvas = start.recipe.train, largest_canvas(start.recipe)
    count = math.ceil(train.batch_size / train.accumulate)
    batches = [_made_up(count, canvas, len(parts.feed.train.categories))] * train.accumulate
    training_mode(parts.learner, train)
    step = Stepper(parts.learner, parts.optimizer, train, device=place, processes=processes)
    pace, seconds = Pace(), 0.0
    for _ in range(2):  # the first one also makes the optimizer's state, and what libraries set up
        outcome = step(batches)
        seconds = pace.step_done()
        if outcome.skip is not None:
            raise DetrctlError(f"a step on noise was not finite: {outcome.skip.reason}")
    return DryRun(
        images=train.batch_size,
        micro_batch=count,
        canvas_hw=canvas,
        parameters=sum(parameter.numel() for parameter in parts.learner.network.parameters()),
        steps_per_epoch=parts.feed.order.steps,
        seconds_per_step=seconds,
        memory_mb=memory_mb(place),
        device=str(place),
    )


def largest_canvas(recipe: Recipe) -> tuple[int, int]:
    """Height and width in which every augmented image of the recipe fits, portraits beside landscapes."""
    augment, data = recipe.data.augment, recipe.data
    if augment.policy == "none":
        longest = data.eval_size if data.eval_square else data.eval_max_size
    elif augment.policy == "detr":
        longest = augment.max_size
    else:
        longest = max(augment.sizes)
    return longest, longest


def _made_up(count: int, canvas: tuple[int, int], classes: int) -> Batch:
    height, width = canvas
    images = ImageBatch(
        torch.randn(count, 3, height, width),
        torch.zeros(count, height, width, dtype=torch.bool),
        torch.tensor([[height, width]] * count),
        tuple(range(count)),
    )
    targets = tuple(
        Targets(torch.randint(classes, (OBJECTS,)), Cxcywh(0.3 + 0.3 * torch.rand(OBJECTS, 4)), number)
        for number in range(count)
    )
    return Batch(images, targets)
