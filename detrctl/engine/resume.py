"""A run goes on exactly: the last checkpoint's state into everything that has one."""

from typing import Any

from detrctl.engine.checkpoint import Checkpoint
from detrctl.engine.clock import TimeLimit
from detrctl.engine.keeper import Keeper
from detrctl.engine.loop import Feed
from detrctl.engine.optim import build_optimizer
from detrctl.engine.state import Standing, restore_random_state, unpack_standing
from detrctl.errors import CheckpointError
from detrctl.recipe import schema


def go_on(checkpoint: Checkpoint, keeper: Keeper, feed: Feed) -> tuple[Standing, tuple[str, ...]]:
    """Where the run stands, and what the user should hear. CheckpointError if it cannot go on with these images."""
    training, run = checkpoint.training, keeper.run.path
    if training is None:
        raise CheckpointError(f"--resume {run}: its last checkpoint holds weights only")
    try:
        standing = unpack_standing(training)
    except CheckpointError as error:
        raise CheckpointError(f"--resume {run}: its last checkpoint cannot be gone on with: {error}") from error
    if reason := _hindrance(checkpoint, training["data"], standing, keeper, feed):
        raise CheckpointError(f"--resume {run}: {reason}")
    try:
        keeper.learner.network.load_state_dict(checkpoint.weights)
        keeper.optimizer.load_state_dict(training["optimizer"])
        if keeper.average is not None:
            keeper.average.restore(checkpoint.ema or checkpoint.weights, training["ema_updates"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"--resume {run}: the recipe's model is not the one that was saved") from error
    _take_rates_of_recipe(keeper)
    _take_schedule_of_recipe(standing, checkpoint.recipe.train, keeper.recipe.train, feed.order.steps)
    states = training["random"]
    if len(states) != keeper.processes.world:
        return standing, (f"the run was started with {len(states)} process(es): it goes on, but not bit by bit",)
    try:
        restore_random_state(states[keeper.processes.rank], keeper.device)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"--resume {run}: damaged: the random numbers of its last checkpoint") from error
    return standing, ()


def _hindrance(
    checkpoint: Checkpoint, data: dict[str, Any], standing: Standing, keeper: Keeper, feed: Feed
) -> str | None:
    images, steps, train = feed.train.images, feed.order.steps, keeper.recipe.train
    if checkpoint.categories != keeper.categories:
        return "the dataset's classes are not those that the run was started with"
    if train.seed != checkpoint.recipe.train.seed:
        return f"it was started with seed {checkpoint.recipe.train.seed}, which cannot change"
    if train.optimizer != checkpoint.recipe.train.optimizer:
        return f"it was started with optimizer {checkpoint.recipe.train.optimizer}, which cannot change"
    if data != {"images": images, "steps": steps}:
        return (
            f"it was started on {data.get('images')} images, {data.get('steps')} steps an epoch; "
            f"now there are {images}, {steps} steps: start a new run with --init-from"
        )
    if standing.closed_epochs >= train.epochs:
        done = standing.closed_epochs
        return f"all {done} epochs are done; for more of them add --set train.epochs={2 * done}"
    if train.max_minutes is not None and standing.seconds >= 60 * train.max_minutes:
        return f"its {train.max_minutes:g} minutes are used up; for more of them add --set train.max_minutes=..."
    return None


def _take_rates_of_recipe(keeper: Keeper) -> None:
    """Base rates and weight decay are the recipe's, which an override may have changed, not the checkpoint's."""
    fresh = build_optimizer(keeper.learner.parameter_groups(), keeper.recipe.train)
    for group, new in zip(keeper.optimizer.param_groups, fresh.param_groups, strict=True):
        group.update({key: new[key] for key in ("base_lr", "weight_decay")})


def _take_schedule_of_recipe(standing: Standing, old: schema.Train, new: schema.Train, steps: int) -> None:
    """The schedule's progress as if the recipe had been this one from the start; `steps` are those of an epoch.

    Progress never goes back by itself: a run that came to its end would go on at the rate of the end.
    """
    if all(getattr(old, name) == getattr(new, name) for name in ("epochs", "max_minutes", "schedule")):
        return
    standing.share = min(1.0, standing.step / (steps * new.epochs))
    if new.max_minutes is not None:
        limit = TimeLimit(60 * new.max_minutes)
        used = limit.share(standing.seconds, evaluation=standing.evaluation_seconds, step=0.0)
        standing.share = max(standing.share, used)
