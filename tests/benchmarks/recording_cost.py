"""What it costs to record matching costs, shares of the losses and instability, against steps without, in one run.

    PYTHONPATH=. python tests/benchmarks/recording_cost.py [--recipe quickstart] [--data shapes] [--steps 40]

Steps with and without recording take turns on the same images, so that both meet the same machine. What is recorded
is so little that whole steps differ by more from one to the next; so the part of a step that recording touches, from
predictions to losses and their sums, is timed alone as well, many times, and its difference set against a step. Times
are the process's CPU time on one thread, which other processes disturb less than the clock. Instability is noted while
evaluating: what it adds there is set against the evaluation and against the steps between two of them.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch

from detrctl.data.batch import collate
from detrctl.engine import step
from detrctl.engine.build import DataSplit, build_data, build_learner, with_data
from detrctl.engine.distributed import Alone
from detrctl.engine.evaluate import detect_all
from detrctl.engine.journal import Window
from detrctl.engine.matching_watch import MatchingWatch, to_classes
from detrctl.engine.optim import build_optimizer
from detrctl.families.learner import Learner
from detrctl.losses import matcher
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Recipe
from detrctl.structures import Assignment, Batch, Predictions, Targets

CPU = torch.device("cpu")


@torch.no_grad()
def match_without_costs(
    self: matcher.Matcher, predictions: Predictions, targets: Sequence[Targets], *, where: str, matches: int = 1
) -> Assignment:
    """As `Matcher` was before anything was recorded; without costs the criterion measures none."""
    labels, boxes = matcher.pad_truths(targets)
    tables = self.cost_table(predictions.logits, predictions.boxes, labels, boxes).total.cpu().numpy()
    pairs = [
        matcher._assign(table[:, : len(truth)], image, truth.image_id, where, matches)
        for image, (table, truth) in enumerate(zip(tables, targets, strict=True))
        if len(truth)
    ]
    rows = np.concatenate([np.zeros((3, 0), dtype=np.int64), *pairs], axis=1)
    return Assignment(*torch.from_numpy(rows).to(predictions.logits.device).unbind())


@contextmanager
def nothing_recorded() -> Iterator[None]:
    with (
        mock.patch.object(matcher.Matcher, "__call__", match_without_costs),
        mock.patch.object(step, "_weights", return_value={}),
    ):
        yield


class Steps:
    """One learner that goes on learning, whoever asks for a step."""

    def __init__(self, recipe: Recipe, learner: Learner, batch: Batch):
        train = recipe.train
        optimizer = build_optimizer(learner.parameter_groups(), train)
        self._make = step.Stepper(learner.train(), optimizer, train, device=CPU, processes=Alone())
        self._batch, self._every = batch, train.log_every
        self._windows, self._made = (Window(), Window()), 0

    def __call__(self) -> float:
        """CPU seconds of a step and of its part in the lines of metrics."""
        started = time.process_time()
        outcome = self._make([self._batch])
        for window in self._windows:
            window.add(outcome, 1.0)
        self._made += 1
        if self._made % (2 * self._every) == 0:
            self._windows[0].close(Alone())
        return time.process_time() - started


def step_ratio(steps: Steps, count: int) -> tuple[list[float], list[float]]:
    """CPU seconds with and without, pair by pair, who is first alternating."""
    recorded, bare = [], []
    for number in range(count):
        for with_it in (True, False) if number % 2 else (False, True):
            if with_it:
                recorded.append(steps())
            else:
                with nothing_recorded():
                    bare.append(steps())
    return recorded, bare


@torch.no_grad()
def touched_seconds(learner: Learner, batch: Batch, count: int) -> tuple[float, float]:
    """CPU seconds, with and without, from predictions to losses and the sums of the journal; medians of turns."""
    learner.train()
    output, counts = learner.network(batch.images, batch.targets), learner.counts(batch.targets)
    windows = Window(), Window()

    def once() -> float:
        started = time.process_time()
        terms = [learner.criterion(output, batch.targets, counts)]
        outcome = step.Outcome(1, terms[0].total, step._named(terms), 1.0, weights=step._weights(terms))
        for window in windows:
            window.add(outcome, 1.0)
        return time.process_time() - started

    recorded, bare = [], []
    for _ in range(count):
        recorded.append(once())
        with nothing_recorded():
            bare.append(once())
    return statistics.median(recorded), statistics.median(bare)


def evaluation_seconds(learner: Learner, part: DataSplit, batches: Sequence[Batch], *, watched: bool) -> float:
    watch = MatchingWatch(learner, to_classes(part.categories, part.categories))
    started = time.process_time()
    if watched:
        with watch.on(batches) as seen:
            for _ in detect_all(learner, seen, device=CPU):
                pass
        watch.read(Alone())
    else:
        for _ in detect_all(learner, batches, device=CPU):
            pass
    return time.process_time() - started


def loaded(part: DataSplit, size: int, images: int) -> list[Batch]:
    found = [collate([part.dataset[i] for i in range(start, start + size)]) for start in range(0, images, size)]
    return [batch for batch in found if batch is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--steps", type=int, default=40, help="of each kind")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = with_data(load_recipe(wanted.recipe).recipe, wanted.data)
    part = build_data(recipe, "train", augment=True)
    learner = build_learner(recipe, part.categories, pretrained=False)
    learner.to(memory_format=torch.channels_last)
    [batch] = loaded(part, recipe.train.batch_size, recipe.train.batch_size)
    steps = Steps(recipe, learner, batch)
    step_ratio(steps, 3)  # warm
    recorded, bare = step_ratio(steps, wanted.steps)
    truths = sum(map(len, batch.targets))
    print(f"{wanted.recipe}: {len(batch.targets)} images, {truths} truths a step, {wanted.steps} steps of each kind")
    print(f"CPU s a step: {statistics.median(recorded):.4f} recorded, {statistics.median(bare):.4f} not (medians)")
    print(f"              {min(recorded):.4f} recorded, {min(bare):.4f} not (fastest)")
    ratios = [a / b for a, b in zip(recorded, bare, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"ratio of neighbours: median {middle:.4f}, half of them from {low:.4f} to {high:.4f}")
    more, less = touched_seconds(learner, batch, 10 * wanted.steps)
    share = (more - less) / statistics.median(bare)
    print(f"from predictions to summed losses: {1000 * more:.3f} ms recorded, {1000 * less:.3f} ms not")
    print(f"recording is {100 * share:.2f} % of a step")
    val = build_data(recipe, "val")
    images = min(64, val.images)
    batches = loaded(val, recipe.evaluate.batch_size, images)
    turns = [[evaluation_seconds(learner, val, batches, watched=kind) for kind in (True, False)] for _ in range(5)]
    noted, plain = (min(column) for column in zip(*turns, strict=True))
    every = recipe.train.eval_every * max(1, part.images // recipe.train.batch_size) * statistics.median(bare)
    whole = max(noted - plain, 0.0) * val.images / images
    print(f"evaluation: {plain / images:.4f} CPU s an image, {noted / plain:.4f} of that with the matching noted")
    print(f"noting it adds {whole:.3f} CPU s to an evaluation, {100 * whole / every:.2f} % of the steps between two")


if __name__ == "__main__":
    main()
