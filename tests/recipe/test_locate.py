import pytest

from detrctl.errors import DetrctlError
from detrctl.recipe.locate import closest, display, find_recipe, shipped


def test_shipped_recipes_are_found_by_name_and_by_path(monkeypatch):
    path = find_recipe("detr_r50")
    assert path == shipped()["detr_r50"]
    monkeypatch.chdir(path.parents[1])
    assert find_recipe("recipes/detr_r50.yaml").resolve() == path
    assert display(path) == "recipes/detr_r50.yaml"


def test_paths_are_found_and_a_run_folder_stands_for_its_recipe(write, tmp_path):
    write("a: 1", "runs/one/recipe.yaml")
    assert find_recipe("runs/one").resolve() == tmp_path / "runs/one/recipe.yaml"
    assert find_recipe("recipe.yaml", beside=tmp_path / "runs/one") == tmp_path / "runs/one/recipe.yaml"


def test_a_shipped_name_is_not_shadowed_by_a_folder_of_the_user(write, tmp_path):
    write("a: 1", "detr_r50/other.txt")
    assert find_recipe("detr_r50") == shipped()["detr_r50"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("detr_r5", "no recipe 'detr_r5'. Did you mean 'detr_r50'?"),
        ("zzz", "no recipe 'zzz'. `detrctl recipes list` shows them all."),
        ("minne.yaml", "no file 'minne.yaml'. Did you mean 'mine.yaml'?"),
        ("recipes/detr_r50.yaml", "no file 'recipes/detr_r50.yaml'. Did you mean the shipped recipe 'detr_r50'?"),
        ("recipes/detr_r5o.yaml", "no file 'recipes/detr_r5o.yaml'. Did you mean 'detr_r50'?"),
        ("no/where.yaml", "no file 'no/where.yaml'."),
        ("folder", "'folder' is a folder without a recipe.yaml; name a recipe file or a shipped recipe"),
        ("", "'' is a folder without a recipe.yaml; name a recipe file or a shipped recipe"),
    ],
)
def test_a_recipe_that_is_not_there_is_one_line_with_a_guess(write, tmp_path, name, message):
    write("a: 1", "mine.yaml")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DetrctlError) as caught:
        find_recipe(name)
    assert str(caught.value) == message


def test_paths_elsewhere_are_shown_whole(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert display(tmp_path / "a.yaml") == str(tmp_path / "a.yaml")


def test_guesses_ignore_case_and_keep_far_words_apart():
    assert closest("Square", ["square", "detr"]) == "square"
    assert closest("xyz", ["square", "detr"]) is None
