"""The machinery around the trainings: equal budgets, what is done and what goes on, the table."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detrctl.errors import DetrctlError
from detrctl.recipe.dump import dump_recipe, leaves
from detrctl.recipe.load import load_recipe
from tests.cli.made_runs import make_run

HERE = Path(__file__).parent
RECIPES = sorted(set(HERE.glob("family/*.yaml")) - {HERE / "family" / "base.yaml"})


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script, in an empty folder, with `detrctl train` replaced by made-up runs; `calls` are its command lines."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module("family_on_shapes")
    real, calls = module.detrctl, []

    def command(*words: str) -> int:
        calls.append(words)
        if words[0] != "train":
            return real(*words)
        return 0 if words[1] == "--resume" else _trained(words)

    monkeypatch.setattr(module, "detrctl", command)
    module.calls = calls
    return module


def _trained(words: tuple[str, ...]) -> int:
    """As `detrctl train` would leave it: two evaluations, better for deformable and for the second seed."""
    folder = Path(words[words.index("--out") + 1])
    changes = [word for word, before in zip(words[2:], words[1:], strict=False) if before == "--set"]
    aps = [0.1 + 0.1 * ("deformable" in folder.name) + 0.02 * folder.name.endswith("1"), 0.35]
    make_run(folder, aps, command=("detrctl", *words))
    (folder / "recipe.yaml").write_text(_text(words[1], changes))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.pt").touch()
    return 0


def _text(recipe: str, changes: list[str]) -> str:
    return dump_recipe(load_recipe(recipe, changes).recipe)


def test_the_recipes_of_the_family_share_size_data_and_optimisation():
    assert len(RECIPES) >= 12
    recipes = {file.stem: load_recipe(str(file)).recipe for file in RECIPES}
    shared = {name: {**leaves(recipe.data), **leaves(recipe.train)} for name, recipe in recipes.items()}
    assert all(one == shared["detr"] for one in shared.values())
    sizes = ("width", "heads", "feedforward", "encoder_layers", "decoder_layers", "dropout", "queries")
    for recipe in recipes.values():
        assert [getattr(recipe.model, name) for name in sizes] == [96, 4, 256, 2, 3, 0, 50]
        assert recipe.model.backbone.name == "slim_32"
    different = {dump_recipe(recipe) for recipe in recipes.values()}
    assert len(different) == len(recipes)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_variant_builds_at_the_same_small_size(file: Path):
    from detrctl.engine.build import build_learner
    from detrctl.structures import Categories

    learner = build_learner(load_recipe(str(file)).recipe, Categories(names=("a", "b"), ids=(1, 2)))
    parameters = sum(parameter.numel() for parameter in learner.network.parameters())
    assert 500_000 < parameters < 2_500_000


def test_a_backbone_to_start_from_is_the_runs(script: Any, tmp_path: Path):
    from detrctl.engine import checkpoint
    from detrctl.engine.build import build_learner
    from detrctl.structures import Categories

    classes, file = Categories(names=("a", "b"), ids=(1, 2)), str(HERE / "family" / "dino.yaml")
    recipe = load_recipe(file).recipe
    given = build_learner(recipe, classes).network.state_dict()
    saved = checkpoint.Checkpoint(recipe, classes, given, None, None)
    checkpoint.save(saved, tmp_path / "run" / "checkpoints" / "best.pt")
    words = ["detr", "--epochs", "1", "--seeds", "0", "--bootstrap", "0", "--out", "o"]
    assert script.main([*words, "--backbone", str(tmp_path / "run")]) == 0
    change = f"model.backbone.weights={tmp_path / 'o' / 'backbone.pth'}"
    assert change in script.calls[0]
    started = load_recipe(str(HERE / "family" / "detr.yaml"), [change]).recipe
    found = build_learner(started, classes).network.state_dict()
    names = [name for name in found if name.startswith("backbone.")]
    assert len(names) > 50
    assert all(torch.equal(found[name], given[name]) for name in names)


def test_all_runs_get_the_same_budget_and_what_is_done_is_not_done_again(script: Any, capfd):
    words = ["detr", "deformable", "--minutes", "3", "--seeds", "0", "1", "--bootstrap", "0", "--out", "o"]
    assert script.main(words) == 0
    trained = [call for call in script.calls if call[0] == "train"]
    assert [Path(call[1]).stem for call in trained] == ["detr", "deformable", "detr", "deformable"]
    for call, seed in zip(trained, (0, 0, 1, 1), strict=True):
        assert {"train.max_minutes=3", "train.epochs=10000", f"train.seed={seed}"} <= set(call)
    assert {file.name for file in Path("o").iterdir()} == {
        "detr-s0", "detr-s1", "deformable-s0", "deformable-s1", "family.png", "family.json", "family.md",
    }  # fmt: skip
    script.calls.clear()
    assert script.main(words) == 0
    assert [call[0] for call in script.calls] == ["compare"]
    assert script.calls[0][1:5] == ("o/detr-s0", "o/detr-s1", "o/deformable-s0", "o/deformable-s1")
    assert capfd.readouterr().out.count("finished already") == 4


def test_a_stopped_run_goes_on_and_one_that_saved_nothing_starts_anew(script: Any, capfd):
    words = ["detr", "--epochs", "2", "--seeds", "0", "1", "--bootstrap", "0", "--out", "o", "--device", "cpu"]
    assert script.main(words) == 0
    Path("o/detr-s0/summary.json").unlink()
    Path("o/detr-s1/checkpoints/last.pt").unlink()
    script.calls.clear()
    assert script.main(words) == 0
    assert script.calls[0] == ("train", "--resume", "o/detr-s0", "--device", "cpu")
    assert script.calls[1][1].endswith("detr.yaml")
    assert script.calls[2][:2] == ("compare", "o/detr-s1")


def test_runs_of_other_settings_are_refused_before_anything_is_trained(script: Any, capfd):
    assert script.main(["detr", "--epochs", "2", "--seeds", "0", "--bootstrap", "0", "--out", "o"]) == 0
    script.calls.clear()
    with pytest.raises(DetrctlError) as caught:
        script.main(["deformable", "detr", "--epochs", "3", "--seeds", "0", "--out", "o"])
    assert str(caught.value) == "o/detr-s0: was trained with other settings; choose another --out, or remove it"
    assert script.calls == []
    Path("o/dab-s0").mkdir()
    Path("o/dab-s0/notes.txt").touch()
    with pytest.raises(DetrctlError) as caught:
        script.main(["dab", "--seeds", "0", "--out", "o"])
    assert str(caught.value) == "o/dab-s0: is there already, but no run of this script; choose another --out"


def test_the_table_has_a_line_for_each_variant(script: Any, capfd):
    words = ["detr", "deformable", "--minutes", "3", "--reach", "0.2", "--bootstrap", "0", "--out", "o"]
    assert script.main(words) == 0
    lines = Path("o/family.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| variant", "| ---", "| detr", "| deformable"]
    assert lines[2] == "| detr | 0.350 | 0.700 | 0.175 | 0.350 | 0.525 | 2.0 / 2.0 | 19 | 0.69 |"
    found = json.loads(Path("o/family.json").read_text())
    interval = {"difference": 0.1, "low": 0.05, "high": 0.15}
    found["bootstrap"] = {"against": "detr", "level": 0.95, "differences": {"deformable": {"AP": interval}}}
    lines = list(script.markdown(found))
    assert [line.split(" | ")[-1] for line in lines] == [
        "AP to detr, 95% |", "--- |", "- |", "+0.100 [+0.050, +0.150] |",
    ]  # fmt: skip
