import yaml

from detrctl.recipe.dump import dump_recipe, flow, leaves
from detrctl.recipe.load import load_recipe
from detrctl.recipe.locate import shipped
from detrctl.recipe.schema import Recipe


def test_reading_a_dump_back_gives_the_same_recipe(write):
    names = list(shipped())
    assert len(names) >= 7
    for name in names:
        recipe = load_recipe(name).recipe
        again = load_recipe(write(dump_recipe(recipe), "resolved.yaml"))
        assert again.recipe == recipe, name
        assert again.notes == ()


def test_text_that_looks_like_something_else_survives(write):
    for text in ["1e-4", "1", "true", "yes", "null", "~", "", "a: b", "a # b", "*a", "é", "a\nb", " x "]:
        recipe = Recipe.model_validate(
            {"data": {"root": text}, "model": {"family": "detr", "backbone": {"options": {text: [text]}}}}
        )
        dumped = dump_recipe(recipe)
        document = load_recipe(write(dumped + "", "odd.yaml"), ["model.backbone.name=mine:Net"]).recipe
        assert document.data.root == text
        assert document.model.backbone.options == {text: [text]}
        assert yaml.safe_load(dumped)["data"]["root"] == text, "other YAML readers agree"


def test_every_field_stands_in_a_dump_with_the_comment_asked_for():
    said = {"train.lr": "mine", "model.backbone.name": "yours"}
    lines = dump_recipe(Recipe(), lambda path: said.get(path, "")).splitlines()
    assert "  lr: 0.0001  # mine" in lines
    assert "    name: resnet50  # yours" in lines
    assert sum("#" in line for line in lines) == 2
    assert len(leaves(Recipe())) == sum(not line.endswith(":") for line in lines) >= 60


def test_values_on_one_line():
    assert [flow(value) for value in (1e-5, None, [1, 2], {"a": 1}, "x", True)] == [
        "1.0e-05",
        "null",
        "[1, 2]",
        "{a: 1}",
        "x",
        "true",
    ]
