"""One optimizer step: all micro-batches of all processes, normalised together, or nothing at all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from detrctl.engine.distributed import Processes
from detrctl.engine.optim import clip, gradient_norm, non_finite_gradients
from detrctl.errors import DetrctlError, NonFiniteError
from detrctl.families.learner import Learner
from detrctl.recipe import schema
from detrctl.structures import Batch, Losses

NAMES_SHOWN = 3


@dataclass(frozen=True)
class Skip:
    """Why a step was not made, and the images that it was about to learn from, over all processes."""

    reason: str
    image_ids: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """`loss` and `losses` are this process's part, scaled so that their mean over processes is the step's value.

    `weights`: of those losses that are terms of the objective, what they weigh in it.
    """

    images: int
    loss: Tensor
    losses: Mapping[str, Tensor]
    gradient_norm: float
    skip: Skip | None = None
    weights: Mapping[str, float] = field(default_factory=dict)


def loss_name(stage: str, layer: int, name: str) -> str:
    """`decoder.5.giou`; without a layer `encoder.giou`."""
    return f"{stage}.{layer}.{name}" if layer >= 0 else f"{stage}.{name}"


class Stepper:
    """Makes steps with one learner and its optimizer."""

    def __init__(
        self,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        train: schema.Train,
        *,
        device: torch.device,
        processes: Processes,
    ):
        self._learner, self._optimizer, self._train = learner, optimizer, train
        self._device, self._processes = device, processes
        self._parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, micro_batches: Sequence[Batch | None]) -> Outcome:
        """Micro-batches that are None (nothing in them could be read) are left out.

        A NaN or an infinity anywhere, on any process, or a process without an image, skips the step on all of them.
        """
        batches = [batch for batch in micro_batches if batch is not None]
        counts, images, all_have_some = self._share(batches)
        terms: list[Losses] = []
        reason = None if all_have_some else "no image of this process's part of the batch could be read"
        if all_have_some:
            reason = self._gradients(batches, counts, terms)
        if not self._processes.average_gradients(self._parameters, fine=reason is None):
            return self._skipped(images, batches, reason)
        norm = gradient_norm(self._parameters)
        if not norm.isfinite():
            return self._skipped(images, batches, self._blame(terms))
        clip(self._parameters, norm, self._train.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.stack([part.total.detach() for part in terms]).sum()
        return Outcome(images, total, _named(terms), float(norm), weights=_weights(terms))

    def _share(self, batches: Sequence[Batch]) -> tuple[Tensor, int, bool]:
        """The counts that normalise the losses, the images of the step, and whether every process has some."""
        targets = [target for batch in batches for target in batch.targets]
        mine = torch.tensor([len(targets), float(not batches)], dtype=torch.float64)
        total = self._processes.sum(torch.cat([self._learner.counts(targets).double(), mine]))
        return total[:-2] / self._processes.world, int(total[-2]), int(total[-1]) == 0

    def _gradients(self, batches: Sequence[Batch], counts: Tensor, terms: list[Losses]) -> str | None:
        """Add up this process's gradients and collect its losses; returns what was not finite."""
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=self._train.precision == "bf16")
        for batch in batches:
            there = batch.to(self._device)
            try:
                with autocast:
                    losses = self._learner(there.images, there.targets, counts)
                losses.total.backward()
            except NonFiniteError as error:
                return str(error)
            except torch.OutOfMemoryError as error:
                raise DetrctlError(_out_of_memory(batch)) from error
            terms.append(losses)
        return None

    def _blame(self, terms: Sequence[Losses]) -> str:
        names = non_finite_gradients(self._learner.network)
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        said = f"the gradient of {', '.join(names[:NAMES_SHOWN])}{more} is NaN or infinite"
        if not all(bool(part.total.isfinite()) for part in terms):
            said = f"the loss is NaN or infinite, and {said}"
        return said if names else "the norm of all gradients together is infinite"

    def _skipped(self, images: int, batches: Sequence[Batch], reason: str | None) -> Outcome:
        self._optimizer.zero_grad(set_to_none=True)
        mine = (reason, tuple(target.image_id for batch in batches for target in batch.targets))
        told = self._processes.gather(mine)
        first = next(said for said, _ in told if said is not None)
        nothing = torch.full((), float("nan"))
        ids = tuple(image_id for _, part in told for image_id in part)
        return Outcome(images, nothing, {}, float("nan"), Skip(first, ids))


def _named(terms: Sequence[Losses]) -> dict[str, Tensor]:
    """What adds up is summed over micro-batches, the rest is averaged over them."""
    named: dict[str, Tensor] = {}
    for part in terms:
        for term in part.terms:
            name = loss_name(term.stage, term.layer, term.name)
            value = term.value.detach() / (1 if term.adds_up else len(terms))
            named[name] = named[name] + value if name in named else value
    return named


def _weights(terms: Sequence[Losses]) -> dict[str, float]:
    return {
        loss_name(term.stage, term.layer, term.name): term.weight
        for part in terms
        for term in part.terms
        if term.weight
    }


def _out_of_memory(batch: Batch) -> str:
    count, _, height, width = batch.images.pixels.shape
    return (
        f"out of GPU memory on {count} images of {height} x {width}: "
        "raise train.accumulate (smaller micro-batches), set train.precision to bf16, or lower data.augment.max_size"
    )


@dataclass(frozen=True)
class Means:
    """Over some steps and all processes: the total, each loss as it is, and what share of the total each term was.

    Shares are of weighted terms and sum to 1; there are none where the total is 0 or no number.
    """

    loss: float
    losses: Mapping[str, float]
    shares: Mapping[str, float]


class Meter:
    """Means of losses over steps. Values stay on the device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._weights: dict[str, float] = {}

    def add(self, outcome: Outcome) -> None:
        if outcome.skip is not None:
            return
        for name, value in (("loss", outcome.loss), *outcome.losses.items()):
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._weights.update(outcome.weights)

    def read(self, processes: Processes) -> Means:
        """Over the steps since the last `read`. A loss that not every step has is the mean over those that have it."""
        values = torch.stack([value.float() for value in self._sums.values()]).tolist() if self._sums else []
        mine = {name: (value, self._counts[name]) for name, value in zip(self._sums, values, strict=True)}
        told = processes.gather((mine, self._weights))
        self._sums, self._counts, self._weights = {}, {}, {}
        parts = {name: [part[name] for part, _ in told if name in part] for part, _ in told for name in part}
        means = {name: sum(total / steps for total, steps in found) / len(found) for name, found in parts.items()}
        sums = {name: sum(total for total, _ in found) for name, found in parts.items()}
        weights = {name: weight for _, said in told for name, weight in said.items()}
        return Means(means.pop("loss", math.nan), means, _shares(sums, weights))


def _shares(sums: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    total = sums.get("loss", 0.0)
    if not math.isfinite(total) or total == 0:
        return {}
    return {name: weight * sums[name] / total for name, weight in weights.items()}
