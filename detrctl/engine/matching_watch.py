"""Notes, while a learner is evaluated, which query answers for which truth: no second pass over the images."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from detrctl.engine.distributed import Processes
from detrctl.families.learner import Learner
from detrctl.inspection.matched import Matched, pack
from detrctl.inspection.matching import NOBODY, matched_queries
from detrctl.losses.criterion import Criterion
from detrctl.losses.matcher import Matcher
from detrctl.structures import Batch, Categories, DetectorOutput, Predictions, Targets


def to_classes(categories: Categories, of_dataset: Categories) -> Tensor:
    """The checkpoint's class of each of a dataset's categories, by name, -1 where it has none."""
    if categories.names == of_dataset.names:
        return torch.arange(len(categories))  # also where two categories share a name
    place = {name: number for number, name in enumerate(categories.names)}
    return torch.tensor([place.get(name, -1) for name in of_dataset.names])


class MatchingWatch:
    """with watch.on(batches) as watched: evaluate(learner, watched, ...); then watch.read(processes)

    A learner that matches nothing one to one (Faster R-CNN) gives None.
    """

    def __init__(self, learner: Learner, classes: Tensor):
        """`classes`: the learner's class of each of the dataset's labels."""
        criterion = learner.criterion
        self._matcher: Matcher | None = criterion.matcher if isinstance(criterion, Criterion) else None
        self._network, self._classes = learner.network, classes
        self._answer: tuple[Predictions, Tensor | None] | None = None
        self._found: dict[int, tuple[Tensor, Tensor | None]] = {}

    @contextmanager
    def on(self, batches: Iterable[Batch | None]) -> Iterator[Iterable[Batch | None]]:
        """The same batches; inside, the network's answers to them are matched with their truths."""
        if self._matcher is None:
            yield batches
            return
        hook = self._network.register_forward_hook(self._keep)
        try:
            yield self._watched(batches, self._matcher)
        finally:
            hook.remove()

    def _keep(self, network: Any, images: Any, output: DetectorOutput) -> None:
        self._answer = output.final, None if output.proposals is None else output.proposals.selected

    def _watched(self, batches: Iterable[Batch | None], matcher: Matcher) -> Iterator[Batch | None]:
        for batch in batches:
            yield batch
            # Here the evaluation is done with the batch, and has seen that the answer holds no NaN.
            if batch is not None and self._answer is not None:
                self._note(*self._answer, batch.targets, matcher)
            self._answer = None

    def _note(self, final: Predictions, selected: Tensor | None, targets: Sequence[Targets], matcher: Matcher) -> None:
        there = [replace(truth, labels=self._classes[truth.labels]).to(final.logits.device) for truth in targets]
        assignment = matcher(final, there, where="the last decoder layer").to(torch.device("cpu"))
        chosen = None if selected is None else selected.cpu()
        for i, truth in enumerate(targets):
            queries = matched_queries(assignment, i, len(truth))
            tokens = None if chosen is None else torch.where(queries == NOBODY, queries, chosen[i][queries])
            self._found[truth.image_id] = queries, tokens

    def read(self, processes: Processes) -> Matched | None:
        """Of all processes' images. Called on every process."""
        if self._matcher is None:
            return None
        told = processes.gather(self._found)
        return pack({image_id: found for part in told for image_id, found in part.items()})
