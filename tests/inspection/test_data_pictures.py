"""The pictures show the numbers of the facts, and every format is written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from detrctl.evaluation.drawing import class_colour
from detrctl.inspection.data_facts import SIZE_EDGES, Limits, Sampled, size_counts
from detrctl.inspection.data_pictures import (
    classes_figure,
    draw_report,
    marked,
    per_image_figure,
    samples_figure,
    sizes_figure,
)
from detrctl.inspection.data_report import DataReport, ShownImage, View
from detrctl.structures import Categories
from tests.inspection.test_data_facts import facts, split

CATEGORIES = Categories(("cat", "dog"), (1, 2))
BOXES = split([(0, 20, 20)] * 3, [], [(1, 100, 100), (0, 50, 9)])


def view(title: str = "file, 40 x 30", boxes: int = 2) -> View:
    corners = torch.tensor([[2.0, 3.0, 20.0, 25.0]]).repeat(boxes, 1)
    return View(title, torch.zeros(30, 40, 3, dtype=torch.uint8), corners, torch.arange(boxes) % 2)


@pytest.fixture
def report() -> DataReport:
    found = facts(BOXES, ("cat", "dog"), queries=2)
    shown = ShownImage(10, (view(), view("evaluation, 64 x 64"), view("epoch 1, 64 x 64")))
    return DataReport(found, BOXES, (shown, ShownImage(11, (view(boxes=0),))))


@pytest.mark.parametrize("file_format", ["png", "svg", "pdf"])
def test_every_picture_is_written(report: DataReport, tmp_path: Path, file_format: str) -> None:
    drawn = draw_report(report, CATEGORIES, tmp_path, file_format)
    names = ("classes", "sizes", "aspects", "boxes-per-image", "samples")
    assert [path.name for path in drawn] == [f"{name}.{file_format}" for name in names]
    assert all(path.stat().st_size > 2000 for path in drawn)


def test_a_split_without_boxes_has_a_picture_of_that_alone(tmp_path: Path) -> None:
    empty = split([], [])
    report = DataReport(facts(empty, ("cat",)), empty, ())
    assert [path.name for path in draw_report(report, CATEGORIES, tmp_path, "png")] == ["boxes-per-image.png"]


def test_the_parts_of_a_bar_are_its_classes_sizes(report: DataReport) -> None:
    bars = classes_figure(report.facts).axes[0].containers
    widths = {bar.get_label(): [patch.get_width() for patch in bar] for bar in bars}
    assert widths == {"small": [4, 0], "medium": [0, 0], "large": [0, 1]}
    texts = [text.get_text() for text in classes_figure(report.facts).axes[0].texts]
    assert texts == ["4 in 2 images", "1 in 1 images"]


def test_sizes_stand_in_per_cent_over_the_limits_with_a_line_for_each_stage(report: DataReport) -> None:
    trained = Sampled(5, size_counts(np.array([[64.0, 64.0]]), np.array([[64, 64]])))
    figure = sizes_figure(replace(report.facts, trained=trained))
    stairs = {patch.get_label(): patch.get_data() for patch in figure.axes[0].patches}
    assert list(stairs) == ["in the files", "evaluation, 64 x 64", "training (1 images)"]
    for values, edges, _ in stairs.values():
        assert sum(values) == pytest.approx(100)
        assert tuple(edges) == SIZE_EDGES
    limits = [line.get_xdata()[0] for line in figure.axes[0].lines]
    assert limits == [8, 32, 96]


def test_the_models_limits_stand_to_the_right_of_what_it_can_do(report: DataReport) -> None:
    axes = per_image_figure(report.facts).axes[0]
    assert {(bar.get_x() + 0.4, bar.get_height()) for bar in axes.patches} == {(0, 1), (2, 1), (3, 1)}
    assert [(line.get_label(), line.get_xdata()[0]) for line in axes.lines] == [("2 queries", 2.5)]
    far = replace(report.facts, limits=Limits(300, 100, ""))
    said = [line.get_label() for line in per_image_figure(far).axes[0].lines]
    assert said == ["300 queries (far beyond this axis)", "100 detections (far beyond this axis)"]


def test_very_crowded_images_are_put_together_in_bins() -> None:
    boxes = split(*([(0, 9, 9)] * n for n in (5, 500, 500)))
    axes = per_image_figure(facts(boxes, queries=None)).axes[0]
    assert len(axes.patches) == 40
    assert sum(patch.get_height() for patch in axes.patches) == 3


def test_a_mosaic_has_a_row_for_each_image_and_a_column_for_each_view(report: DataReport) -> None:
    figure = samples_figure(report.shown, CATEGORIES)
    titles = [axes.get_title() for axes in figure.axes]
    first = ["image 10, file, 40 x 30", "evaluation, 64 x 64", "epoch 1, 64 x 64"]
    assert titles == [*first, "image 11, file, 40 x 30", "", ""]
    assert legend(figure) == []  # names stand at the boxes


def test_where_names_would_hide_the_picture_numbers_stand_at_the_boxes_and_are_explained(report: DataReport) -> None:
    crowded = view(boxes=20)
    figure = samples_figure([ShownImage(10, (crowded, view()))], CATEGORIES)
    assert legend(figure) == ["0 cat", "1 dog"]
    for axes, shown in zip(figure.axes, (crowded, view()), strict=True):
        drawn = axes.images[0].get_array()
        assert (drawn == marked(shown, ("0", "1"))).all()
        assert (drawn != marked(shown, ("", ""))).any()
        assert (drawn != marked(shown, ("0", "0"))).any()  # classes differ by more than their colour


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for found in figure.legends for text in found.get_texts()]


def test_boxes_are_drawn_where_they_are_in_the_colour_of_their_class() -> None:
    picture = marked(view(boxes=1), [""])
    assert picture.shape == (225, 300, 3)
    assert tuple(picture[105, 15]) == class_colour(0)  # x = 2 of 40 is 15 of 300
    assert tuple(picture[23, 75]) == class_colour(0)  # y = 3 of 30 is 22.5 of 225
    assert not picture[105, 75].any()
    assert (marked(view(boxes=1), ["cat"]) != picture).any()
