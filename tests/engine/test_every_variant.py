"""Every variant trains on awkward images, is saved and resumed bit by bit, and leaves a recipe that builds it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from detrctl.engine.build import learner_from
from detrctl.engine.checkpoint import load
from detrctl.engine.evaluate import evaluate_checkpoint
from detrctl.engine.train import train
from detrctl.families.learner import Learner
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Recipe
from detrctl.structures import ImageBatch, Losses, Targets
from tests.engine import tiny
from tests.families.small_networks import one_convolution
from tests.families.test_every_family import VARIANTS

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 2, "queries": 1}
OBJECTS = {0: [(7, 5), (30, 22)]}
"""Image number -> corners of its objects, each one pixel large."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One class. Of four training images one has two objects, more than there are queries, and three have none.

    So, two at a time, one batch has an image without a box beside the other, and one has no box, in whatever order.
    """
    root = tmp_path_factory.mktemp("data")
    write_pixels(root, "train", images=4)
    write_pixels(root, "val", images=2)
    return root


def write_pixels(root: Path, name: str, *, images: int) -> None:
    folder = root / "images" / name
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    draw, boxes = np.random.default_rng(len(name)), []
    for number in range(images):
        pixels = draw.integers(100, 150, (40, 48, 3), dtype=np.uint8)
        for x, y in OBJECTS.get(number, []):
            pixels[y, x] = 255
            box = {"id": len(boxes), "image_id": number, "category_id": 1, "bbox": [x, y, 1, 1], "area": 1}
            boxes.append(box | {"iscrowd": 0})
        Image.fromarray(pixels).save(folder / f"{number}.png")
    records = [{"id": number, "file_name": f"{number}.png", "height": 40, "width": 48} for number in range(images)]
    content = {"images": records, "annotations": boxes, "categories": [{"id": 1, "name": "object"}]}
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


def recipe(name: str, root: Path, epochs: int) -> Recipe:
    model = tiny.fields(root)["model"] | SMALL | VARIANTS[name]
    model["backbone"] = one_convolution(model)
    return tiny.recipe(root, model=model, epochs=epochs, batch_size=2, reference_batch_size=2)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the curves, which take longer than all the rest; `test_plots` and `test_train` have them."""
    monkeypatch.setattr("detrctl.engine.keeper.draw_run", lambda *_: None)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many truths each image of each batch of training had."""
    counted: list[list[int]] = []
    forward = Learner.forward

    def count(self: Learner, images: ImageBatch, targets: Sequence[Targets], counts: Tensor) -> Losses:
        counted.append(sorted(len(truth) for truth in targets))
        for truth in targets:
            # One pixel of 40 x 48, whatever the size that the image has been brought to.
            torch.testing.assert_close(truth.boxes[:, 2:], torch.tensor([[1 / 48, 1 / 40]]).expand(len(truth), -1))
        return forward(self, images, targets, counts)

    monkeypatch.setattr(Learner, "forward", count)
    return counted


@pytest.mark.parametrize("name", VARIANTS)
def test_it_trains_is_saved_and_goes_on_bit_by_bit(
    name: str, root: Path, tmp_path: Path, seen: list[list[int]]
) -> None:
    whole = train(recipe(name, root, 2), out=tmp_path / "whole", device="cpu")
    assert sorted(seen) == [[0, 0], [0, 0], [0, 2], [0, 2]]
    half = train(recipe(name, root, 1), out=tmp_path / "half", device="cpu")
    train(resume=half.run, overrides=["train.epochs=2"], trust=True, device="cpu")
    one, other = (load(run / "checkpoints" / "last.pt") for run in (whole.run, half.run))
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(value, other.weights[key]) for key, value in one.weights.items())
    assert all(value.isfinite().all() for value in one.weights.values() if value.is_floating_point())
    exported = load_recipe(str(whole.run / "recipe.yaml")).recipe
    assert exported == one.recipe
    assert set(learner_from(one, trust=True).network.state_dict()) == set(one.weights)
    assert evaluate_checkpoint(whole.checkpoint, device="cpu", trust=True).scores.images == 2
