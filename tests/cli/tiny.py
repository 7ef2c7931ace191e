"""A tiny run and a tiny dataset that it does well on: the truths are some of its own answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detrctl.engine.build import build_learner
from detrctl.engine.checkpoint import Checkpoint, save
from detrctl.engine.predict import load
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories

CATEGORIES = Categories(names=("cell", "clump"), ids=(4, 9))
MODEL = {
    "family": "detr",
    "backbone": {"name": "resnet10", "norm": "batch"},
    "width": 16,
    "heads": 2,
    "feedforward": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "queries": 6,
}


def make_run(folder: Path, data: Path, *, seed: int = 0) -> Path:
    """A run folder with an untrained model; returns its checkpoint."""
    torch.manual_seed(seed)
    about_data = {"root": str(data), "eval_size": 64, "eval_max_size": 96, "workers": 0}
    recipe = Recipe.model_validate({"model": MODEL, "data": about_data, "evaluate": {"batch_size": 2, "score": 0.2}})
    checkpoint = folder / "checkpoints" / "best.pt"
    save(Checkpoint(recipe, CATEGORIES, build_learner(recipe, CATEGORIES).network.state_dict()), checkpoint)
    return checkpoint


def make_images(folder: Path, names: list[str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for i, name in enumerate(names):
        coarse = noise.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((60 + 10 * i, 50 + 3 * i), Image.Resampling.NEAREST).save(folder / name)
    return [folder / name for name in names]


def make_dataset(root: Path, checkpoint: Path, names: list[str]) -> Path:
    """images/ and annotations/instances_val.json, whose truths are each image's first two answers, slightly moved."""
    found = load(checkpoint, device="cpu").predict(make_images(root / "images", names), score=0.0, top=2)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (name, result) in enumerate(zip(names, found, strict=True)):
        images.append({"id": 50 + i, "file_name": name, "height": result.size_hw[0], "width": result.size_hw[1]})
        for (x0, y0, x1, y1), label in zip(result.boxes.tolist(), result.detections.labels.tolist(), strict=True):
            box = [x0 + 0.1 * i, y0, x1 - x0, y1 - y0]
            annotations.append({"image_id": 50 + i, "category_id": CATEGORIES.ids[label], "bbox": box})
    categories = [{"id": number, "name": name} for name, number in zip(CATEGORIES.names, CATEGORIES.ids, strict=True)]
    (root / "annotations").mkdir(parents=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return root
