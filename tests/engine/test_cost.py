"""What a model costs is counted as by hand, and as published."""

import pytest

from detrctl.engine.cost import Cost, cost_of
from detrctl.errors import DetrctlError
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Recipe

PUBLISHED: dict[str, tuple[int | None, int, tuple[int, int]]] = {
    "detr_r50": (41, 86, (800, 1066)),
    "detr_dc5_r50": (41, 187, (800, 1066)),
    "deformable": (40, 173, (800, 1066)),
    "deformable_two_stage": (41, 173, (800, 1066)),
    "dino_4scale_r50": (47, 279, (800, 1280)),
    "dino_5scale_r50": (None, 860, (800, 1280)),
}
"""Millions of parameters where they are known, billions of multiply-adds, and an image, of which none is published: the
authors average over images of COCO val. For DINO 800 x 1280 was chosen here, since its number on four levels is met
there; at 800 x 1066 ours is 15 % less, on five levels 18 %.
"""


def small(**model: object) -> Recipe:
    sizes = {"width": 16, "heads": 2, "feedforward": 24, "encoder_layers": 1, "decoder_layers": 1, "queries": 5}
    backbone = {"name": "resnet10", "norm": "batch", "frozen_stages": 0}
    return Recipe.model_validate({"model": {"backbone": backbone, **sizes, **model}})


def parts(cost: Cost) -> dict[str, int]:
    return {part.name: part.multiply_adds for part in cost.parts}


def test_multiply_adds_are_those_counted_by_hand() -> None:
    found = parts(cost_of(small(family="detr"), size_hw=(64, 96), num_classes=3))
    tokens, width, hidden, queries = 2 * 3, 16, 24, 5
    assert found["neck"] == tokens * 512 * width
    projections, attention = 4 * tokens * width**2, 2 * tokens**2 * width
    assert found["encoder"] == projections + attention + 2 * tokens * width * hidden
    own = 4 * queries * width**2 + 2 * queries**2 * width
    across = 2 * (queries + tokens) * width**2 + 2 * queries * tokens * width
    heads = queries * (width * 4 + 2 * width**2 + width * 4)  # 3 classes and no-object; a box head of three layers
    assert found["decoder"] == own + across + 2 * queries * width * hidden + heads


def test_what_deformable_attention_samples_is_counted() -> None:
    """Four corners and a weight for every sampled number."""
    more, fewer = (
        parts(cost_of(small(family="deformable", encoder_points=points), size_hw=(64, 96))) for points in (3, 2)
    )
    tokens, levels, heads, width = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 4, 2, 16
    assert more["encoder"] - fewer["encoder"] == tokens * levels * (5 * width + 3 * heads * width)
    assert more["decoder"] == fewer["decoder"]


def test_frozen_parameters_count_but_are_not_trained() -> None:
    frozen = small(family="detr", backbone={"name": "resnet10", "norm": "batch", "frozen_stages": 5})
    backbone = next(part for part in cost_of(frozen, size_hw=(64, 96)).parts if part.name == "backbone")
    assert backbone.trained == 0
    assert backbone.parameters > 4_000_000


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_cost_what_is_published(name: str) -> None:
    millions, billions, size = PUBLISHED[name]
    total = cost_of(load_recipe(name).recipe, size_hw=size).total
    assert millions is None or abs(total.parameters / 1e6 - millions) < 0.6
    assert total.multiply_adds / 1e9 == pytest.approx(billions, rel=0.1)


def test_faster_rcnn_is_one_line() -> None:
    with pytest.raises(DetrctlError) as caught:
        cost_of(load_recipe("faster_rcnn_r50").recipe)
    assert str(caught.value) == ("--cost counts the DETR family; what Faster R-CNN computes depends on what it finds")
