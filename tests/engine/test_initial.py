"""Fine-tuning starts from any checkpoint, with its model; what weights contradict or leave open is said."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from detrctl.cli.app import run
from detrctl.engine import events
from detrctl.engine.build import build_learner
from detrctl.engine.checkpoint import Checkpoint, load, save
from detrctl.engine.start import begin
from detrctl.engine.train import TrainResult, train
from detrctl.errors import DetrctlError
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories
from tests.engine import tiny
from tests.weights.published import published

STILL = ["train.lr=1e-30", "train.backbone_lr=1e-30", "train.weight_decay=0"]
SHORT = ["train.epochs=1", "train.schedule.kind=constant", "train.patience=0", "data.workers=0"]
FEW_PIXELS = ["data.augment={policy: none, flip: 0}", "data.eval_size=64", "data.eval_max_size=96"]
SMALL_DINO = [
    *("model.width=16", "model.heads=2", "model.feedforward=16", "model.decoder_layers=2", "model.queries=7"),
    *("data.augment.sizes=[64]", "data.eval_size=64", "train.processes=1"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def dino(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of quickstart's kind: a slim DINO on small squares, which has trained some steps."""
    changes = [*SMALL_DINO, "train.epochs=1", "train.max_minutes=null", "train.batch_size=4", "train.eval_every=1"]
    out = tmp_path_factory.mktemp("runs") / "dino"
    return train("quickstart", overrides=changes, data=root, out=out, device="cpu").run


def made_up(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Small numbers; norms, whose weights are vectors, change little."""
    return 0.02 * torch.randn(shape) + (len(shape) == 1 and name.endswith(("weight", "running_var")))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file such as DETR's authors publish, of a small model, with 92 rows of classes."""
    path = tmp_path_factory.mktemp("official") / "detr.pth"
    torch.manual_seed(0)
    torch.save({"model": {name: made_up(name, shape) for name, shape in published("detr").items()}}, path)
    return path


def finetuned(source: Path, data: Path, out: Path, *overrides: str) -> tuple[TrainResult, list[events.Event]]:
    heard: list[events.Event] = []
    changes = [*SHORT, *overrides]
    done = train(
        "finetune", overrides=changes, data=data, init_from=source, out=out, device="cpu", on_event=heard.append
    )
    return done, heard


def taken(heard: list[events.Event]) -> events.WeightsTaken:
    return next(event for event in heard if isinstance(event, events.WeightsTaken))


def warned(heard: list[events.Event]) -> list[str]:
    return [event.message for event in heard if isinstance(event, events.Warned)]


# ---- from whatever there is ----


def test_a_small_dino_is_fine_tuned_as_the_model_that_it_is(dino: Path, root: Path, tmp_path: Path) -> None:
    done, heard = finetuned(dino, root, tmp_path / "run", *STILL)
    before, after = load(dino / "checkpoints" / "best.pt"), load(done.run / "checkpoints" / "last.pt")
    assert after.recipe.model == before.recipe.model
    assert after.recipe.objective == before.recipe.objective
    assert (after.recipe.data.augment, after.recipe.data.eval_size) == (before.recipe.data.augment, 64)
    assert (after.recipe.train.batch_size, after.recipe.train.scale_lr) == (4, "sqrt")
    assert after.recipe.train.init_model == "recipe"
    assert after.weights.keys() == before.evaluated.keys()
    for name, value in before.evaluated.items():
        if "running" not in name and "num_batches" not in name:  # statistics go on with new images
            torch.testing.assert_close(after.weights[name], value, rtol=0, atol=1e-20)
    event = taken(heard)
    assert event.lent == (
        f"model, objective and image sizes of {dino}/checkpoints/best.pt: dino on slim_32, 7 queries, "
        "evaluated at 64 x 64 pixels"
    )
    assert event.summary.endswith(" 0 fresh, 0 unused; 2 of 2 classes known by name")
    assert not [line for line in warned(heard) if "weights" in line]


def test_a_small_dino_learns_the_classes_of_another_dataset(dino: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny.write_split(other, "train", 8, classes=("light", "new", "dark"))
    done, heard = finetuned(dino, other, tmp_path / "run")
    before, after = load(dino / "checkpoints" / "best.pt"), load(done.checkpoint)
    assert taken(heard).summary.endswith("2 of 3 classes known by name")
    head = "decoder.heads.class_head.weight"
    assert (len(before.weights[head]), len(after.weights[head])) == (2, 3)
    moved = after.weights[head][[0, 2]] - before.evaluated[head][[1, 0]]
    assert 0 < float(moved.abs().max()) < 0.01
    assert after.categories.names == ("light", "new", "dark")


def test_an_official_file_is_fine_tuned_with_the_rows_of_the_classes_that_it_knows(
    official: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    tiny.write_split(data, "train", 4, classes=("cat", "gizmo", "person"))
    done, heard = finetuned(official, data, tmp_path / "run", *FEW_PIXELS, *STILL)
    file, after = torch.load(official)["model"], load(done.checkpoint)
    assert (after.recipe.model.family, after.recipe.model.queries, after.recipe.model.width) == ("detr", 5, 16)
    head = after.weights["decoder.heads.class_head.weight"]
    assert torch.equal(head[[0, 2, 3]], file["class_embed.weight"][[17, 1, 91]])  # cat, person, no object
    assert torch.equal(after.weights["queries.position.weight"], file["query_embed.weight"])
    assert "2 of 3 classes known by name" in taken(heard).summary
    assert any(
        "could be those of DETR-DC5 as well: if so, set model.backbone.dilation=true" in w for w in warned(heard)
    )


def test_every_tensors_fate_lies_in_the_run_folder(official: Path, root: Path, tmp_path: Path) -> None:
    done, heard = finetuned(official, root, tmp_path / "run", *FEW_PIXELS)
    event = taken(heard)
    assert event.table == done.run / "initial_weights.csv"
    with event.table.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["tensor", "outcome", "detail"]
    assert [tuple(row) for row in rows] == list(event.rows)
    assert len(rows) > 100
    assert {name for name, _, _ in rows} >= load(done.checkpoint).weights.keys()


def test_the_command_starts_from_another_run(
    dino: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--init-from", str(dino), "--data", str(root), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert run(["train", "finetune", *words, *(word for change in SHORT for word in ("--set", change))]) == 0
    said = capsys.readouterr()
    assert f"model, objective and image sizes of {dino}/checkpoints/best.pt: dino on slim_32" in said.out
    assert "2 of 2 classes known by name" in said.out
    assert run(["train", "--resume", str(tmp_path / "run"), "--set", "train.epochs=2", "--device", "cpu"]) == 0


# ---- what is written on top ----


def start(source: Path, *overrides: str, recipe: str = "finetune") -> Recipe:
    return begin(
        recipe, overrides=[*SHORT, *overrides], data=None, out=None, resume=None, init_from=source, trust=False
    ).recipe


def refusal(source: Path, *overrides: str, recipe: Any = "finetune") -> str:
    with pytest.raises(DetrctlError) as caught:
        start(source, *overrides, recipe=recipe)
    return str(caught.value)


def test_what_weights_do_not_depend_on_is_set_on_top(dino: Path) -> None:
    recipe = start(dino, "model.dropout=0.2", "model.denoising.copies=10", "data.augment.flip=0.1", "objective.l1=3")
    assert (recipe.model.dropout, recipe.model.denoising.copies) == (0.2, 10)  # type: ignore[union-attr]
    assert (recipe.model.queries, recipe.data.augment.sizes, recipe.data.augment.flip) == (7, [64], 0.1)  # type: ignore[union-attr]
    assert recipe.objective.l1 == 3  # type: ignore[union-attr]


def test_what_the_weights_contradict_is_one_report(dino: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: finetune\nmodel:\n  queries: 50\n")
    ending = (
        f" as in {dino}/checkpoints/best.pt, whose model this recipe trains; "
        "leave it away, or start from a recipe with a model of its own"
    )
    assert refusal(dino, "model.heads=4", recipe=mine).splitlines() == [
        f"--set: model.heads: found 4, not 2{ending}",
        f"{mine}:3: model.queries: found 50, not 7{ending}",
    ]
    assert refusal(dino, "model.family=detr") == f"--set: model.family: found detr, not dino{ending}"
    assert refusal(dino, "model.querys=3", "train.epohcs=3") == (
        "--set: train.epohcs: no such field. Did you mean 'epochs'?"
    )
    assert refusal(dino, "model.querys=3") == "--set: model.querys: no such field. Did you mean 'queries'?"


def test_what_a_file_of_others_leaves_open_is_the_users_to_say(official: Path) -> None:
    assert start(official, "model.heads=4").model.heads == 4  # type: ignore[union-attr]
    assert "model.encoder_layers: found 2, not 1 as in" in refusal(official, "model.encoder_layers=2")


def test_fine_tuning_needs_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "finetune", "--data", "shapes"]) == 2
    assert capsys.readouterr().err.endswith(
        "finetune.yaml:13: train.init_model: found checkpoint, but none is named; --init-from FILE_OR_RUN would do\n"
    )
    setting = Recipe.model_validate({"train": {"init_model": "checkpoint"}})
    with pytest.raises(DetrctlError, match="init_model: found checkpoint, but none is named"):
        train(setting, device="cpu")
    with pytest.raises(DetrctlError, match="goes with a recipe's name or path; an object has its model"):
        train(setting, init_from="runs/x", device="cpu")


def test_parts_that_a_checkpoint_names_are_imported_only_when_trusted(root: Path, tmp_path: Path) -> None:
    setting = tiny.recipe(root)
    categories = Categories(tiny.CLASSES, (1, 6))
    save(Checkpoint(setting, categories, build_learner(setting, categories).network.state_dict()), tmp_path / "c.pt")
    assert refusal(tmp_path / "c.pt") == (
        "this checkpoint wants to import tests.engine.tiny:TinyBackbone, which can run any code: "
        "add --trust if you know it"
    )


# ---- weights in another model than their own ----


def test_settings_that_change_no_shape_are_said_where_they_differ(dino: Path, root: Path, tmp_path: Path) -> None:
    trained = load(dino / "checkpoints" / "best.pt").recipe
    position = trained.model.position.model_copy(update={"temperature": 40.0})  # type: ignore[union-attr]
    model = trained.model.model_copy(update={"position": position, "reference": "refined"})
    setting = trained.model_copy(update={"model": model})
    heard: list[events.Event] = []
    train(setting, data=root, init_from=dino, out=tmp_path / "run", device="cpu", on_event=heard.append)
    assert (
        "the weights were trained in another model than this recipe's: "
        "model.position.temperature: 40.0, not 20.0, model.reference: refined, not refined_twice"
    ) in warned(heard)
    assert taken(heard).lent == ""


def test_a_file_that_says_it_is_dilated_is_told_in_an_undilated_model(
    official: Path, root: Path, tmp_path: Path
) -> None:
    dc5 = tmp_path / "detr-dc5.pth"
    dc5.write_bytes(official.read_bytes())
    model = {"backbone": {"name": "resnet18", "frozen_stages": 0}, "width": 16, "feedforward": 24, "heads": 8}
    setting = tiny.recipe(root, model=model, epochs=1)
    heard: list[events.Event] = []
    train(setting, init_from=dc5, out=tmp_path / "run", device="cpu", on_event=heard.append)
    assert warned(heard)[:2] == [
        "taken for a DC5 model, as its name says: weights do not tell",
        "the weights were trained in another model than this recipe's: model.backbone.dilation: False, not True",
    ]


# ---- recipes that are made in Python ----


def test_the_rules_hold_for_a_recipe_made_in_python_too(root: Path) -> None:
    setting = tiny.recipe(root)
    wrong = setting.model_copy(update={"train": setting.train.model_copy(update={"batch_size": 5, "accumulate": 2})})
    with pytest.raises(DetrctlError) as caught:
        train(wrong, device="cpu")
    assert str(caught.value) == (
        "recipe: train.batch_size: found batch_size 5 with accumulate 2, a remainder stays; batch_size 6 would do"
    )
    with pytest.raises(DetrctlError, match=r"recipe: model\.backbone\.norm: found norm frozen with weights none"):
        train(Recipe(), device="cpu")
