"""What every file in recipes/ promises."""

import pytest

from detrctl.recipe.load import load_recipe
from detrctl.recipe.locate import shipped

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
