"""Everything that inspecting a matching found, and the JSON and CSV that all tables, pictures and pages are made of."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrctl.inspection.denoising import DenoisingSummary, ImageDenoising, Mask
from detrctl.inspection.instability import ImageStep, Step
from detrctl.inspection.matching import NOBODY, ImageMatching, LayerMatching, MatchRow, size_of
from detrctl.inspection.plain import cell, rounded
from detrctl.inspection.split_matching import SplitMatching
from detrctl.structures import Categories

FORMAT = "detrctl matching 1"
CHEAPEST = 30
"""So many queries of each truth and layer are listed with their costs; at least those that play a part are."""

HARD_LISTED = 100
MEANINGS = {
    "cost": "class, l1 and giou are the unweighted parts; total is their sum under `weights`; lower is better",
    "runner_up": "the query that the truth gets in the cheapest matching without its pair; if no other is "
    "possible, -1 in files and none on the page",
    "margin": "what that matching costs more than the chosen one; if no other is possible, null in files and none on "
    "the page",
    "instability": "Li et al. 2022 (DN-DETR), section 3.1: between two checkpoints, the queries of an image whose "
    "truth (or none) is another one in the last decoder layer's matching, summed over queries, mean over images",
    "by_token": "the same with queries known by the encoder token that proposed them, where a slot is but a rank",
    "between_layers": "an extension: truths whose query the next decoder layer changes",
    "found": "some query has an IoU of at least 0.5 with the truth and its class as the best one",
    "boxes": "centre x, centre y, width, height, in fractions of the image",
    "layers": "decoder layers are counted from 0 here",
}


@dataclass(frozen=True)
class Weights:
    """Of the matching cost; not those of the losses."""

    class_cost: float
    l1: float
    giou: float


@dataclass(frozen=True)
class RunMatching:
    """The checkpoints of one run in the order of training, and the steps between neighbours.

    `denoising`: whether the model learns to put noised truths right; `two_stage`: whether its queries are proposals,
    so that a slot is but a rank.
    """

    name: str
    checkpoints: tuple[SplitMatching, ...]
    steps: tuple[Step, ...]
    denoising: bool = False
    two_stage: bool = False

    @property
    def title(self) -> str:
        return f"{self.name}, {'with' if self.denoising else 'without'} denoising"

    @property
    def mean_instability(self) -> float:
        """Of its steps, queries known by token, which is the slot where there is no second stage."""
        return sum(step.by_token for step in self.steps) / len(self.steps)


@dataclass(frozen=True, eq=False)
class Shown:
    """An image told in detail, as its model sees it: `picture` (H, W, 3) uint8."""

    matching: ImageMatching
    picture: Tensor


@dataclass(frozen=True)
class DenoisingReport:
    """`images` are those shown; the mask is that of the batch with the first of them."""

    summary: DenoisingSummary
    mask: Mask
    images: tuple[ImageDenoising, ...]


@dataclass(frozen=True, eq=False)
class MatchingReport:
    """`shown` and `denoising` are of the checkpoint `shown_of`. `rows` by checkpoint, of all images and layers."""

    data: str
    split: str
    categories: Categories
    weights: Weights
    runs: tuple[RunMatching, ...]
    rows: Mapping[str, Sequence[MatchRow]]
    shown_of: str
    shown: tuple[Shown, ...]
    two_stage: bool
    denoising: DenoisingReport | None = None
    notes: tuple[str, ...] = ()

    @property
    def main(self) -> SplitMatching:
        """The checkpoint that is told in detail: the last of the first run."""
        return self.runs[0].checkpoints[-1]


# ---- JSON ----


def as_json(report: MatchingReport) -> dict[str, Any]:
    """Plain values; floats rounded to four digits after the point."""
    content = {
        "format": FORMAT,
        "data": report.data,
        "split": report.split,
        "classes": list(report.categories.names),
        "two_stage": report.two_stage,
        "weights": asdict(report.weights),
        "meanings": MEANINGS,
        "notes": list(report.notes),
        "runs": [_run(run) for run in report.runs],
        "shown_of": report.shown_of,
        "cheapest": CHEAPEST,
        "images": [_image(shown.matching) for shown in report.shown],
        "denoising": None if report.denoising is None else _denoising(report.denoising),
    }
    plain: dict[str, Any] = rounded(content)
    return plain


def _run(run: RunMatching) -> dict[str, Any]:
    def checkpoint(split: SplitMatching) -> dict[str, Any]:
        return {
            **asdict(split),
            "hard": [asdict(row) for row in split.hard[:HARD_LISTED]],
            "hard_truths": len(split.hard),
        }

    return {
        "name": run.name,
        "denoising": run.denoising,
        "two_stage": run.two_stage,
        "checkpoints": [checkpoint(split) for split in run.checkpoints],
        "steps": [{k: v for k, v in asdict(step).items() if k != "per_image"} for step in run.steps],
    }


def _image(image: ImageMatching) -> dict[str, Any]:
    return {
        "image_id": image.image_id,
        "height": image.size_hw[0],
        "width": image.size_hw[1],
        "truths": [
            {"label": int(label), "box": box.tolist(), "size": size_of(box, image.size_hw)}
            for label, box in zip(image.labels, image.boxes, strict=True)
        ],
        "tokens": image.identity.tolist(),
        "layers": [_layer(layer) for layer in image.layers],
    }


def _layer(layer: LayerMatching) -> dict[str, Any]:
    """`queries`: by number, [label, score, box]; a truth's `table`: rows of [query, class, l1, giou, total, iou]."""
    listed = [listed_queries(layer, truth, CHEAPEST) for truth in range(len(layer.matched))]
    mentioned = sorted({query for queries in listed for query in queries})
    costs = layer.costs
    parts = torch.stack([costs.class_cost, costs.l1, costs.giou, costs.total, layer.iou], dim=-1)
    return {
        "queries": {
            str(query): [int(layer.labels[query]), float(layer.scores[query]), *layer.boxes[query].tolist()]
            for query in mentioned
        },
        "truths": [
            {
                "query": int(layer.matched[truth]),
                "runner_up": int(layer.runner_up[truth]),
                "margin": float(layer.margin[truth]) if layer.margin[truth].isfinite() else None,
                "table": [[query, *parts[query, truth].tolist()] for query in queries],
            }
            for truth, queries in enumerate(listed)
        ],
    }


def listed_queries(layer: LayerMatching, truth: int, cheapest: int) -> list[int]:
    """The cheapest for a truth, cheapest first, and at the end its own and its runner-up if they are not among them."""
    total = layer.costs.total[:, truth]
    queries: list[int] = total.argsort(stable=True)[:cheapest].tolist()
    for query in (int(layer.matched[truth]), int(layer.runner_up[truth])):
        if query != NOBODY and query not in queries:
            queries.append(query)
    return queries


def _denoising(denoising: DenoisingReport) -> dict[str, Any]:
    """Of each image the first group of noised queries, which the others resemble."""
    return {
        "summary": asdict(denoising.summary),
        "mask": asdict(denoising.mask),
        "images": [
            {**asdict(image), "queries": [asdict(query) for query in image.queries if query.group == 0]}
            for image in denoising.images
        ],
    }


# ---- CSV ----


def write_csv(rows: Mapping[str, Iterable[MatchRow]], path: Path) -> None:
    """One line for each checkpoint, image, layer and truth; what does not apply is empty."""
    columns = [field.name for field in fields(MatchRow)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["checkpoint", *columns])
        for name, found in rows.items():
            writer.writerows([name, *(cell(getattr(row, column)) for column in columns)] for row in found)


def write_costs_csv(image: ImageMatching, path: Path) -> None:
    """The whole table of costs of an image: one line for each layer, truth and query, and what the query is there."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        parts = ("class", "l1", "giou", "total")
        writer.writerow(["image_id", "layer", "truth", "query", *(f"cost_{part}" for part in parts), "role"])
        for number, layer in enumerate(image.layers):
            costs = layer.costs
            table = torch.stack([costs.class_cost, costs.l1, costs.giou, costs.total], dim=-1).tolist()
            for truth, (match, runner_up) in enumerate(
                zip(layer.matched.tolist(), layer.runner_up.tolist(), strict=True)
            ):
                roles = {runner_up: "runner-up", match: "match"}
                writer.writerows(
                    [image.image_id, number, truth, query, *map(cell, of_truths[truth]), roles.get(query, "")]
                    for query, of_truths in enumerate(table)
                )


def write_instability_csv(runs: Iterable[RunMatching], path: Path) -> None:
    """One line for each step between checkpoints and image with truths."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["before", "after", *(field.name for field in fields(ImageStep))])
        for step in (step for run in runs for step in run.steps):
            writer.writerows([step.before, step.after, *astuple(image)] for image in step.per_image)
