"""The training loop: steps, epochs, evaluations, and ending in good order."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from detrctl.engine import events
from detrctl.engine.build import DataSplit, Found, TrainingOrder, own_parts, queries_per_image, said, together
from detrctl.engine.clock import Clock, Pace, TimeLimit
from detrctl.engine.evaluate import evaluate
from detrctl.engine.interrupt import Interrupted, StopRequest
from detrctl.engine.journal import Journal
from detrctl.engine.keeper import Keeper
from detrctl.engine.matching_watch import MatchingWatch, to_classes
from detrctl.engine.optim import set_rates, training_mode
from detrctl.engine.schedule import rate_factor
from detrctl.engine.state import Standing, random_state, restore_random_state
from detrctl.engine.step import Stepper
from detrctl.errors import NonFiniteError
from detrctl.inspection.matched import FIRST, Matched, Moved, moved, unpack
from detrctl.structures import Batch

MOST_SKIPPED_IN_A_ROW = 10
LOST = "the checkpoint that the run went on from holds no matching of the evaluation before"


class _StopNow(Exception):
    """A signal came while the only process was evaluating."""


@dataclass(frozen=True)
class Feed:
    """The images: micro-batches for training in `order`, and the validation split, if there is one, in batches."""

    train: DataSplit
    order: TrainingOrder
    batches: Iterable[Batch | None]
    val: DataSplit | None
    val_batches: Iterable[Batch | None]

    def micro_batches(self, epoch: int, first_step: int, *, plain: bool) -> Iterable[Batch | None]:
        self.order.epoch, self.order.first_step = epoch, first_step
        if hasattr(self.train.dataset, "set_epoch"):
            self.train.dataset.set_epoch(epoch, plain=plain)
        return self.batches


class Loop:
    """Goes from one standing to the end of the run, or to where a signal stops it."""

    def __init__(self, feed: Feed, keeper: Keeper, standing: Standing, journal: Journal):
        self._feed, self._keeper, self._journal, self.standing = feed, keeper, journal, standing
        self._recipe, self._train = keeper.recipe, keeper.recipe.train
        self._learner, self._processes = keeper.learner, keeper.processes
        self._stepper = Stepper(
            keeper.learner, keeper.optimizer, self._train, device=keeper.device, processes=keeper.processes
        )
        self._limit = TimeLimit(60 * self._train.max_minutes) if self._train.max_minutes else None
        self._clock, self._pace, self._stop = Clock(before=standing.seconds), Pace(), StopRequest()
        self._rates: dict[str, float] = {}
        self._found: dict[str, Found] = {}

    def run(self) -> str:
        """Train until epochs, time or patience are used up; returns which. Raises Interrupted on a signal."""
        with self._stop:
            try:
                ended_by = self._until_the_end()
            except _StopNow:
                ended_by = "signal"
            self._tell_what_was_found()
            self._save_last()
            self._keeper.write_outcome(self.standing, ended_by=ended_by, epochs=self._epochs_done)
        if ended_by == "signal":
            raise Interrupted(self._how_to_go_on(), self._stop.exit_code)
        return ended_by

    def _until_the_end(self) -> str:
        standing, ended_by = self.standing, None
        while ended_by is None:
            done = standing.step - standing.closed_epochs * self._steps
            ended_by = self._steps_of_epoch(done) if done < self._steps else None
            ended_by = ended_by or self._close_epoch()
        if ended_by == "time" and standing.evaluated_step != standing.step:
            self._evaluate()
        return ended_by

    # ---- an epoch ----

    @property
    def _steps(self) -> int:
        return self._feed.order.steps

    @property
    def _epochs_done(self) -> float:
        return self.standing.step / self._steps

    def _steps_of_epoch(self, first_step: int) -> str | None:
        training_mode(self._learner, self._train)
        standing = self.standing
        if first_step == 0:
            # The tolerance keeps the change on its epoch, as that of the schedule's drops does.
            standing.plain = standing.share >= 1 - self._recipe.data.augment.plain_end - 1e-9
        batches = iter(self._feed.micro_batches(standing.closed_epochs, first_step, plain=standing.plain))
        self._pace.start()
        for _ in range(first_step, self._steps):
            if ended_by := self._agree_to_stop():
                return ended_by
            self._one_step([next(batches) for _ in range(self._train.accumulate)])
        return None

    def _agree_to_stop(self) -> str | None:
        """A signal on any process, or the first one's clock, stops all of them before the same step."""
        standing, used = self.standing, 0.0
        standing.seconds = self._clock.elapsed
        if self._limit is not None and self._processes.first:
            used = self._limit.share(standing.seconds, evaluation=self._evaluation_seconds, step=self._pace.step)
        mine = [float(self._stop.signal_number is not None), used]
        signals, used = self._processes.sum(torch.tensor(mine, dtype=torch.float64)).tolist()
        standing.share = max(standing.share, standing.step / (self._steps * self._train.epochs), used)
        if signals:
            self._stop.agree(max(self._processes.gather(self._stop.signal_number or 0)))
        return "signal" if signals else "time" if used >= 1 else None

    def _one_step(self, micro_batches: Sequence[Batch | None]) -> None:
        standing = self.standing
        factor = rate_factor(self._train, step=standing.step, progress=standing.share)
        self._rates = set_rates(self._keeper.optimizer, factor)
        outcome = self._stepper(micro_batches)
        standing.count_step(outcome.images, skipped=outcome.skip is not None)
        standing.seconds = self._clock.elapsed
        if outcome.skip is None and self._keeper.average is not None:
            self._keeper.average.update(self._learner.network)
        self._count_crowded(micro_batches)
        self._journal.step(outcome, self._pace.step_done())
        if standing.step % self._train.log_every == 0:
            self._journal.log(self._rates, self._seconds_left())
        if outcome.skip is not None and standing.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise NonFiniteError(
                f"{standing.skipped_in_a_row} steps in a row could not be made; the last: {outcome.skip.reason}; "
                f"lower train.lr, or look at the images listed in {self._keeper.run.path / 'skipped.jsonl'}"
            )

    def _count_crowded(self, micro_batches: Sequence[Batch | None]) -> None:
        """Truths beyond the number of queries get no loss: said once, counted always."""
        queries = queries_per_image(self._recipe)
        targets = [target for batch in micro_batches if batch is not None for target in batch.targets]
        crowded = [target for target in targets if queries is not None and len(target) > queries]
        if crowded and not self.standing.crowded_images:
            self._journal.say(
                events.Warned(
                    f"image {crowded[0].image_id} has {len(crowded[0])} objects, but the model has {queries} queries: "
                    "those beyond are not learnt; raise model.queries"
                )
            )
        self.standing.crowded_images += len(crowded)

    # ---- time ----

    @property
    def _evaluation_seconds(self) -> float:
        """Of the last evaluation or, before the first, as if an image took half as long as in training."""
        if self.standing.evaluations or self._feed.val is None:
            return self.standing.evaluation_seconds
        return 0.5 * self._pace.step * self._feed.val.images / self._train.batch_size

    def _seconds_left(self) -> float:
        steps = self._steps * self._train.epochs - self.standing.step
        evaluations = steps / self._steps / self._train.eval_every
        left = steps * self._pace.step + evaluations * self._evaluation_seconds
        return left if self._limit is None else max(0.0, min(left, self._limit.seconds - self._clock.elapsed))

    def _room_to_evaluate(self) -> bool:
        """Shortly before the time is over, the last evaluation makes one now needless."""
        seconds, step = self._evaluation_seconds, self._pace.step
        room = self._limit is None or self._limit.has_room_for(seconds, self._clock.elapsed, step=step)
        return self._processes.from_first(room)

    # ---- the end of an epoch ----

    def _close_epoch(self) -> str | None:
        standing, train = self.standing, self._train
        epoch = standing.closed_epochs + 1
        last = epoch >= train.epochs
        if self._agree_to_stop() == "signal":
            return "signal"
        evaluates = last or (epoch % train.eval_every == 0 and self._room_to_evaluate())
        if evaluates:
            self._evaluate()
        standing.closed_epochs = epoch
        self._tell_what_was_found()
        self._journal.epoch_done(train.epochs, self._rates, self._seconds_left(), evaluated=evaluates)
        if train.keep_every and epoch % train.keep_every == 0:
            self._keeper.save_weights(self._keeper.run.kept(epoch))
        if last:
            return "epochs"
        if train.patience and standing.evaluations_since_best >= train.patience:
            return "patience"
        if epoch % train.save_every == 0:
            self._save_last()
        return None

    def _tell_what_was_found(self) -> None:
        """What reading has shown to any process, such as broken files, by split; again whenever there is more of it.

        Called on every process. Later epochs show more: the images that were left over from the ones before.
        """
        for split in filter(None, (self._feed.train, self._feed.val)):
            found, before = together(self._processes.gather(split.found())), self._found.get(split.name, {})
            more = {what: places for what, places in found.items() if places.keys() - before.get(what, {}).keys()}
            self._found[split.name] = found
            for line in said(more):
                self._journal.say(events.Warned(f"{split.name}: {line}"))

    def _save_last(self) -> None:
        self.standing.seconds = self._clock.elapsed
        self._keeper.save_last(self.standing, {"images": self._feed.train.images, "steps": self._steps})
        self._journal.say(events.CheckpointSaved(self._keeper.run.last))

    def _evaluate(self) -> None:
        """Score the average, else the weights, on the validation images, and keep the best. No random number moves."""
        feed, keeper, network = self._feed, self._keeper, self._learner.network
        if feed.val is None:
            return
        self._journal.say(events.EvaluationStarted(self._epochs_done, feed.val.images))
        average, random_numbers = keeper.average, random_state(keeper.device)
        # Statistics of batch norm differ between processes; those of the first are the run's.
        self._processes.copy_from_first([*network.buffers(), *(average.copied() if average else [])])
        watch = MatchingWatch(self._learner, to_classes(keeper.categories, feed.val.categories))
        try:
            with (
                average.applied(network) if average else contextlib.nullcontext(),
                watch.on(feed.val_batches) as batches,
            ):
                evaluation = evaluate(
                    self._learner,
                    batches,
                    feed.val.ground_truth,
                    keeper.categories,
                    device=keeper.device,
                    precision=self._train.precision,
                    max_dets=self._recipe.evaluate.max_dets,
                    processes=self._processes,
                    on_progress=self._evaluated_so_far,
                )
        finally:
            restore_random_state(random_numbers, keeper.device)
        self._take_in(dict(evaluation.scores.numbers), evaluation.seconds, watch.read(self._processes))

    def _take_in(self, scores: dict[str, float | None], seconds: float, matched: Matched | None) -> None:
        shifted = None if matched is None else self._moved_to(matched)
        improved = self.standing.note_scores(scores, epoch=self._epochs_done, seconds=seconds)
        self.standing.seconds = self._clock.elapsed
        if improved:
            self._keeper.save_weights(self._keeper.run.best)
        self._journal.evaluated(improved=improved, moved=shifted)

    def _moved_to(self, matched: Matched) -> Moved:
        """From the evaluation before, whose matching a resumed run finds in its checkpoint."""
        standing = self.standing
        epochs = (standing.step - standing.evaluated_step) / self._steps
        found = moved(unpack(standing.matched), matched, epochs=epochs, missing=LOST if standing.evaluations else FIRST)
        if found.gap is not None and standing.evaluations:
            self._journal.say(events.Warned(f"no instability of the matching for this evaluation: {found.gap}"))
        standing.matched = matched.state()
        return found

    def _evaluated_so_far(self, images: int) -> None:
        # Several processes cannot agree to leave in the middle: they finish the evaluation and stop then.
        if self._stop.signal_number is not None and self._processes.world == 1:
            raise _StopNow
        assert self._feed.val is not None
        self._journal.say(events.EvaluationProgress(images * self._processes.world, self._feed.val.images))

    def _how_to_go_on(self) -> str:
        epoch, step = divmod(self.standing.step, self._steps)
        trust = " --trust" if own_parts(self._recipe) else ""
        return (
            f"stopped after {epoch} epochs and {step} steps of the next; everything is saved. "
            f"Go on with: detrctl train --resume {self._keeper.run.path}{trust}"
        )
