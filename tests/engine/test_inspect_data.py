"""What is told of a split is what training and evaluation see of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from detrctl.engine.build import build_data
from detrctl.engine.inspect_data import Wish, inspect_data, model_limits
from detrctl.errors import DataError, DetrctlError
from detrctl.recipe.dump import dump_recipe
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Recipe
from tests.engine import tiny

CROP = {"policy": "detr", "sizes": [24, 40], "max_size": 80, "crop_first": [30], "crop_size": [10, 20], "flip": 0.5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"), train=9)


def written(setting: Recipe, folder: Path) -> str:
    path = folder / "mine.yaml"
    path.write_text(dump_recipe(setting), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("square", [False, True])
def test_the_sizes_of_evaluation_are_those_of_the_images_that_it_sees(root: Path, tmp_path: Path, square: bool) -> None:
    setting = tiny.recipe(root, data={"eval_size": 31, "eval_max_size": 35, "eval_square": square})
    report, _ = inspect_data(written(setting, tmp_path), wish=Wish(split="val"))
    seen = build_data(setting, "val")
    sizes = []
    for i in range(4):
        sample = seen.dataset[i]
        height, width = sample.pixels.shape[-2:]
        sizes += (sample.targets.boxes[:, 2:] * torch.tensor([width, height])).prod(dim=1).sqrt().tolist()
    found = report.facts.evaluated
    assert found.boxes == len(sizes) == seen.boxes
    assert found.median_size == pytest.approx(float(np.median(sizes)), abs=1e-3)
    assert (found.small, found.medium) == (len(sizes), 0)
    assert report.facts.trained is None  # nothing is augmented but the training split


def test_counts_are_those_of_the_annotations(root: Path, tmp_path: Path) -> None:
    report, categories = inspect_data(written(tiny.recipe(root), tmp_path))
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    facts = report.facts
    owners = [box["image_id"] for box in content["annotations"]]
    assert (facts.images, facts.boxes) == (9, len(owners))
    names = {1: "dark", 6: "light"}
    for counted in facts.classes:
        mine = [box for box in content["annotations"] if names[box["category_id"]] == counted.name]
        assert (counted.boxes, counted.images) == (len(mine), len({box["image_id"] for box in mine}))
    per = [owners.count(10 + i) for i in range(9)]
    assert facts.per_image.counts == tuple((n, per.count(n)) for n in sorted(set(per)))
    assert facts.per_image.empty == 1
    assert categories.names == ("dark", "light")
    assert report.boxes.files == tuple(f"{i}.png" for i in range(9))


def test_the_sizes_of_training_are_those_of_the_first_epochs_samples(root: Path, tmp_path: Path) -> None:
    setting = tiny.recipe(root, data={"augment": CROP})
    report, _ = inspect_data(written(setting, tmp_path), wish=Wish(sampled=4))
    samples = [build_data(setting, "train", augment=True).dataset[i] for i in (0, 2, 4, 6)]
    trained = report.facts.trained
    assert trained is not None
    assert trained.sizes.images == 4
    assert trained.sizes.boxes == sum(len(sample.targets) for sample in samples)
    assert trained.before == sum(len(build_data(setting, "train").dataset[i].targets) for i in (0, 2, 4, 6))
    assert 0 <= trained.lost_share < 1
    sides = [min(sample.pixels.shape[-2:]) for sample in samples]
    assert trained.sizes.median_side == float(np.median(sides))


def test_shown_are_the_file_and_what_evaluation_and_three_epochs_make_of_it(root: Path, tmp_path: Path) -> None:
    setting = tiny.recipe(root, data={"augment": CROP})
    report, _ = inspect_data(written(setting, tmp_path), wish=Wish(shown=2, sampled=0))
    assert [image.image_id for image in report.shown] == [10, 14]
    views = report.shown[0].views
    assert [view.title for view in views[:2]] == ["file, 48 x 40", "evaluation, 38 x 32"]
    assert [view.title.split(",")[0] for view in views[2:]] == ["epoch 1", "epoch 2", "epoch 3"]
    with Image.open(root / "images" / "train" / "0.png") as image:
        assert np.array_equal(np.asarray(image), views[0].picture.numpy())
    box = json.loads((root / "annotations" / "instances_train.json").read_text())["annotations"][0]["bbox"]
    assert views[0].boxes[0].tolist() == pytest.approx([box[0], box[1], box[0] + box[2], box[1] + box[3]], abs=1e-3)
    part = build_data(setting, "train", augment=True)
    part.dataset.set_epoch(1)
    sample = part.dataset[0]
    assert views[3].picture.shape[:2] == sample.pixels.shape[-2:]
    height, width = sample.pixels.shape[-2:]
    assert views[3].boxes.shape == sample.targets.boxes.shape
    assert bool((views[3].boxes >= -1e-3).all())
    assert bool((views[3].boxes <= torch.tensor([width, height, width, height]) + 1e-3).all())


def test_the_first_images_only_are_all_that_is_told_of(root: Path, tmp_path: Path) -> None:
    report, _ = inspect_data(written(tiny.recipe(root), tmp_path), wish=Wish(limit=3, sampled=50, shown=50))
    assert report.facts.images == 3
    assert report.facts.trained is not None
    assert report.facts.trained.sizes.images == 3
    assert len(report.shown) == 3


def test_images_whose_size_is_not_annotated_are_opened(tmp_path: Path) -> None:
    root = tiny.dataset(tmp_path / "data", train=4)
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    known, _ = inspect_data(written(tiny.recipe(root), tmp_path))
    for image in content["images"]:
        image.pop("width")
    file.write_text(json.dumps(content))
    opened, _ = inspect_data(written(tiny.recipe(root), tmp_path))
    assert opened.facts.evaluated == known.facts.evaluated
    assert np.allclose(opened.boxes.sides_wh, known.boxes.sides_wh, atol=1e-4)


class Own(Dataset):
    """Two images of noise, a box in the first."""

    class_names = ("only",)

    def __init__(self, *, root: str | None, split: str):
        self.images = 2

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        boxes = torch.tensor([[1.0, 2.0, 21.0, 12.0]])[: 1 - i]
        return torch.zeros(3, 30, 40, dtype=torch.uint8), boxes, torch.zeros(1 - i, dtype=torch.int64)


def test_a_dataset_of_somebodys_own_is_told_as_well(tmp_path: Path) -> None:
    setting = tiny.recipe(None, data={"dataset": "tests.engine.test_inspect_data:Own"})
    report, _ = inspect_data(written(setting, tmp_path))
    assert (report.facts.images, report.facts.boxes, report.facts.per_image.empty) == (2, 1, 1)
    assert report.boxes.sides_wh == pytest.approx(np.array([[20.0, 10.0]]), abs=1e-4)
    assert report.facts.trained is not None
    assert report.facts.trained.before == 1
    assert [len(image.views) for image in report.shown] == [5, 5]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("detr_r50", (100, 100, "shortest side 800")),
        ("deformable", (300, 100, "shortest side 800")),
        ("dino_4scale_r50", (900, 300, "shortest side 800")),
        ("faster_rcnn_r50", (None, 100, "shortest side 800")),
        ("quickstart", None),
    ],
)
def test_every_recipe_has_its_limits(name: str, expected: tuple[int | None, int, str] | None) -> None:
    recipe = load_recipe(name).recipe
    limits = model_limits(recipe)
    if expected is not None:
        assert (limits.queries, limits.detections, limits.size) == expected
    assert limits.detections is not None


def test_mistakes_are_one_line(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no dataset: give --data DIR"):
        inspect_data("small_data")
    with pytest.raises(DetrctlError, match="no split 'test'"):
        inspect_data(written(tiny.recipe(root), tmp_path), wish=Wish(split="test"))
