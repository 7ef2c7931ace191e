"""A split's numbers are those of a plain count, and what will hurt is said in plain words."""

from dataclasses import replace

import numpy as np
import pytest

from detrctl.inspection.data_facts import (
    ASPECT_EDGES,
    SIZE_EDGES,
    DataFacts,
    Limits,
    Sampled,
    SplitBoxes,
    aspects,
    class_counts,
    per_image,
    resized,
    size_counts,
    warnings,
)


def split(*images: list[tuple[int, float, float]], size_hw: tuple[int, int] = (100, 200)) -> SplitBoxes:
    """Every image is a list of (label, width, height)."""
    boxes = [(i, *box) for i, image in enumerate(images) for box in image]
    return SplitBoxes(
        np.array([10 + i for i in range(len(images))]),
        tuple(f"{i}.png" for i in range(len(images))),
        np.array([size_hw] * len(images)),
        np.array([box[0] for box in boxes], dtype=np.int64),
        np.array([box[1] for box in boxes], dtype=np.int64),
        np.array([box[2:] for box in boxes], dtype=float).reshape(-1, 2),
    )


def test_sizes_are_counted_at_the_limits_of_coco_and_below_one_cell() -> None:
    sides = [(7.9, 8.0), (8.0, 8.0), (31.9, 32.0), (32.0, 32.0), (96.0, 96.0), (96.0, 96.1)]
    found = size_counts(np.array(sides), np.array([[100, 200], [300, 50]]))
    assert (found.tiny, found.small, found.medium, found.large) == (1, 3, 2, 1)
    assert (found.images, found.boxes, found.tiny_share) == (2, 6, 1 / 6)
    assert found.median_size == pytest.approx((np.sqrt(31.9 * 32) + 32) / 2)
    assert found.median_side == 75.0
    # The limits are edges of the histogram, too.
    edges = list(SIZE_EDGES)
    bins = found.counts
    assert sum(bins[: edges.index(8.0)]) == 1
    assert sum(bins[: edges.index(32.0)]) == 3
    assert sum(bins[: edges.index(96.0)]) == 4
    assert sum(bins) == 6


def test_every_box_is_in_one_bin_however_small_or_large() -> None:
    draw = np.random.default_rng(0)
    sizes = 2 ** draw.uniform(-2, 13, 500)
    found = size_counts(np.stack([sizes, sizes], axis=1), np.array([[1, 1]]))
    for index, count in enumerate(found.counts):
        low = 0.0 if index == 0 else SIZE_EDGES[index]
        high = np.inf if index == len(found.counts) - 1 else SIZE_EDGES[index + 1]
        assert count == sum(low <= size < high for size in np.sqrt(sizes * sizes))
    assert sum(found.counts) == 500


def test_without_boxes_there_is_no_median_and_no_share() -> None:
    found = size_counts(np.zeros((0, 2)), np.array([[10, 20]]))
    assert (found.boxes, found.median_size, found.tiny_share) == (0, None, 0.0)


def test_resizing_scales_each_box_with_its_own_image() -> None:
    boxes = split([(0, 10, 10)], [(0, 20, 40), (0, 2, 2)])
    assert resized(boxes, np.array([[50, 200], [100, 400]])).tolist() == [[10, 5], [40, 40], [4, 2]]


def test_classes_count_boxes_and_images_and_stand_in_order() -> None:
    boxes = split([(1, 10, 10), (1, 50, 50), (0, 100, 100)], [], [(1, 99, 99)])
    found = class_counts(boxes, ("cat", "dog", "eel"))
    assert [(c.name, c.boxes, c.images, c.small, c.medium, c.large) for c in found] == [
        ("dog", 3, 2, 1, 1, 1),
        ("cat", 1, 1, 0, 0, 1),
        ("eel", 0, 0, 0, 0, 0),
    ]


def test_images_are_counted_against_both_limits_of_the_model() -> None:
    boxes = split(*([(0, 9, 9)] * n for n in (0, 3, 5, 0, 4)))
    found = per_image(boxes, Limits(queries=4, detections=2, size=""))
    assert found.counts == ((0, 2), (3, 1), (4, 1), (5, 1))
    assert (found.empty, found.mean, found.median, found.most, found.most_image) == (2, 2.4, 3.0, 5, 12)
    assert (found.over_queries, found.beyond_queries) == (1, ((12, 5),))
    assert (found.over_detections, found.beyond_detections) == (3, ((12, 5), (14, 4), (11, 3)))
    assert per_image(boxes, Limits(None, None, "")).over_queries == 0


def test_many_crowded_images_are_all_counted_and_some_named() -> None:
    found = per_image(split(*([[(0, 9, 9)] * 3] * 30)), Limits(2, 2, ""))
    assert (found.over_queries, len(found.beyond_queries)) == (30, 20)


def test_long_boxes_are_those_beyond_four_to_one() -> None:
    found = aspects(np.array([[4.0, 1.0], [4.1, 1.0], [1.0, 4.0], [1.0, 4.1], [1.0, 40.0]]))
    assert (found.tall, found.wide) == (2, 1)
    assert sum(found.counts) == 5
    assert found.counts[0] == 1  # 1:40 lies outside the bins
    assert found.counts[list(ASPECT_EDGES).index(4.0)] == 2


# ---- warnings ----


def facts(boxes: SplitBoxes, names: tuple[str, ...] = ("cat",), *, queries: int | None = 100) -> DataFacts:
    limits = Limits(queries, queries, "64 x 64")
    sizes = size_counts(boxes.sides_wh, boxes.sizes_hw)
    return DataFacts(
        *("d", "train", "r", len(boxes.image_ids), len(boxes.owner)),
        *(class_counts(boxes, names), sizes, sizes, None, per_image(boxes, limits), aspects(boxes.sides_wh)),
        *(limits, (), ()),
    )


def test_a_split_with_nothing_odd_has_no_warnings() -> None:
    assert warnings(facts(split([(0, 20, 20)] * 30, [(0, 20, 20)]))) == ()


def test_more_boxes_than_queries_is_said_with_what_to_set() -> None:
    crowded = split(*([(0, 20, 20)] * n for n in (30, 5, 12)))
    assert warnings(facts(crowded, queries=10)) == (
        "2 images have more boxes than the model's 10 queries (at most 30, image 10): those beyond are never "
        "learnt and cannot be found; set model.queries to 30 or more",
    )
    few = facts(crowded, queries=40)
    limits = Limits(40, 20, "")
    assert warnings(replace(few, limits=limits, per_image=per_image(crowded, limits))) == (
        "1 image has more boxes than the 20 detections that the model gives (at most 30, image 10): not all can be "
        "found; set model.detections to 30 or more",
    )


def test_classes_that_are_absent_or_nearly_so_are_named() -> None:
    boxes = split([(0, 20, 20)] * 3000, [(1, 20, 20)] * 25 + [(2, 20, 20)] * 50)
    said = warnings(facts(boxes, ("cat", "dog", "eel", "fox", "gnu"), queries=None))
    assert said == (
        "fox, gnu have no boxes in this split: nothing can be learnt of them",
        "dog (25) has hardly any boxes, the most frequent class 3000: expect little of it",
    )
    assert warnings(facts(split([(0, 20, 20)] * 19), queries=None)) == (
        "cat (19) has hardly any boxes, the most frequent class 19: expect little of it",
    )


def test_boxes_that_resizing_makes_tiny_are_told_from_those_that_are_so_in_the_files() -> None:
    large = facts(split([(0, 20, 20)] * 40))
    tiny = size_counts(np.array([[7.0, 7.0]] * 10 + [[20.0, 20.0]] * 30), np.array([[64, 64]]))
    assert warnings(replace(large, evaluated=tiny)) == (
        "25% of the boxes are smaller than 8 x 8 pixels after resizing to 64 x 64 (in the files 0%): "
        "set data.eval_size, and data.augment.sizes with it, higher",
    )
    assert warnings(replace(large, file=tiny, evaluated=tiny)) == (
        "25% of the boxes are smaller than 8 x 8 pixels, and are so in the files already: "
        "cut the images into tiles, or enlarge them (data.eval_size)",
    )


def test_mostly_empty_images_and_boxes_that_the_augmentation_loses_are_said() -> None:
    empty = facts(split([(0, 20, 20)] * 30, [], []))
    assert warnings(empty) == (
        "2 of 3 images have no boxes: they teach what is background and nothing else; "
        "leave some of them out if training is slow",
    )
    some = facts(split([(0, 20, 20)] * 30))
    left = size_counts(np.full((20, 2), 9.0), np.array([[64, 64]]))
    assert warnings(replace(some, trained=Sampled(25, left))) == (
        "the augmentation cuts away 20% of the boxes, measured on 1 images: usual where it crops, "
        "too much where objects are few; see data.augment",
    )
