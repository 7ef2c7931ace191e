"""Pictures hold what the structs say, and nothing else."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from detrctl.inspection import query_pictures
from detrctl.inspection.look_pictures import (
    WEIGHT_AREA,
    attention_figure,
    draw_points,
    encoder_figure,
    layers_figure,
    outside,
    starts_figure,
)
from detrctl.inspection.look_report import Found, LookReport
from detrctl.inspection.looks import SampledPoints, look_from_point, look_of_query
from detrctl.inspection.plain import write_json
from detrctl.inspection.queries import QueryRecords, kinds_of, summarise
from detrctl.inspection.query_pictures import details_figure, draw_report, grid_figure, grid_shape, mix_figure, shares
from detrctl.inspection.query_report import QueryReport, as_json, write_boxes_csv, write_csv
from detrctl.inspection.start_pictures import contents_figure, mean_centres, similarities
from detrctl.inspection.start_pictures import starts_figure as split_starts
from detrctl.inspection.style import new_figure
from detrctl.inspection.views import WHOLE, show, window_of
from detrctl.structures import Categories
from tests.families.test_every_family import CLASSES
from tests.inspection.test_recording import record

CATEGORIES = Categories(("cat", "dog", "owl"), (1, 2, 3))
IMAGES, QUERIES = 30, 6


def report(told_by="slot", **fields) -> QueryReport:
    """Query 5 is dead; the others keep a box where a die says so."""
    generator = np.random.default_rng(0)
    boxes = generator.uniform(0.05, 0.6, (IMAGES, QUERIES, 4)).astype(np.float32)
    labels = generator.integers(0, 3, (IMAGES, QUERIES))
    kept = generator.integers(0, 2, (IMAGES, QUERIES))
    kept[:, 5] = 0
    kept_labels = np.stack([((labels == label) * kept).sum(0) for label in range(3)], axis=1)
    matched = np.zeros((IMAGES, QUERIES), dtype=bool)
    matched[:3, 1] = True
    proposals = boxes * 0.9 if told_by != "slot" else None
    records = QueryRecords(
        tuple(range(IMAGES)), boxes, generator.random((IMAGES, QUERIES)), labels, kept, kept_labels, matched, proposals
    )
    chosen = {"chosen": (4, 0, 5), "chosen_as": "chosen queries"} | fields
    return QueryReport("run", "d", "val", CATEGORIES, 0.5, told_by, records, tuple(summarise(records)), **chosen)


def scattered(axes) -> np.ndarray:
    return np.concatenate([drawn.get_offsets() for drawn in axes.collections if isinstance(drawn, PathCollection)])


def ordered(places) -> np.ndarray:
    places = np.asarray(places, dtype=np.float64)
    return places[np.lexsort(places.T)]


@pytest.mark.parametrize("kept", [True, False])
def test_a_grid_holds_the_centres_of_each_chosen_query_in_its_square(kept):
    told = report()
    (axes,) = grid_figure(told, kept=kept).axes
    drawn = scattered(axes)
    squares = [path.get_extents().p0 for path in axes.collections[0].get_paths()]
    expected = [
        told.records.boxes_of(query, kept=kept)[:, :2] + square
        for query, square in zip(told.chosen, squares, strict=True)
    ]
    np.testing.assert_allclose(ordered(drawn), ordered(np.concatenate(expected)), atol=1e-6)
    assert len(expected[2]) == (0 if kept else IMAGES)
    words = [text.get_text() for text in axes.texts]
    assert words == [
        word for query, found in zip(told.chosen, expected) for word in (f"query {query}", str(len(found)))
    ]


def test_the_colour_of_a_point_tells_its_size_and_shape():
    told = report(chosen=(2,))
    (axes,) = grid_figure(told, kept=False).axes
    kinds = kinds_of(told.records.boxes_of(2, kept=False))
    counts = [len(drawn.get_offsets()) for drawn in axes.collections if isinstance(drawn, PathCollection)]
    assert counts == [int((kinds == kind).sum()) for kind in ("small", "wide", "tall", "large")]
    assert len({drawn.get_facecolor().tobytes() for drawn in axes.collections[1:] if len(drawn.get_offsets())}) > 1


def test_a_grid_has_room_for_all_queries_and_few_places_empty():
    for panels in (1, 2, 7, 20, 25, 100, 300, 900):
        columns, rows = grid_shape(panels)
        assert panels <= columns * rows < panels + columns
    assert [grid_shape(panels) for panels in (20, 100, 300)] == [(5, 4), (10, 10), (20, 15)]


def test_nine_hundred_queries_are_drawn_in_one_grid(tmp_path):
    boxes = np.random.default_rng(0).uniform(0.1, 0.9, (2, 900, 4)).astype(np.float32)
    whole = np.ones((2, 900), dtype=int)
    records = QueryRecords((1, 2), boxes, whole / 2, whole * 0, whole, whole.T[:, :1] * 2, whole > 0)
    told = report(told_by="rank and content", chosen=tuple(range(900)), chosen_as="all queries")
    told = QueryReport(**{**vars(told), "records": records, "summaries": tuple(summarise(records))})
    figure = grid_figure(told, kept=False)
    assert len(scattered(figure.axes[0])) == 1800
    figure.savefig(tmp_path / "all.png", dpi=40)


def test_heat_maps_hold_shares_and_blanks_where_nothing_is_kept():
    assert shares([[1, 3], [0, 0]])[0].tolist() == [25, 75]
    told = report()
    areas, classes, _, every_class = mix_figure(told).axes[:4]
    table = classes.images[0].get_array()
    np.testing.assert_allclose(table[0], 100 * told.records.kept_labels[4] / told.records.kept_labels[4].sum())
    assert np.ma.getmaskarray(table)[2].all()
    assert not np.ma.getmaskarray(every_class.images[0].get_array()).any()
    assert np.nansum(areas.images[0].get_array()[0]) == pytest.approx(100)


def test_details_are_of_the_most_used_of_the_chosen():
    told = report()
    figure = details_figure(told)
    order = [query for query in told.records.most_used if query in told.chosen]
    assert [axes.texts[0].get_text().splitlines()[0] for axes in figure.axes[::5]] == [f"query {q}" for q in order]
    widths = scattered(figure.axes[1])
    first = told.records.boxes_of(order[0], kept=False)
    np.testing.assert_allclose(widths[:IMAGES], first[:, [0, 2]], atol=1e-6)
    np.testing.assert_allclose(
        ordered(widths[IMAGES:]), ordered(told.records.boxes_of(order[0], kept=True)[:, [0, 2]]), atol=1e-6
    )


@pytest.mark.parametrize("drawn", [6, 2, 1])
def test_queries_left_out_of_the_details_are_named(monkeypatch, drawn):
    monkeypatch.setattr(query_pictures, "DETAILED", drawn)
    monkeypatch.setattr(query_pictures, "NAMED", 4)
    told = report(chosen=tuple(range(QUERIES)))
    figure = details_figure(told)
    shown = [int(axes.texts[0].get_text().split()[1]) for axes in figure.axes[::5]]
    left_out = sorted(set(range(QUERIES)) - set(shown))
    assert (len(shown), len(left_out)) == (drawn, QUERIES - drawn)
    words = ", ".join(map(str, left_out[:4])) + (", ..." if len(left_out) > 4 else "")
    expected = f"Left out, since used less: {len(left_out)} of 6 chosen queries ({words})."
    assert (expected in said_below(figure)) == bool(left_out)
    assert ("Left out" in said_below(figure)) == bool(left_out)


def test_starts_lead_to_the_mean_centre_of_kept_boxes_or_of_all():
    told = report(starts=np.full((QUERIES, 4), 0.5))
    ends, is_kept = mean_centres(told)
    assert is_kept.tolist() == [True] * 5 + [False]
    np.testing.assert_allclose(ends[5], told.records.boxes[:, 5, :2].mean(0), atol=1e-6)
    np.testing.assert_allclose(ends[0], told.records.boxes_of(0, kept=True)[:, :2].mean(0), atol=1e-6)
    assert len(split_starts(told).axes) == 3
    assert len(split_starts(report(starts=np.full((QUERIES, 2), 0.5))).axes) == 2
    assert split_starts(report()) is None
    assert contents_figure(report()) is None


def test_likeness_is_the_cosine():
    table = similarities(np.array([[1.0, 0.0], [3.0, 3.0], [0.0, 0.0]]))
    np.testing.assert_allclose(table, [[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("file_format", ["png", "svg", "pdf"])
def test_pictures_are_written_in_the_format_asked_for(tmp_path, file_format):
    told = report("rank and content", contents=np.random.default_rng(0).normal(size=(QUERIES, 8)))
    files = draw_report(told, tmp_path, file_format)
    names = ["overview", "boxes-kept", "boxes-all", "details", "mix", "starts", "contents"]
    assert [file.name for file in files] == [f"{name}.{file_format}" for name in names]
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[file_format]
    assert all(file.read_bytes().startswith(start) for file in files)


def test_json_and_csv_say_the_same(tmp_path):
    told = report(starts=np.arange(12.0).reshape(QUERIES, 2) / 12)
    write_json(as_json(told), tmp_path / "q.json")
    write_csv(told, tmp_path / "q.csv")
    content = json.loads((tmp_path / "q.json").read_text())
    with (tmp_path / "q.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (content["dead"], len(rows), len(content["queries"])) == ([5], QUERIES, QUERIES)
    for row, entry in zip(rows, content["queries"], strict=True):
        assert int(row["detections"]) == entry["detections"] == sum(entry["kept"]["classes"])
        assert float(row["all_x"]) == pytest.approx(entry["all"]["centre"][0], abs=1e-4)
        assert float(row["start_y"]) == pytest.approx(entry["start"][1], abs=1e-4)
        assert row["start_width"] == ""
        assert row["dead"] == str(entry["dead"])
    assert (rows[5]["kept_x"], rows[5]["kept_top_class"], content["queries"][5]["kept"]["centre"]) == ("", "", None)
    counts = sorted((entry["detections"] for entry in content["queries"]), reverse=True)
    half = content["queries_that_give_half_of_the_detections"]
    assert sum(counts[: half - 1]) < told.detections / 2 <= sum(counts[:half])


def test_the_points_of_the_grids_are_in_a_file(tmp_path):
    told = report()
    told.records.boxes[3, 4] = np.nan  # a small image, with fewer queries
    write_boxes_csv(told, tmp_path / "boxes.csv")
    with (tmp_path / "boxes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["query", "image_id", "x", "y", "w", "h", "score", "class", "kept"]
    assert [int(row["query"]) for row in rows] == [4] * (IMAGES - 1) + [0] * IMAGES + [5] * IMAGES
    assert [int(row["image_id"]) for row in rows[:IMAGES]] == [0, 1, 2, *range(4, IMAGES), 0]
    for query in told.chosen:
        mine = [row for row in rows if int(row["query"]) == query]
        for kept in (True, False):
            drawn = [[float(row[side]) for side in "xywh"] for row in mine if not kept or int(row["kept"])]
            np.testing.assert_allclose(np.reshape(drawn, (-1, 4)), told.records.boxes_of(query, kept=kept), rtol=1e-5)
        for row in mine:
            at = (int(row["image_id"]), query)
            assert float(row["score"]) == pytest.approx(told.records.scores[at], rel=1e-5)
            assert row["class"] == CATEGORIES.names[told.records.labels[at]]
            assert int(row["kept"]) == told.records.kept[at]


# ---- one image ----


def look_report(name, query=3) -> LookReport:
    network, seen = record(name)
    look = look_of_query(seen, network, query, num_classes=CLASSES)
    found = (Found(1, query, 0, 0.5, (0.5, 0.5, 0.1, 0.1)),)
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    categories = Categories(tuple("abcde"), tuple(range(CLASSES)))
    encoder = look_from_point(seen, (0.3, 0.6))
    return LookReport("run", "a.jpg", (96, 128), picture, categories, False, found, 1, look, encoder)


def test_maps_are_drawn_as_shares_of_their_greatest_by_layer_and_head():
    told = look_report("conditional")
    panels = attention_figure(told).axes[:15]
    for number, layer in enumerate(told.look.layers):
        for column in range(5):
            weights = layer.looked.weights.mean(0) if column == 0 else layer.looked.weights[column - 1]
            panel = panels[5 * number + column]
            np.testing.assert_allclose(panel.images[1].get_array(), weights / weights.max(), atol=1e-6)
            assert panel.texts[0].get_text() == f"{100 * weights.max():.3g} %"


@pytest.mark.parametrize("name", ["deformable", "dino"])
def test_points_are_drawn_at_their_places_as_large_as_their_weights(name):
    told = look_report(name)
    panels = attention_figure(told).axes
    looked = told.look.layers[1].looked
    panel = panels[5 + 2]  # layer 2, head 2
    drawn = [item for item in panel.collections if isinstance(item, PathCollection)][: looked.points.shape[1]]
    for level, item in enumerate(drawn):
        expected = looked.points[1, level] * np.array([128, 96]) - 0.5
        np.testing.assert_allclose(item.get_offsets(), expected, rtol=1e-5)
        np.testing.assert_allclose(item.get_sizes(), np.maximum(WEIGHT_AREA * looked.weights[1, level], 0.3))
    assert len({item.get_facecolor().tobytes() for item in drawn}) == looked.points.shape[1]


def test_weight_on_points_beyond_the_view_is_told_in_the_panel():
    points = np.array([[[[0.5, 0.5], [1.5, 0.5]], [[0.9, 0.9], [0.2, 0.2]]]])
    look = SampledPoints(points, np.array([[[0.4, 0.3], [0.2, 0.1]]]))
    axes = new_figure(2, 2).subplots()
    show(axes, np.zeros((10, 20, 3), dtype=np.uint8), (0.0, 0.0, 0.6, 0.6))
    assert outside(look, slice(None), axes, (10, 20)) == pytest.approx(0.5)
    draw_points(axes, look, None, (10, 20))
    assert [text.get_text() for text in axes.texts] == ["50% outside"]


@pytest.mark.parametrize(("name", "columns"), [("detr", 5), ("deformable two-stage", 4)])
def test_the_encoder_is_drawn_by_head_or_by_level_of_its_token(name, columns):
    told = look_report(name)
    figure = encoder_figure(told)
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == 2 * columns
    crosses = panels[-1].collections[-1].get_offsets()[0]
    np.testing.assert_allclose(crosses, told.encoder.origins[-1].centre * np.array([128, 96]) - 0.5, rtol=1e-5)


def test_the_box_and_its_score_are_drawn_layer_by_layer():
    told = look_report("dab")
    *views, scores, overlaps, _ = layers_figure(told).axes
    np.testing.assert_allclose(scores.lines[0].get_ydata(), [layer.score for layer in told.look.layers])
    np.testing.assert_allclose(overlaps.lines[0].get_ydata(), [layer.overlap for layer in told.look.layers])
    assert len(views) in (1, 2)
    for axes in views:
        frames = axes.patches[3:]  # after the anchor with its rim, and the first layer's rim
        for layer, frame in zip(told.look.layers, frames, strict=True):
            np.testing.assert_allclose([frame.get_width() / 128, frame.get_height() / 96], layer.box[2:], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "panels"), [("detr", None), ("deformable", 1), ("dab", 2), ("deformable two-stage", 2), ("dino", 2)]
)
def test_starts_are_drawn_where_there_are_any(name, panels):
    figure = starts_figure(look_report(name))
    assert (figure is None) if panels is None else len(figure.axes) == panels


@pytest.mark.parametrize(("scores", "rises"), [([0.9, 0.6, 0.2, 0.5, 0.1], True), ([0.9, 0.6, 0.6, 0.2, 0.1], False)])
def test_scores_of_proposals_that_rise_again_are_explained(scores, rises):
    told = look_report("dino")
    starts = replace(told.look.starts, places=told.look.starts.places[:5], scores=np.array(scores))
    told = replace(told, look=replace(told.look, starts=starts))
    assert ("Where the scores rise again" in said_below(starts_figure(told))) == rises


def said_below(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_a_view_holds_what_it_is_made_for_and_stays_inside_the_image():
    x0, y0, x1, y1 = window_of(np.array([[0.95, 0.4], [0.99, 0.6], [7.0, 0.0]]))
    assert 0 <= x0 < 0.95
    assert 0.99 < x1 <= 1
    assert y0 < 0.4 < 0.6 < y1
    assert x1 - x0 == pytest.approx(y1 - y0)
    assert window_of(np.array([[0.1, 0.1], [0.9, 0.9]])) == WHOLE
    assert window_of(np.array([[2.0, 2.0]])) == WHOLE


def test_a_written_picture_is_large_enough_to_read(tmp_path):
    for file in draw_report(report(), tmp_path, "png"):
        with Image.open(file) as picture:
            assert picture.width >= 900
