"""DINO's heads are one for all, or one each: the same where all are equal, each its own where they differ."""

import pytest
import torch
from torch import Tensor

from detrctl.families.catalog import FAMILIES
from detrctl.families.learner import Learner
from detrctl.model.heads import PerLayer
from detrctl.recipe import schema

from .test_every_family import BACKBONE, CASES, SIZES, two_images


def build(**heads: str) -> Learner:
    recipe = schema.Recipe.model_validate({"model": {"backbone": BACKBONE, **SIZES, "family": "dino", **heads}})
    learner = FAMILIES["dino"](recipe.model, recipe.objective, 5)
    draw = torch.Generator().manual_seed(4)
    for name, value in learner.network.named_parameters():
        if "head" in name:
            value.data = 0.2 * torch.randn(value.shape, generator=draw)
    return learner.eval()


def outputs(learner: Learner) -> list[Tensor]:
    with torch.no_grad():
        output = learner.network(two_images())
    assert output.proposals is not None
    found = [output.proposals.all, *output.layers]
    return [value for each in found for value in (each.logits, each.boxes)]


@pytest.mark.parametrize("kind", ["per_layer", "class_per_layer", "box_per_layer"])
def test_equal_heads_in_every_layer_are_one_head_for_all(kind: str) -> None:
    one, each = build(), build(prediction_heads=kind)
    values = one.network.state_dict()
    for name in each.network.state_dict():
        if name not in values:  # decoder.heads.box_head.2.layers.0.weight
            stem, part = name.split("_head.", 1)
            values[name] = values[f"{stem}_head.{part.split('.', 1)[1]}"]
    each.network.load_state_dict({name: values[name] for name in each.network.state_dict()})
    for found, expected in zip(outputs(each), outputs(one), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("kind", "moved"), [("class_per_layer", {2}), ("box_per_layer", {3, 4, 5, 6, 7})])
def test_a_layers_own_head_moves_its_own_predictions_and_boxes_those_after(kind: str, moved: set[int]) -> None:
    """Entries of `outputs`: 0 and 1 are the proposals', 2 and 3 the first layer's."""
    learner = build(prediction_heads=kind)
    before, heads = outputs(learner), learner.network.decoder.heads
    head = heads.class_head if kind == "class_per_layer" else heads.box_head
    assert isinstance(head, PerLayer)
    with torch.no_grad():
        for value in head[0].parameters():
            value.mul_(-1.5)
    after = outputs(learner)
    assert {place for place in range(len(after)) if not torch.equal(after[place], before[place])} == moved


@pytest.mark.parametrize("kind", ["decoder_class", "decoder_box", "decoder"])
def test_shared_heads_read_proposals_as_equal_heads_of_their_own_do_and_learn_from_both(kind: str) -> None:
    own, shared = build(), build(proposal_heads=kind)
    proposals, heads = shared.network.queries.proposals, shared.network.decoder.heads
    assert (proposals.class_head is heads.class_head) == (kind != "decoder_box")
    assert (proposals.box_head is heads.box_head) == (kind != "decoder_class")
    own.network.load_state_dict(shared.network.state_dict())
    for found, expected in zip(outputs(shared), outputs(own), strict=True):
        torch.testing.assert_close(found, expected)
    gradients = []
    for learner in (own, shared):
        torch.manual_seed(3)
        learner(two_images(), CASES["usual"], learner.counts(CASES["usual"])).total.backward()
        held = dict(learner.network.named_parameters(remove_duplicate=False))
        names = ("queries.proposals.class_head.bias", "decoder.heads.class_head.bias")
        gradients.append([torch.as_tensor(held[name].grad) for name in names])
    if kind != "decoder_box":
        torch.testing.assert_close(gradients[1][0], gradients[0][0] + gradients[0][1])
