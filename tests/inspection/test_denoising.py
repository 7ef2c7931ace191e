import pytest
import torch

from detrctl.boxes import Cxcywh, cxcywh_to_xyxy, pairwise_iou
from detrctl.families.catalog import FAMILIES
from detrctl.inspection.denoising import denoise_batch, read_mask, summarise_denoising
from detrctl.recipe import schema
from detrctl.structures import Assignment, ImageBatch, Known, Targets

CLASSES, QUERIES = 5, 7
SMALL = {
    "backbone": {"name": "resnet10", "norm": "batch", "frozen_stages": 0},
    "width": 16,
    "heads": 2,
    "feedforward": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "queries": QUERIES,
}
KINDS = {
    "dn": {"family": "dab", "denoising": {"kind": "grouped", "groups": 3}},
    "dn-deformable": {"family": "dab_deformable", "denoising": {"kind": "grouped", "groups": 3}},
    "dino": {"family": "dino", "denoising": {"copies": 12}},
    "none": {"family": "deformable"},
}


def learner(kind):
    torch.manual_seed(0)
    recipe = schema.Recipe.model_validate({"model": SMALL | KINDS[kind]})
    return FAMILIES[recipe.model.family](recipe.model, recipe.objective, CLASSES).eval()


def images():
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    sizes = torch.tensor([[64, 64]] * 2)
    return ImageBatch(pixels, torch.zeros(2, 64, 64, dtype=torch.bool), sizes, (7, 8))


THREE = [[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.2], [0.5, 0.5, 0.6, 0.6]]
TARGETS = (
    Targets(torch.tensor([1, 4, 0]), Cxcywh(torch.tensor(THREE))),
    Targets(torch.tensor([2]), Cxcywh(torch.tensor([[0.4, 0.4, 0.2, 0.3]]))),
)


@pytest.mark.parametrize("kind", ["dn", "dn-deformable", "dino"])
def test_every_noised_query_is_told_with_the_truth_that_training_teaches_it(kind):
    made = learner(kind)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        told, mask = denoise_batch(made.network, images(), TARGETS, num_classes=CLASSES)
        torch.manual_seed(5)
        made.network.denoising.train()
        output = made.network(images(), TARGETS)
    known = output.denoised.known
    pairs = {
        (i, query.slot, query.truth)
        for i, image in enumerate(told)
        for query in image.queries
        if query.part == "rebuild"
    }
    taught = known.assignment
    assert pairs == set(zip(taught.image.tolist(), taught.query.tolist(), taught.truth.tolist(), strict=True))
    refused = sum(query.part == "refuse" for image in told for query in image.queries)
    assert refused == (len(pairs) if kind == "dino" else 0)
    assert (mask.known, mask.own) == (known.size, QUERIES)
    for image, target, predictions in zip(told, TARGETS, output.denoised.layers[-1].boxes, strict=True):
        for query in image.queries:
            answer = query.layers[-1]
            assert answer.box == pytest.approx(predictions[query.slot].tolist(), abs=1e-6)
            aim = cxcywh_to_xyxy(target.boxes[query.truth][None])
            iou = pairwise_iou(cxcywh_to_xyxy(torch.tensor([answer.box])), aim)
            assert answer.iou == pytest.approx(float(iou), abs=1e-5)


@pytest.mark.parametrize("kind", ["dn", "dino"])
def test_without_noise_what_is_given_is_the_truth_itself(kind):
    made = learner(kind)
    made.network.denoising.label_noise = made.network.denoising.box_noise = 0.0
    told, _ = denoise_batch(made.network, images(), TARGETS, num_classes=CLASSES)
    for image, target in zip(told, TARGETS, strict=True):
        assert len(image.queries) > 0
        for query in image.queries:
            assert query.label == int(target.labels[query.truth])
            assert query.box == pytest.approx(target.boxes[query.truth].tolist(), abs=1e-4)
            assert query.iou == pytest.approx(1.0, abs=1e-2)
    given = summarise_denoising(told).given
    assert (given.class_right, given.iou) == (1.0, pytest.approx(1.0, abs=1e-2))


def test_looking_leaves_the_model_as_it_was():
    made = learner("dino")
    before = made.detect(images())
    denoise_batch(made.network, images(), TARGETS, num_classes=CLASSES)
    assert not any(module.training for module in made.network.modules())
    assert not made.network.denoising._forward_hooks
    for one, other in zip(before, made.detect(images()), strict=True):
        assert torch.equal(one.boxes, other.boxes)


def test_a_model_without_denoising_and_a_batch_without_truths_have_nothing_to_tell():
    assert denoise_batch(learner("none").network, images(), TARGETS, num_classes=CLASSES) is None
    nothing = [Targets(torch.zeros(0, dtype=torch.int64), Cxcywh(torch.zeros(0, 4)))] * 2
    assert denoise_batch(learner("dino").network, images(), nothing, num_classes=CLASSES) is None
    assert denoise_batch(learner("dn").network, images(), nothing, num_classes=CLASSES) is None


def test_by_hand_the_mask_is_told_in_runs_of_rows_and_columns():
    # Two groups of one noised query, and two own queries that see neither.
    blocked = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    nothing = torch.zeros(0, dtype=torch.int64)
    mask = read_mask(blocked, Known(Assignment(nothing, nothing, nothing), 2, 2))
    assert (mask.known, mask.group, mask.own) == (2, 1, 2)
    assert mask.rows == ((1, (1, 1, 2)), (1, (0, 1, 3)), (2, (0, 2, 2)))
