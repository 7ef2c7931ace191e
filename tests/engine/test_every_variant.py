"""Every variant trains on awkward images, is saved and resumed bit by bit, and leaves a recipe that builds it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detrctl.engine.build import learner_from
from detrctl.engine.checkpoint import load
from detrctl.engine.evaluate import evaluate_checkpoint
from detrctl.engine.train import train
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Recipe
from tests.engine import tiny
from tests.families.test_every_family import VARIANTS

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 2, "queries": 1}


class Stages(tiny.TinyBackbone):
    """The same map, at as many strides as there are stages."""

    def __init__(self, count: int):
        super().__init__()
        self.channels = (8,) * count  # type: ignore[assignment]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        first = super().forward(pixels)
        return tuple(first[..., ::step, ::step] for step in (1, 2, 4, 8)[: len(self.channels)])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One class; five of eight images have no object, one has two, which is more than there are queries."""
    root = tmp_path_factory.mktemp("data")
    tiny.write_split(root, "train", 8, empty=(1, 4, 5, 6, 7), classes=("object",))
    tiny.write_split(root, "val", 2, classes=("object",))
    return root


def recipe(name: str, root: Path, epochs: int) -> Recipe:
    model = tiny.fields(root)["model"] | SMALL | VARIANTS[name]
    stages = VARIANTS[name].get("backbone", {}).get("stages", [3, 4, 5])
    one = model["family"] in ("detr", "conditional", "dab")
    own = {"name": f"{__name__}:Stages", "options": {"count": 1 if one else len(stages)}}
    model["backbone"] = own | ({} if one else {"stages": stages})
    return tiny.recipe(root, model=model, epochs=epochs)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_trains_is_saved_and_goes_on_bit_by_bit(name: str, root: Path, tmp_path: Path) -> None:
    whole = train(recipe(name, root, 2), out=tmp_path / "whole", device="cpu")
    half = train(recipe(name, root, 1), out=tmp_path / "half", device="cpu")
    train(resume=half.run, overrides=["train.epochs=2"], trust=True, device="cpu")
    one, other = (load(run / "checkpoints" / "last.pt") for run in (whole.run, half.run))
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(value, other.weights[key]) for key, value in one.weights.items())
    assert all(value.isfinite().all() for value in one.weights.values() if value.is_floating_point())
    exported = load_recipe(str(whole.run / "recipe.yaml")).recipe
    assert exported == one.recipe
    assert set(learner_from(one, trust=True).network.state_dict()) == set(one.weights)
    assert evaluate_checkpoint(whole.checkpoint, device="cpu", trust=True).scores.images == 2
