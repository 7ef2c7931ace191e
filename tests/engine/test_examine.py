"""One pass over a split keeps every decoder layer's answers, for every family."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detrctl.data.batch import collate
from detrctl.engine.build import build_data, build_learner, learner_from
from detrctl.engine.checkpoint import Checkpoint, load, save
from detrctl.engine.examine import Watch, examine_checkpoint, reach_of
from detrctl.errors import DetrctlError
from detrctl.evaluation.coco_metrics import score
from detrctl.evaluation.questions import Questions
from detrctl.evaluation.results import coco_results
from detrctl.recipe.schema import Recipe
from detrctl.structures import Predictions
from tests.engine.test_inspect_matching import CATEGORIES, IN_TWO_STAGES, SIZES, VARIANTS, save_run
from tests.engine.tiny import write_split

EVERYTHING = Questions(errors=True, layers=True, nms=True, confusion=True, worst=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_split(root, "val", 4, empty=(2,))
    return root


def rcnn_run(folder, data):
    setting = Recipe.model_validate(
        {
            "model": {"family": "faster_rcnn", "backbone": SIZES["backbone"], "score_threshold": 0.0},
            "data": {"root": str(data), "eval_size": 64, "eval_max_size": 96, "workers": 0},
        }
    )
    torch.manual_seed(0)
    weights = build_learner(setting, CATEGORIES).network.state_dict()
    save(Checkpoint(setting, CATEGORIES, weights), folder / "checkpoints" / "best.pt")
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_answers_every_question(tmp_path, data, variant):
    looked = examine_checkpoint(save_run(tmp_path / "run", data, variant), EVERYTHING, device="cpu")
    found, scores = looked.examination, looked.evaluation.scores
    assert [row.layer for row in found.suppression.layers] == [1, 1, 2, 2]
    plain = found.suppression.plain
    assert (plain.ap, plain.ap50) == pytest.approx((scores["AP"], scores["AP50"]), abs=1e-12)
    assert found.suppression.layers[2].ap == plain.ap
    assert found.errors.ap50 == pytest.approx(scores["AP50"], abs=1e-12)
    assert [row.name for row in found.causes.rows] == [
        "low score",
        "forgotten",
        "cut off",
        "no query left",
        "duplicate",
    ]
    assert found.confusion.counts[:-1].sum() == found.causes.truths == 5
    assert {image.file_name for image in found.worst} <= {f"{number}.png" for number in range(4)}
    assert looked.pixels(found.worst[0].image_id).shape == (3, 40, 48)
    assert found.causes.ranked is (variant in IN_TWO_STAGES)
    assert found.suppression.distinct == (0.8 if variant == "dino, distinct" else None)
    json.dumps(found.as_dict(), allow_nan=False)


def test_without_questions_about_layers_none_are_kept(tmp_path, data):
    run = save_run(tmp_path / "run", data, "detr")
    found = examine_checkpoint(run, Questions(confusion=True), device="cpu", limit=2).examination
    assert found.errors is found.suppression is found.worst is None
    assert found.confusion.counts[:-1].sum() == 3


@pytest.mark.parametrize("variant", ["detr", "dino"])
def test_a_layers_answers_are_those_of_its_predictions(tmp_path, data, variant):
    run = save_run(tmp_path / "run", data, variant)
    found = examine_checkpoint(run, Questions(layers=True), device="cpu", batch_size=1).examination
    checkpoint = load(run / "checkpoints" / "best.pt")
    learner, part = learner_from(checkpoint).eval(), build_data(checkpoint.recipe, "val")
    results = []
    for i in range(part.images):
        images = collate([part.dataset[i]]).images
        with torch.no_grad():
            first = learner.network(images).layers[0]
        told = learner.post_process(Predictions(first.logits, first.boxes), images.original_sizes_hw, images.image_ids)
        results += coco_results(told, (1, 6))
    assert found.suppression.layers[0].ap == pytest.approx(score(part.ground_truth, results)["AP"], abs=1e-9)
    assert found.suppression.layers[0].per_image == len(results) / 4


def test_faster_rcnn_answers_what_needs_no_layers_and_refuses_the_rest_in_one_line(tmp_path, data):
    run = rcnn_run(tmp_path / "run", data)
    found = examine_checkpoint(run, Questions(errors=True, nms=True, confusion=True, worst=2), device="cpu").examination
    assert found.suppression.layers == ()
    assert found.suppression.already == 0.5
    assert [row.name for row in found.causes.rows] == ["low score", "duplicate"]
    with pytest.raises(
        DetrctlError, match=r"^--layers: Faster R-CNN has no decoder layers; --nms and --errors work for it$"
    ):
        examine_checkpoint(run, Questions(layers=True), device="cpu")


def test_several_processes_are_refused_in_one_line():
    opened = SimpleNamespace(processes=SimpleNamespace(world=2))
    with pytest.raises(DetrctlError, match=r"^looking into the answers takes one process: run `detrctl eval` without"):
        Watch(EVERYTHING).start(opened)


# ---- what the queries could say ----

BOXES = np.array([[0.0, 0, 10, 10], [0, 0, 10, 12], [50, 50, 60, 60]])


def test_reach_by_hand_of_pairs_and_of_best_classes_only():
    scores = np.array([[0.2, 0.6], [0.3, 0.1], [0.9, 0.05]])
    truths, labels = np.array([[0.0, 0, 10, 10], [50.0, 50, 10, 10], [80.0, 80, 9, 9]]), np.array([0, 1, 0])
    pairs = reach_of(scores, BOXES, truths, labels, one_each=False)
    assert pairs.queries.tolist() == [1, 2, -1]
    assert pairs.scores[:2].tolist() == [0.3, 0.05]
    assert np.isnan(pairs.scores[2])
    assert pairs.ranks.tolist() == [3, 6, 0]
    assert pairs.available.tolist() == [3, 3, 3]
    best = reach_of(scores, BOXES, truths, labels, one_each=True)
    assert best.queries.tolist() == [1, -1, -1]
    assert best.ranks.tolist() == [3, 0, 0]


def test_a_query_that_fits_two_truths_is_the_reach_of_one_and_of_both_where_there_is_no_other():
    truths, labels = np.array([[0.0, 0, 10, 10], [0, 1, 10, 10]]), np.array([0, 0])
    both = reach_of(np.array([[0.9], [0.3], [0.8]]), BOXES, truths, labels, one_each=False)
    assert sorted(both.queries.tolist()) == [0, 1]
    assert sorted(both.scores.tolist()) == [0.3, 0.9]
    alone = reach_of(np.array([[0.9], [0.8]]), BOXES[[0, 2]], truths, labels, one_each=False)
    assert alone.queries.tolist() == [0, 0]
    assert alone.scores.tolist() == [0.9, 0.9]


@pytest.mark.parametrize("one_each", [False, True])
def test_reach_is_that_of_a_slow_loop(one_each):
    dice = np.random.default_rng(0)
    scores = dice.permutation(300).reshape(100, 3) / 300
    low = dice.uniform(-5, 60, (100, 2))
    boxes = np.concatenate([low, low + dice.uniform(15, 25, (100, 2))], axis=1)
    # Truths that do not meet, so that no box fits two of them.
    truths = np.array([[25.0 * (n % 3), 25.0 * (n // 3), 16 + n, 24 - n] for n in range(8)])
    labels = dice.integers(0, 3, 8)
    made = reach_of(scores, boxes, truths, labels, one_each=one_each)
    said = [(s, q, c) for q, row in enumerate(scores) for c, s in enumerate(row) if not one_each or s == row.max()]
    said.sort(reverse=True)
    for truth in range(8):
        x, y, w, h = truths[truth]
        fitting = []
        for rank, (value, query, label) in enumerate(said, 1):
            x0, y0, x1, y1 = boxes[query]
            shared = max(0, min(x1, x + w) - max(x0, x)) * max(0, min(y1, y + h) - max(y0, y))
            if label == labels[truth] and shared / ((x1 - x0) * (y1 - y0) + w * h - shared) >= 0.5:
                fitting.append((value, query, rank))
        expected = fitting[0] if fitting else (None, -1, 0)
        assert (made.queries[truth], made.ranks[truth]) == expected[1:]
        if fitting:
            assert made.scores[truth] == expected[0]
    assert 0 < (made.queries >= 0).sum() < 8
