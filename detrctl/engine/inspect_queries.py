"""From a checkpoint, and a split or an image, to everything that `inspection` tells about object queries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detrctl.data.batch import collate
from detrctl.data.dataset import to_sample
from detrctl.data.images import read_image
from detrctl.data.transforms import make_record
from detrctl.engine.build import queries_per_image, transform
from detrctl.engine.checkpoint import find_checkpoint
from detrctl.engine.evaluate import match_categories
from detrctl.engine.inspected import (
    Inspected,
    Setting,
    Source,
    Wish,
    batches,
    build_inspected,
    images_of,
    random_source,
    read_source,
    run_folder,
)
from detrctl.errors import DataError, DetrctlError
from detrctl.inspection.look_report import Found, LookReport
from detrctl.inspection.looks import look_from_point, look_of_query
from detrctl.inspection.queries import (
    Collector,
    QueryRecords,
    learned_contents,
    learned_starts,
    summarise,
    told_by,
)
from detrctl.inspection.query_report import QueryReport
from detrctl.inspection.recording import Recording, recording, require_queries
from detrctl.losses.criterion import Criterion
from detrctl.recipe.schema import Recipe
from detrctl.structures import Batch, Categories, Detections, ImageBatch, Predictions

MOST_USED = 20
LARGEST_PICTURE = 900
"""Pixels of the longer side of an image that is drawn on."""

LISTED = 10
"""Detections that are told of an image; at least so many as to hold the one asked for."""

UNNAMED = 80
"""Classes of random weights where no dataset names any."""


@dataclass(frozen=True)
class Choice:
    """Which queries are drawn: these, or all, or the `most_used`."""

    queries: tuple[int, ...] | None = None
    all: bool = False
    most_used: int = MOST_USED

    def of(self, records: QueryRecords) -> tuple[tuple[int, ...], str]:
        """Their numbers, and in words why these."""
        if self.queries is not None:
            return self.queries, "chosen queries"
        if self.all:
            return tuple(range(records.queries)), "all queries"
        used = records.most_used[: self.most_used]
        return tuple(used), f"the {len(used)} most used" if len(used) < records.queries else "all, most used first"


@dataclass(frozen=True)
class Asked:
    """What is asked of one image: a query, or the detection of a rank (from 1), by default the best; and a `point`
    from which the encoder looks: in pixels, or, both at most 1, in fractions; by default the last box's centre.
    """

    query: int | None = None
    detection: int | None = None
    point: tuple[float, float] | None = None


def inspect_queries(
    ckpt: Path | None = None,
    *,
    recipe: str | None = None,
    wish: Wish | None = None,
    choice: Choice | None = None,
    least: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, images: None,
) -> QueryReport:
    """Looks at every image of a split, unaugmented; without a checkpoint, at the newest run, or at a recipe's model
    with random weights. A detection counts from score `least` on, by default the recipe's.

    Raises DetrctlError for a model without object queries, and for queries that it does not have.
    """
    wish, choice = wish or Wish(), choice or Choice()
    setting = _read(ckpt, recipe, wish)
    part = images_of(setting.recipe, wish)
    if setting.checkpoint is not None:
        match_categories(setting.checkpoint.categories, part.ground_truth)
    model = build_inspected(setting, part.categories, wish)
    score = setting.recipe.evaluate.score if least is None else least
    collector = Collector(num_classes=len(model.categories), least=score)
    for images, targets in batches(model, part, wish.batch_size):
        with torch.no_grad():
            output = model.learner.network(images)
        _require_queries_of(choice, max(output.final.boxes.shape[1], queries_per_image(setting.recipe) or 0))
        found = _detections(model, output.final, images)
        assignment = _criterion(model).matcher(output.final, targets, where="the last decoder layer")
        on_progress(collector.add(output.final, found, assignment, output.proposals), part.images)
    if not collector.images:
        raise DataError("nothing to look at: the split has no image that can be read")
    records = collector.records()
    _require_queries_of(choice, records.queries)  # in two stages small images may all have fewer than the recipe says
    chosen, chosen_as = choice.of(records)
    network = model.learner.network
    return QueryReport(
        setting.source.name,
        setting.recipe.data.root or "the recipe's data",
        wish.split,
        model.categories,
        score,
        told_by(network),
        records,
        tuple(summarise(records)),
        chosen,
        chosen_as,
        learned_starts(network),
        learned_contents(network),
        setting.notes + part.found_on_reading(),
    )


def inspect_image(
    image: Path,
    ckpt: Path | None = None,
    *,
    recipe: str | None = None,
    asked: Asked | None = None,
    wish: Wish | None = None,
) -> LookReport:
    """Looks at one image file; model and errors as of `inspect_queries`. DetrctlError for what the image or the model
    does not have: a query, a detection, a point.
    """
    asked, wish = asked or Asked(), wish or Wish()
    setting = _read(ckpt, recipe, wish)
    pixels = read_image(image)
    height, width = pixels.shape[-2:]
    point = _fractions(asked.point, (height, width))
    categories, unnamed = _categories_without_checkpoint(setting, wish)
    model = build_inspected(setting, categories, wish)
    network, classes = model.learner.network, len(model.categories)
    batch = _batch(setting.recipe, pixels)
    images = batch.images.to(model.device)
    with torch.no_grad(), recording(network) as seen:
        network(images)
        query, label, found = _asked_query(model, seen, images, asked)
        look = look_of_query(seen, network, query, num_classes=classes, label=label)
        box = look.layers[-1].box
        encoder = look_from_point(seen, point or (float(box[0]), float(box[1])))
    if point is not None and not encoder.layers:
        raise DetrctlError("--point: this model has no encoder layer, so nothing looks out from a point")
    return LookReport(
        setting.source.name,
        image.name,
        (height, width),
        _picture(pixels.permute(1, 2, 0).numpy()),
        model.categories,
        told_by(network) != "slot",
        found,
        None if asked.query is not None else asked.detection or 1,
        look,
        encoder,
        setting.notes + unnamed,
    )


# ---- what to look at ----


def _read(ckpt: Path | None, recipe: str | None, wish: Wish) -> Setting:
    if ckpt is None and recipe is not None:
        source = random_source(recipe)
    else:
        path = find_checkpoint(ckpt)
        source = Source(run_folder(path).name, None, path)
    setting = read_source(source, recipe, wish)
    if setting.recipe.model.family == "faster_rcnn":  # before data is looked for
        require_queries(torch.nn.Identity())
    return setting


def _categories_without_checkpoint(setting: Setting, wish: Wish) -> tuple[Categories, tuple[str, ...]]:
    """For random weights those of the data, if the recipe has any, and otherwise made-up ones, with a note."""
    if setting.checkpoint is not None:
        return setting.checkpoint.categories, ()
    data = setting.recipe.data
    if data.dataset is not None or data.root is not None or data.train is not None or data.val is not None:
        return images_of(setting.recipe, wish).categories, ()
    numbers = tuple(range(UNNAMED))
    names = tuple(f"class {number}" for number in numbers)
    return Categories(names, numbers), (
        f"no dataset names the classes: {UNNAMED} are made up; --data DIR takes its own",
    )


def _require_queries_of(choice: Choice, known: int) -> None:
    wrong = [query for query in choice.queries or () if query >= known]
    if wrong:
        raise DetrctlError(f"--queries {wrong[0]}: this model has queries 0 to {known - 1}")


def _criterion(model: Inspected) -> Criterion:
    assert isinstance(model.learner.criterion, Criterion)
    return model.learner.criterion


def _detections(model: Inspected, final: Predictions, images: ImageBatch) -> list[Detections]:
    return model.learner.post_process(
        Predictions(final.logits.float(), final.boxes), images.original_sizes_hw, images.image_ids
    )


# ---- one image ----


def _batch(recipe: Recipe, pixels: torch.Tensor) -> Batch:
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    height, width = pixels.shape[-2:]
    sample = to_sample(transform(recipe, augment=False)(make_record(pixels, *nothing)), 0, (height, width))
    batch = collate([sample])
    assert batch is not None
    return batch


def _asked_query(
    model: Inspected, seen: Recording, images: ImageBatch, asked: Asked
) -> tuple[int, int | None, tuple[Found, ...]]:
    """The query, the class of the detection if one is asked for, and the best detections."""
    assert seen.output is not None
    final = seen.output.final
    (detections,) = _detections(model, final, images)
    rank, queries = asked.detection or 1, final.boxes.shape[1]
    if asked.query is not None and asked.query >= queries:
        raise DetrctlError(f"--query {asked.query}: on this image the model has queries 0 to {queries - 1}")
    if asked.query is None and rank > len(detections):
        raise DetrctlError(f"--detection {rank}: the model gives {len(detections)} detections on this image")
    found = [
        Found(place + 1, int(query), int(label), float(score), _four(final.boxes[0, query].tolist()))
        for place, (query, label, score) in enumerate(
            zip(detections.queries, detections.labels, detections.scores, strict=True)
        )
    ][: max(LISTED, rank)]
    if asked.query is not None:
        return asked.query, None, tuple(found)
    return found[rank - 1].query, found[rank - 1].label, tuple(found)


def _four(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = numbers
    return x, y, width, height


def _fractions(point: tuple[float, float] | None, size_hw: tuple[int, int]) -> tuple[float, float] | None:
    if point is None:
        return None
    x, y = point if max(point) <= 1 else (point[0] / size_hw[1], point[1] / size_hw[0])
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise DetrctlError(
            f"--point {point[0]:g},{point[1]:g}: outside the image, which is {size_hw[1]} x {size_hw[0]} pixels"
        )
    return x, y


def _picture(pixels: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    return np.asarray(picture)
