import pytest

from detrctl.errors import RecipeError
from detrctl.recipe.load import load_recipe
from detrctl.recipe.overrides import Override


@pytest.fixture
def load(write):
    name = write("data: {root: here}\ntrain: {epochs: 300}\n")
    return lambda *overrides: load_recipe(name, overrides)


def test_values_are_typed_as_in_a_file(load):
    recipe = load(
        "train.lr=2e-4",
        "train.schedule.drop_epochs=[5, 9]",
        "data.augment.photometric=true",
        "train.max_minutes=null",
        "model.backbone.name=mine.nets:Tiny",
        "model.backbone.options={depth: 3, act: relu}",
        "data.train={images: a/b, annotations: c.json}",
    ).recipe
    assert recipe.train.lr == 2e-4
    assert recipe.train.schedule.drop_epochs == [5, 9]
    assert recipe.data.augment.photometric is True
    assert recipe.train.max_minutes is None
    assert recipe.model.backbone.options == {"depth": 3, "act": "relu"}
    assert recipe.data.train is not None
    assert recipe.data.train.images == "a/b"


@pytest.mark.parametrize("text", ["2017", "a: b", "x # y", "[z", "C:/data", "1e-4"])
def test_text_fields_take_any_text_without_quotes(load, text):
    assert load(f"data.root={text}").recipe.data.root == text
    assert load(f"data.root='{text}'").recipe.data.root == text


def test_the_last_of_several_values_counts_and_null_clears(load):
    assert load("train.seed=1", "train.seed=2").recipe.train.seed == 2
    assert load("data.root=null").recipe.data.root is None


def test_fields_inside_a_section_that_is_null_so_far_can_be_set(load):
    recipe = load("data.train.images=a", "data.train.annotations=b").recipe
    assert recipe.data.train is not None
    assert (recipe.data.train.images, recipe.data.train.annotations) == ("a", "b")


def test_where_a_value_came_from_names_the_option(load):
    loaded = load("train.lr=1", Override("data.root", "there", where="--data"))
    assert loaded.recipe.data.root == "there"
    assert [loaded.where(path) for path in ("train.lr", "data.root", "train.epochs", "train.seed")] == [
        "--set",
        "--data",
        "my.yaml:2",
        "default",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=1", "--set: lr: no such field. Did you mean 'train.lr'?"),
        ("train.lrr=1", "--set: train.lrr: no such field. Did you mean 'lr'?"),
        ("trian.lr=1", "--set: trian: no such field. Did you mean 'train'?"),
        ("train.lr.x=1", "--set: train.lr.x: no such field; `train.lr` is a number above 0"),
        ("train.lr=fast", "--set: train.lr: found 'fast', expected a number above 0"),
        ("train.lr=", "--set: train.lr: found nothing, expected a number above 0"),
        (
            "train.epochs=[",
            "--set: train.epochs: found '[', which is not a YAML value: while parsing a flow node expected "
            "the node content, but found '<stream end>'",
        ),
        ("train.lr", "--set: found 'train.lr', expected field=value, such as train.lr=0.0001"),
        ("=3", "--set: found '=3', expected field=value, such as train.lr=0.0001"),
        ("train..lr=3", "--set: found 'train..lr=3', expected field=value, such as train.lr=0.0001"),
        ("extends=detr_r50", "--set: extends: a recipe extends another in its file, not on the command line"),
        ("data.train.annotations=b", "--set: data.train.images: is missing, expected text"),
        (
            "data.augment.sizes=[480, 8]",
            "--set: data.augment.sizes[1]: found 8, expected a whole number from 16 to 4096",
        ),
    ],
)
def test_mistakes_read_as_in_a_file(load, override, message):
    with pytest.raises(RecipeError) as caught:
        load(override)
    assert str(caught.value) == message
