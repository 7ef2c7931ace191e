"""What all detectors on the shared wiring promise, whatever their parts."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from detrctl.boxes import Cxcywh
from detrctl.families.catalog import FAMILIES
from detrctl.families.learner import Learner
from detrctl.model.deformable_attention import DeformableAttention
from detrctl.recipe import schema
from detrctl.recipe.validate import model_problems
from detrctl.structures import DetectorOutput, ImageBatch, Targets

from .small_networks import SHALLOW

CLASSES, QUERIES = 5, 7
SIZES: dict[str, Any] = {
    "width": 32,
    "heads": 4,
    "feedforward": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "queries": QUERIES,
    "dropout": 0.0,
}
BACKBONE = {"name": "resnet10", "norm": "batch", "frozen_stages": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "detr": {"family": "detr"},
    "detr in groups": {"family": "detr", "query_groups": 3},
    "conditional": {"family": "conditional"},
    "dab": {"family": "dab"},
    "dn": {"family": "dab", "denoising": {"kind": "grouped"}},
    "deformable": {"family": "deformable"},
    "deformable in groups": {"family": "deformable", "query_groups": 2},
    "deformable single-scale": {"family": "deformable", "backbone": BACKBONE | {"stages": [5]}, "extra_levels": 0},
    "deformable refined": {"family": "deformable", "reference": "refined", "prediction_heads": "per_layer"},
    "deformable two-stage": {"family": "deformable", "reference": "refined", "query_source": "proposals"},
    "dab-deformable": {"family": "dab_deformable"},
    "dn-deformable": {"family": "dab_deformable", "denoising": {"kind": "grouped"}},
    "dino": {"family": "dino", "reference": "refined_twice"},
    "dino, boxes by layer": {"family": "dino", "prediction_heads": "box_per_layer"},
    "dino, one pair of heads": {"family": "dino", "proposal_heads": "decoder"},
    "dino 5-scale": {
        "family": "dino",
        "backbone": BACKBONE | {"stages": [2, 3, 4, 5]},
        "prediction_heads": "per_layer",
    },
}
DC5 = BACKBONE | {"name": "resnet50", "dilation": True}
BUILDS: dict[str, dict[str, Any]] = {
    "dab in patterns": {"family": "dab", "patterns": 2},
    "dn in patterns": {"family": "dab", "patterns": 2, "denoising": {"kind": "grouped"}},
    "detr dc5": {"family": "detr", "backbone": DC5},
    "conditional dc5": {"family": "conditional", "backbone": DC5},
    "deformable single-scale dc5": {"family": "deformable", "backbone": DC5 | {"stages": [5]}, "extra_levels": 0},
    "detr on swin": {"family": "detr", "backbone": {"name": "swin_t", "frozen_stages": 0}},
    "dino on swin": {"family": "dino", "backbone": {"name": "swin_t", "frozen_stages": 0}},
    "dino on swin v2": {"family": "dino", "backbone": {"name": "swin_v2_t", "frozen_stages": 0}},
    "dino on convnext": {"family": "dino", "backbone": {"name": "convnext_tiny", "frozen_stages": 0}},
}
"""Variants again, built of other parts, the networks among them with next to no blocks (`shallow`)."""
ALL = VARIANTS | BUILDS


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    for table, name, network in SHALLOW:
        monkeypatch.setitem(table, name, network)


def build(name: str, *, num_classes: int = CLASSES, **sizes: Any) -> Learner:
    recipe = schema.Recipe.model_validate({"model": {"backbone": BACKBONE, **SIZES, **ALL[name], **sizes}})
    torch.manual_seed(0)
    return FAMILIES[recipe.model.family](recipe.model, recipe.objective, num_classes)


@pytest.mark.parametrize("name", ALL)
def test_parameter_groups_are_the_published_ones(name: str) -> None:
    """The backbone's; what says where deformable attention looks, points that queries learn included; the rest."""
    learner = build(name)
    network = learner.network
    offsets = [part.sampling_offsets for part in network.modules() if isinstance(part, DeformableAttention)]
    if offsets and isinstance(getattr(network.queries, "reference", None), torch.nn.Linear):
        offsets.append(network.queries.reference)
    expected = {
        "backbone": {id(p) for p in network.backbone.parameters() if p.requires_grad},
        "sampling": {id(p) for part in offsets for p in part.parameters()},
    }
    every = {id(p) for p in network.parameters() if p.requires_grad}
    expected["transformer"] = every - expected["backbone"] - expected["sampling"]
    found = {group: [id(p) for p in parameters] for group, parameters in learner.parameter_groups().items()}
    assert sum(map(len, found.values())) == len(every)
    assert {group: set(ids) for group, ids in found.items()} == {
        k: v for k, v in expected.items() if v or k != "sampling"
    }


class SameOrder:
    """Ranks proposals as it did the first time, so that near ties cannot fall the other way."""

    def __init__(self, rank: Callable[[Tensor], Tensor]):
        self.rank, self.order = rank, torch.empty(0)

    def __call__(self, logits: Tensor) -> Tensor:
        if not self.order.numel():
            self.order = self.rank(logits).argsort(dim=1, descending=True)
        places = torch.arange(logits.shape[1], dtype=torch.float32).expand(len(logits), -1)
        return torch.zeros(logits.shape[:2]).scatter(1, self.order, -places)


def keep_order(learner: Learner) -> None:
    """Where queries come from proposals, the same tokens are chosen every time."""
    if hasattr(learner.network.queries, "proposals"):
        learner.network.queries.proposals.rank = SameOrder(learner.network.queries.proposals.rank)


def give_biases(backbone: torch.nn.Module) -> None:
    """As trained networks have: with zeros, a fresh ConvNeXt's padding stays zero and every norm's gradient bursts."""
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() == 1 and not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))


def two_images() -> ImageBatch:
    """One image of 96 x 128 and one of 64 x 80 on the same canvas."""
    pixels = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    is_padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    is_padding[1, 64:] = True
    is_padding[1, :, 80:] = True
    pixels.masked_fill_(is_padding[:, None], 0.0)
    return ImageBatch(pixels, is_padding, torch.tensor([[96, 128], [64, 80]]), (11, 12))


def truths(*counts: int, classes: int = CLASSES, size: float = 0.3) -> tuple[Targets, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(
        Targets(
            torch.randint(0, classes, (count,), generator=generator),
            Cxcywh(torch.rand(count, 4, generator=generator) * 0.3 * torch.tensor([1, 1, size, size]) + size / 2),
            11 + index,
        )
        for index, count in enumerate(counts)
    )


CASES = {
    "usual": truths(3, 2),
    "one without boxes": truths(0, 4),
    "none with boxes": truths(0, 0),
    "more boxes than queries": truths(QUERIES + 5, 1),
    "one-pixel boxes": truths(3, 3, size=0.01),
}


@pytest.mark.parametrize(("name", "case"), [*itertools.product(VARIANTS, CASES), *((name, "usual") for name in BUILDS)])
def test_two_steps_of_training_lower_the_loss(name: str, case: str) -> None:
    learner, images, targets = build(name), two_images(), CASES[case]
    if name in BUILDS:
        keep_order(learner)  # a choice that falls the other way moves the loss by more than so small a step
        give_biases(learner.network.backbone)
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e-4)
    totals = []
    for _ in range(3):
        torch.manual_seed(3)  # the same noise in every step
        total = learner.train()(images, targets, learner.counts(targets)).total
        totals.append(total.item())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
    assert totals[2] < totals[1] < totals[0]


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_learns(name: str) -> None:
    learner, targets = build(name), CASES["usual"]
    learner.train()(two_images(), targets, learner.counts(targets)).total.backward()
    without = [key for key, parameter in learner.network.named_parameters() if parameter.grad is None]
    assert without == []
    finite = [key for key, p in learner.network.named_parameters() if p.grad is not None and p.grad.isfinite().all()]
    assert len(finite) == len(list(learner.network.parameters()))


@pytest.mark.parametrize("width", [18, 20])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_width_that_no_rule_refuses_works_with_learned_positions(name: str, width: int) -> None:
    chosen: dict[str, Any] = {"width": width, "heads": 2, "position": {"kind": "learned"}}
    refused = model_problems(schema.Recipe.model_validate({"model": {**SIZES, **VARIANTS[name], **chosen}}))
    if width % 4 == 0:
        assert refused == []
    if not refused:
        assert build(name, **chosen).network.eval()(two_images()).layers[-1].boxes.isfinite().all()


@pytest.mark.parametrize("name", VARIANTS)
def test_one_class_is_enough(name: str) -> None:
    learner, targets = build(name, num_classes=1), truths(2, 3, classes=1)
    learner.train()(two_images(), targets, learner.counts(targets)).total.backward()
    found = learner.eval().detect(two_images())
    assert all((each.labels == 0).all() for each in found)


@pytest.mark.parametrize("name", ALL)
def test_values_at_padding_never_change_a_prediction(name: str) -> None:
    network, images = build(name).network.eval(), two_images()
    with torch.no_grad():
        tokens = network.neck(network.backbone(images), images.is_padding)
        dirt = 100.0 * tokens.is_padding[..., None] * torch.randn_like(tokens.values)
        assert dirt.any()
        outputs = []
        for values in (tokens.values, tokens.values + dirt):
            memory = network.encoder(tokens.with_values(values))
            outputs.append(network.decoder(network.denoising(network.queries(memory), None)[0], memory))
    for clean, dirty in zip(*outputs, strict=True):
        torch.testing.assert_close(dirty.logits, clean.logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(dirty.boxes, clean.boxes, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_truths_never_reach_the_models_own_queries(name: str) -> None:
    learner = build(name).train()
    for module in learner.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    outputs: list[DetectorOutput] = [learner.network(two_images(), truths(*counts)) for counts in ((3, 2), (1, 6))]
    for one, other in zip(outputs[0].layers, outputs[1].layers, strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_image_alone_is_detected_as_in_evaluation_mode_twice(name: str) -> None:
    learner = build(name).eval()
    one, again = learner.detect(two_images()), learner.detect(two_images())
    for first, second in zip(one, again, strict=True):
        assert torch.equal(first.boxes, second.boxes)
        assert torch.equal(first.scores, second.scores)
        assert (first.scores[:-1] >= first.scores[1:]).all()


def unsettled(learner: Learner) -> Learner:
    """With random numbers where matrices start as zeros, so that boxes move and points are sampled all about."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in learner.network.parameters():
            if parameter.dim() == 2 and not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / parameter.shape[1] ** 0.5)
    return learner


BF16_LOGITS, BF16_BOXES, BF16_LOSS = 0.25, 0.01, 0.01


@pytest.mark.parametrize("name", ALL)
def test_bf16_stays_close_to_fp32(name: str) -> None:
    """Logits of every layer within 0.25 and boxes within 1 % of the image's sides, with the same proposals taken.

    That is twice the worst measured (0.13, of logits that reach 6, and 0.5 %). Losses within 1 %: 0.1 % were measured,
    but elsewhere the matching may differ in near ties.
    """
    learner, targets = unsettled(build(name)).train(), CASES["usual"]
    keep_order(learner)
    outputs: list[DetectorOutput] = []
    learner.network.register_forward_hook(lambda _, __, output: outputs.append(output))
    totals = []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            totals.append(learner(two_images(), targets, learner.counts(targets)).total)
    whole, half = ([*output.layers, *(output.denoised.layers if output.denoised else ())] for output in outputs)
    for one, other in zip(whole, half, strict=True):
        torch.testing.assert_close(other.logits.float(), one.logits, rtol=0, atol=BF16_LOGITS)
        torch.testing.assert_close(other.boxes, one.boxes, rtol=0, atol=BF16_BOXES)
    assert totals[1].dtype == torch.float32
    torch.testing.assert_close(totals[1], totals[0], rtol=BF16_LOSS, atol=0)


def test_images_with_fewer_tokens_than_queries_give_fewer_proposals() -> None:
    learner = build("deformable two-stage").eval()
    small = replace(two_images(), pixels=torch.randn(2, 3, 32, 32), is_padding=torch.zeros(2, 32, 32, dtype=torch.bool))
    assert learner.network(small).final.boxes.shape == (2, QUERIES, 4)
    learner.network.queries.queries = 1000
    tokens = sum(height * width for height, width in learner.network(small).memory.level_shapes)
    assert learner.network(small).final.boxes.shape == (2, tokens, 4)
