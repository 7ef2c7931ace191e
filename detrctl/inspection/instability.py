"""How much a matching moves: from checkpoint to checkpoint, and from decoder layer to decoder layer.

Between checkpoints this is DN-DETR's instability (Li et al. 2022, "DN-DETR: Accelerate DETR Training by Introducing
Query DeNoising", section 3.1, equations 1 and 2): for every query of an image the number of the truth that it is
matched with, or -1, after one epoch and after the next; the instability of the image is the number of queries where
the two differ, that of an epoch the mean over the images of the validation set, unaugmented; the matching is that of
the last decoder layer. A truth that goes from one query to another counts twice, so that twice the truths of an image
is the most there can be. Between layers is an extension of ours and counts truths, each once.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from detrctl.inspection.matching import NOBODY, SIZES, MatchRow

Key = tuple[int, int]
"""An image's id and the number of a truth in it."""


@dataclass(frozen=True)
class Share:
    """`changed` of `of` truths."""

    changed: int
    of: int

    @property
    def value(self) -> float | None:
        return self.changed / self.of if self.of else None


@dataclass(frozen=True)
class Grouped:
    """One share over all truths, and by their size and class."""

    all: Share
    by_size: dict[str, Share]
    by_class: dict[str, Share]


@dataclass(frozen=True)
class ImageStep:
    """One image with truths: its `instability` and its `by_token`, and the `most` that either can be."""

    image_id: int
    instability: int
    by_token: int
    most: int


@dataclass(frozen=True)
class Step:
    """From one checkpoint to the next.

    `instability` is DN-DETR's, with queries told apart by slot as there; `by_token` the same with queries told apart by
    the encoder token that proposed them, which alone is fair where a slot is but a rank (elsewhere they are equal).
    `most` is the largest possible. `moved`: the share of truths that another query (or token) answers for. The means
    are over all images; `per_image` are those with truths, by id.
    """

    before: str
    after: str
    epochs: int | None
    images: int
    instability: float
    by_token: float
    most: float
    moved: Grouped
    per_image: tuple[ImageStep, ...] = ()


def index_vector(pairs: Iterable[tuple[int, int]], queries: int) -> list[int]:
    """DN-DETR's V: for each query the truth that it is matched with, or -1. `pairs` are (query, truth)."""
    vector = [NOBODY] * queries
    for query, truth in pairs:
        vector[query] = truth
    return vector


def instability(before: Mapping[int, int], after: Mapping[int, int]) -> int:
    """How many entries of two index vectors differ; given as query -> truth, of the matched queries only."""
    return sum(before.get(query, NOBODY) != after.get(query, NOBODY) for query in before.keys() | after.keys())


def between_checkpoints(
    before: Sequence[MatchRow], after: Sequence[MatchRow], *, names: tuple[str, str], epochs: int | None, images: int
) -> Step:
    """`images` counts those without truths as well, whose instability is 0; both must be of the same images."""
    old, new = last_layer(before), last_layer(after)
    slots, tokens = ([_by_image(rows, key) for rows in (old, new)] for key in (_slot, _token))
    per_image = tuple(
        ImageStep(
            i,
            instability(*(found.get(i, {}) for found in slots)),
            instability(*(found.get(i, {}) for found in tokens)),
            2 * len(slots[1].get(i, {})),
        )
        for i in sorted({row.image_id for row in new})
    )
    instabilities, by_token, most = (
        sum(getattr(image, name) for image in per_image) / max(images, 1)
        for name in ("instability", "by_token", "most")
    )
    return Step(*names, epochs, images, instabilities, by_token, most, changed(old, new), per_image)


def between_layers(rows: Sequence[MatchRow]) -> list[Grouped]:
    """For each decoder layer but the last, how many truths the next one gives to another query.

    Within one image and checkpoint a query and its encoder token are the same, also in two stages.
    """
    by_layer = layers(rows)
    return [changed(before, after) for before, after in pairwise(by_layer)]


def changed(before: Sequence[MatchRow], after: Sequence[MatchRow]) -> Grouped:
    """Truths whose query, by token, is another one; those that neither gives a query are left out."""
    old = {(row.image_id, row.truth): row.token for row in before}
    both = [row for row in after if (row.token, old[row.image_id, row.truth]) != (NOBODY, NOBODY)]

    def share(rows: Iterable[MatchRow]) -> Share:
        moved = [old[row.image_id, row.truth] != row.token for row in rows]
        return Share(sum(moved), len(moved))

    return Grouped(
        share(both),
        {size: share(row for row in both if row.size == size) for size in SIZES},
        {name: share(row for row in both if row.label == name) for name in sorted({row.label for row in both})},
    )


def layers(rows: Sequence[MatchRow]) -> list[list[MatchRow]]:
    """Rows by decoder layer."""
    found: defaultdict[int, list[MatchRow]] = defaultdict(list)
    for row in rows:
        found[row.layer].append(row)
    return [found[layer] for layer in sorted(found)]


def last_layer(rows: Sequence[MatchRow]) -> list[MatchRow]:
    last = max((row.layer for row in rows), default=0)
    return [row for row in rows if row.layer == last]


def _slot(row: MatchRow) -> int:
    return row.query


def _token(row: MatchRow) -> int:
    return row.token


def _by_image(rows: Iterable[MatchRow], key: Callable[[MatchRow], int]) -> dict[int, dict[int, int]]:
    """image id -> query -> truth"""
    found: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for row in rows:
        if row.query != NOBODY:
            found[row.image_id][key(row)] = row.truth
    return found
