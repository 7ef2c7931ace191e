"""Which predictions meet which truths, as data: one `Meeting` for each set of predictions that is trained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from detrctl.losses.matcher import Matcher
from detrctl.structures import Assignment, DetectorOutput, Predictions, Targets

EncoderTruths = Literal["none", "all_proposals", "selected_proposals"]


@dataclass(frozen=True)
class Meeting:
    """Predictions, the truths that they were assigned, and where in the model this happened.

    `repeats`: how often each truth occurs in `targets` or, at most, in `assignment`; it divides the losses too.
    Queries without a truth learn that they are background, but for `unused` ones, (B, Q) bool, which learn nothing.
    """

    stage: str
    layer: int
    predictions: Predictions
    targets: Sequence[Targets]
    assignment: Assignment
    repeats: int = 1
    unused: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """Which of a detector's predictions are trained.

    `auxiliary`: the decoder layers before the last, too. `encoder`: which of the encoder's proposals, if there are any;
    with `foreground_only` their first class logit learns whether there is an object, whatever its class. Each truth
    teaches `encoder_matches` of them: dense supervision, as the auxiliary heads of Zong et al. 2023 (Co-DETR) give.
    """

    matcher: Matcher
    auxiliary: bool = True
    encoder: EncoderTruths = "none"
    encoder_matches: int = 1
    foreground_only: bool = False

    def __call__(self, output: DetectorOutput, targets: Sequence[Targets]) -> Iterator[Meeting]:
        """Every meeting; what is not denoised is matched on its own, layer by layer and group by group."""
        yield from decoder_meetings(output, targets, self.matcher, auxiliary=self.auxiliary)
        yield from denoising_meetings(output, targets, auxiliary=self.auxiliary)
        if output.proposals is not None and self.encoder != "none":
            yield self._encoder_meeting(output, targets)

    def _encoder_meeting(self, output: DetectorOutput, targets: Sequence[Targets]) -> Meeting:
        assert output.proposals is not None
        every = self.encoder == "all_proposals"
        predictions = output.proposals.all if every else output.proposals.best()
        if self.foreground_only:
            targets = [replace(truth, labels=torch.zeros_like(truth.labels)) for truth in targets]
        assignment = self.matcher(predictions, targets, where="the encoder", matches=self.encoder_matches)
        return Meeting("encoder", -1, predictions, targets, assignment, self.encoder_matches)


def decoder_meetings(
    output: DetectorOutput, targets: Sequence[Targets], matcher: Matcher, *, auxiliary: bool
) -> Iterator[Meeting]:
    """The last decoder layer and, as `auxiliary` ones, those before it; each layer is matched on its own."""
    last, groups = len(output.layers) - 1, output.groups
    repeated = [truth for truth in targets for _ in range(groups)]
    for layer, predictions in enumerate(output.layers):
        if auxiliary or layer == last:
            folded = predictions.fold(groups)
            assignment = matcher(folded, repeated, where=f"decoder layer {layer + 1} of {last + 1}")
            yield Meeting("decoder", layer, folded, repeated, assignment, groups)


def denoising_meetings(output: DetectorOutput, targets: Sequence[Targets], *, auxiliary: bool) -> Iterator[Meeting]:
    """The noised truths of every layer that is trained; nothing is matched, each knows its truth."""
    if output.denoised is None:
        return
    known, layers = output.denoised.known, output.denoised.layers
    for layer, predictions in enumerate(layers):
        if auxiliary or layer == len(layers) - 1:
            yield Meeting("denoising", layer, predictions, targets, known.assignment, known.groups, known.unused)
