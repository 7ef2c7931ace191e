"""What a split holds, in numbers: classes, sizes before and after resizing, boxes per image against a model's limits.

N images, A boxes of all of them, C classes. A box's size is the side of the square of the same area, in pixels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SMALL, LARGE = 32.0, 96.0
"""COCO's limits: small below the first, large above the second."""

TINY = 8.0
"""Below this a box is less than one cell of the usual finest feature map, whose stride is 8 pixels."""

SIZE_EDGES = (
    *(2 ** (step / 2) for step in range(10)),
    *(SMALL * (LARGE / SMALL) ** (step / 3) for step in range(3)),
    *(LARGE * 2 ** (step / 2) for step in range(11)),
)
"""Bins of the size histogram, in pixels: from 1 to 3072, about two to a doubling, COCO's limits among the edges."""

ASPECT_EDGES = tuple(2 ** (step / 2) for step in range(-9, 10))
"""Bins of width over height, from about 1:23 to 23:1, two to a doubling."""

LONG = 4.0
"""A box is long when one side is more than so many times the other."""

MOST_NAMED = 20
"""So many images with too many boxes are listed."""


@dataclass(frozen=True, eq=False)
class SplitBoxes:
    """A split's true boxes, as training uses them. `image_ids` (N,), `files` N names or none, `sizes_hw` (N, 2).

    Boxes image after image: `owner` (A,) is the position of a box's image, `labels` (A,) count from 0, `sides_wh`
    (A, 2) in pixels of the image.
    """

    image_ids: Ints
    files: tuple[str, ...]
    sizes_hw: Ints
    owner: Ints
    labels: Ints
    sides_wh: Floats


@dataclass(frozen=True)
class SizeCounts:
    """Boxes by size at one stage of their way to the model; `counts` by `SIZE_EDGES`, what lies outside at the ends.

    `tiny` ones are small as well. `median_size` is None without boxes, `median_side` of the images' shorter sides.
    """

    images: int
    boxes: int
    tiny: int
    small: int
    medium: int
    large: int
    median_size: float | None
    median_side: float
    counts: tuple[int, ...]

    @property
    def tiny_share(self) -> float:
        return self.tiny / self.boxes if self.boxes else 0.0


@dataclass(frozen=True)
class Sampled:
    """What the augmentation made of some of the images, once each: `before` counts their boxes, `sizes` those left."""

    before: int
    sizes: SizeCounts

    @property
    def lost_share(self) -> float:
        return 1 - self.sizes.boxes / self.before if self.before else 0.0


@dataclass(frozen=True)
class ClassCount:
    """One class: its boxes by size in the file, and the images that have it."""

    name: str
    boxes: int
    images: int
    small: int
    medium: int
    large: int


@dataclass(frozen=True)
class Limits:
    """The most boxes of an image that a model can learn (`queries`) and give back (`detections`); None: no such limit.

    `size` says how evaluation resizes, in words.
    """

    queries: int | None
    detections: int | None
    size: str


@dataclass(frozen=True)
class PerImage:
    """`images` by their number of boxes, (boxes, images) ascending; `beyond_...` are (image id, boxes), most first."""

    counts: tuple[tuple[int, int], ...]
    empty: int
    mean: float
    median: float
    most: int
    most_image: int
    over_queries: int
    beyond_queries: tuple[tuple[int, int], ...]
    over_detections: int
    beyond_detections: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Aspects:
    """Boxes by width over height, by `ASPECT_EDGES`; `tall` and `wide` ones are long."""

    tall: int
    wide: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class DataFacts:
    """All of it. `trained` is None where nothing was augmented; `odd` are the dataset doctor's lines."""

    data: str
    split: str
    recipe: str
    images: int
    boxes: int
    classes: tuple[ClassCount, ...]
    file: SizeCounts
    evaluated: SizeCounts
    trained: Sampled | None
    per_image: PerImage
    aspects: Aspects
    limits: Limits
    odd: tuple[str, ...]
    warnings: tuple[str, ...]


# ---- counting ----


def size_counts(sides_wh: Floats, image_sizes_hw: Ints) -> SizeCounts:
    """(A, 2), (N, 2)"""
    sizes = np.sqrt(sides_wh.prod(axis=1))
    return SizeCounts(
        images=len(image_sizes_hw),
        boxes=len(sizes),
        tiny=int((sizes < TINY).sum()),
        small=int((sizes < SMALL).sum()),
        medium=int(((sizes >= SMALL) & (sizes <= LARGE)).sum()),
        large=int((sizes > LARGE).sum()),
        median_size=float(np.median(sizes)) if len(sizes) else None,
        median_side=float(np.median(image_sizes_hw.min(axis=1))),
        counts=_histogram(sizes, SIZE_EDGES),
    )


def _histogram(values: Floats, edges: Sequence[float]) -> tuple[int, ...]:
    """Each bin has its lower edge; what lies outside is counted in the first and in the last one."""
    bins = np.searchsorted(edges, values, side="right") - 1
    return tuple(np.bincount(bins.clip(0, len(edges) - 2), minlength=len(edges) - 1).tolist())


def resized(boxes: SplitBoxes, sizes_hw: Ints) -> Floats:
    """Sides (A, 2) after each image got a new size, (N, 2)."""
    scale_wh = (sizes_hw / boxes.sizes_hw)[:, ::-1]
    return boxes.sides_wh * scale_wh[boxes.owner]


def class_counts(boxes: SplitBoxes, names: Sequence[str]) -> tuple[ClassCount, ...]:
    """Most boxes first."""
    sizes = np.sqrt(boxes.sides_wh.prod(axis=1))
    found = []
    for label, name in enumerate(names):
        mine = boxes.labels == label
        small, large = int((sizes[mine] < SMALL).sum()), int((sizes[mine] > LARGE).sum())
        count = int(mine.sum())
        found.append(ClassCount(name, count, len(np.unique(boxes.owner[mine])), small, count - small - large, large))
    return tuple(sorted(found, key=lambda counted: -counted.boxes))


def per_image(boxes: SplitBoxes, limits: Limits) -> PerImage:
    counts = np.bincount(boxes.owner, minlength=len(boxes.image_ids))
    most = int(counts.argmax())
    beyond = {
        name: [] if limit is None else _beyond(boxes.image_ids, counts, limit)
        for name, limit in (("queries", limits.queries), ("detections", limits.detections))
    }
    return PerImage(
        counts=tuple(sorted(Counter(counts.tolist()).items())),
        empty=int((counts == 0).sum()),
        mean=float(counts.mean()),
        median=float(np.median(counts)),
        most=int(counts[most]),
        most_image=int(boxes.image_ids[most]),
        over_queries=len(beyond["queries"]),
        beyond_queries=tuple(beyond["queries"][:MOST_NAMED]),
        over_detections=len(beyond["detections"]),
        beyond_detections=tuple(beyond["detections"][:MOST_NAMED]),
    )


def _beyond(image_ids: Ints, counts: Ints, limit: int) -> list[tuple[int, int]]:
    over = np.flatnonzero(counts > limit)
    return sorted(zip(image_ids[over].tolist(), counts[over].tolist(), strict=True), key=lambda pair: -pair[1])


def aspects(sides_wh: Floats) -> Aspects:
    ratios = sides_wh[:, 0] / sides_wh[:, 1]
    return Aspects(int((ratios < 1 / LONG).sum()), int((ratios > LONG).sum()), _histogram(ratios, ASPECT_EDGES))


# ---- what to say ----

FEW_BOXES = 20
RARE = 0.01
"""A class is nearly absent below so many boxes, or below this share of the most frequent class's."""

MANY_TINY = 0.1
MOSTLY_EMPTY = 0.5
MUCH_LOST = 0.1
CLASSES_NAMED = 8


def warnings(facts: DataFacts) -> tuple[str, ...]:
    """What will hurt, and what would help, in plain words."""
    found = [_too_many(facts), *_scarce_classes(facts), _tiny(facts), _empty(facts), _lost(facts)]
    return tuple(said for said in found if said)


def _too_many(facts: DataFacts) -> str | None:
    per, limits = facts.per_image, facts.limits
    have, most = "image has" if per.over_queries == 1 else "images have", f"at most {per.most}, image {per.most_image}"
    if per.over_queries:
        return (
            f"{per.over_queries} {have} more boxes than the model's {limits.queries} queries ({most}): "
            f"those beyond are never learnt and cannot be found; set model.queries to {per.most} or more"
        )
    if per.over_detections:
        have = "image has" if per.over_detections == 1 else "images have"
        return (
            f"{per.over_detections} {have} more boxes than the {limits.detections} detections that the model gives "
            f"({most}): not all can be found; set model.detections to {per.most} or more"
        )
    return None


def _scarce_classes(facts: DataFacts) -> list[str]:
    most = max((counted.boxes for counted in facts.classes), default=0)
    absent = [counted.name for counted in facts.classes if not counted.boxes]
    rare = [c for c in facts.classes if 0 < c.boxes < max(FEW_BOXES, RARE * most)]
    said = []
    if absent:
        said.append(f"{_these(absent)} no boxes in this split: nothing can be learnt of {_them(absent)}")
    if rare:
        named = [f"{counted.name} ({counted.boxes})" for counted in rare]
        said.append(
            f"{_these(named)} hardly any boxes, the most frequent class {most}: expect little of {_them(named)}"
        )
    return said


def _these(names: Sequence[str]) -> str:
    more = f" and {len(names) - CLASSES_NAMED} more" if len(names) > CLASSES_NAMED else ""
    return f"{', '.join(names[:CLASSES_NAMED])}{more} {'has' if len(names) == 1 else 'have'}"


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _tiny(facts: DataFacts) -> str | None:
    share, before = facts.evaluated.tiny_share, facts.file.tiny_share
    if share <= MANY_TINY:
        return None
    if share - before <= MANY_TINY / 2:
        return (
            f"{share:.0%} of the boxes are smaller than {TINY:g} x {TINY:g} pixels, and are so in the files already: "
            "cut the images into tiles, or enlarge them (data.eval_size)"
        )
    return (
        f"{share:.0%} of the boxes are smaller than {TINY:g} x {TINY:g} pixels after resizing to {facts.limits.size} "
        f"(in the files {before:.0%}): set data.eval_size, and data.augment.sizes with it, higher"
    )


def _empty(facts: DataFacts) -> str | None:
    if facts.per_image.empty <= MOSTLY_EMPTY * facts.images:
        return None
    return (
        f"{facts.per_image.empty} of {facts.images} images have no boxes: they teach what is background and nothing "
        "else; leave some of them out if training is slow"
    )


def _lost(facts: DataFacts) -> str | None:
    if facts.trained is None or facts.trained.lost_share <= MUCH_LOST:
        return None
    return (
        f"the augmentation cuts away {facts.trained.lost_share:.0%} of the boxes, measured on "
        f"{facts.trained.sizes.images} images: usual where it crops, too much where objects are few; see data.augment"
    )
