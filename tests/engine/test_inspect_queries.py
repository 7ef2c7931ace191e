import json

import numpy as np
import pytest
import torch

from detrctl.engine.build import build_learner
from detrctl.engine.checkpoint import Checkpoint, save
from detrctl.engine.inspect_queries import Asked, Choice, inspect_image, inspect_queries
from detrctl.engine.inspected import Wish
from detrctl.engine.predict import load
from detrctl.errors import DetrctlError
from detrctl.inspection import look_report, query_report
from detrctl.inspection.look_pictures import layers_figure, title_of
from detrctl.recipe.schema import Recipe
from tests.engine.test_inspect_matching import CATEGORIES, IN_TWO_STAGES, SIZES, VARIANTS, look, save_run
from tests.engine.tiny import write_split

IMAGES, QUERIES = 4, 5
TOLD_BY = {"two-stage": "rank", "dino": "rank and content", "dino, distinct": "distinct rank and content"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_split(root, "val", IMAGES, empty=(2,))
    return root


def photo(data):
    return data / "images" / "val" / "1.png"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_told_over_a_split_and_on_an_image(tmp_path, data, variant):
    run = save_run(tmp_path / "run", data, variant)
    report = inspect_queries(run, wish=Wish(device="cpu"), least=0.0)
    queries = 2 * QUERIES if variant == "dab with patterns" else QUERIES
    assert (report.images, len(report.summaries), report.name) == (IMAGES, queries, "run")
    assert sum(summary.matched for summary in report.summaries) == 5  # one, two, none and two rectangles
    assert all(summary.all.boxes == IMAGES for summary in report.summaries)
    assert report.told_by == TOLD_BY.get(variant, "slot")
    assert (report.records.proposals is not None) is (variant in IN_TWO_STAGES)
    assert sorted(report.chosen) == list(range(queries))
    json.dumps(query_report.as_json(report), allow_nan=False)
    one = inspect_image(photo(data), run, asked=Asked(query=3), wish=Wish(device="cpu"))
    assert (one.look.query, len(one.look.layers), one.detection, one.size_hw) == (3, 2, None, (40, 48))
    assert len(one.encoder.layers) == 1
    json.dumps(look_report.as_json(one), allow_nan=False)


def test_kept_detections_are_those_of_predict_and_matches_those_of_inspect_matching(tmp_path, data):
    run = save_run(tmp_path / "run", data, "two-stage")
    files = [data / "images" / "val" / f"{number}.png" for number in range(IMAGES)]
    every = [score for result in load(run, device="cpu").predict(files, score=0.0) for score in result.scores.tolist()]
    least = float(np.median(every))
    report = inspect_queries(run, wish=Wish(device="cpu", batch_size=1), least=least)
    results = load(run, device="cpu").predict(files, score=least)
    queries = torch.cat([result.detections.queries for result in results]).bincount(minlength=QUERIES)
    assert [summary.detections for summary in report.summaries] == queries.tolist()
    labels = torch.cat([result.detections.labels for result in results]).bincount(minlength=2)
    assert np.sum([summary.kept.classes for summary in report.summaries], axis=0).tolist() == labels.tolist()
    rows = [row for row in look(run).rows["run"] if row.layer == 1]
    matched = [sum(row.query == query for row in rows) for query in range(QUERIES)]
    assert [summary.matched for summary in report.summaries] == matched


def test_queries_are_chosen_by_number_by_use_or_all(tmp_path, data):
    run = save_run(tmp_path / "run", data, "detr")
    told = [
        inspect_queries(run, wish=Wish(device="cpu"), choice=choice)
        for choice in (Choice((4, 1)), Choice(all=True), Choice(most_used=2))
    ]
    assert [report.chosen for report in told[:2]] == [(4, 1), (0, 1, 2, 3, 4)]
    assert told[2].chosen == tuple(told[2].records.most_used[:2])
    assert [report.chosen_as for report in told] == ["chosen queries", "all queries", "the 2 most used"]
    with pytest.raises(DetrctlError, match=r"^--queries 5: this model has queries 0 to 4$"):
        inspect_queries(run, wish=Wish(device="cpu"), choice=Choice((0, 5)))


def test_a_query_that_no_image_has_is_refused_in_one_line(tmp_path, data):
    """In two stages an image has no more queries than tokens, whatever the recipe says."""
    about = {"root": str(data), "eval_size": 32, "eval_max_size": 48, "workers": 0}
    setting = Recipe.model_validate({"model": SIZES | VARIANTS["two-stage"] | {"queries": 90}, "data": about})
    weights = build_learner(setting, CATEGORIES).network.state_dict()
    save(Checkpoint(setting, CATEGORIES, weights), tmp_path / "run" / "checkpoints" / "best.pt")
    with pytest.raises(DetrctlError, match=r"^--queries 89: this model has queries 0 to \d\d$"):
        inspect_queries(tmp_path / "run", wish=Wish(device="cpu"), choice=Choice((0, 89)))


def test_a_detection_is_its_query_and_a_point_is_told_in_pixels_or_fractions(tmp_path, data):
    run = save_run(tmp_path / "run", data, "deformable")
    (result,) = load(run, device="cpu").predict(photo(data), score=0.0)
    third = inspect_image(photo(data), run, asked=Asked(detection=3, point=(12, 20)), wish=Wish(device="cpu"))
    assert third.look.query == int(result.detections.queries[2])
    assert third.found[2].label == int(result.detections.labels[2])
    assert third.found[2].score == pytest.approx(float(result.scores[2]), abs=1e-5)
    assert third.encoder.point == (12 / 48, 20 / 40)
    best = inspect_image(photo(data), run, wish=Wish(device="cpu"))
    assert (best.detection, best.look.query) == (1, int(result.detections.queries[0]))
    assert best.encoder.point == pytest.approx(best.look.layers[-1].box[:2].tolist())
    x0, y0, x1, y1 = result.boxes[0].tolist()
    np.testing.assert_allclose(
        best.look.layers[-1].box, [(x0 + x1) / 96, (y0 + y1) / 80, (x1 - x0) / 48, (y1 - y0) / 40], atol=1e-5
    )


def test_a_detection_is_told_by_its_own_class_even_where_its_query_has_a_better_one(tmp_path, data):
    run = save_run(tmp_path / "run", data, "deformable")
    (result,) = load(run, device="cpu").predict(photo(data), score=0.0)
    queries = result.detections.queries.tolist()
    rank = next(place for place, query in enumerate(queries) if query in queries[:place])
    report = inspect_image(photo(data), run, asked=Asked(detection=rank + 1), wish=Wish(device="cpu"))
    label, score = int(result.detections.labels[rank]), float(result.scores[rank])
    assert report.look.asked_class == label
    assert {layer.label for layer in report.look.layers} == {label}
    assert report.look.layers[-1].score == pytest.approx(score, abs=1e-5)
    assert title_of(report).endswith(f"detection {rank + 1}: {report.categories.names[label]} {score:.2f}")
    titles = [axes.get_title() for axes in layers_figure(report).axes]
    assert f"score of {report.categories.names[label]}" in titles
    best = inspect_image(photo(data), run, asked=Asked(query=queries[rank]), wish=Wish(device="cpu"))
    assert best.look.asked_class is None
    assert best.look.layers[-1].label != label


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (Asked(query=5), "--query 5: on this image the model has queries 0 to 4"),
        (Asked(detection=6), "--detection 6: the model gives 5 detections on this image"),
        (Asked(point=(0.5, 41)), "--point 0.5,41: outside the image, which is 48 x 40 pixels"),
        (Asked(point=(-0.5, 0.5)), "--point -0.5,0.5: outside the image, which is 48 x 40 pixels"),
    ],
)
def test_what_the_image_does_not_have_is_one_line(tmp_path, data, asked, line):
    run = save_run(tmp_path / "run", data, "detr")
    with pytest.raises(DetrctlError) as refused:
        inspect_image(photo(data), run, asked=asked, wish=Wish(device="cpu"))
    assert str(refused.value) == line


def test_random_weights_are_looked_at_with_the_datas_classes_or_made_up_ones(tmp_path, data):
    wish = Wish(data=str(data), limit=2, device="cpu")
    report = inspect_queries(recipe="quickstart", wish=wish)
    assert (report.name, report.images) == ("quickstart, random weights", 2)
    named = inspect_image(photo(data), recipe="quickstart", wish=wish)
    assert (named.categories.names, named.notes) == (CATEGORIES.names, ())
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps({"model": SIZES | VARIANTS["dino"]}))
    unnamed = inspect_image(photo(data), recipe=str(recipe), wish=Wish(device="cpu"))
    assert len(unnamed.categories) == 80
    assert unnamed.notes == ("no dataset names the classes: 80 are made up; --data DIR takes its own",)


def test_faster_rcnn_is_refused_in_one_line(tmp_path, data):
    setting = Recipe.model_validate({"model": {"family": "faster_rcnn", "backbone": SIZES["backbone"]}})
    weights = build_learner(setting, CATEGORIES).network.state_dict()
    save(Checkpoint(setting, CATEGORIES, weights), tmp_path / "rcnn" / "checkpoints" / "best.pt")
    line = r"^Faster R-CNN has no object queries to look at; any other family of the recipes has$"
    for ask in (
        lambda: inspect_queries(tmp_path / "rcnn"),
        lambda: inspect_queries(recipe="faster_rcnn_r50"),
        lambda: inspect_image(photo(data), tmp_path / "rcnn"),
    ):
        with pytest.raises(DetrctlError, match=line):
            ask()


def test_no_point_is_looked_out_from_without_an_encoder(tmp_path, data):
    wish = Wish(data=str(data), device="cpu")
    assert not inspect_image(photo(data), recipe="quickstart", wish=wish).encoder.layers
    with pytest.raises(DetrctlError, match=r"^--point: this model has no encoder layer, so nothing looks out from"):
        inspect_image(photo(data), recipe="quickstart", asked=Asked(point=(0.5, 0.5)), wish=wish)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    write_split(tmp_path, "val", 3)
    (tmp_path / "images" / "val" / "1.png").write_bytes(b"no picture")
    run = save_run(tmp_path / "run", tmp_path, "detr", broken_images="skip")
    report, matching = inspect_queries(run, wish=Wish(device="cpu")), look(run)
    assert (report.images, matching.main.images) == (2, 2)
    for notes in (report.notes, matching.notes):
        assert len([note for note in notes if "1.png" in note]) == 1, notes
