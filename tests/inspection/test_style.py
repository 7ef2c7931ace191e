"""What all pictures share."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.mathtext import MathTextParser

from detrctl.evaluation.drawing import Colour, contrast
from detrctl.inspection import data_pictures, evaluation_pictures, look_pictures, matching_pictures, query_pictures
from detrctl.inspection.data_report import DataReport, ShownImage
from detrctl.inspection.denoising import denoise_batch, summarise_denoising
from detrctl.inspection.matching_report import DenoisingReport, RunMatching
from detrctl.inspection.style import LINES, label_at, new_figure
from detrctl.inspection.worst_pictures import draw_worst
from detrctl.structures import Categories
from tests.evaluation.test_coco_metrics import random_case
from tests.inspection import (
    test_data_facts,
    test_data_pictures,
    test_denoising,
    test_evaluation_pictures,
    test_instability,
    test_matching_pictures,
    test_query_pictures,
)


def bytes_of(colour) -> Colour:
    red, green, blue = (round(255 * part) for part in to_rgb(colour))
    return red, green, blue


@pytest.mark.parametrize("colour", [*(colour for colour, _, _ in LINES), "#000000", "#ffffff", "#777777"])
def test_a_label_can_be_read_on_its_colour(colour):
    axes = new_figure(2, 2).subplots()
    label_at(axes, 0.1, 0.5, "3 cat: q17", colour, 7)
    (text,) = axes.texts
    ground = text.get_bbox_patch().get_facecolor()
    assert bytes_of(ground) == bytes_of(colour)
    assert contrast(bytes_of(text.get_color()), bytes_of(ground)) >= 4.5


# ---- names with a $, which matplotlib would read as formulas, in every kind of picture ----

CLASS, FILE, RUN = "$x_$", "a$b$.jpg", "$run_$"
NAMES = tuple(f"{CLASS} {number}" for number in range(5))
CATEGORIES, THREE = Categories(NAMES, tuple(range(5))), Categories(NAMES[:3], tuple(range(3)))


def queries(folder):
    contents = np.random.default_rng(0).normal(size=(test_query_pictures.QUERIES, 8))
    told = test_query_pictures.report("rank and content", contents=contents)
    return query_pictures.draw_report(replace(told, categories=THREE, name=RUN), folder, "svg")


def look(folder, model):
    told = test_query_pictures.look_report(model)
    return look_pictures.draw_report(replace(told, categories=CATEGORIES, name=RUN, file=FILE), folder, "svg")


def matching(folder):
    told = test_matching_pictures.report(test_matching_pictures.matching())
    shown = replace(told.shown[0], matching=replace(told.shown[0].matching, image_id=0))
    images, mask = denoise_batch(
        test_denoising.learner("dino").network, test_denoising.images(), test_denoising.TARGETS, num_classes=5
    )
    denoising = DenoisingReport(summarise_denoising(images), mask, images[:1])
    rows = [test_instability.row(1, 0, query) for query in (0, 2)]
    runs = (RunMatching(RUN, told.runs[0].checkpoints * 2, (test_instability.step(rows[:1], rows[1:]),)),)
    told = replace(told, categories=CATEGORIES, runs=runs, shown=(shown,), denoising=denoising)
    return matching_pictures.draw_report(told, folder, "svg")


def data(folder):
    boxes = test_data_pictures.BOXES
    facts = replace(test_data_facts.facts(boxes, (CLASS, "dog"), queries=2), data=RUN)
    shown = ShownImage(10, (test_data_pictures.view(FILE), test_data_pictures.view("evaluation", boxes=20)))
    return data_pictures.draw_report(DataReport(facts, boxes, (shown,)), THREE, folder, "svg")


def evaluation(folder):
    content, results = random_case(1)
    for category in content["categories"]:
        category["name"] = NAMES[category["id"]]
    return evaluation_pictures.draw_examination(
        test_evaluation_pictures.found(content, results, layers=2), folder, "svg"
    )


def worst(folder):
    image = test_evaluation_pictures.WORST
    drawn = tuple(replace(one, name=CLASS) for one in image.drawn)
    pixels = np.zeros((80, 100, 3), dtype=np.uint8)
    return draw_worst([replace(image, file_name=FILE, drawn=drawn)], lambda image_id: pixels, folder, "svg")


KINDS = {
    "queries": (queries, 7, {CLASS, RUN}),
    "a look, dense": (lambda folder: look(folder, "dab"), 4, {CLASS, RUN, FILE}),
    "a look, deformable": (lambda folder: look(folder, "dino"), 4, {CLASS, RUN, FILE}),
    "matching": (matching, 5, {CLASS, RUN}),
    "data": (data, 5, {CLASS, RUN, FILE}),
    "evaluation": (evaluation, 3, {CLASS}),
    "worst images": (worst, 1, {CLASS, FILE}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_names_with_dollars_are_drawn_as_they_are(tmp_path, monkeypatch, kind):
    def parse(self, text, *others):
        raise AssertionError(f"a formula: {text}")

    monkeypatch.setattr(MathTextParser, "parse", parse)
    draw, count, words = KINDS[kind]
    files = draw(tmp_path)
    assert len(files) == count
    drawn = "".join(file.read_text() for file in files)  # letters are shapes, each word is a comment beside its own
    assert {word for word in words if word not in drawn} == set()
    assert "\\mathdefault" not in drawn  # ticks as formulas, which would be drawn as they are, too
