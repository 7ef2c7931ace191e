"""A recipe becomes a run: build everything, go on from a checkpoint where one is named, and train to the end."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from detrctl.engine import events
from detrctl.engine.board import with_tensorboard
from detrctl.engine.build import (
    DataSplit,
    build_data,
    build_learner,
    evaluation_loader,
    has_labels,
    training_loader,
    training_order,
    with_data,
)
from detrctl.engine.checkpoint import Checkpoint, find_checkpoint, load
from detrctl.engine.distributed import Processes, choose_device, connected, share_cores
from detrctl.engine.ema import Average
from detrctl.engine.evaluate import match_categories
from detrctl.engine.journal import Journal
from detrctl.engine.keeper import Keeper
from detrctl.engine.loop import Feed, Loop
from detrctl.engine.optim import build_optimizer, freeze_still_groups, set_rates
from detrctl.engine.runs import RunFolder, environment, existing_run, new_run
from detrctl.engine.state import Standing, restore_random_state, seed_everything, unpack_standing
from detrctl.errors import CheckpointError, DataError, DetrctlError
from detrctl.families.learner import Learner
from detrctl.recipe.load import Loaded, load_recipe
from detrctl.recipe.schema import Recipe
from detrctl.weights.transfer import transfer

T = TypeVar("T")


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


@dataclass(frozen=True)
class Start:
    """What a run begins with: `resumed` is the checkpoint of the run that it goes on with."""

    name: str
    recipe: Recipe
    out: Path | None
    resumed: Checkpoint | None
    init_from: Path | None
    notes: tuple[str, ...] = ()


def train(
    recipe: str | Path | Recipe | Loaded | None = None,
    *,
    overrides: Sequence[str] = (),
    data: str | Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    init_from: Path | None = None,
    device: str = "auto",
    on_event: events.OnEvent = events.ignore,
) -> TrainResult:
    """Train a recipe, given by name, path or as an object, or go on with the run folder `resume`.

    `overrides` are `train.lr=2e-4` and the like; `data` replaces the recipe's dataset; `init_from` is a checkpoint, or
    a run folder, that only weights are taken from. Seeds the global random generators. Started by `torchrun`, every
    process calls this alike, and `on_event` is called on the first one.

    Raises DetrctlError for what the user can mend, Interrupted after a Ctrl-C or SIGTERM, when everything is saved.
    """
    start = _prepare(recipe, overrides, None if data is None else str(data), out, resume, init_from)
    place = choose_device(device)
    with connected(place) as processes:
        return _train(start, place, processes, on_event)


def _prepare(
    recipe: str | Path | Recipe | Loaded | None,
    overrides: Sequence[str],
    data: str | None,
    out: Path | None,
    resume: Path | None,
    init_from: Path | None,
) -> Start:
    if resume is not None:
        return _prepare_resume(recipe, overrides, data, out, resume, init_from)
    if recipe is None:
        raise DetrctlError("which recipe? `detrctl recipes list` shows them; `--resume RUN` goes on with a run")
    if isinstance(recipe, Recipe):
        if overrides:
            raise DetrctlError("overrides go with a recipe's name or path; change a Recipe with model_copy(update=...)")
        return Start("recipe", with_data(recipe, data), out, None, init_from)
    loaded = recipe if isinstance(recipe, Loaded) else load_recipe(str(recipe), overrides)
    loaded.require_start(from_checkpoint=init_from is not None)
    notes = tuple(str(note) for note in loaded.notes)
    return Start(loaded.name, with_data(loaded.recipe, data), out, None, init_from, notes)


def _prepare_resume(
    recipe: object, overrides: Sequence[str], data: str | None, out: Path | None, resume: Path, init_from: Path | None
) -> Start:
    given = {"a recipe": recipe, "--out": out, "--init-from": init_from}
    for name, value in given.items():
        if value is not None:
            raise DetrctlError(f"--resume goes on with a run as it is: leave {name} away")
    run = existing_run(resume)
    loaded = load_recipe(str(run.recipe), overrides)
    return Start(resume.name, with_data(loaded.recipe, data), resume, load(run.last), None)


# ---- one run ----


def _train(start: Start, device: torch.device, processes: Processes, on_event: events.OnEvent) -> TrainResult:
    recipe, threads = start.recipe, share_cores(device)
    feed = _feed(recipe, device, processes)
    categories = feed.train.categories
    seed_everything(recipe.train.seed)
    learner = build_learner(recipe, categories, pretrained=start.resumed is None)
    taken = _init_from(learner, start.init_from, feed.train) if start.init_from else None
    groups = learner.parameter_groups()
    freeze_still_groups(groups, recipe.train)
    # Convolutions on a CPU are 15 % faster so, and on a GPU in bf16 more.
    learner.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(groups, recipe.train)
    average = None
    if recipe.train.ema:
        average = Average(learner.network, decay=recipe.train.ema, warmup=recipe.train.ema_warmup)
    seed_everything(recipe.train.seed + processes.rank)

    run = _run_folder(start, processes)
    keeper = Keeper(run, recipe, categories, learner, optimizer, average, device, processes)
    notes = list(start.notes) + _doubts(feed)
    standing = Standing()
    if start.resumed is not None:
        standing, said = _go_on(start.resumed, keeper, feed)
        notes += said
    if processes.first:
        _open(run, recipe, standing, environment(threads, str(device)))
    with contextlib.ExitStack() as stack:
        if recipe.train.tensorboard and processes.first:
            on_event = stack.enter_context(with_tensorboard(run.path, on_event))
        journal = Journal(
            run, standing, steps_per_epoch=feed.order.steps, device=device, processes=processes, on_event=on_event
        )
        journal.say(_started(start, feed, keeper, standing, threads))
        if taken is not None:
            journal.say(taken)
        for note in notes:
            journal.say(events.Warned(note))
        ended_by = Loop(feed, keeper, standing, journal).run()
        result = _result(run, standing, ended_by)
        journal.say(_ended(result, standing, feed))
    return result


def _feed(recipe: Recipe, device: torch.device, processes: Processes) -> Feed:
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
    """The training split and, where there is a labelled one, the validation split."""
    if recipe.data.root == "shapes":
        on_first(processes, lambda: build_data(recipe, "train") and None)  # drawn once, not by every process
    training = build_data(recipe, "train", augment=True)
    if training.boxes == 0:
        raise DataError("the training split has no boxes: there is nothing to learn from it")
    if not has_labels(recipe, "val"):
        return training, None
    val = build_data(recipe, "val")
    match_categories(training.categories, val.ground_truth)
    return training, val.first(recipe.train.eval_limit)


def _doubts(feed: Feed) -> list[str]:
    """What the user should hear about the data before it is trained on."""
    said = []
    if feed.val is None:
        said.append("there is no labelled validation split: nothing is evaluated, and only the last weights are kept")
    return said


def _init_from(learner: Learner, source: Path, training: DataSplit) -> events.WeightsTaken:
    path = find_checkpoint(source)
    old = load(path)
    moved = transfer(
        learner.network.state_dict(),
        old.evaluated,
        class_rows=learner.class_rows(),
        new_categories=training.categories,
        old_categories=old.categories,
    )
    if not any(row.kind in ("loaded", "remapped") for row in moved.rows):
        raise CheckpointError(f"--init-from {source}: none of its weights fits this model; is it of the same family?")
    learner.network.load_state_dict(moved.weights)
    return events.WeightsTaken(path, moved.summary, tuple((row.name, row.kind, row.detail) for row in moved.rows))


def _go_on(checkpoint: Checkpoint, keeper: Keeper, feed: Feed) -> tuple[Standing, list[str]]:
    """Put the checkpoint's state into everything that has one; returns where it stands, and doubts."""
    training, run = checkpoint.training, keeper.run.path
    if training is None:
        raise CheckpointError(f"--resume {run}: its last checkpoint holds weights only")
    if checkpoint.categories != keeper.categories:
        raise CheckpointError(f"--resume {run}: the dataset's classes are not those that the run was started with")
    if training["data"] != {"images": feed.train.images, "steps": feed.order.steps}:
        raise CheckpointError(
            f"--resume {run}: it was started on {training['data']['images']} images, {training['data']['steps']} steps "
            f"an epoch; now there are {feed.train.images}, {feed.order.steps} steps: start a new run with --init-from"
        )
    standing = unpack_standing(training)
    if standing.closed_epochs >= keeper.recipe.train.epochs:
        raise CheckpointError(
            f"--resume {run}: all {standing.closed_epochs} epochs are done; "
            f"for more of them add --set train.epochs={2 * standing.closed_epochs}"
        )
    try:
        keeper.learner.network.load_state_dict(checkpoint.weights)
        keeper.optimizer.load_state_dict(training["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"--resume {run}: the recipe's model is not the one that was saved") from error
    refresh_rates(keeper)
    if keeper.average is not None:
        keeper.average.restore(checkpoint.ema or checkpoint.weights, training["ema_updates"])
    states = training["random"]
    if len(states) != keeper.processes.world:
        return standing, [f"the run was started with {len(states)} process(es): it goes on well, but not bit by bit"]
    restore_random_state(states[keeper.processes.rank], keeper.device)
    return standing, []


def refresh_rates(keeper: Keeper) -> None:
    """Base rates and weight decay are the recipe's, which an override may have changed, not the checkpoint's."""
    fresh = build_optimizer(keeper.learner.parameter_groups(), keeper.recipe.train)
    for group, new in zip(keeper.optimizer.param_groups, fresh.param_groups, strict=True):
        group.update({key: new[key] for key in ("base_lr", "weight_decay")})


def _run_folder(start: Start, processes: Processes) -> RunFolder:
    if start.resumed is not None and start.out is not None:
        return RunFolder(start.out)
    return RunFolder(on_first(processes, lambda: new_run(start.out, start.name).path))


def _open(run: RunFolder, recipe: Recipe, standing: Standing, versions: dict[str, object]) -> None:
    run.write_recipe(recipe)
    run.write_json("environment.json", versions)
    run.forget_after(standing.step)


def on_first(processes: Processes, make: Callable[[], T]) -> T:
    """What the first process makes, on all of them; its mistake is raised on all of them."""
    made: T | None = None
    error: DetrctlError | None = None
    if processes.first:
        try:
            made = make()
        except DetrctlError as raised:
            error = raised
    made, error = processes.from_first((made, error))
    if error is not None:
        raise error
    return made  # type: ignore[return-value]


# ---- what is told ----


def _started(start: Start, feed: Feed, keeper: Keeper, standing: Standing, threads: int) -> events.RunStarted:
    train_recipe, groups = keeper.recipe.train, keeper.optimizer.param_groups
    splits = [feed.train, *([feed.val] if feed.val else [])]
    return events.RunStarted(
        run=keeper.run.path,
        recipe=start.name,
        splits=tuple(events.SplitSummary(split.name, split.images, split.lines) for split in splits),
        classes=keeper.categories.names,
        parameters={group["name"]: sum(p.numel() for p in group["params"]) for group in groups},
        parameters_total=sum(p.numel() for p in keeper.learner.network.parameters()),
        device=str(keeper.device),
        precision=train_recipe.precision,
        processes=keeper.processes.world,
        threads=threads,
        epochs=train_recipe.epochs,
        steps_per_epoch=feed.order.steps,
        batch_size=train_recipe.batch_size,
        rates=set_rates(keeper.optimizer, 1.0),
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


def _ended(result: TrainResult, standing: Standing, feed: Feed) -> events.RunEnded:
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
    )
