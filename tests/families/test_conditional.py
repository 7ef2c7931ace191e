import torch

from detrctl.families.catalog import FAMILIES
from detrctl.families.learner import Learner
from detrctl.recipe.schema import ConditionalModel, FocalObjective, OneStage
from detrctl.structures import ImageBatch

TINY = ConditionalModel(
    backbone=OneStage(name="resnet10", norm="batch", frozen_stages=0),
    width=32,
    heads=4,
    feedforward=64,
    encoder_layers=1,
    decoder_layers=3,
    queries=7,
    detections=9,
    dropout=0.0,
)


def build(model: ConditionalModel = TINY, num_classes: int = 5) -> Learner:
    torch.manual_seed(0)
    return FAMILIES["conditional"](model, FocalObjective(), num_classes)


def image() -> ImageBatch:
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    return ImageBatch(pixels, torch.zeros(1, 64, 96, dtype=torch.bool), torch.tensor([[64, 96]]), (1,))


def test_r50_has_exactly_the_official_models_parameters() -> None:
    """Counted on Atten4Vis/ConditionalDETR with 91 classes: all of them, and those that are trained."""
    learner = build(ConditionalModel(), num_classes=91)
    assert sum(p.numel() for p in learner.network.parameters()) == 43_418_401
    assert sum(p.numel() for group in learner.parameter_groups().values() for p in group) == 43_196_001


def test_before_training_every_layer_leaves_the_centre_at_the_querys_point() -> None:
    learner = build().eval()
    with torch.no_grad():
        output = learner.network(image())
        queries = learner.network.queries(output.memory)
    assert not queries.content.any()
    assert len(output.layers) == 3
    for layer in output.layers:
        torch.testing.assert_close(layer.boxes[..., :2], queries.reference)
        assert (layer.boxes[..., 2:] == 0.5).all()


def test_points_that_training_moved_move_the_boxes() -> None:
    learner = build().eval()
    with torch.no_grad():
        before = learner.network(image()).final.boxes
        learner.network.queries.reference.layers[-1].bias += 1.0
        after = learner.network(image()).final.boxes
    torch.testing.assert_close(after[..., :2].logit(), before[..., :2].logit() + 1.0, rtol=1e-4, atol=1e-4)


def test_only_the_first_layer_adds_positions_to_contents() -> None:
    layers = build().network.decoder.layers
    assert [layer.cross_attention.query_position is not None for layer in layers] == [True, False, False]


def test_the_best_pairs_of_query_and_class_are_detections() -> None:
    found = build().eval().detect(image())
    assert [len(each) for each in found] == [9]
    assert build().class_rows() == {"decoder.heads.class_head.weight": 0, "decoder.heads.class_head.bias": 0}
