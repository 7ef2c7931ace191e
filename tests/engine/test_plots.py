"""The curves show what was logged, and gaps in it do no harm."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detrctl.engine.plots import _loss_figure, _score_figure, draw_run


def rows() -> list[dict[str, Any]]:
    losses = {"decoder.0.class": 9.0, "decoder.10.class": 2.0, "decoder.9.class": 3.0, "decoder.10.l1": None}
    train = [{"kind": "train", "epoch": e, "loss": 5.0 - e, "losses": losses} for e in (0.5, 1.0)]
    scores = [{"AP": 0.2, "AP50": 0.4, "APs": None}, {"AP": 0.1, "AP50": 0.3, "APs": None}]
    return [*train, *({"kind": "eval", "epoch": e, "scores": s} for e, s in zip((1.0, 2.0), scores, strict=True))]


def test_both_pictures_are_drawn(tmp_path: Path) -> None:
    drawn = draw_run(rows(), tmp_path / "plots", "a run")
    assert [path.name for path in drawn] == ["loss.png", "ap.png"]
    for path in drawn:
        with Image.open(path) as picture:
            assert picture.size[0] > 800


def test_nothing_logged_draws_nothing(tmp_path: Path) -> None:
    assert draw_run([], tmp_path, "a run") == []


def test_the_terms_are_those_of_the_last_decoder_layer() -> None:
    lines = {line.get_label(): list(line.get_ydata()) for line in _loss_figure(rows()[:2], "a run").axes[1].lines}
    assert lines == {"class": [2.0, 2.0]}


def test_the_terms_of_both_stages_of_faster_rcnn_are_drawn() -> None:
    row = {"epoch": 1.0, "loss": 1.0, "losses": {"roi.class": 0.4, "roi.box": 0.3, "rpn.class": 0.2, "rpn.box": 0.1}}
    terms = _loss_figure([row], "a run").axes[1]
    assert {line.get_label(): line.get_ydata()[0] for line in terms.lines} == row["losses"]
    assert terms.get_title(loc="left") == "its terms, unweighted"


def test_scores_without_ground_truth_are_left_out_and_the_best_is_marked() -> None:
    axes = _score_figure(rows()[2:], "a run").axes[0]
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines["AP"] == [0.2, 0.1]
    assert "APs" not in lines
    assert [text.get_text() for text in axes.texts] == ["best AP 0.200"]


@pytest.mark.parametrize("score", [None, 0.0])
def test_a_run_that_found_nothing_is_drawn_too(score: float | None) -> None:
    assert _score_figure([{"kind": "eval", "epoch": 1.0, "scores": {"AP": score, "AP50": score}}], "a run").axes
