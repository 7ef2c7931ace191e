"""What the benchmark compares: steps that record and steps that do not, on the same weights."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from detrctl.engine.build import build_data, build_learner
from tests.engine import tiny


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("recording_cost")


def test_a_step_without_recording_learns_the_same_and_measures_nothing(script: Any, tmp_path: Path) -> None:
    recipe = tiny.recipe(tiny.dataset(tmp_path))
    part = build_data(recipe, "train")
    [batch] = script.loaded(part, 4, 4)
    torch.manual_seed(0)
    learner = build_learner(recipe, part.categories)
    output = learner.network(batch.images)
    recorded = learner.criterion(output, batch.targets, learner.counts(batch.targets))
    with script.nothing_recorded():
        bare = learner.criterion(output, batch.targets, learner.counts(batch.targets))
        assert script.step._weights([bare]) == {}
    assert torch.equal(recorded.total, bare.total)
    assert script.step._weights([recorded])
    assert {term.name for term in recorded.terms} - {term.name for term in bare.terms} == {"matching_cost"}
