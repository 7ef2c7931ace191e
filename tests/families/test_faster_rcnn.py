"""Faster R-CNN is torchvision's, behind the same path as every other family."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from detrctl.boxes import Cxcywh
from detrctl.data.batch import Sample, pad_images
from detrctl.engine.checkpoint import load
from detrctl.engine.evaluate import evaluate_checkpoint
from detrctl.engine.predict import load as load_predictor
from detrctl.engine.train import train
from detrctl.errors import CheckpointError, NonFiniteError
from detrctl.families.catalog import FAMILIES
from detrctl.families.faster_rcnn import RcnnCriterion, Suppression
from detrctl.families.learner import Learner
from detrctl.model.rcnn import Candidates, RcnnLosses, stride, truths_in_pixels
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Backbone, FasterRcnnModel, RcnnObjective, Recipe, RegionProposals
from detrctl.structures import Categories, ImageBatch, Targets
from detrctl.weights.transfer import transfer
from tests.engine import tiny

CLASSES = 3
SIZES = [4, 8, 16, 32, 64]
TINY = FasterRcnnModel(
    backbone=Backbone(name="resnet18", norm="batch", frozen_stages=0),
    pyramid_width=16,
    anchor_sizes=SIZES,
    proposals=RegionProposals(before_nms=60, after_nms=40, train_before_nms=80, train_after_nms=50),
    box_head_width=32,
    score_threshold=0.0,
)
OBJECTIVE = RcnnObjective(anchors_per_image=32, rois_per_image=24)


def build(model: FasterRcnnModel = TINY, classes: int = CLASSES) -> Learner:
    torch.manual_seed(0)
    return FAMILIES["faster_rcnn"](model, OBJECTIVE, classes)


def batch_of(*sizes_hw: tuple[int, int]) -> ImageBatch:
    """Noise of these sizes on one canvas; images are named 11, 12, ... and were twice as large on disk."""
    generator = torch.Generator().manual_seed(1)
    samples = [
        Sample(torch.randn(3, *size, generator=generator), truths(0)[0], (2 * size[0], 2 * size[1]), 11 + number)
        for number, size in enumerate(sizes_hw)
    ]
    return pad_images(samples)


def truths(*counts: int, classes: int = CLASSES) -> tuple[Targets, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(
        Targets(
            torch.randint(0, classes, (count,), generator=generator),
            Cxcywh(torch.rand(count, 4, generator=generator) * 0.3 + 0.3),
            11 + number,
        )
        for number, count in enumerate(counts)
    )


def losses(learner: Learner, images: ImageBatch, targets: Sequence[Targets]) -> dict[str, Tensor]:
    torch.manual_seed(7)
    found = learner(images, targets, learner.counts(targets))
    return {f"{term.stage}.{term.name}": term.value for term in found.terms}


# ---- torchvision's numbers ----


def torchvisions(learner: Learner) -> FasterRCNN:
    """The library's own model of the same settings and weights."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    backbone.fpn = type(backbone.fpn)([64, 128, 256, 512], 16, extra_blocks=backbone.fpn.extra_blocks)
    backbone.out_channels = 16
    generator = AnchorGenerator(tuple((size,) for size in SIZES), ((0.5, 1.0, 2.0),) * 5)
    model = FasterRCNN(
        backbone,
        num_classes=CLASSES + 1,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_anchor_generator=generator,
        rpn_pre_nms_top_n_train=80,
        rpn_pre_nms_top_n_test=60,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=40,
        rpn_batch_size_per_image=32,
        box_batch_size_per_image=24,
        box_score_thresh=0.0,
    )
    model.transform.resize = lambda image, target=None: (image, target)  # `_skip_resize` counts in training only
    head = model.roi_heads
    head.box_head.fc6, head.box_head.fc7 = nn.Linear(16 * 49, 32), nn.Linear(32, 32)
    head.box_predictor.cls_score = nn.Linear(32, CLASSES + 1)
    head.box_predictor.bbox_pred = nn.Linear(32, 4 * (CLASSES + 1))
    model.load_state_dict(dict(their_weights(learner.network.state_dict())))
    return model


def their_weights(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    predictor = "roi_heads.box_predictor."
    renamed = {}
    for name, value in ours.items():
        if name.startswith("backbone.body.layers."):
            number, rest = name.removeprefix("backbone.body.layers.").split(".", 1)
            name = f"backbone.body.layer{int(number) + 1}.{rest}"
        elif name.startswith("pyramid."):
            name = f"backbone.fpn.{name.removeprefix('pyramid.')}"
        elif name.startswith(f"{predictor}class_head"):  # background first
            name, value = name.replace("class_head", "cls_score"), value.roll(1, dims=0)
        elif name.startswith(f"{predictor}box_"):  # theirs has boxes for background, which nothing uses
            name = name.replace("box_weight", "bbox_pred.weight").replace("box_bias", "bbox_pred.bias")
            value = torch.cat([torch.zeros_like(value[:1]), value]).flatten(0, 1)
        renamed[name] = value
    return renamed


def without_padding(images: ImageBatch) -> list[Tensor]:
    """Each image cut out of the canvas."""
    return [
        pixels[:, : int((~padding[:, 0]).sum()), : int((~padding[0]).sum())]
        for pixels, padding in zip(images.pixels, images.is_padding, strict=True)
    ]


def test_losses_and_gradients_are_torchvisions_draw_by_draw() -> None:
    """In double precision, since ours computes channels last: convolutions sum in another order then."""
    ours = build().double().train()
    theirs = torchvisions(ours).double().train()
    images, targets = batch_of((64, 128), (50, 90), (60, 70)), truths(2, 0, 3)
    images = replace(images, pixels=images.pixels.double())
    targets = tuple(replace(target, boxes=Cxcywh(target.boxes.double())) for target in targets)
    found = losses(ours, images, targets)
    cut = without_padding(images)
    torch.manual_seed(7)
    expected = theirs(cut, truths_in_pixels(targets, [tuple(image.shape[1:]) for image in cut]))
    named = {
        "roi.class": "loss_classifier",
        "roi.box": "loss_box_reg",
        "rpn.class": "loss_objectness",
        "rpn.box": "loss_rpn_box_reg",
    }
    for name, other in named.items():
        torch.testing.assert_close(found[name], expected[other], rtol=1e-6, atol=1e-7)
    torch.stack(list(found.values())).sum().backward()
    torch.stack(list(expected.values())).sum().backward()
    for name in ("conv1", "layer4.1.conv2"):
        own = ours.network.get_parameter(f"backbone.body.{name.replace('layer4', 'layers.3')}.weight").grad
        torch.testing.assert_close(own, theirs.get_parameter(f"backbone.body.{name}.weight").grad, rtol=1e-4, atol=1e-6)


def test_detections_are_torchvisions_scaled_to_the_original_image() -> None:
    ours = build().eval()
    theirs, images = torchvisions(ours).eval(), batch_of((64, 128), (50, 90))
    with torch.no_grad():
        expected = theirs(without_padding(images))
    for found, row, image_id in zip(ours.detect(images), expected, (11, 12), strict=True):
        assert found.image_id == image_id
        assert len(found) == len(row["scores"]) == 100
        torch.testing.assert_close(found.scores, row["scores"])
        assert torch.equal(found.labels, row["labels"] - 1)
        torch.testing.assert_close(found.boxes, 2 * row["boxes"], rtol=1e-5, atol=1e-4)


def test_r50_has_the_published_parameters() -> None:
    """41,755,286 with 90 classes (torchvision's `num_params`), less the boxes of background, which nothing uses."""
    with torch.device("meta"):
        learner = FAMILIES["faster_rcnn"](FasterRcnnModel(), RcnnObjective(), 90)
    assert sum(p.numel() for p in learner.network.parameters()) == 41_755_286 - 4 * (1024 + 1)
    groups = learner.parameter_groups()
    assert list(groups) == ["backbone", "detector"]
    # torchvision's reference trains layer2 to layer4: without the stem and layer1.
    assert sum(p.numel() for p in groups["backbone"]) == 23_454_912 - 9_408 - 212_992


# ---- padding ----


def at_one_place(learner: Learner) -> Learner:
    """A network whose convolutions look at their own place only, and say nothing where there is nothing."""

    class Pointwise(nn.Module):
        channels = (3, 3, 3, 3)

        def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
            return tuple(pixels[:, :, ::step, ::step] for step in (4, 8, 16, 32))

    network = learner.network
    network.backbone.body = Pointwise()
    for number, block in enumerate(network.pyramid.inner_blocks):
        block[0] = nn.Conv2d(3, 16, kernel_size=1, bias=False)
        assert network.pyramid.layer_blocks[number][0].kernel_size == (3, 3)
    with torch.no_grad():
        for module in (*network.pyramid.layer_blocks.modules(), *network.rpn.head.conv.modules()):
            if isinstance(module, nn.Conv2d):
                only_centre = torch.zeros_like(module.weight)
                only_centre[:, :, 1, 1] = module.weight[:, :, 1, 1]
                module.weight.copy_(30 * only_centre)
                nn.init.zeros_(module.bias)
    return learner


def test_proposals_of_an_image_alone_are_those_in_a_padded_batch_but_for_the_convolutions() -> None:
    """Nor do their classes and boxes differ, but at the right and lower edge, where pooling meets the padding.

    With real convolutions, all that lies near these edges differs: zeros stand there alone, and what the layers make of
    zeros in a batch. That is torchvision's behaviour, too.
    """
    model = TINY.model_copy(update={"proposals": RegionProposals(before_nms=200, after_nms=200)})
    network = at_one_place(build(model)).network.eval()
    batch = batch_of((130, 170), (96, 64))
    alone = ImageBatch(
        batch.pixels[1:, :, :96, :64], batch.is_padding[1:, :96, :64], batch.original_sizes_hw[1:], (12,)
    )
    with torch.no_grad():
        together, single = network(batch)[1], network(alone)[0]
        assert together.size_hw == single.size_hw == (96, 64)
    assert len(single.logits) == 200
    torch.testing.assert_close(together.proposals, single.proposals, rtol=0, atol=1e-4)
    far_from_edge = (single.proposals[:, 2] < 58) & (single.proposals[:, 3] < 90)
    assert 50 < far_from_edge.sum() < 200
    for name in ("logits", "boxes"):
        here, there = (getattr(found, name)[far_from_edge] for found in (together, single))
        torch.testing.assert_close(here, there, rtol=0, atol=1e-4)
    assert not torch.allclose(together.logits, single.logits, rtol=0, atol=1e-4), "then the edge needs no exception"


@pytest.mark.parametrize(
    ("pixels", "cells", "step"), [(96, 24, 4), (96, 3, 32), (96, 2, 64), (800, 13, 64), (32, 1, 32)]
)
def test_the_coarsest_level_has_half_the_cells_rounded_up_and_yet_its_stride(pixels, cells, step) -> None:
    assert stride(pixels, cells) == step


# ---- truths ----


def test_truths_are_in_pixels_of_the_image_without_padding_and_those_without_area_go() -> None:
    target = Targets(torch.tensor([2, 0, 1]), Cxcywh(torch.tensor([[0.5, 0.5, 1, 0.5], [0.5, 0.5, 0, 1], [0.25] * 4])))
    (found,) = truths_in_pixels([target], [(40, 80)])
    assert found["labels"].tolist() == [3, 2]
    assert found["boxes"].tolist() == [[0, 10, 80, 30], [10, 5, 30, 15]]


@pytest.mark.parametrize("counts", [(2, 0), (0, 0), (200, 1)], ids=["one empty", "all empty", "crowded"])
@pytest.mark.parametrize("classes", [1, CLASSES])
def test_any_number_of_truths_gives_finite_losses_and_gradients(counts: tuple[int, int], classes: int) -> None:
    learner = build(classes=classes).train()
    found = losses(learner, batch_of((60, 64), (64, 50)), truths(*counts, classes=classes))
    torch.stack(list(found.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.network.parameters())
    boxes = [found["roi.box"] > 0, found["rpn.box"] > 0]
    assert boxes == ([False, False] if counts == (0, 0) else [True, True])


def test_an_object_of_one_pixel_is_learnt() -> None:
    learner = build().train()
    pixel = Targets(torch.tensor([1]), Cxcywh(torch.tensor([[0.5, 0.5, 1 / 64, 1 / 64]])), 11)
    found = losses(learner, batch_of((64, 64)), (pixel,))
    assert all(value.isfinite() for value in found.values())
    assert found["roi.box"] > 0


# ---- losses ----


def four(*values: float) -> RcnnLosses:
    return RcnnLosses(*(torch.tensor(value) for value in values))


def test_micro_batches_weigh_as_many_images_as_they_hold() -> None:
    criterion = RcnnCriterion()
    counts = criterion.counts(truths(5, 0, 1, 2)) + criterion.counts([])
    assert counts.tolist() == [4.0]
    one, three = (
        criterion(output, targets, counts)
        for output, targets in ((four(1, 2, 3, 4), truths(9)), (four(5, 6, 7, 8), truths(0, 0, 1)))
    )
    assert [(term.stage, term.name, term.layer, term.weight) for term in one.terms] == [
        ("roi", "class", -1, 1.0),
        ("roi", "box", -1, 1.0),
        ("rpn", "class", -1, 1.0),
        ("rpn", "box", -1, 1.0),
    ]
    summed = [float(a.value + b.value) for a, b in zip(one.terms, three.terms, strict=True)]
    assert summed == [(1 * a + 3 * b) / 4 for a, b in ((1, 5), (2, 6), (3, 7), (4, 8))]
    assert float(one.total + three.total) == sum(summed)


def test_what_is_not_finite_is_named_with_its_images() -> None:
    learner = build().eval()
    spoilt = batch_of((64, 64), (64, 64))
    spoilt.pixels[1, 0, 5, 5] = torch.nan
    with pytest.raises(NonFiniteError, match=r"^image 12: the region proposals are NaN or infinite$"):
        learner.detect(spoilt)
    with torch.no_grad():
        learner.network.roi_heads.box_predictor.box_bias[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"^image 11, 12: the classes and boxes are NaN or infinite$"):
        losses(learner, batch_of((64, 64), (64, 64)), truths(1, 1))
    with pytest.raises(NonFiniteError, match=r"^image 11, 12: the loss rpn\.class is NaN or infinite$"):
        RcnnCriterion()(four(1, 2, torch.inf, 4), truths(1, 1), torch.tensor([2.0]))


def test_bf16_stays_close_to_fp32_in_losses_and_boxes() -> None:
    """Convolutions and layers round to 8 bits; anchors, proposals and losses do not."""
    learner, images, targets = build().eval(), batch_of((64, 128)), truths(3)
    exact = losses(learner, images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rough, found = losses(learner, images, targets), learner.detect(images)
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        torch.testing.assert_close(rough[name], value, rtol=0.02, atol=1e-3)
    assert found[0].boxes.dtype == found[0].scores.dtype == torch.float32


# ---- detections ----


def test_overlapping_candidates_of_a_class_give_one_detection() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [5, 5, 5, 9]])
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.7, 0.04, 0.26], [0.02, 0.9, 0.08], [0.5, 0.5, 0.0]])
    candidates = Candidates(boxes, probabilities.log(), boxes[:, None].expand(-1, 2, -1), (40, 50))
    images = ImageBatch(torch.zeros(1, 3, 40, 50), torch.zeros(1, 40, 50) > 0, torch.tensor([[80, 50]]), (7,))
    (found,) = Suppression(score_threshold=0.05, nms=0.5, detections=9)([candidates], images)
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7, 0.3]))
    assert (found.labels.tolist(), found.queries.tolist(), found.image_id) == ([1, 0, 1], [2, 1, 0], 7)
    assert found.boxes.tolist() == [[20, 40, 30, 60], [1, 0, 11, 20], [0, 0, 10, 20]]  # twice as high on disk
    assert len(Suppression(0.05, 0.5, 1)([candidates], images)[0]) == 1
    assert len(Suppression(0.05, 1.0, 9)([candidates], images)[0]) == 4
    assert len(Suppression(0.95, 0.5, 9)([candidates], images)[0]) == 0


def test_an_image_without_a_proposal_has_no_detections() -> None:
    learner = build(TINY.model_copy(update={"score_threshold": 0.99})).eval()
    learner.network.rpn.min_size = 1e6
    assert [len(found) for found in learner.detect(batch_of((64, 64), (33, 64)))] == [0, 0]


def test_class_rows_move_to_another_order_of_classes() -> None:
    old, new = build(classes=3), build(classes=2)
    moved = transfer(
        new.network.state_dict(),
        old.network.state_dict(),
        class_rows=new.class_rows(),
        new_categories=Categories(("cell", "dog"), (1, 2)),
        old_categories=Categories(("cat", "dog", "cell"), (1, 2, 3)),
    )
    assert {row.name for row in moved.rows if row.kind == "remapped"} == set(new.class_rows())
    assert all(row.kind in ("loaded", "remapped") for row in moved.rows)
    head = "roi_heads.box_predictor."
    assert torch.equal(
        moved.weights[f"{head}class_head.weight"], old.network.state_dict()[f"{head}class_head.weight"][[2, 1, 3]]
    )
    assert torch.equal(moved.weights[f"{head}box_weight"], old.network.state_dict()[f"{head}box_weight"][[2, 1]])


# ---- the engine ----


def recipe(root: Path, **fields: Any) -> Recipe:
    parts = tiny.fields(root, **{"optimizer": "sgd", "lr": 0.01, "backbone_lr": 0.01, "clip_norm": 10.0, **fields})
    model = TINY.model_dump() | {"detections": 5, "backbone": {"name": "resnet10", "norm": "batch", "frozen_stages": 0}}
    return Recipe.model_validate(parts | {"model": model, "objective": OBJECTIVE.model_dump()})


def test_a_run_is_stopped_resumed_evaluated_and_predicts(tmp_path: Path) -> None:
    """One class, and an image without boxes in a batch; going on gives the same as never having stopped."""
    for split, images in (("train", 4), ("val", 2)):
        tiny.write_split(tmp_path / "data", split, images, empty=(3,), classes=("dark",))
    setting = recipe(tmp_path / "data", batch_size=2, reference_batch_size=2, accumulate=2, ema=0.9)
    whole = train(setting, out=tmp_path / "whole", device="cpu")
    half = setting.model_copy(update={"train": setting.train.model_copy(update={"epochs": 1})})
    train(half, out=tmp_path / "half", device="cpu")
    resumed = train(resume=tmp_path / "half", overrides=["train.epochs=2"], device="cpu")
    ours, theirs = (load(run.run / "checkpoints" / "last.pt") for run in (resumed, whole))
    assert all(torch.equal(value, theirs.weights[name]) for name, value in ours.weights.items())
    assert resumed.scores == whole.scores

    rows = (whole.run / "metrics.jsonl").read_text().splitlines()
    assert all(f'"{name}"' in rows[0] for name in ("roi.class", "roi.box", "rpn.class", "rpn.box"))
    scored = evaluate_checkpoint(whole.checkpoint, device="cpu")
    assert scored.scores.numbers["AP"] is not None
    predicted = load_predictor(whole.checkpoint, device="cpu").predict(
        [tmp_path / "data/images/val/0.png"], score=0.0, top=3
    )
    assert 1 <= len(predicted[0].detections) <= 3
    assert predicted[0].size_hw == (40, 48)
    with pytest.raises(CheckpointError, match=r"it was started with optimizer sgd, which cannot change$"):
        train(resume=tmp_path / "half", overrides=["train.epochs=3", "train.optimizer=adamw"], device="cpu")


# ---- recipes ----


def test_recipes_load_by_family_and_are_published_where_they_say_so() -> None:
    published = load_recipe("faster_rcnn_r50")
    assert published.notes == published.start_problems == ()
    assert published.recipe.model == FasterRcnnModel(backbone=Backbone(weights="imagenet"))
    assert published.recipe.objective == RcnnObjective()
    settings = published.recipe.train
    assert (settings.epochs, settings.schedule.drop_epochs) == (26, [16, 22])
    assert (settings.lr, settings.backbone_lr) == (0.02, 0.02)
    assert (settings.optimizer, settings.clip_norm, settings.weight_decay, settings.batch_size) == ("sgd", 0, 1e-4, 16)
    small = load_recipe("faster_rcnn_small_data").recipe
    assert small.data == load_recipe("small_data").recipe.data, "the baseline sees the same images"
    assert small.train.max_minutes == 25
