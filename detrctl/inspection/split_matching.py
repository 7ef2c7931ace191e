"""What the matchings of a whole split have in common: costs by layer, truths that nobody finds, idle queries."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from detrctl.inspection.instability import Grouped, between_layers, last_layer, layers
from detrctl.inspection.matching import NOBODY, SIZES, MatchRow


@dataclass(frozen=True)
class Terms:
    """Matched pairs of one decoder layer and one group of truths, means; None where the group has no pair.

    `found` is the share of the truths for which some query has an IoU of at least 0.5 and the right class.
    `margin` is a median, since a few large ones would rule a mean.
    """

    truths: int
    cost_class: float | None
    cost_l1: float | None
    cost_giou: float | None
    cost_total: float | None
    iou: float | None
    score: float | None
    margin: float | None
    found: float | None


@dataclass(frozen=True)
class LayerTerms:
    """`layer` from 0."""

    layer: int
    all: Terms
    by_size: dict[str, Terms]
    by_class: dict[str, Terms]


@dataclass(frozen=True)
class QueryUse:
    """How often each slot is matched in the last layer: `times`, most used first, and the slots `never` matched.

    `by_size` and `by_class` are the times with truths of one size or class, of the slots that have any.
    """

    queries: int
    times: tuple[tuple[int, int], ...]
    never: tuple[int, ...]
    by_size: dict[str, tuple[tuple[int, int], ...]]
    by_class: dict[str, tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class SplitMatching:
    """One checkpoint over a split. `hard`: last-layer rows of truths that no query finds, the worst fit first."""

    name: str
    epoch: int | None
    images: int
    truths: int
    unmatched: int
    layers: tuple[LayerTerms, ...]
    between_layers: tuple[Grouped, ...]
    use: QueryUse
    hard: tuple[MatchRow, ...]


def summarise(rows: Sequence[MatchRow], *, name: str, epoch: int | None, images: int, queries: int) -> SplitMatching:
    """`rows` are those of all layers of all images; `queries` is how many the model has."""
    last = last_layer(rows)
    hard = sorted((row for row in last if not row.found), key=lambda row: row.best_iou)
    return SplitMatching(
        name,
        epoch,
        images,
        len(last),
        sum(row.query == NOBODY for row in last),
        tuple(_layer_terms(layer, found) for layer, found in enumerate(layers(rows))),
        tuple(between_layers(rows)),
        query_use(last, queries),
        tuple(hard),
    )


def query_use(rows: Iterable[MatchRow], queries: int) -> QueryUse:
    matched = [row for row in rows if row.query != NOBODY]

    def times(chosen: Iterable[MatchRow]) -> tuple[tuple[int, int], ...]:
        return tuple(Counter(row.query for row in chosen).most_common())

    used = {row.query for row in matched}
    return QueryUse(
        queries,
        times(matched),
        tuple(slot for slot in range(queries) if slot not in used),
        {size: times(row for row in matched if row.size == size) for size in SIZES},
        {label: times(row for row in matched if row.label == label) for label in sorted({r.label for r in matched})},
    )


def _layer_terms(layer: int, rows: Sequence[MatchRow]) -> LayerTerms:
    return LayerTerms(
        layer,
        terms(rows),
        {size: terms([row for row in rows if row.size == size]) for size in SIZES},
        {label: terms([row for row in rows if row.label == label]) for label in sorted({row.label for row in rows})},
    )


def terms(rows: Sequence[MatchRow]) -> Terms:
    """Of the rows of one layer."""

    def of(read: Callable[[MatchRow], float | None], average: Callable[[list[float]], float] = fmean) -> float | None:
        values = [value for row in rows if (value := read(row)) is not None]
        return average(values) if values else None

    return Terms(
        len(rows),
        of(lambda row: row.cost_class),
        of(lambda row: row.cost_l1),
        of(lambda row: row.cost_giou),
        of(lambda row: row.cost_total),
        of(lambda row: row.iou),
        of(lambda row: row.score),
        of(lambda row: row.margin, median),
        of(lambda row: float(row.found)),
    )
