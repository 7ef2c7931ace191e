"""The curves show what was logged, and gaps in it do no harm."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image

from detrctl.engine.plots import _loss_figure, _matching_figure, _score_figure, _share_figure, draw_run


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


def told(epoch: float, matching: dict[str, Any] | None = None, **shares: float) -> list[dict[str, Any]]:
    """A line of training and one of an evaluation, with denoising and two stages."""
    losses = {
        f"{stage}.matching_cost": 2.0 - layer for layer, stage in enumerate(("decoder.0", "decoder.1", "encoder"))
    }
    train = {"kind": "train", "epoch": epoch, "loss": 4.0, "losses": losses | {"decoder.1.l1": 0.1}}
    train |= {"shares": {name.replace("_", "."): share for name, share in shares.items()}}
    evaluated = {"kind": "eval", "epoch": epoch, "scores": {"AP": 0.1}, "matching": matching}
    return [train, evaluated]


SHARES = {
    "decoder_0_l1": 0.2,
    "decoder_0_class": 0.3,
    "decoder_1_l1": 0.1,
    "denoising_1_l1": 0.15,
    "encoder_giou": 0.25,
}
FIRST = {"images": 4, "most": 5.0, "instability": None, "by_token": None, "epochs": None, "gap": "nothing before"}


def test_all_four_pictures_are_drawn_where_there_are_numbers_for_them(tmp_path: Path) -> None:
    moved = FIRST | {"instability": 3.0, "by_token": 2.0, "epochs": 1.0, "gap": None}
    rows = [*told(1.0, FIRST, **SHARES), *told(2.0, moved, **SHARES)]
    drawn = draw_run(rows, tmp_path, "a run")
    assert [path.name for path in drawn] == ["loss.png", "shares.png", "ap.png", "matching.png"]


def test_stacked_shares_are_those_of_terms_and_of_layers_and_fill_the_whole() -> None:
    rows = [row for epoch in (1.0, 2.0) for row in told(epoch, **SHARES) if row["kind"] == "train"]
    terms, layers = _share_figure(rows, "a run").axes
    assert legend(terms) == ["encoder giou", "denoising l1", "class", "l1"]  # the topmost band first
    assert legend(layers) == ["encoder", "denoising 2", "decoder 2", "decoder 1"]
    # The top of each band at the first epoch, in per cent.
    assert [round(top(band)) for band in terms.collections] == [30, 60, 75, 100]
    assert [round(top(band)) for band in layers.collections] == [50, 60, 75, 100]
    faces = {tuple(band.get_facecolor()[0]) for band in terms.collections}
    assert len(faces) == 4


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def top(band: Any) -> float:
    return float(max(y for x, y in band.get_paths()[0].vertices if x == 1.0))


def test_one_line_of_metrics_has_a_width_too() -> None:
    [row] = [row for row in told(1.0, **SHARES) if row["kind"] == "train"]
    axes = _share_figure([row], "a run").axes[0]
    assert [len(band.get_paths()) for band in axes.collections] == [1] * 4


def test_costs_have_a_line_a_layer_and_instability_its_bound() -> None:
    moved = FIRST | {"instability": 3.0, "epochs": 1.0, "gap": None}
    rows = [*told(1.0, FIRST, **SHARES), *told(2.0, moved, **SHARES)]
    costs, steady = _matching_figure(rows[::2], rows[1::2], "a run").axes
    assert {line.get_label(): list(line.get_ydata()) for line in costs.lines} == {
        "decoder 1": [2.0, 2.0],
        "decoder 2": [1.0, 1.0],
        "encoder": [0.0, 0.0],
    }
    assert {line.get_label(): list(line.get_ydata()) for line in steady.lines} == {
        "instability": [3.0],
        "the most there can be": [5.0],
    }


def test_in_two_stages_instability_is_told_by_token_and_by_rank() -> None:
    moved = FIRST | {"instability": 3.0, "by_token": 2.0, "epochs": 1.0, "gap": None}
    rows = [*told(1.0, FIRST), *told(2.0, moved)]
    steady = _matching_figure(rows[::2], rows[1::2], "a run").axes[1]
    assert {line.get_label(): list(line.get_ydata()) for line in steady.lines} == {
        "queries by rank": [3.0],
        "queries by encoder token": [2.0],
        "the most there can be": [5.0],
    }


def test_a_run_called_like_a_formula_is_drawn(tmp_path: Path) -> None:
    assert draw_run(rows(), tmp_path, "$x_$")  # matplotlib would refuse to parse it


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
