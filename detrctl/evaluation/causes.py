"""Lost truths and duplicates, tied to what a DETR does: queries, layers, scores, and what is kept of its answers.

A truth is lost where no answer with the operating score or more finds it. Of a lost truth several causes can be true;
each is mended by itself to see what it costs, as TIDE does with kinds of mistakes. N answers, M truths of a split.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detrctl.evaluation.answers import (
    NOBODY,
    SIZES,
    Answers,
    Bools,
    Floats,
    Ints,
    Meeting,
    grouped,
    mean_average_precision,
    positives,
    size_of,
)
from detrctl.evaluation.errors import Errors, find_errors

MEANINGS = {
    "low score": "a good box of the right class, below the operating score",
    "forgotten": "found at an earlier decoder layer, lost at the last",
    "cut off": "a query has it, but top-k or --max-dets left it out",
    "no query left": "more objects in the image than queries",
    "duplicate": "wrong: a second query about an object found already",
}
PAIRS_SHOWN = 10
EXAMPLES = 100


@dataclass(frozen=True, eq=False)
class Reach:
    """What the last layer's queries could say about every truth, whether it was kept or not.

    `scores` (M,): the score that a truth's query, whose box fits (IoU 0.5), gives its class, NaN where none fits: the
    highest one, unless that query is another truth's; `queries` (M,): which one, or NOBODY; `ranks` (M,): the place of
    that score among all that the image's queries could answer, from 1; `available` (M,): how many queries it has.
    """

    scores: Floats
    queries: Ints
    ranks: Ints
    available: Ints

    @classmethod
    def joined(cls, parts: Sequence[tuple[Ints, "Reach"]], truths: int) -> "Reach":
        """Of some truths each, with their places among all `truths`; nothing reaches the others."""
        whole = cls(np.full(truths, np.nan), *(np.full(truths, empty, dtype=np.int64) for empty in (NOBODY, 0, 0)))
        for places, part in parts:
            whole.scores[places], whole.queries[places] = part.scores, part.queries
            whole.ranks[places], whole.available[places] = part.ranks, part.available
        return whole

    def take(self, chosen: Bools) -> "Reach":
        return Reach(self.scores[chosen], self.queries[chosen], self.ranks[chosen], self.available[chosen])


@dataclass(frozen=True)
class Cause:
    """`count` truths (for duplicates: answers from the operating score up), and the AP50 that mending them gains."""

    name: str
    count: int
    lost_ap: float
    by_size: dict[str, int]


@dataclass(frozen=True)
class Duplicate:
    """An answer about a truth that a better one found. `since` is the decoder layer (from 1) from which on both
    queries have answered for this truth; None where layers are not known.
    """

    image_id: int
    category: str
    truth: int
    kept_query: int
    query: int
    score: float
    since: int | None


@dataclass(frozen=True)
class Causes:
    """`rows` are the causes that can be told here; `lost` truths of `truths` at the operating `score`.

    `forgotten_at`: the last layer (from 1) that found them, and how many; `rank_needed`: half of the truths cut off
    would be kept by a top-k of this. `duplicates`: surest first, those from the operating score up; `pairs`: the
    (query, query) pairs that repeat one another most, kept one first; where queries are proposals (`ranked`), their
    numbers are ranks.
    """

    score: float
    truths: int
    lost: int
    rows: tuple[Cause, ...]
    forgotten_at: dict[int, int]
    rank_needed: int | None
    duplicates: tuple[Duplicate, ...]
    pairs: tuple[tuple[int, int, int], ...]
    since: dict[int, int]
    ranked: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "operating_score": self.score,
            "truths": self.truths,
            "lost": self.lost,
            "causes": {row.name: {k: v for k, v in asdict(row).items() if k != "name"} for row in self.rows},
            "forgotten_at_layer": self.forgotten_at,
            "top_k_needed": self.rank_needed,
            "duplicates": [asdict(row) for row in self.duplicates[:EXAMPLES]],
            "duplicate_pairs": [{"kept": a, "repeats": b, "times": n} for a, b, n in self.pairs],
            "duplicates_since_layer": self.since,
            "queries_are_ranks": self.ranked,
        }


def find_causes(
    errors: Errors,
    score: float,
    *,
    layers: Sequence[Answers] = (),
    reach: Reach | None = None,
    ranked: bool = False,
    max_dets: int = 100,
) -> Causes:
    """Without `layers` and `reach`, as from a result file, only low scores and duplicates can be told."""
    meeting = errors.meeting
    lost = is_lost(meeting, score)
    by_layer = [find_errors(meeting.ground_truth, answers, max_dets=max_dets) for answers in layers]
    low = lost & (meeting.finder != NOBODY)
    rows = [_cause("low score", meeting, low, _surest(meeting, low))]
    forgotten_at: dict[int, int] = {}
    if by_layer:
        last_found, found_score = _last_found([layer.meeting for layer in by_layer[:-1]], score, len(lost))
        forgotten = lost & (last_found > 0)
        forgotten_at = dict(sorted(Counter(last_found[forgotten].tolist()).items()))
        rows.append(_cause("forgotten", meeting, forgotten, _answered(meeting, forgotten, found_score)))
    rank = None
    if reach is not None:
        cut = _cut_off(errors, reach)
        rank = int(np.median(reach.ranks[cut])) if cut.any() else None
        rows.append(_cause("cut off", meeting, cut, _answered(meeting, cut, reach.scores)))
        beyond = _beyond_queries(meeting, reach, lost)
        rows.append(_cause("no query left", meeting, beyond, _not_asked(meeting, beyond)))
    repeats = (errors.kind == "duplicate") & (errors.answers.scores >= score)
    rows.append(_duplicate_row(errors, repeats))
    duplicates = tuple(_duplicates(errors, repeats, by_layer))
    known = [(row.kept_query, row.query) for row in duplicates if NOBODY not in (row.kept_query, row.query)]
    return Causes(
        score,
        int((~meeting.ground_truth.is_crowd).sum()),
        int(lost.sum()),
        tuple(rows),
        forgotten_at,
        rank,
        duplicates,
        tuple((a, b, n) for (a, b), n in Counter(known).most_common(PAIRS_SHOWN)),
        dict(sorted(Counter(row.since for row in duplicates if row.since is not None).items())),
        ranked,
    )


def is_lost(meeting: Meeting, score: float) -> Bools:
    """Truths (M,), crowds apart, that no answer of `score` or more finds."""
    found = np.append(meeting.answers.scores, -np.inf)[meeting.finder] >= score
    return ~found & ~meeting.ground_truth.is_crowd


# ---- truths ----


def _last_found(layers: Sequence[Meeting], score: float, truths: int) -> tuple[Ints, Floats]:
    """The last of these layers (from 1; 0: none) that found each truth, (M,), and the score there."""
    last, scores = np.zeros(truths, dtype=np.int64), np.full(truths, np.nan)
    for number, meeting in enumerate(layers, 1):
        said = np.append(meeting.answers.scores, -np.inf)[meeting.finder]
        last[said >= score], scores[said >= score] = number, said[said >= score]
    return last, scores


def _cut_off(errors: Errors, reach: Reach) -> Bools:
    """Truths that nothing found, though a query answers for them: with a pair of query and class that was not kept."""
    answers, truths = errors.answers, errors.meeting.ground_truth
    kept = set(zip(answers.image_of.tolist(), answers.queries.tolist(), answers.category_of.tolist(), strict=True))
    wanted = zip(truths.image_of.tolist(), reach.queries.tolist(), truths.category_of.tolist(), strict=True)
    absent = np.array([pair not in kept for pair in wanted], dtype=np.bool_)
    return errors.lost & (reach.queries != NOBODY) & absent


def _beyond_queries(meeting: Meeting, reach: Reach, lost: Bools) -> Bools:
    """In images with more truths than queries as many lost truths as there are too many, the smallest first."""
    truths, beyond = meeting.ground_truth, np.zeros_like(lost)
    for group in grouped(truths.image_of):
        asked = group[~truths.is_crowd[group]]
        excess = len(asked) - int(reach.available[asked[0]]) if len(asked) else 0
        if excess > 0:
            mine = asked[lost[asked]]
            beyond[mine[np.argsort(truths.areas[mine], kind="stable")][:excess]] = True
    return beyond


def _cause(name: str, meeting: Meeting, chosen: Bools, mended: float | None) -> Cause:
    base = meeting.mean_ap50 or 0.0
    sizes = size_of(meeting.ground_truth.areas)
    by_size = {size: int((chosen & (sizes == i)).sum()) for i, size in enumerate(SIZES)}
    return Cause(name, int(chosen.sum()), max(0.0, (mended or 0.0) - base) if chosen.any() else 0.0, by_size)


# ---- AP50 once something is mended ----


def _surest(meeting: Meeting, chosen: Bools) -> float | None:
    """The answers that found the chosen truths are put before all others."""
    scores = meeting.answers.scores.copy()
    scores[meeting.finder[chosen]] = np.inf
    return _ap50(meeting, scores, meeting.answers.category_of, meeting.right, ~meeting.ignored[0])


def _answered(meeting: Meeting, chosen: Bools, scores: Floats) -> float | None:
    """The chosen truths get an answer with these scores (M,), instead of the one that they may have."""
    answers, truths = meeting.answers, meeting.ground_truth
    kept = ~meeting.ignored[0]
    had = meeting.finder[chosen]
    kept[had[had != NOBODY]] = False
    added = int(chosen.sum())
    return _ap50(
        meeting,
        np.append(answers.scores, scores[chosen]),
        np.append(answers.category_of, truths.category_of[chosen]),
        np.append(meeting.right, np.ones(added, dtype=np.bool_)),
        np.append(kept, np.ones(added, dtype=np.bool_)),
    )


def _not_asked(meeting: Meeting, chosen: Bools) -> float | None:
    """Without the chosen truths and the answers that found them."""
    kept = ~meeting.ignored[0]
    had = meeting.finder[chosen]
    kept[had[had != NOBODY]] = False
    answers = meeting.answers
    return _ap50(meeting, answers.scores, answers.category_of, meeting.right, kept, without=chosen)


def _ap50(
    meeting: Meeting, scores: Floats, category: Ints, right: Bools, kept: Bools, *, without: Bools | None = None
) -> float | None:
    truths = meeting.ground_truth
    order = np.argsort(-scores[kept], kind="stable")
    return mean_average_precision(
        category[kept][order], right[kept][order], _wanted(meeting, without, truths.category_ids)
    )


def _wanted(meeting: Meeting, without: Bools | None, categories: Sequence[int]) -> Mapping[int, int]:
    truths = meeting.ground_truth
    gone = np.zeros_like(truths.is_crowd) if without is None else without
    return {
        category: asked - int((gone & (truths.category_of == category)).sum())
        for category in categories
        if (asked := positives(truths, category)) > 0
    }


# ---- duplicates ----


def _duplicate_row(errors: Errors, repeats: Bools) -> Cause:
    meeting = errors.meeting
    kept = ~meeting.ignored[0] & ~repeats
    mended = _ap50(meeting, errors.answers.scores, errors.answers.category_of, meeting.right, kept)
    sizes = size_of(meeting.ground_truth.areas)[errors.truth[repeats]]
    gain = max(0.0, (mended or 0.0) - (meeting.mean_ap50 or 0.0)) if repeats.any() else 0.0
    return Cause("duplicate", int(repeats.sum()), gain, {size: int((sizes == i).sum()) for i, size in enumerate(SIZES)})


def _duplicates(errors: Errors, repeats: Bools, layers: Sequence[Errors]) -> list[Duplicate]:
    """Answers come best first, and so do these."""
    answers, truths = errors.answers, errors.meeting.ground_truth
    names = dict(zip(truths.category_ids, truths.category_names, strict=True))
    about = [_answering(layer) for layer in layers]
    found = []
    for i in np.flatnonzero(repeats).tolist():
        truth = int(errors.truth[i])
        kept = int(errors.meeting.finder[truth])
        pair = (int(answers.queries[kept]), int(answers.queries[i])) if kept != NOBODY else (NOBODY, NOBODY)
        found.append(
            Duplicate(
                int(answers.image_of[i]),
                names[int(answers.category_of[i])],
                truth,
                *pair,
                float(answers.scores[i]),
                _since(about, pair, truth),
            )
        )
    return found


def _answering(layer: Errors) -> set[tuple[int, int]]:
    """Pairs of a query and a truth of its class that its box fits."""
    fits = (layer.kind == "right") | (layer.kind == "duplicate")
    return set(zip(layer.answers.queries[fits].tolist(), layer.truth[fits].tolist(), strict=True))


def _since(about: Sequence[set[tuple[int, int]]], pair: tuple[int, int], truth: int) -> int | None:
    first = None
    for number in range(len(about), 0, -1):
        if not all((query, truth) in about[number - 1] for query in pair):
            break
        first = number
    return first
