"""What is recorded is what the model did: put together by hand, it gives the modules' own outputs."""

import copy
import math

import pytest
import torch
from torch import Tensor

from detrctl.errors import DetrctlError
from detrctl.families.catalog import FAMILIES
from detrctl.inspection.recording import DenseLook, Recording, SampledLook, recording
from detrctl.recipe import schema
from tests.families.test_every_family import BACKBONE, CLASSES, VARIANTS, build, two_images

DENSE = ["detr", "conditional", "dab", "dn"]
SAMPLED = [name for name in VARIANTS if "deformable" in name or "dino" in name]
PADDED = 1
"""The image of `two_images` that is smaller than the canvas."""


def record(name: str) -> tuple[torch.nn.Module, Recording]:
    learner = build(name).eval()
    shake(learner)
    with torch.no_grad(), recording(learner.network) as seen:
        learner.network(two_images())
    return learner.network, seen


def shake(learner: torch.nn.Module) -> None:
    """Away from the published start, where many weights are zero and nothing would show."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            if not name.startswith("network.backbone"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("name", ["detr", "conditional", "dab", "deformable", "deformable two-stage", "dino"])
def test_recording_moves_no_number_and_leaves_nothing_behind(name: str) -> None:
    learner = build(name).eval()
    with torch.no_grad():
        alone = learner.network(two_images())
        with recording(learner.network) as seen:
            watched = learner.network(two_images())
    for a, b in zip(alone.layers, watched.layers, strict=True):
        assert torch.equal(a.logits, b.logits)
        assert torch.equal(a.boxes, b.boxes)
    assert seen.output is watched
    assert not any(module._forward_hooks for module in learner.network.modules())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_of_every_variant_is_recorded(name: str) -> None:
    network, seen = record(name)
    assert (len(seen.encoder), len(seen.cross), len(seen.attended)) == (2, 3, 3)
    assert seen.boxes(PADDED, 4).shape == (3, 4)
    assert seen.logits(PADDED, 4).shape[0] == 3
    assert seen.queries is not None
    if seen.queries.reference is not None:
        assert torch.equal(seen.attended[0], seen.queries.reference)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["deformable refined", "deformable two-stage"])
def test_a_refined_layer_looks_at_the_box_of_the_layer_before(name: str) -> None:
    """In DAB-DETR and DINO the box that is looked at is read off the content before its norm, and so another."""
    _, seen = record(name)
    assert seen.output is not None
    for before, looked in zip(seen.output.layers, seen.attended[1:]):
        assert looked is not None
        torch.testing.assert_close(looked, before.boxes, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", DENSE)
def test_recorded_dense_weights_times_values_are_what_the_module_gave(name: str) -> None:
    network, seen = record(name)
    decoder = network.decoder.layers
    crosses = [getattr(layer.cross_attention, "attention", layer.cross_attention) for layer in decoder]
    modules = [layer.attention.attention for layer in network.encoder.layers] + crosses
    for module, look in zip(modules, [*seen.encoder, *seen.cross], strict=True):
        assert isinstance(look, DenseLook)
        for image in range(2):
            weights = look.weights(image, range(look.queries.shape[2]))
            per_head = [weights[:, head] @ look.values[image, head] for head in range(look.heads)]
            torch.testing.assert_close(module.out_proj(torch.cat(per_head, -1)), look.mixed[image], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", DENSE)
def test_dense_maps_sum_to_one_over_tokens_that_are_not_padding(name: str) -> None:
    _, seen = record(name)
    assert seen.memory is not None
    padding = seen.memory.is_padding[PADDED]
    assert padding.any()
    for look in [*seen.encoder, *seen.cross]:
        assert isinstance(look, DenseLook)
        weights = look.weights(PADDED, [0, 3])
        torch.testing.assert_close(weights[..., ~padding].sum(-1), torch.ones(2, look.heads))
        assert not weights[..., padding].any()


def slow_deformable(look: SampledLook, image: int, query: int) -> Tensor:
    """Zhu et al. 2021, equation 3, point by point and corner by corner."""
    heads, levels, points = look.weights.shape[2:]
    mixed = torch.zeros(heads, look.values.shape[-1], dtype=torch.float64)
    for head in range(heads):
        start = 0
        for level, (height, width) in enumerate(look.level_shapes):
            for point in range(points):
                x, y = (look.locations[image, query, head, level, point].double() * torch.tensor([width, height])) - 0.5
                for row in (math.floor(y), math.floor(y) + 1):
                    for column in (math.floor(x), math.floor(x) + 1):
                        if 0 <= row < height and 0 <= column < width:
                            share = (1 - abs(x - column)) * (1 - abs(y - row))
                            value = look.values[image, start + row * width + column, head].double()
                            mixed[head] += look.weights[image, query, head, level, point] * share * value
            start += height * width
    return mixed.flatten()


@pytest.mark.parametrize("name", SAMPLED)
def test_recorded_points_and_weights_are_deformable_attention_in_a_slow_loop(name: str) -> None:
    network, seen = record(name)
    modules = [layer.attention.attention for layer in network.encoder.layers]
    modules += [layer.cross_attention.attention for layer in network.decoder.layers]
    looks = [*seen.encoder, *seen.cross]
    for module, look in list(zip(modules, looks, strict=True))[1::2]:  # an encoder layer and a decoder layer or two
        assert isinstance(look, SampledLook)
        torch.testing.assert_close(look.weights.sum((-1, -2)), torch.ones(look.weights.shape[:3]))
        double = copy.deepcopy(module.output_proj).double()
        by_hand = double(slow_deformable(look, PADDED, 3))
        torch.testing.assert_close(by_hand.float(), look.mixed[PADDED, 3], rtol=0, atol=2e-6)


def test_points_are_told_in_fractions_of_the_image_without_its_padding() -> None:
    """The second image fills 64 of 96 rows and 80 of 128 columns; untrained, a token's points surround the token."""
    learner = build("deformable").eval()
    with torch.no_grad(), recording(learner.network) as seen:
        learner.network(two_images())
    look, memory = seen.encoder[0], seen.memory
    assert isinstance(look, SampledLook)
    assert memory is not None
    token = 2 * memory.level_shapes[0][1] + 3
    points, weights = look.points(PADDED, token, memory.valid_ratios)
    # The first head's ray goes to the right, a cell of the level at a time (Zhu et al. 2021, appendix A.4).
    _, width = memory.level_shapes[0]
    cell = 1 / (width * memory.valid_ratios[PADDED, 0, 0])
    expected_x = memory.centres[PADDED, token, 0] + cell * torch.arange(1, 5)
    torch.testing.assert_close(points[0, 0, :, 0], expected_x)
    torch.testing.assert_close(points[0, 0, :, 1], memory.centres[PADDED, token, 1].expand(4))
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(look.heads))


def test_a_network_without_queries_is_refused_in_one_line() -> None:
    recipe = schema.Recipe.model_validate({"model": {"family": "faster_rcnn", "backbone": BACKBONE}})
    network = FAMILIES["faster_rcnn"](recipe.model, recipe.objective, CLASSES).network
    with pytest.raises(DetrctlError) as refused, recording(network):
        pass
    assert str(refused.value) == "Faster R-CNN has no object queries to look at; any other family of the recipes has"
