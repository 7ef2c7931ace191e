"""What neither official numbers nor transformers have is proven by plain loops: see `slow_loops`."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detrctl.families.catalog import FAMILIES
from detrctl.families.learner import Learner
from detrctl.recipe import schema
from detrctl.structures import DetectorOutput, ImageBatch, Predictions

from . import slow_loops as slow
from .test_every_family import truths

CLASSES, QUERIES, HEADS, GROUPS = 4, 5, 2, 3
BACKBONE = {"name": "resnet10", "norm": "batch", "frozen_stages": 0, "stages": [4, 5]}
SIZES: dict[str, Any] = {
    "width": 16,
    "heads": HEADS,
    "feedforward": 24,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "encoder_points": 3,
    "decoder_points": 2,
    "queries": QUERIES,
    "dropout": 0.0,
}
DAB = {"family": "dab_deformable", "backbone": BACKBONE}
VARIANTS: dict[str, dict[str, Any]] = {
    "DAB-Deformable-DETR": DAB,
    "DAB-Deformable-DETR, one pair of heads": DAB | {"prediction_heads": "shared"},
    "DN-Deformable-DETR": DAB | {"denoising": {"kind": "grouped", "groups": GROUPS}},
    "DINO, 5 scales": {"family": "dino", "backbone": BACKBONE | {"stages": [2, 3, 4, 5]}},
}


class Kept:
    """PyTorch's numbers, remembered."""

    def __init__(self) -> None:
        self.draws: dict[str, list[Tensor]] = {"uniform": [], "integers": []}

    def uniform(self, *shape: int) -> Tensor:
        self.draws["uniform"].append(torch.rand(shape))
        return self.draws["uniform"][-1]

    def integers(self, high: int, *shape: int) -> Tensor:
        self.draws["integers"].append(torch.randint(high, shape))
        return self.draws["integers"][-1]


def build(name: str) -> Learner:
    """With random numbers everywhere, so that no part is without effect."""
    recipe = schema.Recipe.model_validate({"model": {**SIZES, **VARIANTS[name]}})
    learner = FAMILIES[recipe.model.family](recipe.model, recipe.objective, CLASSES).eval()
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for key, value in learner.network.named_parameters():
            noise = torch.randn(value.shape, generator=draw)
            if not key.startswith("backbone."):
                value.copy_(noise / value[0].numel() ** 0.5 if value.dim() > 1 else value + 0.3 * noise)
    return learner


def images() -> ImageBatch:
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    is_padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    is_padding[1, 40:] = True
    is_padding[1, :, 70:] = True
    return ImageBatch(pixels.masked_fill(is_padding[:, None], 0.0), is_padding, torch.tensor([[64, 96]] * 2), (1, 2))


def memories(name: str, learner: Learner, weights: slow.Weights) -> list[list[slow.Level]]:
    batch, sines = images(), slow.PUBLISHED_SINES[VARIANTS[name]["family"]]
    with torch.no_grad():
        features = learner.network.backbone(batch)
    levels = [
        slow.levels(weights, [slow.plain(level.values[image]) for level in features], padding.numpy(), sines)
        for image, padding in enumerate(batch.is_padding)
    ]
    return [slow.encoded(weights, of_image, HEADS) for of_image in levels]


def compare(image: int, layers: tuple[Predictions, ...], expected: list[tuple[slow.Array, slow.Array]]) -> None:
    assert len(layers) == len(expected) == SIZES["decoder_layers"]
    for found, (logits, boxes) in zip(layers, expected, strict=True):
        np.testing.assert_allclose(slow.plain(found.logits[image]), logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(slow.plain(found.boxes[image]), boxes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_detector_is_what_plain_loops_make_of_its_weights(name: str) -> None:
    learner = build(name)
    weights = slow.Weights(learner.network)
    output: DetectorOutput = learner.network(images())
    is_dino = name.startswith("DINO")
    for image, memory in enumerate(memories(name, learner, weights)):
        contents = weights.named["queries.content.weight"]
        if is_dino:
            boxes = slow.proposed(weights, memory, QUERIES)
        else:
            boxes = slow.sigmoid(weights.named["queries.boxes.weight"])
            contents = np.pad(contents, ((0, 0), (0, SIZES["width"] - contents.shape[1])))
        nobody = np.zeros((QUERIES, QUERIES), dtype=bool)
        compare(image, output.layers, slow.decoded(weights, memory, HEADS, contents, boxes, nobody, is_dino=is_dino))


def test_denoising_on_deformable_attention_is_what_plain_loops_make_of_it() -> None:
    name = "DN-Deformable-DETR"
    learner, targets, most = build(name), truths(3, 2, classes=CLASSES), 3
    learner.network.denoising.train()
    learner.network.denoising.noise = kept = Kept()
    output: DetectorOutput = learner.network(images(), targets)
    assert output.denoised is not None
    draws = {kind: [draw.numpy() for draw in each] for kind, each in kept.draws.items()}
    assert 0 < (draws["uniform"][0] < 0.2).sum() == len(draws["integers"][0])
    weights = slow.Weights(learner.network)
    told = [(truth.labels.numpy(), slow.plain(truth.boxes)) for truth in targets]
    own = np.pad(weights.named["queries.content.weight"], ((0, 0), (0, 1)))
    for image, memory in enumerate(memories(name, learner, weights)):
        contents, boxes = slow.noised(weights, told, image, GROUPS, draws)
        both = (
            np.concatenate([contents, own]),
            np.concatenate([boxes, slow.sigmoid(weights.named["queries.boxes.weight"])]),
        )
        blocked = slow.may_not_look(GROUPS, most, QUERIES)
        expected = slow.decoded(weights, memory, HEADS, *both, blocked, is_dino=False)
        size = GROUPS * most
        compare(image, output.denoised.layers, [(logits[:size], boxes[:size]) for logits, boxes in expected])
        compare(image, output.layers, [(logits[size:], boxes[size:]) for logits, boxes in expected])


def test_published_starts_propose_small_boxes_once() -> None:
    """IDEA-Research/DAB-DETR, DABDeformableDETR: -2 on the sizes of the first layer's head alone."""
    recipe = schema.Recipe.model_validate({"model": {**SIZES, **DAB}})
    heads = FAMILIES["dab_deformable"](recipe.model, recipe.objective, CLASSES).network.decoder.heads.box_head
    assert [head.layers[-1].bias.tolist() for head in heads] == [[0, 0, -2, -2], [0, 0, 0, 0], [0, 0, 0, 0]]
