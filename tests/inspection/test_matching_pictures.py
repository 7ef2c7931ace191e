import pytest
import torch
from PIL import Image

from detrctl.boxes import Cxcywh
from detrctl.inspection.denoising import read_mask
from detrctl.inspection.matching import match_batch, match_rows
from detrctl.inspection.matching_pictures import cost_figure, draw_report, layers_figure, mask_table, shown_queries
from detrctl.inspection.matching_report import MatchingReport, RunMatching, Shown, Weights
from detrctl.inspection.split_matching import summarise
from detrctl.losses.matcher import Matcher, probability_cost
from detrctl.structures import Assignment, Categories, DetectorOutput, Known, Predictions, Targets, Tokens

CATEGORIES = Categories(("cat", "dog"), (1, 2))
MATCHER = Matcher(probability_cost, class_weight=1.0, l1=5.0, giou=2.0)


def matching(queries=40, truths=3):
    generator = torch.Generator().manual_seed(0)
    layers = tuple(
        Predictions(
            torch.randn(1, queries, 3, generator=generator),
            Cxcywh(torch.rand(1, queries, 4, generator=generator) * 0.4 + 0.2),
        )
        for _ in range(2)
    )
    memory = Tokens(torch.zeros(1, 0, 4), torch.zeros(1, 0, 4), torch.zeros(1, 0).bool(), (), torch.ones(1))
    boxes = torch.rand(truths, 4, generator=generator) * 0.4 + 0.2
    targets = [Targets(torch.arange(truths) % 2, Cxcywh(boxes), 7)]
    (image,) = match_batch(DetectorOutput(layers, memory), targets, torch.tensor([[48, 64]]), MATCHER, num_classes=2)
    return image


def report(image):
    rows = match_rows(image, CATEGORIES)
    split = summarise(rows, name="run", epoch=None, images=1, queries=len(image.identity))
    shown = Shown(image, torch.zeros(48, 64, 3, dtype=torch.uint8))
    runs = (RunMatching("run", (split,), ()),)
    return MatchingReport("d", "val", CATEGORIES, Weights(1, 5, 2), runs, {"run": rows}, "run", (shown,), False)


def test_heat_maps_show_the_cost_tables_numbers_of_every_layer():
    image = matching()
    columns = shown_queries(image)
    panels = [axes for axes in cost_figure(image, CATEGORIES).axes if axes.images and axes.get_label() != "<colorbar>"]
    assert len(panels) == 8
    for index, layer in enumerate(image.layers):
        drawn = torch.from_numpy(panels[4 * index + 3].images[0].get_array().filled().copy())
        assert torch.equal(drawn, layer.costs.total[columns].T)


def test_columns_hold_every_chosen_query_and_no_more_than_can_be_read():
    image = matching()
    columns = shown_queries(image)
    assert columns == sorted(set(columns))
    assert len(columns) == 16
    assert {query for layer in image.layers for query in layer.matched.tolist()} <= set(columns)
    assert shown_queries(matching(queries=4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("truths", [3, 16, 30])
def test_columns_hold_the_runners_up_of_the_last_layer_too_and_each_has_its_cross(truths):
    image = matching(queries=100, truths=truths)
    last, columns = image.layers[-1], shown_queries(image)
    assert set(last.matched.tolist()) | set(last.runner_up.tolist()) <= set(columns)
    panels = [axes for axes in cost_figure(image, CATEGORIES).axes if axes.images and axes.get_label() != "<colorbar>"]
    marked = {tuple(place) for marks in panels[-1].collections for place in marks.get_offsets().astype(int).tolist()}
    pairs = [*enumerate(last.matched.tolist()), *enumerate(last.runner_up.tolist())]
    assert marked == {(columns.index(query), truth) for truth, query in pairs}
    assert panels[-1].get_xlabel() == "query"


@pytest.mark.parametrize(("queries", "said"), [(40, "16 of 40 queries (chosen ones"), (4, "4 of 4 queries; image 7")])
def test_heat_maps_say_how_many_of_the_queries_they_show(queries, said):
    figure = cost_figure(matching(queries), CATEGORIES)
    assert " ".join(figure.get_supxlabel().split()).startswith(said)
    assert figure.axes[0].images[0].get_array().shape[1] == int(said.split()[0])


def test_of_a_crowd_the_heat_maps_show_as_many_truths_as_can_be_read_and_say_so():
    image = matching(queries=300, truths=250)
    figure = cost_figure(image, CATEGORIES)
    assert max(figure.get_size_inches()) * 160 < 16_000  # a picture's pixels, of 65,535 that can be drawn
    assert "the first 40 of 250 truths" in figure.get_supxlabel()
    assert figure.axes[0].images[0].get_array().shape == (40, len(shown_queries(image)))
    last = image.layers[-1].matched[:40].tolist()
    assert set(last) <= set(shown_queries(image))


def test_labels_of_boxes_in_one_place_do_not_cover_each_other():
    image = matching()
    layer = image.layers[0]
    layer.boxes[layer.matched] = torch.tensor([0.5, 0.5, 0.3, 0.4])
    figure = layers_figure(Shown(image, torch.zeros(48, 64, 3, dtype=torch.uint8)), CATEGORIES)
    axes = figure.axes[0]
    figure.canvas.draw()
    frames = [text.get_window_extent() for text in axes.texts]
    assert len(frames) == 3
    for number, frame in enumerate(frames):
        assert not any(frame.overlaps(other) for other in frames[:number])
    names = [f"{t} {CATEGORIES.names[label]}: q{layer.matched[t]}" for t, label in enumerate(image.labels.tolist())]
    assert [text.get_text() for text in axes.texts] == names


def test_a_drawn_mask_is_the_mask():
    blocked = torch.rand(9, 9, generator=torch.Generator().manual_seed(0)) > 0.5
    nothing = torch.zeros(0, dtype=torch.int64)
    mask = read_mask(blocked, Known(Assignment(nothing, nothing, nothing), 6, 2))
    assert mask_table(mask).tolist() == blocked.tolist()


def test_pictures_are_written_in_the_format_asked_for(tmp_path):
    files = draw_report(report(matching()), tmp_path, "png")
    assert [file.name for file in files] == ["layers.png", "image-7-costs.png", "image-7-layers.png"]
    for file in files:
        with Image.open(file) as picture:
            assert picture.width > 400
    assert b"<svg" in draw_report(report(matching()), tmp_path, "svg")[0].read_bytes()
