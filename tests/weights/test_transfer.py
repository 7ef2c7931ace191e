"""Weights go by name and shape, class rows by the names of the classes, and every tensor is accounted for."""

import torch

from detrctl.structures import Categories
from detrctl.weights.transfer import match_names, remap_rows, transfer

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
    assert moved.summary == "1 loaded, 2 remapped, 2 fresh, 1 unused; 2 of 3 classes known by name"
    assert moved.known == ("bird ", "cat")
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
