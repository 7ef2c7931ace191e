"""A dataset, a backbone and a recipe so small that a training takes a second."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from detrctl.recipe.schema import Recipe

CLASSES = ("dark", "light")


class TinyBackbone(nn.Module):
    """(B, 3, H, W) -> (B, 8, H / 8, W / 8); with `norm` it has running statistics."""

    def __init__(self, *, norm: bool = False):
        super().__init__()
        self.channels = 8
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8) if norm else nn.ReLU(), nn.Conv2d(8, 8, 2, stride=2)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


def write_split(
    root: Path, name: str, images: int, *, empty: tuple[int, ...] = (), classes: tuple[str, ...] = CLASSES
) -> None:
    """Grey noise with one or two dark or light rectangles an image; images whose number is in `empty` have none."""
    folder = root / "images" / name
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    draw = np.random.default_rng(len(name))
    records, boxes = [], []
    for number in range(images):
        pixels = draw.integers(100, 150, (40, 48, 3), dtype=np.uint8)
        for _ in range(0 if number in empty else 1 + number % 2):
            label = int(draw.integers(len(classes)))
            x, y, w, h = int(draw.integers(0, 28)), int(draw.integers(0, 20)), 16, 14
            pixels[y : y + h, x : x + w] = 20 + 200 * label // max(1, len(classes) - 1)
            boxes.append(
                {"id": len(boxes), "image_id": 10 + number, "category_id": 5 * label + 1, "bbox": [x, y, w, h]}
                | {"area": w * h, "iscrowd": 0}
            )
        Image.fromarray(pixels).save(folder / f"{number}.png")
        records.append({"id": 10 + number, "file_name": f"{number}.png", "height": 40, "width": 48})
    categories = [{"id": 5 * i + 1, "name": name} for i, name in enumerate(classes)]
    content = {"images": records, "annotations": boxes, "categories": categories}
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


def dataset(root: Path, *, train: int = 8, val: int = 4, empty: tuple[int, ...] = (3,)) -> Path:
    write_split(root, "train", train, empty=empty)
    if val:
        write_split(root, "val", val)
    return root


def fields(root: Path | str | None, **train: Any) -> dict[str, dict[str, Any]]:
    """Two epochs of two steps; a network of 16 channels; nothing random that is not asked for."""
    return {
        "model": {
            "family": "detr",
            "backbone": {"name": "tests.engine.tiny:TinyBackbone"},
            "width": 16,
            "heads": 2,
            "feedforward": 16,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "dropout": 0.0,
            "queries": 5,
        },
        "data": {
            "root": str(root) if root else None,
            "augment": {"policy": "none", "flip": 0.0},
            "eval_size": 32,
            "eval_max_size": 48,
            "workers": 0,
        },
        "train": {
            "epochs": 2,
            "batch_size": 4,
            "reference_batch_size": 4,
            "lr": 1e-3,
            "backbone_lr": 1e-3,
            "schedule": {"kind": "constant"},
            "log_every": 1,
        }
        | train,
    }


def recipe(
    root: Path | str | None, *, model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **train: Any
) -> Recipe:
    parts = fields(root, **train)
    return Recipe.model_validate(
        parts | {"model": parts["model"] | (model or {}), "data": parts["data"] | (data or {})}
    )
