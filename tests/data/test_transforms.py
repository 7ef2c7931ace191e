"""The published augmentation, sizes and box rules, against plain loops; and the others by their promises."""

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from detrctl.data.transforms import (
    GREY,
    MEAN,
    STD,
    HorizontalFlip,
    IouCrop,
    LargeScaleJitter,
    Normalise,
    OneOf,
    RandomSizeCrop,
    Record,
    ResizeShortest,
    ResizeSquare,
    Sometimes,
    VerticalFlip,
    ZoomOut,
    crop,
    eval_transform,
    make_record,
    photometric_distortion,
    shortest_side_size,
    train_transform,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def record(height: int = 12, width: int = 16, boxes: int = 6) -> Record:
    """Random pixels, boxes inside the image, and labels that tell the boxes apart."""
    corners = torch.rand(boxes, 2, 2).sort(dim=1).values * torch.tensor([width, height])
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return make_record(pixels, corners.reshape(-1, 4), torch.arange(boxes))


def boxes_of(sample: Record) -> Tensor:
    return sample["boxes"].as_subclass(Tensor)


def size_of(sample: Record) -> tuple[int, int]:
    height, width = sample["image"].shape[-2:]
    assert sample["boxes"].canvas_size == (height, width)
    return height, width


# ---- sizes ----


@pytest.mark.parametrize(
    ("before", "size", "max_size", "after"),
    [
        ((480, 640), 800, 1333, (800, 1066)),  # 1066.67 is cut, not rounded
        ((640, 480), 800, 1333, (1066, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((333, 500), 800, 1333, (800, 1201)),
        ((375, 1242), 800, 1333, (402, 1331)),  # 402.47 is rounded, and 1333 is missed by two
        ((1242, 375), 800, 1333, (1331, 402)),
        ((500, 500), 800, 1333, (800, 800)),
        ((800, 1066), 800, 1333, (800, 1066)),
        ((375, 1242), 600, None, (600, 1987)),
        ((1, 3000), 800, 1333, (1, 1333)),  # published: (0, 0)
        ((3000, 1), 800, 1333, (1333, 1)),
        ((1, 2600), 800, 1333, (1, 2600)),
    ],
)
def test_sizes_are_the_published_ones(
    before: tuple[int, int], size: int, max_size: int | None, after: tuple[int, int]
) -> None:
    assert shortest_side_size(*before, size, max_size) == after


def test_sizes_follow_the_rule_for_thousands_of_images() -> None:
    def plainly(height: int, width: int, size: int, max_size: int) -> tuple[int, int]:
        if Fraction(max(height, width), min(height, width)) * size > max_size:
            size = round(Fraction(max_size * min(height, width), max(height, width)))
        other = max(height, width) * size // min(height, width)
        return (size, other) if height <= width else (other, size)

    draw = torch.randint(16, 1500, (4000, 2), generator=torch.Generator().manual_seed(1)).tolist()
    for number, (height, width) in enumerate(draw):
        size, max_size = (480 + 32 * (number % 11), 1333) if number % 2 else (64 + number % 200, 224)
        assert shortest_side_size(height, width, size, max_size) == plainly(height, width, size, max_size)


def test_a_resize_scales_boxes_by_the_sizes_that_came_out() -> None:
    sample = record(48, 64)
    resized = ResizeShortest([80], 133)(sample)
    assert size_of(resized) == (80, 106)
    for old, new in zip(boxes_of(sample).tolist(), boxes_of(resized).tolist(), strict=True):
        expected = [old[0] * 106 / 64, old[1] * 80 / 48, old[2] * 106 / 64, old[3] * 80 / 48]
        assert new == pytest.approx(expected, rel=1e-6)


def test_a_resize_is_the_antialiased_bilinear_one_of_uint8() -> None:
    sample = record(48, 64)
    expected = v2.functional.resize(sample["image"], [24, 32], antialias=True)
    assert torch.equal(ResizeShortest([24])(sample)["image"], expected)
    assert expected.dtype == torch.uint8


def test_every_size_is_drawn_equally_often() -> None:
    sizes = [size_of(ResizeShortest([8, 10, 12])(record(4, 4, 0)))[0] for _ in range(600)]
    assert all(160 <= sizes.count(size) <= 240 for size in (8, 10, 12))


def test_a_square_resize_does_not_keep_the_aspect() -> None:
    sample = record(12, 16)
    resized = ResizeSquare([24])(sample)
    assert size_of(resized) == (24, 24)
    torch.testing.assert_close(boxes_of(resized), boxes_of(sample) * torch.tensor([1.5, 2.0, 1.5, 2.0]))


# ---- crops ----


def cropped_plainly(sample: Record, top: int, left: int, height: int, width: int) -> list[tuple[int, list[float]]]:
    """(label, box) of what is left, number by number."""
    kept = []
    for label, (x1, y1, x2, y2) in zip(sample["labels"].tolist(), boxes_of(sample).tolist(), strict=True):
        x1, x2 = (min(max(x - left, 0.0), width) for x in (x1, x2))
        y1, y2 = (min(max(y - top, 0.0), height) for y in (y1, y2))
        if (x2 - x1) * (y2 - y1) > 0:
            kept.append((label, [x1, y1, x2, y2]))
    return kept


def assert_holds(sample: Record, expected: list[tuple[int, list[float]]]) -> None:
    assert sample["labels"].tolist() == [label for label, _ in expected]
    torch.testing.assert_close(boxes_of(sample), torch.tensor([box for _, box in expected]).reshape(-1, 4))


def test_a_crop_keeps_every_box_of_which_anything_is_left() -> None:
    kept = 0
    for _ in range(300):
        sample = record(20, 30, 8)
        top, left = int(torch.randint(0, 12, ())), int(torch.randint(0, 20, ()))
        height, width = int(torch.randint(1, 21 - top, ())), int(torch.randint(1, 31 - left, ()))
        expected = cropped_plainly(sample, top, left, height, width)
        cut = crop(sample, top, left, height, width)
        assert_holds(cut, expected)
        assert torch.equal(cut["image"], sample["image"][:, top : top + height, left : left + width])
        kept += len(expected)
    assert 300 < kept < 2100


def test_a_sliver_stays_and_a_touching_box_goes() -> None:
    boxes = torch.tensor([[0.0, 0.0, 5.001, 9.0], [0.0, 0.0, 5.0, 9.0], [9.0, 2.0, 12.0, 4.0], [8.999, 2.0, 12.0, 4.0]])
    sample = make_record(torch.zeros(3, 10, 14, dtype=torch.uint8), boxes, torch.arange(4))
    cut = crop(sample, 0, 5, 10, 4)
    assert cut["labels"].tolist() == [0, 3]
    torch.testing.assert_close(boxes_of(cut), torch.tensor([[0, 0, 0.001, 9], [3.999, 2, 4, 4]]), atol=1e-6, rtol=0)


def test_crop_sides_and_places_are_drawn_evenly_within_the_image() -> None:
    # A side of 12 is less than the maximum of 14, one of 20 is more.
    heights, widths, corners = [], [], set()
    sample = make_record(
        torch.arange(240, dtype=torch.uint8).reshape(1, 12, 20).repeat(3, 1, 1), torch.zeros(0, 4), torch.zeros(0)
    )
    for _ in range(900):
        cut = RandomSizeCrop(9, 14)(sample)
        height, width = size_of(cut)
        heights.append(height)
        widths.append(width)
        corners.add((divmod(int(cut["image"][0, 0, 0]), 20), height, width))
    assert {height: abs(heights.count(height) - 225) < 60 for height in range(9, 13)} == dict.fromkeys(
        range(9, 13), True
    )
    assert {width: abs(widths.count(width) - 150) < 50 for width in range(9, 15)} == dict.fromkeys(range(9, 15), True)
    assert {top for (top, _), height, _ in corners if height == 9} == {0, 1, 2, 3}
    assert {left for (_, left), _, width in corners if width == 14} == set(range(7))
    assert all(top + height <= 12 and left + width <= 20 for (top, left), height, width in corners)


def test_an_image_smaller_than_the_crop_stays_whole() -> None:
    assert size_of(RandomSizeCrop(384, 600)(record(12, 16))) == (12, 16)


def test_an_iou_crop_keeps_the_boxes_whose_centre_is_inside() -> None:
    transform, changed = IouCrop(), 0
    for seed in range(60):
        torch.manual_seed(seed)
        sample = record(40, 50, 6)
        torch.manual_seed(seed)
        drawn = transform.draw.make_params([sample["image"], sample["boxes"]])
        torch.manual_seed(seed)
        cut = transform(sample)
        if not drawn:
            assert torch.equal(cut["image"], sample["image"])
            continue
        top, left, height, width = (drawn[name] for name in ("top", "left", "height", "width"))
        expected = [
            (label, box)
            for label, box in cropped_plainly(sample, top, left, height, width)
            if left < (boxes_of(sample)[label, 0] + boxes_of(sample)[label, 2]) / 2 < left + width
            and top < (boxes_of(sample)[label, 1] + boxes_of(sample)[label, 3]) / 2 < top + height
        ]
        assert_holds(cut, expected)
        assert expected
        changed += 1
    assert changed > 30


# ---- flips, canvas, jitter ----


@pytest.mark.parametrize(("flip", "axis"), [(HorizontalFlip(), 2), (VerticalFlip(), 1)])
def test_a_flip_mirrors_pixels_and_boxes_and_twice_is_nothing(flip: v2.Transform, axis: int) -> None:
    sample = record()
    once = flip(sample)
    assert torch.equal(once["image"], sample["image"].flip(axis))
    for (x1, y1, x2, y2), new in zip(boxes_of(sample).tolist(), boxes_of(once).tolist(), strict=True):
        expected = [16 - x2, y1, 16 - x1, y2] if axis == 2 else [x1, 12 - y2, x2, 12 - y1]
        assert new == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(boxes_of(flip(once)), boxes_of(sample))


def test_zooming_out_moves_image_and_boxes_together_onto_grey() -> None:
    for _ in range(30):
        sample = record(12, 16)
        zoomed = ZoomOut(limit=1000)(sample)
        height, width = size_of(zoomed)
        assert 12 <= height <= 48
        assert 16 <= width <= 64
        left, top = (boxes_of(zoomed) - boxes_of(sample))[0, :2].round().int().tolist()
        torch.testing.assert_close(boxes_of(zoomed), boxes_of(sample) + torch.tensor([left, top, left, top]))
        assert torch.equal(zoomed["image"][:, top : top + 12, left : left + 16], sample["image"])
        outside = zoomed["image"].clone().as_subclass(Tensor)
        outside[:, top : top + 12, left : left + 16] = GREY[:, None, None]
        assert torch.equal(outside, GREY[:, None, None].expand_as(outside))


def test_zooming_out_never_exceeds_its_limit_and_keeps_the_boxes_share_of_the_picture() -> None:
    torch.manual_seed(3)
    free = ZoomOut(limit=10_000)(record(96, 128, 3))
    torch.manual_seed(3)
    limited = ZoomOut(limit=100)(record(96, 128, 3))
    assert max(size_of(limited)) <= 100 < max(size_of(free))
    share = [boxes_of(sample)[:, 2:].sub(boxes_of(sample)[:, :2]) / size_of(sample)[1] for sample in (free, limited)]
    torch.testing.assert_close(share[0], share[1], atol=0.02, rtol=0)


def test_large_scale_jitter_scales_within_its_range_and_never_exceeds_the_square() -> None:
    sides = []
    for _ in range(200):
        sample = LargeScaleJitter(64, (0.25, 2.0))(record(24, 32))
        height, width = size_of(sample)
        assert height <= 64
        assert width <= 64
        sides.append(width)
    assert min(sides) < 24
    assert sides.count(64) == pytest.approx(200 * (1.0 / 1.75), abs=30)  # a scale above 1 fills the square


def test_one_of_two_is_drawn_with_its_probability() -> None:
    either = OneOf(ResizeSquare([4]), ResizeSquare([6]), p=0.25)
    assert [size_of(either(record()))[0] for _ in range(400)].count(4) == pytest.approx(100, abs=30)
    assert all(size_of(Sometimes(ResizeSquare([4]), p=0.0)(record())) == (12, 16) for _ in range(20))
    assert all(size_of(Sometimes(ResizeSquare([4]), p=1.0)(record())) == (4, 4) for _ in range(20))


def test_photometric_distortion_changes_pixels_only() -> None:
    sample = record()
    changed = 0
    for _ in range(20):
        distorted = photometric_distortion()(sample)
        assert torch.equal(boxes_of(distorted), boxes_of(sample))
        assert distorted["image"].dtype == torch.uint8
        changed += not torch.equal(distorted["image"], sample["image"])
    assert changed > 12


def test_normalising_is_channel_by_channel_from_uint8() -> None:
    sample = record()
    before = sample["image"].clone()
    normalised = Normalise()(sample)["image"]
    for channel in range(3):
        expected = (before[channel].float() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(normalised[channel].as_subclass(Tensor), expected.as_subclass(Tensor))
    assert torch.equal(sample["image"], before)


# ---- whole policies ----


def test_the_published_augmentation_gives_only_the_published_sizes() -> None:
    transform = train_transform()
    shortest = set()
    for _ in range(25):
        sample = transform(record(30, 40))
        height, width = size_of(sample)
        short, long = min(height, width), max(height, width)
        assert long <= 1333
        assert short in range(480, 801, 32) or long >= 1330
        shortest.add(short)
    assert len(shortest) > 5


def test_the_published_augmentation_crops_every_other_image_and_mirrors_every_other() -> None:
    # Columns are told apart by their grey: a mirrored image is brighter on the left, a cropped one spans less of it.
    ramp = torch.linspace(0, 255, 64).round().to(torch.uint8).expand(3, 48, 64)
    transform = train_transform(sizes=[48], max_size=1333, crop_first=[48], crop_size=(16, 32))
    cropped = mirrored = 0
    for _ in range(300):
        pixels = transform(make_record(ramp, torch.zeros(0, 4), torch.zeros(0)))["image"][0].as_subclass(Tensor)
        mirrored += bool(pixels[0, 0] > pixels[0, -1])
        cropped += bool((pixels.max() - pixels.min()) * STD[0] < 0.9)
    assert cropped == pytest.approx(150, abs=35)
    assert mirrored == pytest.approx(150, abs=35)


def test_the_crop_branch_is_left_out_where_the_recipe_names_no_size_before_it() -> None:
    transform = train_transform(sizes=[24], crop_first=[], crop_size=(2, 3), flip=0.0)
    assert all(size_of(transform(record())) == (24, 32) for _ in range(20))


def test_policy_none_is_what_evaluation_sees() -> None:
    for square in (False, True):
        training = train_transform(policy="none", flip=0.0, eval_size=40, eval_max_size=50, eval_square=square)
        evaluation = eval_transform(size=40, max_size=50, square=square)
        sample = record()
        assert torch.equal(training(sample)["image"], evaluation(sample)["image"])
        assert torch.equal(training(sample)["boxes"], evaluation(sample)["boxes"])
        assert size_of(evaluation(sample)) == ((40, 40) if square else (38, 50))


POLICIES: list[Callable[[], v2.Transform]] = [
    lambda: train_transform(sizes=[32, 48], max_size=80, crop_first=[32], crop_size=(10, 24)),
    lambda: train_transform(policy="square", sizes=[32, 48]),
    lambda: train_transform(policy="large_scale_jitter", sizes=[48]),
    lambda: train_transform(policy="none", eval_size=32, eval_max_size=64),
    lambda: train_transform(sizes=[32], zoom_out=1.0, iou_crop=1.0, photometric=True, vertical_flip=0.5),
]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("height", "width"), [(30, 40), (1, 1), (3, 90)])
def test_every_policy_takes_images_with_and_without_boxes(
    policy: Callable[[], v2.Transform], height: int, width: int
) -> None:
    for boxes in (0, 5):
        for _ in range(4):
            sample = policy()(record(height, width, boxes))
            new_height, new_width = size_of(sample)
            left = boxes_of(sample)
            assert left.shape == (len(sample["labels"]), 4)
            assert left.dtype == torch.float32
            assert (left[:, 2:] >= left[:, :2]).all()
            assert (left >= -1e-3).all()
            assert (left <= torch.tensor([new_width, new_height] * 2) + 1e-3).all()
            assert math.isfinite(float(sample["image"].sum()))


def test_a_users_own_v2_transform_works_on_the_same_samples() -> None:
    sample = v2.Compose([v2.RandomVerticalFlip(1.0), v2.Resize((24, 32))])(record())
    assert size_of(sample) == (24, 32)
    assert sample["labels"].tolist() == list(range(6))
