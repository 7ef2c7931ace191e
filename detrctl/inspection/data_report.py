"""What was found in a split, as JSON and CSV, and the images that are shown of it."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detrctl.inspection.data_facts import ASPECT_EDGES, SIZE_EDGES, DataFacts, SplitBoxes
from detrctl.inspection.plain import rounded

FORMAT = "detrctl data 1"
MEANINGS = {
    "size": "the side, in pixels, of the square with a box's area; tiny: below 8, and small as well; small: below 32; "
    "large: above 96 (COCO's limits, here always of the box's own area)",
    "file": "pixels of the image files, where COCO's small, medium and large are meant",
    "evaluated": "after the recipe's resizing for evaluation and prediction",
    "trained": "after the recipe's augmentation, once for each of some images",
    "counts": "of sizes and aspects by their edges; the first and last bin hold what lies outside; of images by boxes",
    "beyond": "(image id, boxes), the most crowded images first",
}


@dataclass(frozen=True, eq=False)
class View:
    """One look at an image: `picture` (H, W, 3) uint8, `boxes` (G, 4) xyxy in its pixels, `labels` (G,)."""

    title: str
    picture: Tensor
    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class ShownImage:
    """As it lies in the file, then as evaluation sees it, then, in a training split, augmented several times."""

    image_id: int
    views: tuple[View, ...]


@dataclass(frozen=True, eq=False)
class DataReport:
    """Everything of one split; `notes` are worth a line to the user."""

    facts: DataFacts
    boxes: SplitBoxes
    shown: tuple[ShownImage, ...]
    notes: tuple[str, ...] = ()


def as_json(report: DataReport) -> dict[str, Any]:
    """Plain values; floats rounded to four digits after the point."""
    edges = {"sizes": list(SIZE_EDGES), "aspects": list(ASPECT_EDGES)}
    content: dict[str, Any] = rounded(
        {
            "format": FORMAT,
            **asdict(report.facts),
            "edges": edges,
            "meanings": MEANINGS,
            "shown": [image.image_id for image in report.shown],
        }
    )
    return content


def write_classes(facts: DataFacts, path: Path) -> None:
    """One line for each class, most boxes first."""
    header = ("class", "boxes", "share", "images", "small", "medium", "large")
    _write(path, header, ((c.name, c.boxes, f"{c.boxes / max(facts.boxes, 1):.6g}", *_rest(c)) for c in facts.classes))


def _rest(counted: Any) -> tuple[int, ...]:
    return counted.images, counted.small, counted.medium, counted.large


def write_images(boxes: SplitBoxes, path: Path) -> None:
    """One line for each image: its size, how many boxes it has, and the sizes of the smallest and the largest."""
    _write(path, ("image_id", "file_name", "width", "height", "boxes", "smallest", "largest"), _image_rows(boxes))


def _image_rows(boxes: SplitBoxes) -> Iterator[Sequence[Any]]:
    sizes = np.sqrt(boxes.sides_wh.prod(axis=1))
    ends = np.searchsorted(boxes.owner, np.arange(len(boxes.image_ids) + 1))
    for i, image_id in enumerate(boxes.image_ids.tolist()):
        mine = sizes[ends[i] : ends[i + 1]]
        extremes = (f"{mine.min():.6g}", f"{mine.max():.6g}") if len(mine) else ("", "")
        height, width = boxes.sizes_hw[i].tolist()
        yield image_id, boxes.files[i] if boxes.files else "", width, height, len(mine), *extremes


def _write(path: Path, header: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
