"""What the benchmark takes away is what queries see of each other, and nothing else."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detrctl import train
from detrctl.evaluation.score_curves import Point
from detrctl.evaluation.suppression import Suppressed, Suppression
from tests.engine import tiny
from tests.families.test_every_family import VARIANTS, build, two_images


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("why_no_nms")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_query_that_sees_nobody_answers_whatever_the_others_are(script: Any, name: str) -> None:
    network = build(name).network.eval()
    with torch.no_grad():
        memory = network.encoder(network.neck(network.backbone(two_images()), two_images().is_padding))
        queries = network.denoising(network.queries(memory), None)[0]
        changed = replace(
            queries, content=queries.content + torch.nn.functional.pad(torch.ones(1, 1, 32), (0, 0, 0, 6))
        )

        def answers_of_the_others() -> list[torch.Tensor]:
            return [network.decoder(each, memory)[-1].logits[:, 1:] for each in (queries, changed)]

        alone, together = answers_of_the_others()
        assert not torch.allclose(alone, together, rtol=0, atol=1e-6)
        script.see_nobody(network)
        alone, together = answers_of_the_others()
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


def test_a_trained_run_fills_a_row(script: Any, tmp_path: Path) -> None:
    recipe = tiny.recipe(tiny.dataset(tmp_path / "data"), epochs=1)
    run = train(recipe, out=tmp_path / "run", device="cpu").run
    ((name, file),) = script.checkpoints(run, epochs=False)
    cells = list(script.row(script.examined(file, None, alone=False, trust=True)))
    assert (name, len(cells)) == ("run", len(script.HEAD) - 2)


def test_a_row_says_what_nms_gains_at_its_best(script: Any) -> None:
    def answers(threshold: float | None, ap: float) -> Suppressed:
        return Suppressed(1, threshold, ap, ap, 9.0, 2.0, 0.25, 1.5, 0.5)

    study = Suppression((), (answers(None, 0.4), answers(0.9, 0.42), answers(0.5, 0.45), answers(0.3, 0.41)))
    curve = SimpleNamespace(curve=SimpleNamespace(best=Point(0.3, 0.7, 0.6, 0.65, 1.5)))
    seen = SimpleNamespace(suppression=study, scores=curve)
    assert list(script.row(seen)) == ["0.400", "0.450", "0.5", "+0.050", "0.25", "1.50", "0.700", "0.600"]
    worse = Suppression((), (answers(None, 0.4), answers(0.5, 0.3)))
    cells = list(script.row(SimpleNamespace(suppression=worse, scores=curve)))
    assert cells[:4] == ["0.400", "0.400", "none", "+0.000"]
