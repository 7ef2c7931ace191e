"""What every file in recipes/ promises."""

from pathlib import Path

import pytest
import torch

from detrctl.data.shapes import CATEGORY_IDS, write_shapes
from detrctl.engine.build import build_data, build_learner
from detrctl.engine.dry_run import largest_canvas
from detrctl.engine.optim import build_optimizer
from detrctl.recipe.load import load_recipe
from detrctl.recipe.locate import shipped
from detrctl.structures import Categories

HEADER = ["command", "hardware", "published", "reproduced", "learning rate"]
NAMES = list(shipped())


def test_the_published_settings_and_the_starting_points_are_there():
    expected = {"detr_r50", "detr_r101", "detr_dc5_r50", "detr_dc5_r101", "quickstart", "small_data", "finetune"}
    assert expected <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads_without_a_word(name):
    loaded = load_recipe(name)
    assert loaded.notes == ()
    assert (loaded.start_problems == ()) == (name != "finetune"), "only a checkpoint starts fine-tuning"


@pytest.mark.parametrize("name", NAMES)
def test_a_header_states_command_hardware_score_and_learning_rate(name):
    lines = shipped()[name].read_text(encoding="utf-8").splitlines()
    header = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    assert header[1] == "#"
    assert [line.split(":")[0].removeprefix("# ") for line in header[2:7]] == HEADER
    assert f"detrctl train {name} " in header[2]
    assert "batch size" in header[6]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, {"train": 2, "val": 1})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "finetune"])
def test_a_recipe_builds_its_learner_and_its_samples(name, shapes):
    recipe = load_recipe(name, [f"data.root={shapes}"]).recipe
    categories = Categories(tuple(CATEGORY_IDS), tuple(CATEGORY_IDS.values()))
    groups = build_learner(recipe, categories, pretrained=False).parameter_groups()
    assert "backbone" in groups
    assert len(build_optimizer(groups, recipe.train).param_groups) >= len(groups)
    sample = build_data(recipe, "train", augment=True).dataset[0]
    assert sample.pixels.dtype == torch.float32
    assert all(16 <= side <= most for side, most in zip(sample.pixels.shape[1:], largest_canvas(recipe)))
    boxes = sample.targets.boxes
    assert len(boxes) == len(sample.targets.labels)
    assert ((boxes >= 0) & (boxes <= 1)).all()
