"""A checkpoint's model lies beneath a recipe that borrows it, and nothing of it is judged before it is known."""

import pytest

from detrctl.errors import RecipeError
from detrctl.recipe.lending import LENT, Lender
from detrctl.recipe.load import load_recipe

BORROWING = "train: {init_model: checkpoint, epochs: 7, schedule: {kind: constant}}\n"


@pytest.fixture
def lender():
    return Lender("run.pt", load_recipe("small_data").recipe)


def test_everything_that_is_not_written_is_the_checkpoints(write, lender):
    loaded = load_recipe(write(BORROWING), lender=lender)
    for path in LENT:
        ours, theirs = loaded.recipe, lender.recipe
        for name in path:
            ours, theirs = getattr(ours, name), getattr(theirs, name)
        assert ours == theirs, path
    assert loaded.where("model.queries") == loaded.where("data.augment.sizes") == "run.pt"
    assert loaded.recipe.train.epochs == 7
    assert loaded.recipe.train.ema == 0
    assert loaded.recipe.data.root is None


def test_a_pretrained_backbone_is_not_fetched_again(write):
    loaded = load_recipe(write(BORROWING), lender=Lender("run.pt", load_recipe("detr_r50").recipe))
    assert loaded.recipe.model.backbone.weights == "none"


def test_what_is_written_is_on_top_and_is_checked_in_the_checkpoints_family(write, lender):
    name = write(BORROWING + "model: {denoising: {copies: 9}}\ndata: {augment: {sizes: [64]}, eval_size: 64}\n")
    loaded = load_recipe(name, ["objective.gamma=1"], lender=lender)
    assert (loaded.recipe.model.denoising.copies, loaded.where("model.denoising.copies")) == (9, "my.yaml:2")
    assert (loaded.recipe.data.augment.sizes, loaded.recipe.data.augment.policy) == ([64], "square")
    assert (loaded.recipe.objective.gamma, loaded.recipe.objective.class_weight) == (1, 4)
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, ["model.heads=7"], lender=lender)
    assert str(caught.value) == (
        "--set: model.heads: found heads 7 with width 96, a remainder stays; heads 6 or width 112 would do "
        "(model.width: run.pt)"
    )


def test_without_the_checkpoint_everything_else_is_judged(write):
    name = write(BORROWING + "model: {denoising: {copies: 9}}\ndata: {eval_size: 64}\n")
    assert load_recipe(name, from_checkpoint=True).recipe.train.epochs == 7
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, ["train.epochs=0", "data.wrokers=1"], from_checkpoint=True)
    assert [problem.path for problem in caught.value.problems] == ["data.wrokers", "train.epochs"]


def test_another_familys_name_is_left_for_whoever_compares_them(write, lender):
    loaded = load_recipe(write(BORROWING + "model: {family: deformable}\n"), lender=lender)
    assert loaded.recipe.model.family == "deformable"


def test_a_recipe_with_a_model_of_its_own_borrows_nothing(write, lender):
    loaded = load_recipe("detr_r50", lender=lender)
    assert loaded.recipe == load_recipe("detr_r50").recipe
