"""What a query looks at, against plain loops over what went into the attentions."""

import math

import numpy as np
import pytest
import torch

from detrctl.boxes import Cxcywh, cxcywh_to_xyxy, pairwise_iou
from detrctl.inspection.looks import (
    AttentionMap,
    SampledPoints,
    look_from_point,
    look_of_query,
    nearest_token,
    paired_iou,
    share_inside,
)
from detrctl.inspection.recording import DenseLook, recording
from tests.families.test_every_family import CLASSES, QUERIES, VARIANTS, build, two_images
from tests.inspection.test_recording import DENSE, PADDED, SAMPLED, record


@pytest.mark.parametrize("name", VARIANTS)
def test_a_query_of_every_variant_is_told_layer_by_layer(name: str) -> None:
    network, seen = record(name)
    look = look_of_query(seen, network, 4, num_classes=CLASSES, image=PADDED)
    assert (look.query, len(look.layers)) == (4, 3)
    for layer, predictions in zip(look.layers, seen.output.layers, strict=True):
        np.testing.assert_allclose(layer.box, predictions.boxes[PADDED, 4].numpy(), rtol=1e-6)
        logits = predictions.logits[PADDED, 4]
        scores = logits.softmax(-1)[:-1] if len(logits) == CLASSES + 1 else logits.sigmoid()
        assert (layer.label, layer.score) == (int(scores.argmax()), pytest.approx(float(scores.max())))
        whole = layer.looked.weights.sum(tuple(range(1, layer.looked.weights.ndim)))
        np.testing.assert_allclose(whole, np.ones(4), rtol=1e-5)
        assert 0 <= layer.inside <= 1 + 1e-6
        assert isinstance(layer.looked, SampledPoints if name in SAMPLED else AttentionMap)
    assert look.layers[-1].overlap == pytest.approx(1, rel=1e-5)
    assert (look.layers[0].attended is None) == name.startswith("detr")


@pytest.mark.parametrize("name", VARIANTS)
def test_starts_are_what_the_decoder_started_from(name: str) -> None:
    network, seen = record(name)
    starts = look_of_query(seen, network, 0, num_classes=CLASSES, image=PADDED).starts
    if name.startswith("detr"):
        assert starts is None
        return
    np.testing.assert_allclose(starts.places, seen.queries.reference[PADDED].numpy(), rtol=1e-6)
    proposed = "two-stage" in name or "dino" in name
    anchors = "dab" in name or name == "dn" or "dn-" in name
    assert starts.kind == ("proposals" if proposed else "learned anchors" if anchors else "learned points")
    if proposed:
        tokens = seen.output.proposals.selected[PADDED].tolist()
        logits = seen.output.proposals.all.logits[PADDED]
        by_hand = [logits[token, 0] if "two-stage" in name else logits[token].max() for token in tokens]
        np.testing.assert_allclose(starts.scores, torch.stack(by_hand).sigmoid().numpy(), rtol=1e-6)
        assert len(starts.scores) == QUERIES
        assert (np.diff(starts.scores) <= 0).all()
    else:
        assert starts.scores is None


@pytest.mark.parametrize("name", DENSE)
def test_a_map_is_the_softmax_of_scaled_products_without_the_padding(name: str) -> None:
    network, seen = record(name)
    (shape,) = seen.memory.level_shapes
    padding = seen.memory.is_padding[PADDED].reshape(shape)
    rows, columns = int((~padding).any(1).sum()), int((~padding).any(0).sum())
    assert rows * columns < padding.numel()
    layer = look_of_query(seen, network, 3, num_classes=CLASSES, image=PADDED).layers[1]
    assert layer.looked.weights.shape == (4, rows, columns)
    look = seen.cross[1]
    assert isinstance(look, DenseLook)
    for head in range(4):
        query = look.queries[PADDED, head, 3].double()
        raw = {}
        for row in range(rows):
            for column in range(columns):
                key = look.keys[PADDED, head, row * shape[1] + column].double()
                raw[row, column] = math.exp(float(query @ key) / math.sqrt(len(query)))
        for (row, column), value in raw.items():
            share = value / sum(raw.values())
            assert layer.looked.weights[head, row, column] == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize("name", SAMPLED)
def test_points_are_reference_and_offset_point_by_point(name: str) -> None:
    """Zhu et al. 2021, appendix A.3 and A.4: offsets in cells around a point, in halves of a box's sides around it."""
    learner = build(name).eval()
    heard = []
    attention = learner.network.decoder.layers[1].cross_attention.attention
    attention.register_forward_pre_hook(lambda module, args, kwargs: heard.append(args[0]), with_kwargs=True)
    with torch.no_grad(), recording(learner.network) as seen:
        learner.network(two_images())
        offsets = attention.sampling_offsets(heard[0][PADDED, 2]).reshape(4, -1, attention.points, 2).double()
        raw = attention.attention_weights(heard[0][PADDED, 2]).reshape(4, -1).double()
    layer = look_of_query(seen, learner.network, 2, num_classes=CLASSES, image=PADDED).layers[1]
    ratios = seen.memory.valid_ratios[PADDED].double()
    for head in range(4):
        for level, (height, width) in enumerate(seen.memory.level_shapes):
            for point in range(attention.points):
                offset = offsets[head, level, point].numpy()
                if len(layer.attended) == 2:
                    scale = 1 / (np.array([width, height]) * ratios[level].numpy())
                else:
                    scale = layer.attended[2:] / (2 * attention.points)
                expected = layer.attended[:2] + offset * scale
                np.testing.assert_allclose(layer.looked.points[head, level, point], expected, atol=1e-5)
                weight = (raw[head] - raw[head].logsumexp(0)).exp()[level * attention.points + point]
                assert layer.looked.weights[head, level, point] == pytest.approx(float(weight), rel=1e-4)


@pytest.mark.parametrize("name", ["detr", "dab", "deformable", "dino 5-scale"])
def test_the_encoder_looks_from_the_nearest_token_of_each_level_that_is_not_padding(name: str) -> None:
    _, seen = record(name)
    point = (0.97, 0.4)
    look = look_from_point(seen, point, image=PADDED)
    start = 0
    for level, (height, width) in enumerate(seen.memory.level_shapes):
        x_ratio, y_ratio = seen.memory.valid_ratios[PADDED, level].tolist()
        best, token = math.inf, -1
        for row in range(height):
            for column in range(width):
                number = start + row * width + column
                x, y = (column + 0.5) / (width * x_ratio), (row + 0.5) / (height * y_ratio)
                distance = math.hypot(x - point[0], y - point[1])
                if not seen.memory.is_padding[PADDED, number] and distance < best - 1e-9:
                    best, token = distance, number
        origin = look.origins[level]
        assert (origin.level, origin.token) == (level, token)
        np.testing.assert_allclose(origin.centre, seen.memory.centres[PADDED, token].numpy(), rtol=1e-6)
        start += height * width
    assert len(look.layers) == 2
    for looks, recorded in zip(look.layers, seen.encoder, strict=True):
        for origin, looked in zip(look.origins, looks, strict=True):
            assert looked.weights.sum() == pytest.approx(looked.heads, rel=1e-5)
            if isinstance(recorded, DenseLook):
                dense = recorded.weights(PADDED, [origin.token])[0]
                np.testing.assert_allclose(looked.weights.max(), float(dense.max()), rtol=1e-6)


def test_padding_is_never_the_nearest_token() -> None:
    _, seen = record("deformable")
    last = nearest_token(seen.memory, 0, (5.0, 5.0), PADDED)
    assert not seen.memory.is_padding[PADDED, last.token]


def test_attention_inside_a_box_is_summed_over_cells_and_points_in_it() -> None:
    weights = np.array([[[0.4, 0.1], [0.3, 0.2]], [[0.0, 1.0], [0.0, 0.0]]])
    left, top_right = np.array([0.25, 0.5, 0.2, 0.9]), np.array([0.75, 0.25, 0.4, 0.4])
    assert share_inside(AttentionMap(weights), left) == pytest.approx((0.4 + 0.3) / 2)
    assert share_inside(AttentionMap(weights), top_right) == pytest.approx((0.1 + 1.0) / 2)
    points = np.array([[[[0.1, 0.1], [0.9, 0.9]]], [[[1.4, 0.5], [0.2, 0.2]]]])
    shares = np.array([[[0.25, 0.75]], [[0.5, 0.5]]])
    assert share_inside(SampledPoints(points, shares), np.array([0.2, 0.2, 0.3, 0.3])) == pytest.approx(0.75 / 2)


def test_overlaps_are_those_of_the_boxes_module() -> None:
    boxes = torch.rand(2, 20, 4, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.1
    a, b = (cxcywh_to_xyxy(Cxcywh(part)) for part in boxes)
    np.testing.assert_allclose(paired_iou(*boxes.numpy()), pairwise_iou(a, b).diagonal().numpy(), atol=1e-6)
    assert paired_iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [0.0]
