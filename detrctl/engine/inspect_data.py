"""A recipe and a split -> what the split holds, as its model will see it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from detrctl.boxes import cxcywh_to_xyxy
from detrctl.data.batch import Sample
from detrctl.data.dataset import DetectionDataset, Transform
from detrctl.data.transforms import MEAN, STD, Record, shortest_side_size
from detrctl.engine.build import DataSplit, build_data, queries_per_image, transform, with_data
from detrctl.engine.own_data import OwnDataset
from detrctl.errors import DataError
from detrctl.inspection.data_facts import (
    DataFacts,
    Ints,
    Limits,
    Sampled,
    SplitBoxes,
    aspects,
    class_counts,
    per_image,
    resized,
    size_counts,
    warnings,
)
from detrctl.inspection.data_report import DataReport, ShownImage, View
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories

AUGMENTED_SPLIT = "train"
EPOCHS_SHOWN = 3

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Wish:
    """The first `limit` images of a split; of these `sampled` are augmented for the numbers and `shown` in pictures."""

    data: str | None = None
    split: str = AUGMENTED_SPLIT
    limit: int | None = None
    sampled: int = 200
    shown: int = 6


def inspect_data(
    recipe: str,
    *,
    overrides: Sequence[str] = (),
    wish: Wish | None = None,
    on_progress: OnProgress = lambda done, images: None,
) -> tuple[DataReport, Categories]:
    """Counts what the annotations say; image files are decoded only for what is augmented or shown.

    `on_progress` hears the images done. Raises DetrctlError for what the user can mend.
    """
    wish = wish or Wish()
    loaded = load_recipe(recipe, overrides)
    setting = with_data(loaded.recipe, wish.data)
    part = build_data(setting, wish.split).with_labels().first(wish.limit)
    dataset = _whole(part)
    spread = _spread(part.images, wish.sampled) if wish.split == AUGMENTED_SPLIT else []
    shown = _spread(part.images, wish.shown)
    total = part.images + len(spread) + len(shown)
    boxes = _read(part, dataset, lambda done: on_progress(done, total))
    trained = _augmented(setting, dataset, spread, lambda done: on_progress(part.images + done, total))
    facts = _facts(part, boxes, setting, trained, name=loaded.name)
    images = tuple(_shown(setting, dataset, shown, augmented=wish.split == AUGMENTED_SPLIT))
    on_progress(total, total)
    return DataReport(facts, boxes, images, (*map(str, loaded.notes), *part.found_on_reading())), part.categories


def _whole(part: DataSplit) -> DetectionDataset | OwnDataset:
    dataset = getattr(part.dataset, "dataset", part.dataset)  # of the first images only
    assert isinstance(dataset, DetectionDataset | OwnDataset)
    return dataset


def _spread(images: int, wanted: int) -> list[int]:
    """At even distances: images that lie together are often alike."""
    count = min(images, wanted)
    return [n * images // count for n in range(count)]


def _facts(part: DataSplit, boxes: SplitBoxes, setting: Recipe, trained: Sampled | None, *, name: str) -> DataFacts:
    limits = model_limits(setting)
    sizes_hw = np.array([evaluated_size(setting, int(h), int(w)) for h, w in boxes.sizes_hw], dtype=np.int64)
    facts = DataFacts(
        data=setting.data.root or setting.data.dataset or "the recipe's data",
        split=part.name,
        recipe=name,
        images=len(boxes.image_ids),
        boxes=len(boxes.owner),
        classes=class_counts(boxes, part.categories.names),
        file=size_counts(boxes.sides_wh, boxes.sizes_hw),
        evaluated=size_counts(resized(boxes, sizes_hw), sizes_hw),
        trained=trained,
        per_image=per_image(boxes, limits),
        aspects=aspects(boxes.sides_wh),
        limits=limits,
        odd=part.oddities,
        warnings=(),
    )
    return replace(facts, warnings=warnings(facts))


def model_limits(setting: Recipe) -> Limits:
    """Faster R-CNN has no queries; in DETR every query gives one detection."""
    model, data = setting.model, setting.data
    queries = queries_per_image(setting)
    size = f"{data.eval_size} x {data.eval_size}" if data.eval_square else f"shortest side {data.eval_size}"
    return Limits(queries, getattr(model, "detections", queries), size)


def evaluated_size(setting: Recipe, height: int, width: int) -> tuple[int, int]:
    """Height and width of an image as evaluation resizes it."""
    data = setting.data
    if data.eval_square:
        return data.eval_size, data.eval_size
    return shortest_side_size(height, width, data.eval_size, data.eval_max_size)


# ---- boxes ----


def _read(part: DataSplit, dataset: DetectionDataset | OwnDataset, on_images: Callable[[int], None]) -> SplitBoxes:
    """From the annotations; where these do not give an image's size, or are somebody's own, from the images."""
    raw = dataset.through(_as_it_is)
    ids, names, sizes, owners, labels, sides = [], [], [], [], [], []
    for i in range(part.images):
        found = _annotated(dataset, i) if isinstance(dataset, DetectionDataset) else None
        found = found or _looked_at(raw[i])
        on_images(i + 1)
        if found is None:  # a file that cannot be read
            continue
        image_id, size_hw, corners, classes = found
        ids.append(image_id)
        names.append(dataset.index.image(i).file_name if isinstance(dataset, DetectionDataset) else "")
        sizes.append(size_hw)
        owners += [len(ids) - 1] * len(classes)
        labels.append(classes)
        sides.append(corners[:, 2:] - corners[:, :2])
    if not ids:
        raise DataError("nothing to look at: the split has no image that can be read")
    return SplitBoxes(
        np.array(ids, dtype=np.int64),
        tuple(names),
        np.array(sizes, dtype=np.int64),
        np.array(owners, dtype=np.int64),
        torch.cat(labels).numpy(),
        torch.cat(sides).double().numpy(),
    )


_Found = tuple[int, tuple[int, int], Tensor, Tensor]
"""An image's id, its height and width, corners (G, 4) in its pixels, labels (G,)."""


def _annotated(dataset: DetectionDataset, i: int) -> _Found | None:
    image = dataset.index.image(i)
    if not (image.height and image.width):
        return None
    return image.id, (image.height, image.width), *dataset.index.targets(i)


def _looked_at(sample: Sample | None) -> _Found | None:
    if sample is None:
        return None
    return sample.image_id, sample.original_size_hw, _corners(sample), sample.targets.labels


def _corners(sample: Sample) -> Tensor:
    """(G, 4) xyxy in pixels of what the sample holds."""
    height, width = sample.pixels.shape[-2:]
    return cxcywh_to_xyxy(sample.targets.boxes) * torch.tensor([width, height, width, height])


def _as_it_is(record: Record) -> Record:
    return record


# ---- images ----


def _augmented(
    setting: Recipe, dataset: DetectionDataset | OwnDataset, spread: Sequence[int], on_images: Callable[[int], None]
) -> Sampled | None:
    """As the first epoch draws it."""
    raw, augmented = dataset.through(_as_it_is), dataset.through(transform(setting, augment=True))
    augmented.set_epoch(0)
    before, sides, sizes = 0, [torch.zeros(0, 2)], list[list[int]]()
    for done, i in enumerate(spread, start=1):
        sample = augmented[i]
        on_images(done)
        if sample is None:
            continue
        corners = _corners(sample)
        sides.append(corners[:, 2:] - corners[:, :2])
        sizes.append(list(sample.pixels.shape[-2:]))
        before += _truths(raw, i)
    if not sizes:
        return None
    shapes: Ints = np.array(sizes, dtype=np.int64)
    return Sampled(before, size_counts(torch.cat(sides).double().numpy(), shapes))


def _truths(raw: DetectionDataset | OwnDataset, i: int) -> int:
    if isinstance(raw, DetectionDataset):
        return len(raw.index.targets(i)[1])
    return len(raw[i].targets)


def _shown(
    setting: Recipe, dataset: DetectionDataset | OwnDataset, chosen: Sequence[int], *, augmented: bool
) -> Iterator[ShownImage]:
    """Every image as it is, as evaluation sees it, and in the first epochs' augmentations."""
    evaluation, training = transform(setting, augment=False), transform(setting, augment=True)
    looks: list[tuple[str, Transform, int]] = [("file", _as_it_is, 0), ("evaluation", evaluation, 0)]
    looks += [(f"epoch {epoch + 1}", training, epoch) for epoch in range(EPOCHS_SHOWN if augmented else 0)]
    for i in chosen:
        views, image_id = [], 0
        for name, through, epoch in looks:
            seen = dataset.through(through)
            seen.set_epoch(epoch)
            sample = seen[i]
            if sample is not None:
                views.append(_view(name, sample))
                image_id = sample.image_id
        if views:
            yield ShownImage(image_id, tuple(views))


def _view(name: str, sample: Sample) -> View:
    height, width = sample.pixels.shape[-2:]
    return View(f"{name}, {width} x {height}", _picture(sample.pixels), _corners(sample), sample.targets.labels)


def _picture(pixels: Tensor) -> Tensor:
    """(3, H, W), uint8 or normalised -> (H, W, 3) uint8"""
    if pixels.dtype != torch.uint8:
        mean, deviation = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
        pixels = ((pixels * deviation + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 0).contiguous()
