"""Pictures: colours that can be told apart and read, labels inside the image and apart."""

from itertools import combinations, product

import numpy as np
import pytest
from PIL import Image

from detrctl.evaluation.drawing import (
    DARK,
    LIGHT,
    OKABE_ITO,
    Mark,
    class_colour,
    clip,
    contrast,
    draw,
    ink_on,
    place_labels,
)

GREY = (90, 90, 90)


def overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def test_the_first_classes_have_the_chosen_colours_and_100_classes_have_100():
    assert tuple(class_colour(k) for k in range(7)) == OKABE_ITO
    assert len({class_colour(k) for k in range(100)}) == 100


def test_every_label_can_be_read_on_its_colour():
    steps = range(0, 256, 15)
    colours = [*map(class_colour, range(300)), *product(steps, steps, steps)]
    assert min(contrast(ink_on(colour), colour) for colour in colours) >= 4.5


def test_contrast_is_that_of_the_standard():
    assert contrast(DARK, LIGHT) == pytest.approx(21.0)
    assert contrast(GREY, GREY) == 1.0


def test_a_label_sits_on_top_of_its_box():
    assert place_labels([(50, 60, 90, 100)], [(30, 12)], (200, 150)) == [(50, 48, 80, 60)]


def test_a_label_at_the_upper_edge_goes_inside_its_box_and_at_the_right_edge_it_is_shifted():
    ((left, top, right, bottom),) = place_labels([(180, 3, 199, 60)], [(50, 12)], (200, 150))
    assert (left, right) == (150, 200)
    assert (top, bottom) == (0, 12)


def test_labels_stay_inside_the_image_wherever_the_boxes_are():
    corners = [(x, y, x + 60, y + 40) for x in (-50, -5, 0, 70, 170, 195) for y in (-30, 0, 55, 120, 145)]
    for left, top, right, bottom in place_labels(corners, [(45, 14)] * len(corners), (200, 150)):
        assert left >= 0
        assert top >= 0
        assert right <= 200
        assert bottom <= 150


def test_labels_of_equal_boxes_do_not_cover_each_other():
    frames = place_labels([(60, 60, 140, 110)] * 6, [(40, 12)] * 6, (200, 150))
    assert len(frames) == 6
    assert sum(overlap(a, b) for a, b in combinations(frames, 2)) == 0


def test_boxes_are_clipped_to_the_image_and_keep_a_pixel():
    assert clip((-20.0, -3.0, 250.0, 40.4), (200, 150)) == (0, 0, 199, 40)
    assert clip((210.0, 160.0, 250.0, 170.0), (200, 150)) == (199, 149, 199, 149)
    assert clip((30.0, 20.0, 10.0, 5.0), (200, 150)) == (10, 5, 30, 20)  # a box turned inside out


def test_the_box_is_drawn_in_its_colour_on_a_copy():
    image = Image.new("RGB", (300, 200), GREY)
    picture = draw(image, [Mark((100.0, 80.0, 200.0, 150.0), "cell 0.90", class_colour(2))])
    assert picture.size == image.size
    assert picture.getpixel((100, 120)) == picture.getpixel((150, 150)) == class_colour(2)
    assert picture.getpixel((150, 120)) == picture.getpixel((20, 190)) == GREY
    assert np.unique(np.asarray(image)).tolist() == [90]


def test_a_box_without_a_text_has_no_label():
    picture = draw(Image.new("RGB", (300, 200), GREY), [Mark((100.0, 80.0, 200.0, 150.0), "", class_colour(2))])
    assert set(np.asarray(picture)[:79].flatten().tolist()) == {90}


def test_a_small_box_is_visible_on_a_large_one_whatever_the_order():
    large = Mark((50.0, 50.0, 250.0, 150.0), "", class_colour(0))
    small = Mark((50.0, 90.0, 70.0, 110.0), "", class_colour(1))
    for marks in ([large, small], [small, large]):
        assert draw(Image.new("RGB", (300, 200), GREY), marks).getpixel((50, 100)) == class_colour(1)


@pytest.mark.parametrize(("side", "line"), [(400, 2), (1000, 5), (4000, 20)])
def test_lines_grow_with_the_image(side, line):
    half = side // 2
    mark = Mark((half, half, side - 10.0, side - 10.0), "", class_colour(3))
    column = draw(Image.new("RGB", (side, side), GREY), [mark]).crop((half, half + 50, half + 60, half + 51))
    assert [tuple(pixel) for pixel in np.asarray(column)[0]].count(class_colour(3)) == line


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_mode_gives_rgb(mode):
    assert draw(Image.new(mode, (40, 30)), [Mark((1.0, 1.0, 20.0, 20.0), "x", class_colour(0))]).mode == "RGB"


def test_tiny_images_long_names_and_other_alphabets_can_be_drawn():
    marks = [Mark((0.0, 0.0, 4.0, 4.0), "Straßenbahn жёлтая 0.12", class_colour(k)) for k in range(3)]
    assert draw(Image.new("RGB", (8, 6)), marks).size == (8, 6)
    assert draw(Image.new("RGB", (8, 6)), []).size == (8, 6)
