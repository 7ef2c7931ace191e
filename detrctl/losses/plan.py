"""Which predictions meet which truths, as data: one `Meeting` for each set of predictions that is trained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detrctl.losses.matcher import Assignment, Matcher
from detrctl.structures import DetectorOutput, Predictions, Targets


@dataclass(frozen=True)
class Meeting:
    """Predictions, the truths that they were assigned, and where in the model this happened."""

    stage: str
    layer: int
    predictions: Predictions
    assignment: Assignment


def decoder_meetings(
    output: DetectorOutput, targets: Sequence[Targets], matcher: Matcher, *, auxiliary: bool
) -> Iterator[Meeting]:
    """The last decoder layer and, as `auxiliary` ones, those before it; each layer is matched on its own."""
    last = len(output.layers) - 1
    for layer, predictions in enumerate(output.layers):
        if auxiliary or layer == last:
            assignment = matcher(predictions, targets, where=f"decoder layer {layer + 1} of {last + 1}")
            yield Meeting("decoder", layer, predictions, assignment)
