"""Weights go by name and shape, class rows by the names of the classes, and every tensor is accounted for."""

from typing import Any

import pytest
import torch
from torch import Tensor

from detrctl.engine.build import build_learner
from detrctl.families.learner import Learner
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories, ImageBatch, Proposals
from detrctl.weights.classes import COCO, published_categories
from detrctl.weights.transfer import Transfer, match_names, remap_rows, transfer
from tests.weights.hugging import images

OLD = Categories(("cat", "dog", "Bird"), (1, 2, 3))
NEW = Categories(("bird ", "fish", "cat"), (7, 8, 9))


def test_classes_are_matched_by_name_whatever_their_order_case_or_ids() -> None:
    assert match_names(NEW, OLD) == {0: 2, 2: 0}


def test_of_two_old_classes_with_one_name_the_first_counts() -> None:
    assert match_names(Categories(("a",), (1,)), Categories(("x", "a", "a"), (1, 2, 3))) == {0: 1}


def test_known_rows_and_the_rows_after_the_classes_are_taken_over() -> None:
    old, fresh = torch.tensor([[1.0], [2.0], [3.0], [9.0]]), torch.tensor([[-1.0], [-2.0], [-3.0], [-4.0]])
    assert remap_rows(fresh, old, {0: 2, 2: 0}, 1).tolist() == [[3.0], [-2.0], [1.0], [9.0]]
    assert remap_rows(fresh[:3], old[:3], {0: 2, 2: 0}, 0).tolist() == [[3.0], [-2.0], [1.0]]
    assert remap_rows(fresh, old, {}, 1).tolist() == [[-1.0], [-2.0], [-3.0], [9.0]]


def test_every_tensor_is_loaded_remapped_fresh_or_unused() -> None:
    old = {
        "body.weight": torch.ones(2, 2),
        "head.weight": torch.arange(4.0)[:, None].expand(4, 2),
        "head.bias": torch.arange(4.0),
        "queries": torch.ones(10, 2),
        "gone": torch.ones(1),
    }
    new = {
        "body.weight": torch.zeros(2, 2),
        "head.weight": torch.full((4, 2), -1.0),
        "head.bias": torch.full((4,), -1.0),
        "queries": torch.zeros(7, 2),
        "extra": torch.zeros(1),
    }
    moved = transfer(new, old, class_rows={"head.weight": 1, "head.bias": 1}, new_categories=NEW, old_categories=OLD)
    assert [(row.name, row.kind, row.detail) for row in moved.rows] == [
        ("body.weight", "loaded", ""),
        ("head.weight", "remapped", "2 of 3 classes taken over"),
        ("head.bias", "remapped", "2 of 3 classes taken over"),
        ("queries", "fresh", "the checkpoint's is (10, 2), this one (7, 2)"),
        ("extra", "fresh", "not in the checkpoint"),
        ("gone", "unused", "the new model has no such tensor"),
    ]
    assert moved.summary == (
        "1 loaded, 2 remapped, 2 fresh, 1 unused; 2 of 3 classes known by name; "
        "1 of the checkpoint's not taken over, first dog"
    )
    assert (moved.known, moved.left) == (("bird ", "cat"), ("dog",))
    assert moved.weights["head.bias"].tolist() == [2.0, -1.0, 0.0, 3.0]
    assert torch.equal(moved.weights["body.weight"], old["body.weight"])
    assert torch.equal(moved.weights["queries"], new["queries"])
    assert set(moved.weights) == set(new)


def test_a_class_tensor_that_does_not_have_the_old_models_rows_stays_fresh() -> None:
    moved = transfer(
        {"head.bias": torch.zeros(4)},
        {"head.bias": torch.ones(9)},
        class_rows={"head.bias": 1},
        new_categories=NEW,
        old_categories=OLD,
    )
    assert [row.kind for row in moved.rows] == ["fresh"]


def test_a_class_tensor_that_is_a_single_number_stays_fresh() -> None:
    moved = transfer(
        {"head.bias": torch.zeros(4), "rows.bias": torch.zeros(3)},
        {"head.bias": torch.tensor(1.0), "rows.bias": torch.tensor(1.0)},
        class_rows={"head.bias": 1},
        ordered_rows=["rows.bias"],
        new_categories=NEW,
        old_categories=OLD,
    )
    assert [row.kind for row in moved.rows] == ["fresh", "fresh"]


@pytest.mark.parametrize(
    ("old", "expected", "kind"),
    [
        ([7.0, 8.0, 9.0, 10.0], [7.0, 8.0, 9.0], "remapped"),
        ([7.0, 8.0], [7.0, 8.0, 0.0], "remapped"),
        ([7.0, 8.0, 9.0], [7.0, 8.0, 9.0], "loaded"),
    ],
)
def test_rows_that_stand_for_no_classes_keep_their_places(old: list[float], expected: list[float], kind: str) -> None:
    moved = transfer(
        {"bias": torch.zeros(3)},
        {"bias": torch.tensor(old)},
        class_rows={},
        ordered_rows=["bias"],
        new_categories=NEW,
        old_categories=OLD,
    )
    assert moved.weights["bias"].tolist() == expected
    count = min(len(old), 3)
    assert (moved.rows[0].kind, moved.rows[0].detail) == (
        kind,
        f"{count} of {len(old)} rows in their order: they stand for no classes",
    )


# ---- whole models ----

RAW, USED = published_categories(91), published_categories(80)
SIZES: dict[str, Any] = {"width": 16, "heads": 2, "feedforward": 16, "encoder_layers": 1, "decoder_layers": 2}
ONE_STAGE: dict[str, Any] = {"backbone": {"name": "resnet10"}, "queries": 9, **SIZES}
TWO_STAGE: dict[str, Any] = {
    **ONE_STAGE,
    "family": "deformable",
    "reference": "refined",
    "prediction_heads": "per_layer",
    "query_source": "proposals",
}
WITH_CLASSES: dict[str, dict[str, Any]] = {
    "detr": {**ONE_STAGE, "family": "detr"},
    "dn": {**ONE_STAGE, "family": "dab", "denoising": {"kind": "grouped"}},
    "dn-deformable": {**ONE_STAGE, "family": "dab_deformable", "denoising": {"kind": "grouped"}},
    "two-stage by class": {**TWO_STAGE, "ranking": "best_class"},
    "dino": {**ONE_STAGE, "family": "dino"},
    "dino, heads by layer": {**ONE_STAGE, "family": "dino", "prediction_heads": "per_layer"},
}
CLASS_TENSORS = {"detr": 2, "dn": 3, "dn-deformable": 5, "two-stage by class": 6, "dino": 5, "dino, heads by layer": 7}


def built(model: dict[str, Any], categories: Categories, seed: int) -> Learner:
    """Every weight of its own, fresh as it starts otherwise."""
    torch.manual_seed(seed)
    learner = build_learner(Recipe.model_validate({"model": model}), categories)
    return learner.eval()


@torch.no_grad()
def shaken(learner: Learner) -> Learner:
    """As if trained: no two rows of a tensor are alike."""
    for value in learner.network.parameters():
        value.add_(torch.randn(value.shape) * 0.3)
    return learner


def moved_into(new: Learner, old: Learner, categories: Categories, known: Categories) -> Transfer:
    moved = transfer(
        new.network.state_dict(),
        old.network.state_dict(),
        class_rows=new.class_rows(),
        ordered_rows=new.ordered_rows(),
        new_categories=categories,
        old_categories=known,
    )
    new.network.load_state_dict(moved.weights)
    return moved


@torch.no_grad()
def proposals(learner: Learner) -> Proposals:
    pixels, is_padding = images()
    found = learner.network(ImageBatch(pixels, is_padding, torch.tensor([[64, 96], [45, 70]]), (0, 1))).proposals
    assert found is not None
    return found


@pytest.mark.parametrize("categories", [USED, Categories(tuple(reversed(USED.names)), USED.ids)], ids=["80", "turned"])
def test_what_says_object_or_not_is_no_class_and_goes_on_saying_so(categories: Categories) -> None:
    old = shaken(built(TWO_STAGE, RAW, 0))
    new = built(TWO_STAGE, categories, 1)
    moved = moved_into(new, old, categories, RAW)
    before, after = proposals(old), proposals(new)
    assert torch.equal(after.selected, before.selected)
    assert torch.equal(after.all.boxes, before.all.boxes)
    torch.testing.assert_close(after.all.logits, before.all.logits[..., :80], atol=1e-5, rtol=0)
    head = {row.name: row.detail for row in moved.rows if row.name.startswith("queries.proposals.class_head")}
    assert set(head.values()) == {"80 of 91 rows in their order: they stand for no classes"}
    assert len(head) == 2


def test_where_classes_rank_proposals_their_rows_go_by_name() -> None:
    model = WITH_CLASSES["two-stage by class"]
    old, new = shaken(built(model, RAW, 0)), built(model, USED, 1)
    moved_into(new, old, USED, RAW)
    expected = proposals(old).all.logits[..., list(COCO)]
    torch.testing.assert_close(proposals(new).all.logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", WITH_CLASSES)
def test_coco_with_91_columns_taken_over_for_coco_with_80_loses_nothing(name: str) -> None:
    old, new = shaken(built(WITH_CLASSES[name], RAW, 0)), built(WITH_CLASSES[name], USED, 1)
    moved = moved_into(new, old, USED, RAW)
    before, after = old.network.state_dict(), new.network.state_dict()
    rows = new.class_rows()
    assert len(rows) == CLASS_TENSORS[name]
    for tensor, value in after.items():
        if tensor in rows:
            wanted = before[tensor][[*COCO, *range(91, 91 + rows[tensor])]]
            assert len(wanted) == 80 + rows[tensor]
            assert torch.equal(value, wanted), tensor
        else:
            assert torch.equal(value, before[tensor]), tensor
    assert {row.kind for row in moved.rows} == {"loaded", "remapped"}
    assert (len(moved.known), moved.left) == (80, ())
    assert moved.summary.endswith("80 of 80 classes known by name")


@pytest.mark.parametrize("name", WITH_CLASSES)
def test_on_another_dataset_known_classes_keep_their_rows_and_new_ones_start_from_the_prior(name: str) -> None:
    other = Categories(("platelet", "dog", "person", "rbc"), (1, 2, 3, 4))
    old, new = shaken(built(WITH_CLASSES[name], RAW, 0)), built(WITH_CLASSES[name], other, 1)
    fresh = {key: value.clone() for key, value in new.network.state_dict().items()}
    moved = moved_into(new, old, other, RAW)
    before, after = old.network.state_dict(), new.network.state_dict()
    biases = []
    for tensor, extra in new.class_rows().items():
        assert torch.equal(after[tensor][[1, 2]], before[tensor][[18, 1]]), tensor
        assert torch.equal(after[tensor][[0, 3]], fresh[tensor][[0, 3]]), tensor
        assert torch.equal(after[tensor][4:], before[tensor][91 : 91 + extra]), tensor
        biases += [after[tensor][[0, 3]]] if tensor.endswith("bias") else []
    assert len(biases) >= 1
    if name != "detr":  # softmax has no prior
        prior: Tensor = torch.full((len(biases), 2), -torch.tensor(99.0).log().item())
        torch.testing.assert_close(torch.stack(biases), prior, atol=1e-6, rtol=0)
    assert len(moved.left) == 78
    assert moved.summary.endswith("2 of 4 classes known by name; 78 of the checkpoint's not taken over, first bicycle")
