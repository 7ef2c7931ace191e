"""An examination as tables, the first row naming the columns: what its CSV files hold. No torch here."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any

from detrctl.evaluation.answers import SIZES
from detrctl.evaluation.causes import Causes
from detrctl.evaluation.errors import ErrorReport, ErrorRow
from detrctl.evaluation.examination import Examination
from detrctl.evaluation.score_curves import Point, ScoreReport
from detrctl.evaluation.suppression import Suppressed, Suppression
from detrctl.evaluation.worst import WorstImage

Table = list[Sequence[Any]]
POINT = [field.name for field in fields(Point)]
WORST = ("image_id", "file_name", "cost", "truths", "found", "missed", "false")


def tables(found: Examination) -> dict[str, Table]:
    """By name, for each question asked; the confusion matrix writes itself. None is a number that there is not."""
    made: dict[str, Table] = {}
    if found.errors is not None and found.causes is not None:
        made |= {"errors": _errors(found.errors), "causes": _causes(found.causes)}
    if found.suppression is not None:
        made["nms"] = _suppression(found.suppression)
    if found.questions.nms:
        made |= {"scores": _scores(found.scores), "classes": _classes(found.scores)}
    if found.worst is not None:
        made["worst"] = _worst(found.worst)
    return made


def write_tables(found: Examination, folder: Path) -> list[Path]:
    """A CSV file for each; floats with six digits that count, None as an empty cell."""
    files = []
    for name, table in tables(found).items():
        files.append(folder / f"{name}.csv")
        with files[-1].open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([f"{x:.6g}" if isinstance(x, float) else x for x in row] for row in table)
    if found.confusion is not None:
        files.append(folder / "confusion.csv")
        found.confusion.write_csv(files[-1])
    return files


def _errors(report: ErrorReport) -> Table:
    head = ["kind", "count", "lost_ap", *(f"{size}_{what}" for size in SIZES for what in ("count", "lost_ap"))]
    rows = (*report.rows, report.false_positives, report.false_negatives)
    return [head, *([row.kind, *astuple(row.all), *_by_size(row)] for row in rows)]


def _by_size(row: ErrorRow) -> list[Any]:
    if not row.by_size:  # an answer on background is about no truth
        return [None] * (2 * len(SIZES))
    return [value for size in SIZES for value in astuple(row.by_size[size])]


def _causes(causes: Causes) -> Table:
    return [
        ["cause", "count", "lost_ap", *SIZES],
        *([row.name, row.count, row.lost_ap, *(row.by_size[size] for size in SIZES)] for row in causes.rows),
    ]


def _suppression(study: Suppression) -> Table:
    rows = dict.fromkeys((*study.layers, *study.last))  # the last layer stands in both
    return [[field.name for field in fields(Suppressed)], *(list(asdict(row).values()) for row in rows)]


def _scores(scores: ScoreReport) -> Table:
    curve = scores.curve
    return [POINT, *(list(astuple(curve.at(place))) for place in range(len(curve.score)))]


def _classes(scores: ScoreReport) -> Table:
    nothing = (None,) * len(POINT)
    return [
        ["class", "truths", *POINT],
        *([row.name, row.truths, *(nothing if row.best is None else astuple(row.best))] for row in scores.by_class),
    ]


def _worst(images: Sequence[WorstImage]) -> Table:
    return [WORST, *([getattr(image, name) for name in WORST] for image in images)]
