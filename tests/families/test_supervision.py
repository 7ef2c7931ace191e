"""Choices that the papers argue about, on real models: what is trained, and how far back a layer's loss reaches."""

from typing import Any

import pytest
import torch

from detrctl.families.catalog import FAMILIES
from detrctl.families.learner import Learner
from detrctl.losses.plan import Meeting
from detrctl.recipe.schema import Recipe

from .small_networks import one_convolution
from .test_every_family import CASES, CLASSES, QUERIES, SIZES, two_images, unsettled

TWO_STAGE = {"family": "deformable", "reference": "refined", "query_source": "proposals"}
CLASSES_RANK = TWO_STAGE | {"ranking": "best_class"}
DINO: dict[str, Any] = {"family": "dino"}
SHARED = DINO | {"proposal_heads": "decoder"}
LAYERS = SIZES["decoder_layers"]


def build(model: dict[str, Any], encoder: str = "selected_proposals") -> Learner:
    model = {"backbone": one_convolution(model), **SIZES, **model}
    recipe = Recipe.model_validate({"model": model, "objective": {"kind": "focal", "encoder": encoder}})
    torch.manual_seed(0)
    return unsettled(FAMILIES[recipe.model.family](recipe.model, recipe.objective, CLASSES)).train()


def encoder_meeting(learner: Learner) -> Meeting | None:
    plan: Any = learner.criterion.plan  # type: ignore[attr-defined]
    found = [m for m in plan(learner.network(two_images(), CASES["usual"]), CASES["usual"]) if m.stage == "encoder"]
    assert len(found) < 2
    return found[0] if found else None


@pytest.mark.parametrize("encoder", ["none", "selected_proposals", "all_proposals"])
@pytest.mark.parametrize(
    "model", [TWO_STAGE, CLASSES_RANK, DINO, SHARED], ids=["two-stage", "classes", "dino", "shared"]
)
def test_the_encoder_learns_what_the_objective_says(model: dict[str, Any], encoder: str) -> None:
    learner, targets = build(model, encoder), CASES["usual"]
    losses = learner(two_images(), targets, learner.counts(targets))
    losses.total.backward()
    stages = [("decoder", layer) for layer in range(LAYERS)]
    stages += [("encoder", -1)] * (encoder != "none")
    stages += [("denoising", layer) for layer in range(LAYERS)] * (model["family"] == "dino")
    trained = sorted((term.stage, term.layer, term.name) for term in losses.terms if term.weight)
    assert trained == sorted((*stage, name) for stage in stages for name in ("class", "l1", "giou"))
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in learner.parameters())
    still = [name for name, p in learner.network.named_parameters() if p.grad is None]
    choosing = [f"queries.proposals.{name}" for name, _ in learner.network.queries.proposals.named_parameters()]
    if model is SHARED:  # the decoder's heads, which learn there
        choosing = [name for name in choosing if ".class_head." not in name and ".box_head." not in name]
    # Queries take a proposal's box without its gradient: what is not supervised is never trained.
    assert still == (choosing if encoder == "none" else [])


@pytest.mark.parametrize("model", [TWO_STAGE, CLASSES_RANK, DINO], ids=["two-stage", "classes", "dino"])
def test_proposals_are_supervised_all_or_as_selected_on_objects_or_on_classes(model: dict[str, Any]) -> None:
    assert encoder_meeting(build(model, "none")) is None
    selected, every = (encoder_meeting(build(model, encoder)) for encoder in ("selected_proposals", "all_proposals"))
    assert selected is not None
    assert every is not None
    tokens = 12 * 16 + 6 * 8 + 3 * 4 + 2 * 2
    assert (selected.predictions.logits.shape[1], every.predictions.logits.shape[1]) == (QUERIES, tokens)
    for meeting in (selected, every):
        for told, truth in zip(meeting.targets, CASES["usual"], strict=True):
            labels = torch.zeros_like(truth.labels) if model is TWO_STAGE else truth.labels
            assert torch.equal(told.labels, labels)


REFINED_TWICE = {"fixed": [LAYERS - 1], "refined": [LAYERS - 1], "refined_twice": [LAYERS - 2, LAYERS - 1]}


@pytest.mark.parametrize("reference", REFINED_TWICE)
@pytest.mark.parametrize(
    "model",
    [{"family": "deformable"}, TWO_STAGE, {"family": "dab_deformable"}, DINO],
    ids=["points", "two-stage", "anchors", "dino"],
)
def test_the_last_boxes_teach_the_layer_before_only_looking_forward_twice(
    model: dict[str, Any], reference: str
) -> None:
    learner = build(model | {"reference": reference, "prediction_heads": "per_layer"})
    learner.network(two_images()).final.boxes.sum().backward()
    heads = learner.network.decoder.heads.box_head
    taught = [
        layer for layer, head in enumerate(heads) if any(p.grad is not None and p.grad.any() for p in head.parameters())
    ]
    assert taught == REFINED_TWICE[reference]
