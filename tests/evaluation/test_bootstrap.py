import copy
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detrctl.errors import DataError, DetrctlError
from detrctl.evaluation.bootstrap import (
    ImageMatches,
    average_precision,
    draw_images,
    interval_of_difference,
    match_images,
    matches_from_eval_images,
    mean_of,
    paired_bootstrap,
    resampled,
)
from detrctl.evaluation.coco_metrics import score
from detrctl.evaluation.ground_truth import GroundTruth

NUM_IMAGES = 12


def _truth(generator: np.random.Generator) -> dict[str, Any]:
    """Twelve images, three classes; a crowd here and there, and image 12 has no truths at all."""
    annotations = []
    for image in range(1, NUM_IMAGES):
        for _ in range(int(generator.integers(1, 6))):
            corner, size = generator.uniform(0, 80, 2), generator.uniform(5, 110, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(generator.integers(1, 4)),
                    "bbox": [*corner.tolist(), *size.tolist()],
                    "area": float(size.prod()),
                    "iscrowd": int(generator.random() < 0.1),
                }
            )
    return {
        "images": [{"id": image} for image in range(1, NUM_IMAGES + 1)],
        "categories": [{"id": category, "name": str(category)} for category in (1, 2, 3)],
        "annotations": annotations,
    }


def _results(truth: dict[str, Any], noise: float, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Shifted copies of the truths and as many false alarms; no two scores are equal."""
    boxes = []
    for annotation in truth["annotations"]:
        shifted = (np.array(annotation["bbox"]) + generator.normal(0, noise, 4)).clip(1).tolist()
        boxes.append((annotation["image_id"], annotation["category_id"], shifted))
        alarm = generator.uniform(1, 60, 4).tolist()
        boxes.append((int(generator.integers(1, NUM_IMAGES + 1)), int(generator.integers(1, 4)), alarm))
    scores = generator.permutation(len(boxes)) / len(boxes)
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": float(score)}
        for (image, category, box), score in zip(boxes, scores, strict=True)
    ]


def _evaluate(truth: dict[str, Any], results: list[dict[str, Any]]) -> COCOeval:
    ground_truth = COCO()
    ground_truth.dataset = copy.deepcopy(truth)
    ground_truth.createIndex()
    evaluator = COCOeval(ground_truth, ground_truth.loadRes(copy.deepcopy(results)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def _matches(truth: dict[str, Any], results: list[dict[str, Any]]) -> ImageMatches:
    return matches_from_eval_images(_evaluate(truth, results).evalImgs, num_images=len(truth["images"]))


def _repeat_images(
    truth: dict[str, Any], results: list[dict[str, Any]], weights: np.ndarray
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The set in which image i really occurs `weights[i]` times, under new ids."""
    images, annotations, detections = [], [], []
    for image, times in zip(truth["images"], weights, strict=True):
        for _ in range(times):
            new = len(images) + 1
            images.append({"id": new})
            annotations += [{**row, "image_id": new} for row in truth["annotations"] if row["image_id"] == image["id"]]
            detections += [{**row, "image_id": new} for row in results if row["image_id"] == image["id"]]
    annotations = [{**row, "id": number} for number, row in enumerate(annotations, start=1)]
    return {"images": images, "categories": truth["categories"], "annotations": annotations}, detections


@pytest.mark.parametrize("seed", range(4))
def test_weights_of_one_give_the_coco_numbers_to_the_last_bit(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = _truth(generator)
    evaluator = _evaluate(truth, _results(truth, 6, generator))
    matches = matches_from_eval_images(evaluator.evalImgs, num_images=NUM_IMAGES)
    ap, ap50 = average_precision(matches, np.ones(NUM_IMAGES, dtype=np.int64))
    assert (ap, ap50) == (evaluator.stats[0], evaluator.stats[1])
    assert 0.05 < ap < 0.95


@pytest.mark.parametrize("seed", range(4))
def test_a_drawn_weight_means_as_much_as_that_many_copies_of_the_image(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = _truth(generator)
    results = _results(truth, 6, generator)
    weights = generator.multinomial(NUM_IMAGES, np.full(NUM_IMAGES, 1 / NUM_IMAGES))
    copies = _evaluate(*_repeat_images(truth, results, weights))
    ap, ap50 = average_precision(_matches(truth, results), weights)
    assert (ap, ap50) == (copies.stats[0], copies.stats[1])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("size", "name"), [("all", "AP"), ("small", "APs"), ("medium", "APm"), ("large", "APl")])
def test_matches_by_size_give_the_coco_numbers_of_that_size(seed: int, size: str, name: str) -> None:
    generator = np.random.default_rng(seed)
    truth = _truth(generator)
    results = _results(truth, 6, generator)
    ground_truth = GroundTruth.from_coco_dict(truth)
    matches = match_images(ground_truth, results)[size]
    ap, _ = average_precision(matches, np.ones(NUM_IMAGES, dtype=np.int64))
    expected = score(ground_truth, results)[name]  # None without truths of that size, where COCO itself says -1
    assert ap == pytest.approx(np.nan if expected is None else expected, abs=1e-15, nan_ok=True)
    weights = draw_images(NUM_IMAGES, resamples=1, seed=seed)[0]
    copies = _evaluate(*_repeat_images(truth, results, weights))
    place = {"AP": 0, "APs": 3, "APm": 4, "APl": 5}[name]
    drawn = np.nan if copies.stats[place] == -1 else copies.stats[place]
    assert average_precision(matches, weights)[0] == pytest.approx(drawn, abs=1e-15, nan_ok=True)


def test_results_about_unknown_images_are_refused_by_name() -> None:
    truth = _truth(np.random.default_rng(0))
    stray = [{"image_id": 99, "category_id": 1, "bbox": [0.0, 0.0, 5.0, 5.0], "score": 0.5}]
    with pytest.raises(DataError) as caught:
        match_images(GroundTruth.from_coco_dict(truth), stray, source="a.json")
    assert str(caught.value) == "a.json: entry 0: image_id 99 is not in the annotations; are they of another dataset?"


def test_the_mean_of_two_seeds_is_compared_draw_by_draw() -> None:
    generator = np.random.default_rng(0)
    truth = _truth(generator)
    draws = draw_images(NUM_IMAGES, resamples=50, seed=7)
    one, two, other = (resampled(_matches(truth, _results(truth, noise, generator)), draws)[0] for noise in (3, 5, 20))
    both = mean_of([one, two])
    assert both.whole == pytest.approx((one.whole + two.whole) / 2)
    interval = interval_of_difference(both, other)
    differences = sorted((a + b) / 2 - c for a, b, c in zip(one.drawn, two.drawn, other.drawn, strict=True))
    assert interval.difference == pytest.approx((one.whole + two.whole) / 2 - other.whole)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))


def test_two_images_by_hand() -> None:
    box = [10.0, 10.0, 40.0, 40.0]
    truth = {
        "images": [{"id": 5}, {"id": 9}],
        "categories": [{"id": 1, "name": "one"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": 1, "bbox": box, "area": 1600.0, "iscrowd": 0}
            for number, image in enumerate((5, 9), start=1)
        ],
    }
    found = [{"image_id": image, "category_id": 1, "bbox": box, "score": 0.5} for image in (5, 9)]
    both, one = _matches(truth, found), _matches(truth, found[:1])
    # With only image 5 found, recall 0.00 to 0.50 is reached: 51 of 101 points.
    assert average_precision(one, np.array([1, 1])) == pytest.approx((51 / 101, 51 / 101), abs=1e-12)
    assert average_precision(one, np.array([2, 0])) == pytest.approx((1, 1), abs=1e-12)
    assert average_precision(one, np.array([0, 2])) == (0, 0)
    found = paired_bootstrap(both, one, resamples=400, seed=3)
    assert found.ap.difference == pytest.approx(50 / 101, abs=1e-12)
    # A quarter of the draws each for (2, 0) and (0, 2): both ends lie inside the middle 95 %.
    assert (found.ap.low, found.ap.high) == pytest.approx((0, 1), abs=1e-12)
    assert found.ap.share_above_zero == pytest.approx(0.875, abs=0.05)


def test_equal_results_differ_by_nothing() -> None:
    generator = np.random.default_rng(0)
    truth = _truth(generator)
    matches = _matches(truth, _results(truth, 6, generator))
    found = paired_bootstrap(matches, matches, resamples=50)
    for interval in (found.ap, found.ap50):
        assert (interval.difference, interval.low, interval.high) == (0, 0, 0)
        assert interval.share_above_zero == 0.5


def test_a_clearly_better_detector_has_an_interval_above_zero_and_the_swap_mirrors_it() -> None:
    generator = np.random.default_rng(0)
    truth = _truth(generator)
    better, worse = (_matches(truth, _results(truth, noise, generator)) for noise in (1, 20))
    there = paired_bootstrap(better, worse, resamples=200, seed=1).ap
    back = paired_bootstrap(worse, better, resamples=200, seed=1).ap
    assert 0 < there.low < there.difference < there.high
    assert there.share_above_zero == 1
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-12)


def test_the_seed_decides_the_draws() -> None:
    generator = np.random.default_rng(0)
    truth = _truth(generator)
    first, second = (_matches(truth, _results(truth, noise, generator)) for noise in (4, 8))
    runs = [paired_bootstrap(first, second, resamples=40, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0].ap.low != runs[2].ap.low


def test_a_detector_that_found_nothing_scores_zero_on_every_draw() -> None:
    generator = np.random.default_rng(0)
    truth = _truth(generator)
    full = _results(truth, 6, generator)
    per_image = _evaluate(truth, full).evalImgs
    for entry in filter(None, per_image):
        entry["dtScores"] = []
        entry["dtMatches"] = entry["dtMatches"][:, :0]
        entry["dtIgnore"] = entry["dtIgnore"][:, :0]
    nothing = matches_from_eval_images(per_image, num_images=NUM_IMAGES)
    assert average_precision(nothing, np.ones(NUM_IMAGES, dtype=np.int64)) == (0, 0)
    assert paired_bootstrap(_matches(truth, full), nothing, resamples=20).ap.low > 0


def test_mistakes_are_one_plain_line() -> None:
    generator = np.random.default_rng(0)
    truth = _truth(generator)
    matches = _matches(truth, _results(truth, 6, generator))
    with pytest.raises(DetrctlError) as caught:
        average_precision(matches, np.ones(3, dtype=np.int64))
    assert str(caught.value) == "bootstrap: (3,) weights for 12 images: one each is needed"
    with pytest.raises(DetrctlError) as caught:
        matches_from_eval_images([None] * 7, num_images=2)
    assert str(caught.value) == "bootstrap: 7 entries are not a whole number of classes for 2 images and 4 area ranges"
    with pytest.raises(DetrctlError) as caught:
        paired_bootstrap(matches, matches, resamples=0)
    assert str(caught.value) == "bootstrap: `resamples` must be at least 1, and `level` between 0 and 1"
    empty = {"images": [{"id": 1}], "categories": truth["categories"], "annotations": []}
    alarm = [{"image_id": 1, "category_id": 1, "bbox": [1.0, 1.0, 9.0, 9.0], "score": 0.5}]
    with pytest.raises(DetrctlError) as caught:
        paired_bootstrap(_matches(empty, alarm), _matches(empty, alarm), resamples=3)
    assert str(caught.value) == "bootstrap: no draw held a single truth; is this the right annotation file?"
    with pytest.raises(DetrctlError) as caught:
        paired_bootstrap(matches, _matches(empty, alarm), resamples=3)
    assert str(caught.value) == "bootstrap: both detectors must be scored on the same images and classes"
