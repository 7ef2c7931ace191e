"""Single functions against the official ones."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detrctl.boxes import (
    Cxcywh,
    Xyxy,
    cxcywh_to_xyxy,
    inverse_sigmoid,
    paired_giou,
    pairwise_giou,
    pairwise_iou,
)
from detrctl.evaluation.postprocess import sigmoid_top_k, softmax_top_queries
from detrctl.losses.matcher import Matcher, focal_cost, probability_cost
from detrctl.losses.terms import focal_loss_sum
from detrctl.model.deformable_attention import DeformableAttention
from detrctl.model.denoising import ContrastiveDenoising, GroupedDenoising
from detrctl.model.neck import valid_ratio
from detrctl.model.places import box_embedding
from detrctl.model.position_encoding import SinePosition, coordinate_embedding
from detrctl.model.proposals import EncoderProposals, foreground, preset_boxes
from detrctl.structures import Predictions, Queries, Targets, Tokens

from .fixture import NO_PAIRS, STORED, Fixture, Ledger, StoredNoise, by_rule, folders, normal, truths_in_order


class Unit:
    """The arrays of one name in a unit file, compared under that name."""

    def __init__(self, fixture: Fixture, name: str, ledger: Ledger):
        self.fixture, self.name, self.ledger = fixture, name, ledger
        self.what = fixture.json["what"].get(name)

    def names(self) -> list[str]:
        start = f"{self.name}."
        return [key.removeprefix(start) for key in self.fixture.arrays if key.startswith(start)]

    def given(self, key: str) -> Tensor:
        self.ledger.take(f"{self.name}.{key}")
        return torch.from_numpy(self.fixture.arrays[f"{self.name}.{key}"])

    def shape(self, key: str) -> tuple[int, ...]:
        return self.fixture.arrays[f"{self.name}.{key}"].shape

    def truths(self) -> list[Targets]:
        """Of every image that the file has truths of."""
        count = sum(name.startswith("target_labels") for name in self.names())
        return [Targets(self.given(f"target_labels{i}"), Cxcywh(self.given(f"target_boxes{i}"))) for i in range(count)]

    def told(self, pattern: str) -> list[float]:
        """Numbers that only the file's description says, as that of the call `f(..., num_boxes=5)`."""
        found = re.search(pattern, self.what if isinstance(self.what, str) else json.dumps(self.what))
        assert found, f"{self.name}: the description does not say {pattern}"
        return [float(number) for number in found.groups()]

    def close(self, key: str, actual: Tensor) -> None:
        expected = self.fixture.arrays[f"{self.name}.{key}"]
        # Unit files state no noise; a few units in the last place of the numbers at hand.
        self.ledger.close(f"{self.name}.{key}", actual, expected, noise=1e-7)

    def equal(self, key: str, actual: Tensor) -> None:
        self.ledger.equal(f"{self.name}.{key}", actual, self.fixture.arrays[f"{self.name}.{key}"])


def check_sine(**settings: float) -> Callable[[Unit], None]:
    def check(unit: Unit) -> None:
        unit.close("out", SinePosition(width=unit.shape("out")[1], **settings)(unit.given("mask")))

    return check


def check_softmax_matcher(unit: Unit) -> None:
    check_matcher(unit, probability_cost)


def check_focal_matcher(unit: Unit) -> None:
    check_matcher(unit, focal_cost(alpha=0.25, gamma=2.0))


def check_matcher(unit: Unit, class_cost: Callable[[Tensor, Tensor], Tensor]) -> None:
    cost = unit.what["cost_weights"]
    matcher = Matcher(class_cost, class_weight=cost["cost_class"], l1=cost["cost_bbox"], giou=cost["cost_giou"])
    for case in unit.what["cases"]:
        logits, boxes = unit.given(f"{case}.logits"), unit.given(f"{case}.boxes")
        targets = [
            Targets(unit.given(f"{case}.target_labels{i}"), Cxcywh(unit.given(f"{case}.target_boxes{i}")))
            for i in range(len(logits))
        ]
        pairs = matcher(Predictions(logits, Cxcywh(boxes)), targets, where="the unit")
        for image in range(len(logits)):
            unit.equal(f"{case}.src{image}", pairs.query[pairs.image == image])
            found = pairs.truth[pairs.image == image]
            if case == "identical_targets":
                # Two truths cost the same: who gets which is not defined, only that each gets one.
                found = torch.from_numpy(np.sort(found))
                expected = np.sort(unit.given(f"{case}.tgt{image}"))
                np.testing.assert_array_equal(found, expected)
            else:
                unit.equal(f"{case}.tgt{image}", found)
        for key in unit.names():
            if key.startswith(f"{case}.cost"):
                image = int(key.removeprefix(f"{case}.cost"))
                table = matcher.cost_table(
                    logits[image], Cxcywh(boxes[image]), targets[image].labels, targets[image].boxes
                )
                unit.close(key, table.total)


def check_giou(unit: Unit) -> None:
    ours, theirs = Cxcywh(unit.given("boxes1_cxcywh")), Cxcywh(unit.given("boxes2_cxcywh"))
    a, b = cxcywh_to_xyxy(ours), cxcywh_to_xyxy(theirs)
    unit.close("boxes1_xyxy", a)
    unit.close("boxes2_xyxy", b)
    unit.close("iou", pairwise_iou(a, b))
    unit.close("union", union(a, b))
    unit.close("giou", pairwise_giou(a, b))
    rows = len(theirs)
    leaf = ours.clone().requires_grad_()
    loss = 1 - paired_giou(cxcywh_to_xyxy(Cxcywh(leaf))[:rows], b)
    loss.sum().backward()
    unit.close("pair_loss", loss.detach())
    assert leaf.grad is not None
    unit.close("grad_boxes1_of_sum_pair_loss", leaf.grad)


def union(a: Xyxy, b: Xyxy) -> Tensor:
    """From the overlap ratio and the areas: i / u = r and i + u = s give u = s / (1 + r)."""
    sizes = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    return (sizes[0][:, None] + sizes[1]) / (1 + pairwise_iou(a, b))


def check_sigmoid_post_process(unit: Unit) -> None:
    predictions = Predictions(unit.given("logits"), Cxcywh(unit.given("boxes")))
    images, count = unit.shape("scores")
    found = sigmoid_top_k(count)(predictions, unit.given("sizes_hw"), tuple(range(images)))
    unit.close("scores", torch.stack([each.scores for each in found]))
    unit.equal("labels", torch.stack([each.labels for each in found]))
    unit.close("out_boxes", torch.stack([each.boxes for each in found]))


def check_softmax_post_process(unit: Unit) -> None:
    predictions = Predictions(unit.given("logits"), Cxcywh(unit.given("boxes")))
    found = softmax_top_queries(predictions, unit.given("sizes_hw"), tuple(range(len(predictions.logits))))
    # The official code keeps the order of the queries; ours puts the best first and says which query it was.
    order = [each.queries.argsort() for each in found]
    unit.close("scores", torch.stack([each.scores[rows] for each, rows in zip(found, order, strict=True)]))
    unit.equal("labels", torch.stack([each.labels[rows] for each, rows in zip(found, order, strict=True)]))
    unit.close("out_boxes", torch.stack([each.boxes[rows] for each, rows in zip(found, order, strict=True)]))


def check_grouped_denoising(unit: Unit) -> None:
    what, seed = unit.what, unit.fixture.json["seed"]
    own, width, classes = what["num_queries"] * max(what["num_patterns"], 1), what["hidden_dim"], what["num_classes"]
    denoising = GroupedDenoising(
        num_classes=classes,
        width=width,
        groups=what["scalar"],
        label_noise=what["label_noise_scale"],
        box_noise=what["box_noise_scale"],
        eps=1e-3,
    )
    labels = normal(f"unit.{unit.name}.emb", seed, (classes + 1, width - 1))
    denoising.load_state_dict({"labels.weight": torch.from_numpy(labels)})
    denoising.noise = StoredNoise([unit.given(f"draw{index}").numpy() for index in range(len(what["draws"]))])
    targets = unit.truths()
    anchors = torch.from_numpy(normal(f"unit.{unit.name}.ref", seed, (what["num_queries"], 4))).sigmoid()
    reference = anchors.repeat(own // len(anchors), 1).expand(len(targets), -1, -1)
    queries, known = denoising(Queries(torch.zeros(len(targets), own, width), None, reference), targets)
    content = queries.content.detach().transpose(0, 1)
    unit.close("input_query_label_first4", content[..., :4])
    unit.close("input_query_label_last", content[..., -1])
    assert queries.reference is not None
    # Stored as logits, which near 0 and 1 magnify what a fraction rounds away.
    boxes = unit.given("input_query_bbox").sigmoid().transpose(0, 1)
    unit.ledger.close(f"{unit.name}.input_query_bbox", queries.reference, boxes.numpy(), noise=1e-7)
    check_mask(unit, queries)
    assert (known.size if known else 0) == what["pad_size"]
    pairs = known.assignment if known else NO_PAIRS
    order = truths_in_order(targets, pairs)
    unit.equal("known_indice", order)
    unit.equal("map_known_indice", pairs.query)
    unit.equal("batch_idx", pairs.image[: sum(len(truth) for truth in targets)])
    unit.equal("known_labels", torch.cat([truth.labels for truth in targets])[order])
    unit.equal("known_boxes", torch.cat([truth.boxes for truth in targets])[order])


def check_mask(unit: Unit, queries: Queries) -> None:
    rows, columns = unit.what["attn_mask_shape"]
    blocked = torch.zeros(rows, columns, dtype=torch.bool) if queries.blocked is None else queries.blocked
    unit.equal("attn_mask_packbits", torch.from_numpy(np.packbits(blocked.numpy())))


def check_focal(unit: Unit) -> None:
    logits = unit.given("logits").requires_grad_()
    # The official function has a mean over the queries where ours has a sum, and was called with a number of boxes.
    (boxes,) = unit.told(r"num_boxes=(\d+)")
    loss = focal_loss_sum(logits, unit.given("targets"), alpha=0.25, gamma=2.0) / logits.shape[1] / boxes
    loss.backward()
    unit.close("loss", loss.detach())
    assert logits.grad is not None
    unit.close("grad", logits.grad)


def check_inverse_sigmoid(eps: float) -> Callable[[Unit], None]:
    return lambda unit: unit.close("out", inverse_sigmoid(unit.given("x"), eps=eps))


def tokens_of(unit: Unit, values: Tensor) -> Tokens:
    """The tokens that a file describes by level shapes and a flat mask."""
    shapes, mask = tuple(map(tuple, unit.given("level_shapes").tolist())), unit.given("mask_flat")
    levels = mask.split([height * width for height, width in shapes], dim=1)
    grids = [level.unflatten(1, shape) for level, shape in zip(levels, shapes, strict=True)]
    ratios = torch.stack([valid_ratio(grid) for grid in grids], dim=1)
    return Tokens(values, torch.zeros_like(values), mask, shapes, ratios)


def check_reference_points(unit: Unit) -> None:
    tokens = tokens_of(unit, torch.zeros(*unit.shape("mask_flat"), 1))
    unit.close("valid_ratios", tokens.valid_ratios)
    unit.close("out", tokens.centres[:, :, None] * tokens.valid_ratios[:, None])


def as_logits(anchors: Tensor, is_usable: Tensor) -> Tensor:
    return anchors.logit().masked_fill(~is_usable[..., None], torch.inf)


def close_with_infinities(unit: Unit, key: str, actual: Tensor) -> None:
    """Where the official code writes infinity, so must we."""
    expected = unit.fixture.arrays[f"{unit.name}.{key}"]
    np.testing.assert_array_equal(np.isinf(expected), actual.isinf().numpy())
    finite = torch.from_numpy(np.isfinite(expected))
    unit.ledger.close(f"{unit.name}.{key}", actual.where(finite, 0.0), np.where(finite, expected, 0.0), noise=1e-7)


def check_encoder_proposals(unit: Unit) -> None:
    seed, (width,) = unit.fixture.json["seed"], unit.shape("enc_output_bias")
    (divisor,) = unit.told(r'"unit.prop.w", ?\[\d+, ?\d+\]\) ?/ ?([\d.]+)')

    def drawn(key: str, *shape: int) -> Tensor:
        return torch.from_numpy(normal(f"unit.prop.{key}", seed, shape))

    proposals = EncoderProposals(width=width, class_head=nn.Identity(), box_head=nn.Identity(), rank=foreground)
    bias = 0.1 * drawn("b", width)
    unit.close("enc_output_bias", bias)
    weights = {"project.weight": drawn("w", width, width) / divisor, "project.bias": bias}
    weights |= {"norm.weight": 1 + 0.1 * drawn("g", width), "norm.bias": 0.1 * drawn("be", width)}
    proposals.load_state_dict(weights)
    tokens = tokens_of(unit, drawn("memory", *unit.shape("mask_flat"), width))
    anchors, is_usable = preset_boxes(tokens)
    close_with_infinities(unit, "output_proposals", as_logits(anchors, is_usable))
    values = proposals.values(tokens, is_usable).detach()
    unit.close("output_memory_first8", values[..., :8])


def check_preset_boxes(unit: Unit) -> None:
    memory = unit.given("memory")
    tokens = tokens_of(unit, memory)
    anchors, is_usable = preset_boxes(tokens)
    close_with_infinities(unit, "output_proposals", as_logits(anchors, is_usable))
    unit.close("output_memory", memory.masked_fill(~is_usable[..., None], 0.0))
    sides = torch.tensor(unit.told(r"wh logits \((-?[\d.]+), ?(-?[\d.]+)\)")).sigmoid()
    learned = preset_boxes(tokens, smallest=sides)
    close_with_infinities(unit, "output_proposals_learned_wh", as_logits(*learned))


def check_proposal_embedding(unit: Unit) -> None:
    boxes = unit.given("proposals_logit").sigmoid()
    unit.close("out", coordinate_embedding(boxes, width=unit.shape("out")[-1] // boxes.shape[-1]))


def check_point_embedding(unit: Unit) -> None:
    places = unit.given("pos")
    order = [1, 0, 2, 3][: places.shape[-1]]
    width = unit.shape("out")[-1] // len(order)
    unit.close("out", coordinate_embedding(places[..., order], width=width))
    if len(order) == 4:
        unit.close("out", box_embedding(places, width=width))


def check_deformable_attention(unit: Unit) -> None:
    what, seed, kind = unit.fixture.json["what"], unit.fixture.json["seed"], unit.name[-1]
    levels, entries = len(unit.fixture.arrays[f"{unit.name}.level_shapes"]), what["msda_parameters"]
    width, per_token = entries["value_proj.weight"]["shape"][0], entries["attention_weights.bias"]["shape"][0]
    heads = int(Unit(unit.fixture, "msda", unit.ledger).told(r"(\d+) heads")[0])
    attention = DeformableAttention(width=width, heads=heads, levels=levels, points=per_token // (heads * levels))
    attention.load_state_dict(
        {name: torch.from_numpy(by_rule(entry, entry["key"], seed)) for name, entry in entries.items()}
    )
    reference = unit.given("reference").requires_grad_()
    images, queries, count = len(reference), reference.shape[1], unit.shape("mask_flat")[1]
    query, values = (
        torch.from_numpy(normal(f"unit.msda.{letter}{kind}", seed, (images, rows, width))).requires_grad_()
        for letter, rows in (("q", queries), ("v", count))
    )
    tokens = tokens_of(unit, values)
    output = attention(query, reference, values, level_shapes=tokens.level_shapes, is_padding=tokens.is_padding)
    (output * torch.from_numpy(normal(f"unit.msda.go{kind}", seed, (images, queries, width)))).sum().backward()
    gradients = {name: parameter.grad for name, parameter in attention.named_parameters()}
    unit.close("output", output.detach())
    unit.close("grad_query", query.grad)
    unit.close("grad_reference", reference.grad)
    unit.close("grad_value_input_first16", values.grad[..., :16])
    for name in ("sampling_offsets", "attention_weights", "value_proj"):
        unit.close(f"grad_{name}_bias", gradients[f"{name}.bias"])
    unit.close("grad_norms", torch.stack([gradients[name].norm() for name in what["msda"]["grad_norms_order"]]))


def check_contrastive_denoising(unit: Unit) -> None:
    what, seed = unit.what, unit.fixture.json["seed"]
    own, width, classes = what["num_queries"], what["hidden_dim"], what["num_classes"]
    denoising = ContrastiveDenoising(
        num_classes=classes,
        width=width,
        copies=what["dn_number"],
        label_noise=what["label_noise_ratio"],
        box_noise=what["box_noise_scale"],
        eps=1e-3,
    )
    labels = normal(f"unit.{unit.name}.emb", seed, (classes + 1, width))
    denoising.load_state_dict({"labels.weight": torch.from_numpy(labels)})
    denoising.noise = StoredNoise([unit.given(f"draw{index}").numpy() for index in range(len(what["draws"]))])
    targets = unit.truths()
    images = len(targets)
    queries, known = denoising(Queries(torch.zeros(images, own, width), None, torch.rand(images, own, 4)), targets)
    size = what["pad_size"]
    assert (known.size if known else 0) == size
    assert queries.reference is not None
    if f"{unit.name}.input_query_label_first4" in unit.fixture.arrays:
        unit.close("input_query_label_first4", queries.content[:, :size, :4].detach())
        unit.close("input_query_label_last", queries.content[:, :size, -1].detach())
    if f"{unit.name}.input_query_bbox" in unit.fixture.arrays:
        boxes = unit.given("input_query_bbox").sigmoid()
        unit.ledger.close(f"{unit.name}.input_query_bbox", queries.reference[:, :size], boxes.numpy(), noise=1e-7)
    check_mask(unit, queries)
    if known:
        assert known.groups == what["num_dn_group"]


CHECKS: dict[str, Callable[[Unit], None]] = {
    "sine_detr": check_sine(),
    "sine_ConditionalDETR": check_sine(),
    "sine_DN-DETR": check_sine(temperature=20.0),
    "matcher_softmax": check_softmax_matcher,
    "giou": check_giou,
    "postprocess_sigmoid": check_sigmoid_post_process,
    "postprocess_softmax": check_softmax_post_process,
    "dn": check_grouped_denoising,
    "sine_Deformable-DETR": check_sine(offset=-0.5),
    "sine_DINO": check_sine(temperature=20.0),
    "matcher_focal": check_focal_matcher,
    "focal": check_focal,
    "inverse_sigmoid_eps1e-5": check_inverse_sigmoid(1e-5),
    "inverse_sigmoid_eps1e-3": check_inverse_sigmoid(1e-3),
    "reference_points": check_reference_points,
    "encoder_proposals": check_encoder_proposals,
    "encoder_proposals_dino": check_preset_boxes,
    "proposal_pos_embed": check_proposal_embedding,
    "sineembed2": check_point_embedding,
    "sineembed4": check_point_embedding,
    "msda_ref2": check_deformable_attention,
    "msda_ref4": check_deformable_attention,
    "cdn": check_contrastive_denoising,
}
"""By name, or by what stands before its first dot."""


def name_of(array: str, described: Iterable[str]) -> str:
    """The name that an array belongs to: one that the file describes, or what stands before its first dot."""
    fitting = [name for name in described if array.startswith(f"{name}.")]
    return max(fitting, key=len, default=array.split(".")[0])


def units() -> list[Any]:
    found = []
    for folder in folders():
        origin = "stored" if folder == STORED else "full"
        for path in sorted(Path(folder).glob("unit_*.json")):
            fixture = Fixture(path)
            for name in sorted({name_of(array, fixture.json["what"]) for array in fixture.arrays}):
                found.append(pytest.param(fixture, name, id=f"{origin}-{path.stem}-{name}"))
    return found


@pytest.mark.parametrize(("fixture", "name"), units())
def test_a_function_gives_the_official_numbers(fixture: Fixture, name: str) -> None:
    check = CHECKS.get(name) or CHECKS.get(name.split(".")[0])
    assert check is not None, f"{fixture.path.name}: {name} is not compared"
    ledger = Ledger({key for key in fixture.arrays if key.startswith(f"{name}.")})
    check(Unit(fixture, name, ledger))
    ledger.settle()
