"""What all pictures share."""

import pytest
from matplotlib.colors import to_rgb

from detrctl.evaluation.drawing import Colour, contrast
from detrctl.inspection.style import LINES, label_at, new_figure


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
