"""Files of others go straight into evaluation, prediction and training, and do there what our own checkpoint does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from detrctl.cli.app import run
from detrctl.engine.assemble import assemble
from detrctl.engine.build import build_learner
from detrctl.engine.checkpoint import Checkpoint, load, save
from detrctl.engine.convert_weights import convert_weights
from detrctl.engine.distributed import Alone
from detrctl.engine.start import Start
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories
from tests.cli import tiny as made
from tests.engine import tiny
from tests.weights.published import tensors

NUMBERS = ("AP", "AP50", "AP75", "APs", "AR1", "AR100")
TWIN = "warning: taken for DETR: its weights could be those of DETR-DC5 as well; --recipe says which it is\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """own.pt, official.pth and hugging/ of one model, its recipe mine.yaml, and cells/, where it answers well."""
    folder = tmp_path_factory.mktemp("use")
    own = made.make_run(folder / "run", folder / "cells").rename(folder / "own.pt")
    made.make_dataset(folder / "cells", own, ["a.png", "b.png", "c.png"])
    convert_weights(own, "official", out=folder / "official.pth")
    convert_weights(own, "hf", out=folder / "hugging")
    about_data = {"root": str(folder / "cells"), "eval_size": 64, "eval_max_size": 96, "workers": 0}
    recipe = {"model": made.MODEL, "data": about_data, "evaluate": {"batch_size": 2, "score": 0.2}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("own.pt", "official.pth", "hugging", "mine.yaml", "cells"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)


def scores(ckpt: str, *words: str) -> dict[str, Any]:
    assert run(["eval", "--ckpt", ckpt, *words, "--json", f"{Path(ckpt).stem}.json", "--device", "cpu"]) == 0
    written = json.loads(Path(f"{Path(ckpt).stem}.json").read_text())
    return {name: written[name] for name in NUMBERS}


def found(ckpt: str, images: str, *words: str) -> list[dict[str, Any]]:
    out = f"found-{Path(ckpt).stem}-{len(words)}"
    words = (*words, "--score", "0", "--no-pictures", "--out", out, "--device", "cpu")
    assert run(["predict", images, "--ckpt", ckpt, *words]) == 0
    return json.loads(Path(out, "predictions.json").read_text())


@pytest.mark.parametrize("file", ["official.pth", "hugging"])
def test_a_file_of_others_scores_as_our_own_of_the_same_model(file: str):
    own = scores("own.pt")
    assert own["AP"] > 0.1
    assert scores(file, "--recipe", "mine.yaml") == pytest.approx(own, abs=1e-6)


@pytest.mark.parametrize("file", ["official.pth", "hugging"])
def test_a_file_of_others_predicts_as_our_own_of_the_same_model(file: str):
    own, other = found("own.pt", "cells/images"), found(file, "cells/images", "--recipe", "mine.yaml")
    assert len(own) == 18
    assert [row["file_name"] for row in other] == [row["file_name"] for row in own]
    for one, same in zip(other, own, strict=True):
        assert one["score"] == pytest.approx(same["score"], abs=1e-5)
        assert one["bbox"] == pytest.approx(same["bbox"], abs=1e-2)


@pytest.mark.parametrize("file", ["official.pth", "hugging"])
def test_a_file_of_others_needs_no_recipe_where_it_tells_what_it_is(file: str, capsys: pytest.CaptureFixture[str]):
    assert found(file, "cells/images/a.png")
    assert capsys.readouterr().err == ""
    assert "AP" in scores(file, "--data", "cells", "--limit", "1")


def test_where_weights_cannot_tell_dc5_the_recipe_does(capsys: pytest.CaptureFixture[str]):
    dilated = {**made.MODEL, "heads": 8, "backbone": {"name": "resnet50", "dilation": True}}
    recipe = {"model": dilated, "data": {"eval_size": 64, "eval_max_size": 96}, "evaluate": {"batch_size": 2}}
    Path("dilated.yaml").write_text(yaml.safe_dump(recipe))
    torch.manual_seed(0)
    parsed = Recipe.model_validate(recipe)
    network = build_learner(parsed, made.CATEGORIES).network
    save(Checkpoint(parsed, made.CATEGORIES, network.state_dict()), Path("dilated.pt"))
    told = convert_weights(Path("dilated.pt"), "official", out=Path("told.pth"))
    torch.save(torch.load(told, weights_only=False)["model"], "untold.pth")
    own = found("dilated.pt", "cells/images/a.png")
    capsys.readouterr()
    with_recipe = found("untold.pth", "cells/images/a.png", "--recipe", "dilated.yaml")
    assert capsys.readouterr().err == ""
    found("untold.pth", "cells/images/a.png")
    assert capsys.readouterr().err == TWIN
    assert len(own) == len(with_recipe) == 6
    for one, same in zip(with_recipe, own, strict=True):
        assert one["score"] == pytest.approx(same["score"], abs=1e-5)
        assert one["bbox"] == pytest.approx(same["bbox"], abs=1e-2)


def test_a_long_book_of_labels_does_not_keep_a_file_from_predicting(capsys: pytest.CaptureFixture[str]):
    held = tensors("dino", num_classes=2, dn_labelbook_size=91)
    torch.save({"model": held}, "dino.pth")
    assert found("dino.pth", "cells/images/a.png")
    assert capsys.readouterr().err == (
        "warning: label_enc.weight has 92 rows for 2 classes and one more: the first 3 are used\n"
    )


# ---- training from them ----


def start_of(root: Path) -> Recipe:
    fields: dict[str, Any] = {**made.MODEL, "backbone": {**made.MODEL["backbone"], "frozen_stages": 0}}
    return tiny.recipe(root, model=fields, epochs=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data whose first class is the file's second, and whose other it does not know."""
    root = tmp_path_factory.mktemp("data")
    tiny.write_split(root, "train", 8, classes=("clump", "new"))
    return root


@pytest.mark.parametrize("file", ["official.pth", "hugging"])
def test_training_starts_from_a_file_of_others_by_class_name(file: str, root: Path):
    parts = assemble(replace(Start("tiny", start_of(root)), init_from=Path(file)), torch.device("cpu"), Alone())
    own, new = load(Path("own.pt")).weights, parts.learner.network.state_dict()
    head = "decoder.heads.class_head.weight"
    assert torch.equal(new[head][[0, 2]], own[head][[1, 2]])
    counts = [name for name in own if name.endswith("num_batches_tracked")]
    heads = [name for name in own if "class_head" in name]
    for name in own.keys() - set(counts) - set(heads):
        assert torch.equal(new[name], own[name]), name
    assert parts.taken is not None
    kinds = {name: kind for name, kind, _ in parts.taken.rows}
    assert {name for name, kind in kinds.items() if kind == "remapped"} == set(heads)
    assert {name for name, kind in kinds.items() if kind == "fresh"} <= set(counts)
    assert parts.taken.summary.endswith(
        "1 of 2 classes known by name; 1 of the checkpoint's not taken over, first cell"
    )


@pytest.mark.parametrize("file", ["official.pth", "hugging"])
def test_the_command_trains_from_a_file_of_others(file: str, root: Path, capsys: pytest.CaptureFixture[str]):
    Path("start.yaml").write_text(yaml.safe_dump(start_of(root).model_dump(mode="json", exclude_none=True)))
    assert run(["train", "start.yaml", "--init-from", file, "--out", "trained", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "2 remapped" in said
    assert "  remapped: decoder.heads.class_head.weight (1 of 2 classes taken over)\n" in said
    assert load(Path("trained/checkpoints/last.pt")).categories == Categories(("clump", "new"), (1, 6))
