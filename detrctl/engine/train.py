"""A recipe becomes a run."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from detrctl.engine import events
from detrctl.engine.assemble import Assembly, assemble
from detrctl.engine.board import with_tensorboard
from detrctl.engine.build import own_parts
from detrctl.engine.distributed import Processes, choose_device, connected, emulates_bf16, on_first
from detrctl.engine.journal import Journal
from detrctl.engine.keeper import Keeper
from detrctl.engine.loop import Feed, Loop
from detrctl.engine.optim import parameters_by_group, set_rates
from detrctl.engine.resume import go_on
from detrctl.engine.runs import RunFolder, environment, new_run
from detrctl.engine.start import Start, begin
from detrctl.engine.state import Standing
from detrctl.recipe.load import Loaded
from detrctl.recipe.schema import Recipe

FEW_IMAGES = 10_000


@dataclass(frozen=True)
class TrainResult:
    """A finished run. Scores are by COCO name, None without a labelled validation split.

    `checkpoint` is the best one, or the last where nothing was evaluated; `ended_by` is `epochs`, `time` or `patience`.
    """

    run: Path
    checkpoint: Path
    scores: dict[str, float | None] | None
    best_scores: dict[str, float | None] | None
    best_epoch: float | None
    ended_by: str


def train(
    recipe: str | Path | Recipe | Loaded | None = None,
    *,
    overrides: Sequence[str] = (),
    data: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    init_from: str | Path | None = None,
    device: str = "auto",
    trust: bool = False,
    on_event: events.OnEvent = events.ignore,
) -> TrainResult:
    """Train a recipe, given by name, path or as an object, or go on with the run folder `resume`.

    `overrides` are `train.lr=2e-4` and the like; `data` replaces the recipe's dataset; `init_from` is a checkpoint, or
    a run folder, that only weights are taken from; `trust` lets a resumed run import parts that are not ours. Seeds the
    global random generators. Started by `torchrun`, every process calls this alike, and `on_event` is called on the
    first one.

    Raises DetrctlError for what the user can mend, Interrupted after a Ctrl-C or SIGTERM, when everything is saved.
    """
    start = begin(recipe, overrides=overrides, data=data, out=out, resume=resume, init_from=init_from, trust=trust)
    place = choose_device(device)
    with connected(place) as processes:
        return _train(start, place, processes, on_event)


def _train(start: Start, device: torch.device, processes: Processes, on_event: events.OnEvent) -> TrainResult:
    parts = assemble(start, device, processes)
    keeper = _keeper(start, parts, device, processes)
    standing, notes = go_on(start.resumed, keeper, parts.feed) if start.resumed else (Standing(), ())
    if processes.first:
        keeper.run.open(start.recipe, standing.step, environment(parts.threads, str(device)))
    with contextlib.ExitStack() as stack:
        if start.recipe.train.tensorboard and processes.first:
            on_event = stack.enter_context(with_tensorboard(keeper.run.path, on_event, after_step=standing.step))
        journal = Journal(
            keeper.run,
            standing,
            steps_per_epoch=parts.feed.order.steps,
            device=device,
            processes=processes,
            on_event=on_event,
        )
        journal.say(_started(start, parts, keeper, standing))
        if parts.taken is not None:
            journal.say(_written(parts.taken, keeper))
        for note in (*start.notes, *parts.notes, *notes, *_doubts(start, parts.feed, device)):
            journal.say(events.Warned(note))
        ended_by = Loop(parts.feed, keeper, standing, journal).run()
        result = _result(keeper.run, standing, ended_by)
        journal.say(_ended(result, standing, parts.feed, start.recipe))
    return result


def _written(taken: events.WeightsTaken, keeper: Keeper) -> events.WeightsTaken:
    """The same with the place of its table, which lies in the run folder."""
    if keeper.processes.first:
        keeper.run.write_csv(keeper.run.initial_weights.name, ("tensor", "outcome", "detail"), taken.rows)
    return replace(taken, table=keeper.run.initial_weights)


def _doubts(start: Start, feed: Feed, device: torch.device) -> Iterator[str]:
    """What the images and the machine make doubtful about the recipe."""
    images, model = feed.train.images, start.recipe.model
    made_for_little = model.backbone.norm == "batch" or model.family == "faster_rcnn"
    if start.init_from is None and start.resumed is None and images < FEW_IMAGES and not made_for_little:
        yield (
            f"{images} images are few to train a transformer from scratch: start from a checkpoint (--init-from), "
            "or take the recipe small_data"
        )
    if start.recipe.train.precision == "bf16" and emulates_bf16(device):
        yield "this CPU has no bf16 arithmetic, so that bf16 is slower than fp32: add --set train.precision=fp32"
    if feed.val is None:
        yield "there is no validation split with boxes: nothing is evaluated, and only the last weights are kept"


def _keeper(start: Start, parts: Assembly, device: torch.device, processes: Processes) -> Keeper:
    """With the run's folder, which is made here: everything that can be wrong before training has been tried."""
    if start.resumed is not None and start.out is not None:
        run = RunFolder(start.out)
    else:
        run = RunFolder(on_first(processes, lambda: new_run(start.out, start.name).path))
    return Keeper(
        run,
        start.recipe,
        parts.feed.train.categories,
        parts.learner,
        parts.optimizer,
        parts.average,
        device,
        processes,
    )


def _started(start: Start, parts: Assembly, keeper: Keeper, standing: Standing) -> events.RunStarted:
    train_recipe, feed = start.recipe.train, parts.feed
    return events.RunStarted(
        run=keeper.run.path,
        recipe=start.name,
        splits=tuple(
            events.SplitSummary(split.name, split.images, split.lines) for split in (feed.train, feed.val) if split
        ),
        classes=keeper.categories.names,
        parameters=parameters_by_group(parts.optimizer),
        parameters_total=sum(parameter.numel() for parameter in parts.learner.network.parameters()),
        device=str(keeper.device),
        precision=train_recipe.precision,
        processes=keeper.processes.world,
        threads=parts.threads,
        epochs=train_recipe.epochs,
        steps_per_epoch=feed.order.steps,
        batch_size=train_recipe.batch_size,
        rates=set_rates(parts.optimizer, 1.0),
        max_minutes=train_recipe.max_minutes,
        resumed_at_step=standing.step if start.resumed else None,
    )


def _result(run: RunFolder, standing: Standing, ended_by: str) -> TrainResult:
    return TrainResult(
        run=run.path,
        checkpoint=run.best if standing.best_scores else run.last,
        scores=standing.scores or None,
        best_scores=standing.best_scores or None,
        best_epoch=standing.best_epoch,
        ended_by=ended_by,
    )


def _ended(result: TrainResult, standing: Standing, feed: Feed, recipe: Recipe) -> events.RunEnded:
    return events.RunEnded(
        run=result.run,
        checkpoint=result.checkpoint,
        ended_by=result.ended_by,
        epochs=standing.step / feed.order.steps,
        images_seen=standing.images,
        minutes=standing.seconds / 60,
        scores=result.scores,
        best_scores=result.best_scores,
        best_epoch=result.best_epoch,
        skipped_steps=standing.skipped,
        own_parts=tuple(own_parts(recipe)),
    )
