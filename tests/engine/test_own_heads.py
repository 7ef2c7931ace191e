"""Heads of the user's own, named in a recipe, are what is trained."""

from pathlib import Path

import torch
from torch import Tensor, nn

from detrctl.engine.checkpoint import load
from detrctl.engine.evaluate import evaluate_checkpoint
from detrctl.engine.train import train
from tests.engine import tiny


class TwoLayers(nn.Module):
    """A class head, built as Head(width, outputs)."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 3), nn.Tanh(), nn.Linear(3, outputs))

    def forward(self, contents: Tensor) -> Tensor:
        return self.layers(contents)


class OneLayer(nn.Module):
    """A box head, built as Head(width)."""

    def __init__(self, width: int):
        super().__init__()
        self.only = nn.Linear(width, 4)

    def forward(self, contents: Tensor) -> Tensor:
        return self.only(contents)


HEADS = {"class_head": f"{__name__}:TwoLayers", "box_head": f"{__name__}:OneLayer"}


def test_own_heads_are_trained_saved_evaluated_and_started_from(tmp_path: Path) -> None:
    root = tiny.dataset(tmp_path / "data")
    first = train(tiny.recipe(root, model=HEADS, epochs=1), out=tmp_path / "first", device="cpu")
    second = train(tiny.recipe(root, model=HEADS, epochs=2), out=tmp_path / "second", device="cpu")
    before, after = (load(done.run / "checkpoints" / "last.pt").weights for done in (first, second))
    names = [name for name in after if name.startswith("decoder.heads.")]
    assert sorted(names) == [
        *(f"decoder.heads.box_head.only.{kind}" for kind in ("bias", "weight")),
        *(f"decoder.heads.class_head.layers.{layer}.{kind}" for layer in (0, 2) for kind in ("bias", "weight")),
    ]
    for name in names:
        moved = (after[name] - before[name]).abs().max()
        assert 0 < float(moved) < 0.1, name
    assert evaluate_checkpoint(second.run, device="cpu", trust=True).scores.images == 4
    still = tiny.recipe(root, model=HEADS, epochs=1, lr=1e-30, backbone_lr=1e-30, weight_decay=0)
    third = train(still, init_from=second.run, out=tmp_path / "third", device="cpu")
    kept, best = load(third.checkpoint).weights, load(second.checkpoint).weights
    assert all(torch.equal(kept[name], best[name]) for name in names)
