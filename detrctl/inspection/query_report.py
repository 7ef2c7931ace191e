"""Everything that was found about the object queries of a model over a split, and its JSON and CSV.

Q queries, A numbers of a start (2: a point, 4: a box), D width.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from detrctl.inspection.plain import cell, rounded
from detrctl.inspection.queries import (
    AREA_EDGES,
    CAPTIONS,
    GRID,
    KINDS,
    LONG_SIDES,
    SMALL_SIDE,
    BoxSummary,
    QueryRecords,
    QuerySummary,
    ToldBy,
)
from detrctl.structures import Categories

FORMAT = "detrctl queries 1"
MEANINGS = {
    "boxes": "centre x, centre y, width, height, in fractions of the image, y downwards",
    "all": "the last layer's box of the query in every image, with its best class, whatever its score",
    "kept": "the boxes that gave a detection with a score of at least `score`; a query can give several of them",
    "detections": "how many detections of the query were kept, over all images",
    "matched": "in how many images a truth is matched with the query, at the last layer, as in training",
    "dead": "no detection kept and never matched",
    "place_entropy": f"of the centre among {GRID} x {GRID} equal cells of the image, in bits, 0 to 6",
    "class_entropy": "of the class, in bits",
    "kinds": f"small: the root of the area is below {SMALL_SIDE:g} of the image's; of the others, wide and tall: one "
    f"side is at least {LONG_SIDES:g} times the other (in fractions of the image); large: the rest",
    "areas": "how many boxes have an area between neighbouring `area_edges`, fractions of the image's",
    "start": "the learned point or box that the query starts from in every image",
    "proposal": "mean and spread, over images, of the encoder's proposal that the query of this rank starts from",
    "spread": "standard deviation",
    "boxes.csv": "a line for each chosen query and image: its box, its best class with its score, and how many "
    "detections were kept; those with at least one are the `kept` boxes",
}


@dataclass(frozen=True, eq=False)
class QueryReport:
    """`least` is the score that a detection needs to be kept. `chosen` queries are drawn, `chosen_as` says why these.

    `starts` (Q, A) are learned places, `contents` (Q, D) learned contents of ranks, where the model has such.
    """

    name: str
    data: str
    split: str
    categories: Categories
    least: float
    told_by: ToldBy
    records: QueryRecords
    summaries: tuple[QuerySummary, ...]
    chosen: tuple[int, ...]
    chosen_as: str
    starts: np.ndarray | None = None
    contents: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def caption(self) -> str:
        return CAPTIONS[self.told_by]

    @property
    def images(self) -> int:
        return len(self.records.image_ids)

    @property
    def by_rank(self) -> bool:
        return self.told_by != "slot"

    @cached_property
    def detections(self) -> int:
        return sum(summary.detections for summary in self.summaries)

    @cached_property
    def dead(self) -> tuple[int, ...]:
        return tuple(summary.query for summary in self.summaries if summary.dead)

    @cached_property
    def half(self) -> int:
        """The least number of queries that give half of the detections kept, 0 where none is."""
        counts = np.sort([summary.detections for summary in self.summaries])[::-1].cumsum()
        return int(np.searchsorted(counts, self.detections / 2)) + 1 if self.detections else 0

    def top_class(self, summary: BoxSummary) -> str | None:
        """The most frequent class; None where there is none."""
        best = int(np.argmax(summary.classes))
        return self.categories.names[best] if summary.classes[best] else None


# ---- JSON ----


def as_json(report: QueryReport) -> dict[str, Any]:
    """Plain values; floats rounded to four digits after the point."""
    content = {
        "format": FORMAT,
        "name": report.name,
        "data": report.data,
        "split": report.split,
        "images": report.images,
        "score": report.least,
        "told_by": report.told_by,
        "caption": report.caption,
        "classes": list(report.categories.names),
        "meanings": MEANINGS,
        "notes": list(report.notes),
        "chosen": list(report.chosen),
        "dead": list(report.dead),
        "queries_that_give_half_of_the_detections": report.half,
        "queries": [_query(report, summary) for summary in report.summaries],
    }
    plain: dict[str, Any] = rounded(content)
    return plain | {"area_edges": [float(f"{edge:.4g}") for edge in AREA_EDGES]}


def _query(report: QueryReport, summary: QuerySummary) -> dict[str, Any]:
    proposals = report.records.proposals_of(summary.query)
    return {
        **asdict(summary),
        "dead": summary.dead,
        "start": None if report.starts is None else report.starts[summary.query],
        "proposal": None if proposals is None else {"mean": proposals.mean(0), "spread": proposals.std(0)},
    }


# ---- CSV ----


def write_csv(report: QueryReport, path: Path) -> None:
    """One line for each query; what does not apply is empty."""
    rows = [_row(report, summary) for summary in report.summaries]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)


def _row(report: QueryReport, summary: QuerySummary) -> dict[str, Any]:
    start = None if report.starts is None else report.starts[summary.query].tolist()
    return {
        "query": summary.query,
        "detections": summary.detections,
        "matched": summary.matched,
        "dead": summary.dead,
        "mean_score": summary.mean_score,
        **_of_boxes("kept", report, summary.kept),
        **_of_boxes("all", report, summary.all),
        **_numbers("start", ("x", "y", "width", "height"), start),
    }


def _of_boxes(prefix: str, report: QueryReport, boxes: BoxSummary) -> dict[str, Any]:
    return {
        f"{prefix}_boxes": boxes.boxes,
        **_numbers(prefix, ("x", "y"), boxes.centre),
        **_numbers(prefix, ("x_spread", "y_spread"), boxes.centre_spread),
        **_numbers(prefix, ("width", "height"), boxes.size),
        **_numbers(prefix, ("width_spread", "height_spread"), boxes.size_spread),
        f"{prefix}_place_entropy": boxes.place_entropy,
        f"{prefix}_class_entropy": boxes.class_entropy,
        f"{prefix}_top_class": report.top_class(boxes),
        **{f"{prefix}_{kind}": boxes.kinds[kind] for kind in KINDS},
    }


def _numbers(prefix: str, names: Sequence[str], values: Sequence[float] | None) -> dict[str, float | None]:
    """A point fills the first two of four names."""
    filled = [*(values or ()), *[None] * len(names)]
    return {f"{prefix}_{name}": value for name, value in zip(names, filled, strict=False)}


def write_boxes_csv(report: QueryReport, path: Path) -> None:
    """What the points of pictures are: one line for each chosen query and image, in which it has a box."""
    records, names = report.records, report.categories.names
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("query", "image_id", "x", "y", "w", "h", "score", "class", "kept"))
        for query in report.chosen:
            for row in records.is_there[:, query].nonzero()[0]:
                at = (row, query)
                numbers = (*records.boxes[at].tolist(), float(records.scores[at]))
                about = (names[records.labels[at]], int(records.kept[at]))
                writer.writerow((query, records.image_ids[row], *map(cell, numbers), *about))
