"""Weights from another run are taken only where a trained model comes out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detrctl.engine.assemble import Assembly, _with_left_backbone, assemble
from detrctl.engine.build import build_learner
from detrctl.engine.checkpoint import Checkpoint, save
from detrctl.engine.distributed import Alone
from detrctl.engine.start import Start
from detrctl.errors import CheckpointError
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories
from detrctl.weights.transfer import Row, Transfer
from tests.engine import tiny

CPU = torch.device("cpu")
TRAINED: dict[str, Any] = {"norm": "batch", "frozen_stages": 0, "stage": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"))


def with_backbone(root: Path, name: str, backbone_lr: float = 1e-3, **fields: Any) -> Recipe:
    return tiny.recipe(root, model={"backbone": TRAINED | {"name": name} | fields}, backbone_lr=backbone_lr)


def checkpoint(recipe: Recipe, path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    categories = Categories(tiny.CLASSES, (1, 6))
    weights = build_learner(recipe, categories, pretrained=False).network.state_dict()
    weights = {name: torch.full_like(value, 0.5) for name, value in weights.items()}
    save(Checkpoint(recipe, categories, weights), path)
    return path, weights


def from_checkpoint(recipe: Recipe, path: Path) -> Assembly:
    return assemble(replace(Start("tiny", recipe), init_from=path), CPU, Alone())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"norm": "frozen"}, "norm frozen"),
        ({"frozen_stages": 2}, "frozen_stages 2"),
        ({"backbone_lr": 0}, "train.backbone_lr 0"),
    ],
)
def test_a_random_backbone_that_would_never_train_is_refused(
    root: Path, tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    path, _ = checkpoint(with_backbone(root, "resnet10"), tmp_path / "r10.pt")
    with pytest.raises(CheckpointError) as caught:
        from_checkpoint(with_backbone(root, "resnet18", **fields), path)
    assert str(caught.value) == (
        f"--init-from {path}: its backbone is not this resnet18: 30 tensors stay random "
        f"(first backbone.body.layers.0.1.conv1.weight), which {reason} would never train; "
        "take the checkpoint's model.backbone, or set model.backbone.weights to imagenet"
    )


def test_a_random_backbone_that_trains_is_allowed(root: Path, tmp_path: Path) -> None:
    path, _ = checkpoint(with_backbone(root, "resnet10"), tmp_path / "r10.pt")
    assert from_checkpoint(with_backbone(root, "resnet18"), path).taken is not None


def test_a_norm_without_its_count_of_batches_is_the_same_backbone(root: Path, tmp_path: Path) -> None:
    path, weights = checkpoint(with_backbone(root, "resnet10", norm="frozen"), tmp_path / "r10.pt")
    parts = from_checkpoint(with_backbone(root, "resnet10", backbone_lr=0), path)
    assert torch.equal(parts.learner.network.state_dict()["backbone.body.bn1.weight"], torch.full((64,), 0.5))


def test_a_pretrained_backbone_keeps_its_weights_beside_another_ones(root: Path, tmp_path: Path) -> None:
    """Stem and first blocks of a ResNet-10 have the shapes of a ResNet-18's."""
    path, _ = checkpoint(with_backbone(root, "resnet10"), tmp_path / "r10.pt")
    recipe = with_backbone(root, "resnet18")
    body = build_learner(recipe, Categories(("a",), (1,))).network.get_submodule("backbone.body").state_dict()
    published = {
        f"layer{int(name.split('.')[1]) + 1}.{name.split('.', 2)[2]}" if name.startswith("layers") else name: value
        for name, value in body.items()
    }
    torch.save(published, tmp_path / "published.pth")
    parts = from_checkpoint(with_backbone(root, "resnet18", weights=str(tmp_path / "published.pth")), path)
    network = parts.learner.network.state_dict()
    assert all(torch.equal(network[f"backbone.body.{name}"], value) for name, value in body.items())
    assert parts.taken is not None
    fates = {name: (kind, detail) for name, kind, detail in parts.taken.rows}
    assert set(fates) == set(network)
    told = ("fresh", "pretrained; the checkpoint's backbone is another")
    assert all((fate == told) == name.startswith("backbone.") for name, fate in fates.items())
    assert bool((network["queries.position.weight"] == 0.5).all())


def test_tensors_of_a_backbone_that_gives_way_are_unused(root: Path, tmp_path: Path) -> None:
    recipe = with_backbone(root, "resnet10")
    held = {name: torch.zeros(1) for name in ("backbone.a", "backbone.b", "c")}
    source = Checkpoint(recipe, Categories(("a",), (1,)), held)
    rows = (Row("backbone.a", "fresh", "not in the checkpoint"), Row("c", "loaded", ""))
    moved = Transfer({"backbone.a": torch.ones(1), "c": torch.zeros(1)}, rows, (), 1)
    assert _with_left_backbone(moved, source).rows == (
        Row("backbone.a", "fresh", "pretrained; the checkpoint's backbone is another"),
        Row("c", "loaded", ""),
        Row("backbone.b", "unused", "of another backbone"),
    )
