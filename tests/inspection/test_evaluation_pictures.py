"""Figures show the numbers of the structs that they are drawn from."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from detrctl.evaluation.answers import Answers
from detrctl.evaluation.examination import Examination, Seen, examine
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.questions import Questions
from detrctl.evaluation.worst import Drawn, WorstImage
from detrctl.inspection.evaluation_pictures import (
    confusion_figure,
    draw_examination,
    errors_figure,
    layers_figure,
    nms_figure,
)
from detrctl.inspection.words import without_formulas
from detrctl.inspection.worst_pictures import PENS, draw_worst, worst_figure
from tests.evaluation.test_coco_metrics import coco, random_case, result, truth


def found(content, results, layers=0, **asked) -> Examination:
    truths, answers = GroundTruth.from_coco_dict(content), Answers.from_results(results)
    asked = asked or {"errors": True, "nms": True, "confusion": True}
    return examine(Seen(truths, answers, [answers] * layers), Questions(**asked))


def texts(axes):
    return {text.get_text() for text in axes.texts}


def test_the_bars_of_the_error_figure_are_what_mending_gains():
    made = found(*random_case(1))
    kinds, special, why = errors_figure(made.errors, made.causes).axes
    assert [bar.get_width() for bar in kinds.patches] == [row.all.lost_ap for row in made.errors.rows]
    assert [bar.get_width() for bar in special.patches] == [
        made.errors.false_positives.all.lost_ap,
        made.errors.false_negatives.all.lost_ap,
    ]
    assert [bar.get_width() for bar in why.patches] == [row.lost_ap for row in made.causes.rows]
    assert kinds.get_yticklabels()[0].get_text() == f"class ({made.errors.rows[0].all.count})"
    for marks, size in zip(kinds.collections, ("small", "medium", "large"), strict=True):
        drawn = [row.by_size[size].lost_ap for row in made.errors.rows if row.by_size]
        assert marks.get_offsets()[:, 0].tolist() == pytest.approx(drawn)


def test_the_nms_figure_has_panels_by_layer_only_where_there_are_layers():
    case = random_case(1)
    flat, layered = found(*case), found(*case, layers=3)
    assert len(nms_figure(flat.suppression, flat.scores).axes) == 6
    axes = nms_figure(layered.suppression, layered.scores).axes
    assert len(axes) == 8
    assert [ax.get_title()[:3] for ax in axes] == [f"({letter})" for letter in "abcdefgh"]
    assert all(ax.get_xlabel() for ax in axes)
    assert all(ax.get_ylabel() for ax in axes[:-1])  # the last one's are the classes' names
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes[0].lines}
    assert lines["AP"] == [pair[0].ap for pair in layered.suppression.pairs]
    assert lines["AP50, NMS at 0.5"] == [pair[1].ap50 for pair in layered.suppression.pairs]
    tried = [row.ap for row in layered.suppression.last if row.threshold is not None]
    assert next(line for line in axes[2].lines if line.get_label() == "AP, NMS").get_ydata().tolist() == tried


def test_layers_alone_have_a_figure_of_their_own(tmp_path):
    content, results = random_case(1)
    answers = Answers.from_results(results)
    made = examine(Seen(GroundTruth.from_coco_dict(content), answers, [answers, answers]), Questions(layers=True))
    assert [path.name for path in draw_examination(made, tmp_path, "pdf")] == ["layers.pdf"]
    assert len(layers_figure(made.suppression).axes) == 2


@pytest.mark.parametrize(("classes", "numbered"), [(4, True), (80, False)])
def test_the_confusion_figure_shades_shares_and_writes_counts_where_they_can_be_read(classes, numbered):
    content, results = random_case(1)
    content["categories"] = [{"id": i, "name": f"c{i}"} for i in range(1, classes + 1)]
    made = found(content, results).confusion
    axes = confusion_figure(made).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), made.shares)
    written = [text.get_text() for text in axes.texts]
    assert written == ([str(count) for count in made.counts.flatten()] if numbered else [])
    assert len(axes.get_xticklabels()) == classes + 1


@pytest.mark.parametrize("annotations", [[], [truth(1, 1, 1, [0.0, 0, 50, 50])]])
@pytest.mark.parametrize("results", [[], [result(1, 1, [0.0, 0, 50, 50], 73.0)]])
def test_nothing_there_nothing_said_and_scores_beyond_1_are_drawn(tmp_path, annotations, results):
    made = found(coco(annotations), results, layers=1)
    names = [path.name for path in draw_examination(made, tmp_path, "png")]
    assert names == ["errors.png", "nms.png", "confusion.png"]


WORST = WorstImage(
    7,
    "in/a_$bad \\formula$.jpg",
    0.0123,
    2,
    1,
    1,
    1,
    (
        Drawn("truth", (5.0, 5.0, 30.0, 20.0), "cell"),
        Drawn("missed", (50.0, 30.0, 40.0, 30.0), "$clump"),
        Drawn("found", (6.0, 5.0, 30.0, 20.0), "cell", 0.9),
        Drawn("false", (-5.0, 40.0, 30.0, 60.0), "cell", 0.456, "background"),
    ),
)


def test_a_worst_image_tells_its_boxes_apart_by_colour_and_by_line():
    assert len({pen.colour for pen in PENS.values()}) == len({pen.style for pen in PENS.values()}) == 4
    figure = worst_figure(WORST, np.zeros((80, 100, 3), dtype=np.uint8), 3)
    (axes,) = figure.axes
    assert len([patch for patch in axes.patches if isinstance(patch, Rectangle)]) == 2 * len(WORST.drawn)
    assert texts(axes) == {"$clump missed", "cell 0.90", "cell 0.46 background"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [pen.meaning for pen in PENS.values()]
    assert axes.get_xlim() == (-0.5, 99.5)


def test_worst_images_are_numbered_and_those_without_pixels_have_no_picture(tmp_path):
    def pixels(image_id):
        return np.full((60, 30, 3), 120, dtype=np.uint8) if image_id == 7 else None

    other = WorstImage(8, "", 0.0, 0, 0, 0, 0, ())
    files = draw_worst([other, WORST], pixels, tmp_path, "svg")
    assert [file.name for file in files] == ["worst-02-image-7.svg"]
    assert files[0].read_text().startswith("<?xml")


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (128, 116), (300, 900), (900, 300)])
def test_the_title_of_a_worst_image_lies_within_the_picture(size):
    figure = without_formulas(worst_figure(WORST, np.zeros((*size, 3), dtype=np.uint8), 2))
    figure.canvas.draw()
    title = figure.axes[0].title.get_window_extent()
    assert title.y1 <= figure.bbox.height
