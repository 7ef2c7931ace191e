from dataclasses import replace

import pytest
import torch
from torch import nn

from detrctl.errors import DetrctlError
from detrctl.families.catalog import FAMILIES
from detrctl.families.learner import Learner
from detrctl.recipe.schema import DetrModel, OneStage, PositionEncoding, SoftmaxObjective
from detrctl.structures import ImageBatch, Targets

TINY = DetrModel(
    backbone=OneStage(name="resnet10", norm="batch", frozen_stages=0),
    width=32,
    heads=4,
    feedforward=64,
    encoder_layers=2,
    decoder_layers=3,
    queries=7,
    dropout=0.0,
)


def build(model: DetrModel = TINY, num_classes: int = 5) -> Learner:
    torch.manual_seed(0)
    return FAMILIES["detr"](model, SoftmaxObjective(), num_classes)


def two_images() -> ImageBatch:
    """One image of 96 x 128 and one of 64 x 80 on the same canvas."""
    pixels = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    is_padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    is_padding[1, 64:] = True
    is_padding[1, :, 80:] = True
    pixels.masked_fill_(is_padding[:, None], 0.0)
    return ImageBatch(pixels, is_padding, torch.tensor([[96, 128], [64, 80]]), (11, 12))


def truths(*counts: int) -> tuple[Targets, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(
        Targets(
            torch.randint(0, 5, (count,), generator=generator),
            torch.rand(count, 4, generator=generator) * 0.3 + 0.2,
            11 + index,
        )
        for index, count in enumerate(counts)
    )


@pytest.mark.parametrize("dilation", [False, True])
def test_r50_has_exactly_the_official_models_parameters(dilation: bool) -> None:
    """Counted on facebookresearch/detr with 91 classes: all of them, and those that are trained."""
    model = DetrModel(backbone=OneStage(name="resnet50", dilation=dilation))
    learner = FAMILIES["detr"](model, SoftmaxObjective(), 91)
    assert sum(p.numel() for p in learner.network.parameters()) == 41_524_768
    assert sum(p.numel() for group in learner.parameter_groups().values() for p in group) == 41_302_368


def test_r101_has_the_published_60_million() -> None:
    learner = FAMILIES["detr"](DetrModel(backbone=OneStage(name="resnet101")), SoftmaxObjective(), 91)
    assert round(sum(p.numel() for p in learner.network.parameters()) / 1e6) == 60


@pytest.mark.parametrize("dilation", [False, True])
@pytest.mark.parametrize("position", ["sine", "learned"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_values_at_padding_never_change_a_prediction(position: str, norm_first: bool, dilation: bool) -> None:
    model = TINY.model_copy(update={"position": PositionEncoding(kind=position), "norm_first": norm_first})
    if dilation:  # DC5; the smallest ResNet that has it
        model = model.model_copy(
            update={"backbone": OneStage(name="resnet50", norm="batch", frozen_stages=0, dilation=True)}
        )
    network, images = build(model).network.eval(), two_images()
    with torch.no_grad():
        features = network.backbone(images)
        spoiled = [
            replace(level, values=level.values + 100.0 * level.is_padding[:, None] * torch.randn_like(level.values))
            for level in features
        ]
        assert not torch.equal(spoiled[0].values, features[0].values)
        outputs = []
        for levels in (features, spoiled):
            memory = network.encoder(network.neck(levels, images.is_padding))
            outputs.append(network.decoder(network.queries(memory), memory))
    for clean, dirty in zip(*outputs, strict=True):
        torch.testing.assert_close(dirty.logits, clean.logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(dirty.boxes, clean.boxes, rtol=0, atol=1e-6)


def test_an_image_alone_is_the_same_as_in_a_padded_batch_but_for_the_convolutions() -> None:
    """With a backbone that looks at no neighbours, batching changes nothing."""

    class Pointwise(nn.Module):
        channels = 3

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels[:, :, ::16, ::16]

    learner = build().eval()
    learner.network.backbone.body = Pointwise()
    learner.network.neck.projections[0] = nn.Conv2d(3, TINY.width, kernel_size=1)
    batch = two_images()
    alone = ImageBatch(
        batch.pixels[1:, :, :64, :80], batch.is_padding[1:, :64, :80], batch.original_sizes_hw[1:], (12,)
    )
    with torch.no_grad():
        together, single = learner.network(batch).final, learner.network(alone).final
    torch.testing.assert_close(together.logits[1], single.logits[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(together.boxes[1], single.boxes[0], rtol=0, atol=1e-5)


def test_queries_start_without_content() -> None:
    network = build().network
    memory = network.encoder(network.neck(network.backbone(two_images()), two_images().is_padding))
    queries = network.queries(memory)
    assert not queries.content.any()
    assert torch.equal(queries.position[0], network.queries.position.weight)


def test_content_and_values_may_start_otherwise() -> None:
    position = PositionEncoding(added_to="values")
    network = build(TINY.model_copy(update={"position": position, "query_content": "learned"})).network
    features = network.backbone(two_images())
    mask = two_images().is_padding
    placed, apart = network.neck(features, mask), build().network.neck(features, mask)
    torch.testing.assert_close(placed.values, apart.values + apart.position)
    queries = network.queries(placed)
    assert torch.equal(queries.content[1], network.queries.content.weight)
    assert torch.equal(queries.position[1], network.queries.position.weight)


def test_a_prenorm_encoder_ends_with_a_norm_and_a_postnorm_one_does_not() -> None:
    assert isinstance(build().network.encoder.norm, nn.Identity)
    assert isinstance(build(TINY.model_copy(update={"norm_first": True})).network.encoder.norm, nn.LayerNorm)


@pytest.mark.parametrize("counts", [(3, 2), (0, 2), (0, 0), (12, 1)])
def test_every_trained_parameter_gets_a_gradient_whatever_the_truths(counts: tuple[int, int]) -> None:
    learner, targets = build().train(), truths(*counts)
    losses = learner(two_images(), targets, learner.counts(targets))
    losses.total.backward()
    missing = [name for name, p in learner.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    assert losses.total.isfinite()


def test_detections_come_in_pixels_of_the_original_images() -> None:
    learner, images = build().eval(), two_images()
    found = learner.detect(images)
    with torch.no_grad():
        final = learner.network(images).final
    assert [each.image_id for each in found] == [11, 12]
    for index, (height, width) in enumerate([(96, 128), (64, 80)]):
        each = found[index]
        assert len(each) == TINY.queries
        assert (each.scores.diff() <= 0).all()
        cx, cy, w, h = final.boxes[index, each.queries].unbind(-1)
        expected = torch.stack(
            [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height], -1
        )
        torch.testing.assert_close(each.boxes, expected, rtol=1e-4, atol=1e-4)


def test_autocast_keeps_boxes_and_losses_in_fp32() -> None:
    learner, targets = build().train(), truths(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        output = learner.network(two_images())
        losses = learner(two_images(), targets, learner.counts(targets))
    assert output.final.boxes.dtype == torch.float32
    assert {term.value.dtype for term in losses.terms} == {torch.float32}


def test_class_rows_name_parameters_that_exist() -> None:
    learner = build(num_classes=5)
    parameters = dict(learner.network.named_parameters())
    for name, extra in learner.class_rows().items():
        assert len(parameters[name]) == 5 + extra


class Deep(nn.Sequential):
    """A class head of one's own whose hidden layer is as wide as its outputs are many."""

    def __init__(self, width: int, outputs: int):
        super().__init__(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, outputs))


def test_class_rows_are_found_in_a_head_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detrctl.parts.load_part", lambda name, base: Deep)
    learner = build(TINY.model_copy(update={"class_head": "mine:Deep"}), num_classes=5)
    assert learner.class_rows() == {"decoder.heads.class_head.2.weight": 1, "decoder.heads.class_head.2.bias": 1}


def test_a_part_that_cannot_be_built_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DetrctlError, match=r"^torch\.nn:Linear: cannot be built as Linear\(a=1\): .*unexpected"):
        build(DetrModel(backbone=OneStage(name="torch.nn:Linear", options={"a": 1})))
    with pytest.raises(DetrctlError, match=r"^torch\.nn:ReLU: has no `channels`"):
        build(DetrModel(backbone=OneStage(name="torch.nn:ReLU")))
    with pytest.raises(DetrctlError, match=r"^\.a:B: is not of the form package\.module:Name$"):
        build(DetrModel(backbone=OneStage(name=".a:B")))


def test_a_part_that_is_not_there_gets_one_line() -> None:
    model = DetrModel(backbone=OneStage(name="no_such_module:Net"))
    with pytest.raises(DetrctlError, match="no_such_module:Net: cannot import 'no_such_module'"):
        build(model)
    with pytest.raises(DetrctlError, match="json:JSONDecoder: is not a subclass of torch"):
        build(DetrModel(backbone=OneStage(name="json:JSONDecoder")))
