"""Small COCO files and image files for the tests of this folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrctl.data.coco import CocoIndex


def annotation(**changes: Any) -> dict[str, Any]:
    """A good annotation of image 1, with changes; a field set to `...` is left out."""
    fields = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0} | changes
    return {name: value for name, value in fields.items() if value is not ...}


def content(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """One image of 100 x 80 (width x height), one class, and these annotations."""
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "thing"}],
    } | changes


def write_json(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def index_of(tmp_path: Path, data: Any) -> CocoIndex:
    return CocoIndex.read(write_json(tmp_path / "instances.json", data))


def write_image(path: Path, *, width: int = 100, height: int = 80, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
