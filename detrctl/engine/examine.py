"""`detrctl eval` with questions: one pass over a split, in which every decoder layer's answers are kept.

Q queries, C classes, G truths of an image.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from detrctl.boxes import Cxcywh, cxcywh_to_xyxy, xyxy_to_pixels
from detrctl.engine.evaluate import Evaluation, Opened, evaluate_checkpoint, match_categories
from detrctl.errors import DetrctlError
from detrctl.evaluation.answers import NOBODY, Answers, Floats, Ints, grouped, overlaps
from detrctl.evaluation.causes import Reach
from detrctl.evaluation.errors import FOREGROUND
from detrctl.evaluation.examination import Examination, Seen, examine
from detrctl.evaluation.questions import Questions
from detrctl.evaluation.results import coco_results
from detrctl.inspection.matching import class_scores
from detrctl.losses.matcher import cheapest_pairs
from detrctl.recipe.schema import FasterRcnnModel, Proposing
from detrctl.structures import DetectorOutput, ImageBatch, Predictions


@dataclass(frozen=True, eq=False)
class Examined:
    """`pixels` gives an image by its id, uint8 RGB (3, H, W), or None where it cannot be read."""

    evaluation: Evaluation
    examination: Examination
    pixels: Callable[[int], Tensor | None]


def examine_checkpoint(ckpt: Any, questions: Questions, *, max_dets: int | None = None, **options: Any) -> Examined:
    """`options` are those of `evaluate_checkpoint`, which gives the scores of the same pass.

    Raises DetrctlError, before anything is computed, where layers are asked of a detector that has none, or where
    several processes would each see a part of the answers only.
    """
    watch = Watch(questions)
    evaluation = evaluate_checkpoint(ckpt, max_dets=max_dets, on_learner=watch.start, **options)
    seen = watch.seen(evaluation)
    return Examined(evaluation, examine(seen, questions, max_dets=evaluation.scores.max_dets), watch.opened.part.pixels)


class Watch:
    """Keeps, of every forward pass, each decoder layer's answers, and what the last layer's queries could say.

    The last layer's answers are the evaluation's own.
    """

    opened: Opened

    def __init__(self, questions: Questions):
        self._every_layer = questions.layers or questions.nms or questions.errors
        self._must_have_layers = questions.layers
        self._layers: list[list[Answers]] = []
        self._reach: list[tuple[Ints, Reach]] = []
        self._ranked = False

    def start(self, opened: Opened) -> None:
        if opened.processes.world > 1:
            raise DetrctlError("looking into the answers takes one process: run `detrctl eval` without torchrun")
        if isinstance(opened.recipe.model, FasterRcnnModel):
            if self._must_have_layers:
                raise DetrctlError("--layers: Faster R-CNN has no decoder layers; --nms and --errors work for it")
        elif self._every_layer:
            opened.learner.network.register_forward_hook(self._keep)
        self.opened = opened
        self._ids = match_categories(opened.categories, opened.part.ground_truth)
        truths = opened.part.ground_truth
        self._truths_of = {int(truths.image_of[group[0]]): group for group in grouped(truths.image_of)}

    def seen(self, evaluation: Evaluation) -> Seen:
        truths = self.opened.part.ground_truth
        names = self.opened.part.file_names
        scored = truths.only(evaluation.image_ids)
        scored = replace(scored, file_names=tuple(names.get(image, "") for image in scored.image_ids.tolist()))
        answers = Answers.from_results(evaluation.results)
        model = self.opened.recipe.model
        if isinstance(model, FasterRcnnModel):
            return Seen(scored, answers, already=model.nms)
        distinct = model.proposal_nms if isinstance(model, Proposing) else None
        if not self._every_layer:
            return Seen(scored, answers, distinct=distinct)
        earlier = [Answers.joined(layer) for layer in self._layers]
        kept = np.isin(truths.image_of, np.array(evaluation.image_ids, dtype=np.int64))
        reach = Reach.joined(self._reach, len(kept)).take(kept)
        return Seen(scored, answers, (*earlier, answers), reach, distinct=distinct, ranked=self._ranked)

    def _keep(self, network: nn.Module, args: tuple[Any, ...], output: DetectorOutput) -> None:
        images: ImageBatch = args[0]
        self._ranked = output.proposals is not None
        self._layers = self._layers or [[] for _ in output.layers[:-1]]
        for kept, layer in zip(self._layers, output.layers[:-1], strict=True):
            fp32 = Predictions(layer.logits.float(), layer.boxes)
            found = self.opened.learner.post_process(fp32, images.original_sizes_hw, images.image_ids)
            kept.append(Answers.from_results(coco_results(found, self._ids, queries=True)))
        self._reach += self._reach_of(output.final, images)

    def _reach_of(self, final: Predictions, images: ImageBatch) -> list[tuple[Ints, Reach]]:
        classes = len(self._ids)
        scores = class_scores(final.logits, classes).double().cpu().numpy()
        boxes = (
            xyxy_to_pixels(cxcywh_to_xyxy(Cxcywh(final.boxes.float())), images.original_sizes_hw).double().cpu().numpy()
        )
        one_each = final.logits.shape[-1] == classes + 1
        truths = self.opened.part.ground_truth
        parts = []
        for image, image_scores, image_boxes in zip(images.image_ids, scores, boxes, strict=True):
            if (places := self._truths_of.get(image)) is not None:
                wanted = np.array([self._ids.index(int(truths.category_of[place])) for place in places])
                parts.append(
                    (places, reach_of(image_scores, image_boxes, truths.boxes_xywh[places], wanted, one_each=one_each))
                )
        return parts


def reach_of(scores: Floats, boxes_xyxy: Floats, truths_xywh: Floats, labels: Ints, *, one_each: bool) -> Reach:
    """(Q, C), (Q, 4), (G, 4), (G,) -> (G,) each. With `one_each` a query answers with its best class only (softmax).

    A query answers for one truth: they are shared out so that their scores add up to most. A truth for which none is
    left keeps the best that fits it, though that is another one's.
    """
    if one_each:
        best = scores == scores.max(axis=1, keepdims=True)
        scores = np.where(best, scores, -np.inf)
    boxes = np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)
    fits = overlaps(boxes, truths_xywh) >= FOREGROUND
    said = np.where(fits, scores[:, labels], -np.inf)
    query = said.argmax(axis=0)
    # A pair that does not fit costs more than all others together gain, and so is taken only where none fits.
    pairs = cheapest_pairs(np.where(np.isfinite(said), -said, len(labels)))
    assert pairs is not None  # nothing is forbidden
    own, of_truth = pairs
    answers = np.isfinite(said[own, of_truth])
    query[of_truth[answers]] = own[answers]
    best_said = said[query, np.arange(len(labels))]
    reached = best_said > -np.inf
    ascending = np.sort(scores, axis=None)
    above = len(ascending) - np.searchsorted(ascending, best_said, side="right")
    return Reach(
        np.where(reached, best_said, np.nan),
        np.where(reached, query, NOBODY),
        np.where(reached, above + 1, 0),
        np.full(len(labels), len(scores)),
    )
