"""Everything that was found about one query on one image, and its JSON and CSV."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detrctl.inspection.looks import AttentionMap, EncoderLook, LayerLook, Looked, QueryLook
from detrctl.inspection.plain import cell, rounded
from detrctl.structures import Categories

FORMAT = "detrctl query 1"
DIGITS = 6
"""After the point: most weights are small."""

MEANINGS = {
    "places": "x, y, or centre x, centre y, width, height, in fractions of the image, y downwards",
    "attended": "the point or box that the layer looked around; null: the model has none",
    "weights": "dense attention, by head, row and column of the feature map; 1 in sum for each head",
    "points": "deformable attention, by head, level (finest first) and point: x, y, weight; 1 in sum for each head",
    "overlap": "IoU of the layer's box with the last layer's",
    "inside": "the part of the layer's attention, mean over heads, that falls into its box",
    "encoder": "what the tokens nearest to `point`, one of each level, look at in every encoder layer",
    "layers": "counted from 0",
    "starts": "where all queries of the image start, by query, and the encoder's score of proposals",
}


@dataclass(frozen=True)
class Found:
    """One detection, by rank from 1: the query that gave it."""

    rank: int
    query: int
    label: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class LookReport:
    """`picture` (H, W, 3) uint8 is the image as a viewer shows it; `size_hw` is that of the file.

    `found` are the best detections, best first; `detection` is the rank of the one asked for, if one was.
    """

    name: str
    file: str
    size_hw: tuple[int, int]
    picture: np.ndarray
    categories: Categories
    by_rank: bool
    found: tuple[Found, ...]
    detection: int | None
    look: QueryLook
    encoder: EncoderLook
    notes: tuple[str, ...] = ()


# ---- JSON ----


def as_json(report: LookReport) -> dict[str, Any]:
    """Plain values."""
    starts = report.look.starts
    content = {
        "format": FORMAT,
        "name": report.name,
        "file": report.file,
        "height": report.size_hw[0],
        "width": report.size_hw[1],
        "classes": list(report.categories.names),
        "meanings": MEANINGS,
        "notes": list(report.notes),
        "detections": [vars(found) for found in report.found],
        "query": report.look.query,
        "detection": report.detection,
        "starts": None if starts is None else vars(starts),
        "layers": [_layer(layer) for layer in report.look.layers],
        "encoder": {
            "point": report.encoder.point,
            "origins": [vars(origin) for origin in report.encoder.origins],
            "layers": [[_looked(look) for look in looks] for looks in report.encoder.layers],
        },
    }
    plain: dict[str, Any] = rounded(content, DIGITS)
    return plain


def _layer(layer: LayerLook) -> dict[str, Any]:
    return vars(layer) | {"looked": _looked(layer.looked)}


def _looked(look: Looked) -> dict[str, Any]:
    if isinstance(look, AttentionMap):
        return {"weights": look.weights}
    return {"points": np.concatenate([look.points, look.weights[..., None]], axis=-1)}


# ---- CSV ----


def write_csv(report: LookReport, path: Path) -> None:
    """One line for each decoder layer; what does not apply is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("query", "layer", "class", "score", *_BOX, *(f"attended_{name}" for name in _BOX), "overlap", "inside")
        )
        for number, layer in enumerate(report.look.layers):
            name = report.categories.names[layer.label]
            attended = [] if layer.attended is None else layer.attended.tolist()
            numbers = (*layer.box.tolist(), *attended, *[None] * (4 - len(attended)), layer.overlap, layer.inside)
            writer.writerow((report.look.query, number, name, *map(cell, (layer.score, *numbers))))


_BOX: Sequence[str] = ("x", "y", "width", "height")
