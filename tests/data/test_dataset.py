"""Samples depend on seed, epoch and image alone; broken files are named, and stop or are skipped by choice."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from detrctl.data.batch import Sample, collate
from detrctl.data.coco import CocoIndex
from detrctl.data.dataset import DetectionDataset, random_numbers_from
from detrctl.data.images import read_image
from detrctl.data.transforms import Record, eval_transform, train_transform
from detrctl.errors import DataError
from detrctl.structures import Batch
from tests.data.coco_files import annotation, content, index_of, write_image

IMAGES = 10

pytestmark = [
    # Python 3.12 warns where a process with threads is forked, as every loader does.
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes"),
]


@pytest.fixture
def index(tmp_path: Path) -> CocoIndex:
    """Ten small images with 0 to 9 boxes each."""
    images, boxes = [], []
    for n in range(IMAGES):
        width, height = 40 + n, 50 - n
        write_image(tmp_path / f"{n}.png", width=width, height=height, seed=n)
        images.append({"id": 100 + n, "file_name": f"{n}.png", "width": width, "height": height})
        boxes += [annotation(id=len(boxes) + k, image_id=100 + n, bbox=[k, 2 * k, 10, 12]) for k in range(n)]
    return index_of(tmp_path, content(*boxes, images=images))


def augmented(index: CocoIndex, folder: Path, **options: object) -> DetectionDataset:
    transform = train_transform(sizes=[24, 32], max_size=48, crop_first=[32], crop_size=(12, 24), photometric=True)
    return DetectionDataset(index, folder, transform, **({"seed": 3} | options))  # type: ignore[arg-type]


def batches(dataset: DetectionDataset, workers: int) -> list[Batch]:
    found = list(DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=collate))
    assert len(found) == 3
    return found


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images.pixels, b.images.pixels) and all(
        torch.equal(x.boxes, y.boxes) and torch.equal(x.labels, y.labels) and x.image_id == y.image_id
        for x, y in zip(a.targets, b.targets, strict=True)
    )


def same_sample(a: Sample, b: Sample) -> bool:
    return torch.equal(a.pixels, b.pixels) and torch.equal(a.targets.boxes, b.targets.boxes)


# ---- reproducible augmentation ----


@pytest.mark.parametrize("cache", [False, True])
def test_any_number_of_workers_gives_the_same_batches(index: CocoIndex, tmp_path: Path, cache: bool) -> None:
    expected = batches(augmented(index, tmp_path), 0)
    for workers in (1, 3):
        dataset = augmented(index, tmp_path, cache=cache)
        found = batches(dataset, workers) + batches(dataset, workers)
        assert all(same(a, b) for a, b in zip(expected * 2, found, strict=True))


def test_seed_epoch_and_image_each_change_the_augmentation(index: CocoIndex, tmp_path: Path) -> None:
    dataset, other_seed = augmented(index, tmp_path), augmented(index, tmp_path, seed=4)
    first = [dataset[i] for i in range(IMAGES)]
    assert not all(same_sample(a, other_seed[i]) for i, a in enumerate(first))
    dataset.set_epoch(1)
    assert not all(same_sample(a, dataset[i]) for i, a in enumerate(first))
    dataset.set_epoch(0)
    assert all(same_sample(a, dataset[i]) for i, a in enumerate(first))


def test_a_new_epoch_reaches_workers_that_live_on(index: CocoIndex, tmp_path: Path) -> None:
    dataset, alone = augmented(index, tmp_path), augmented(index, tmp_path)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=collate, persistent_workers=True)
    for epoch in (0, 1, 5):
        dataset.set_epoch(epoch)
        alone.set_epoch(epoch)
        assert all(same(a, b) for a, b in zip(loader, batches(alone, 0), strict=True))


def test_plain_epochs_are_transformed_otherwise_in_workers_that_live_on_too(index: CocoIndex, tmp_path: Path) -> None:
    small = eval_transform(size=16, max_size=32)
    dataset, plain = augmented(index, tmp_path, plain=small), DetectionDataset(index, tmp_path, small)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=collate, persistent_workers=True)
    for is_plain in (False, True, False):
        dataset.set_epoch(3, plain=is_plain)
        expected = plain if is_plain else augmented(index, tmp_path)
        expected.set_epoch(3, plain=is_plain)
        assert all(same(a, b) for a, b in zip(loader, batches(expected, 0), strict=True))
    dataset.set_epoch(3, plain=True)
    assert not same_sample(dataset.through(train_transform(sizes=[20]))[5], plain[5])


def test_the_draws_around_a_sample_are_not_disturbed(index: CocoIndex, tmp_path: Path) -> None:
    def draws() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.rand())

    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    expected = draws()
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    augmented(index, tmp_path)[3]
    assert draws() == expected


def test_transforms_that_draw_from_python_or_numpy_are_reproducible_too() -> None:
    with random_numbers_from(1, 2, 3):
        first = random.random(), float(np.random.rand()), float(torch.rand(()))
    random.random(), np.random.rand(), torch.rand(())
    with random_numbers_from(1, 2, 3):
        assert first == (random.random(), float(np.random.rand()), float(torch.rand(())))
    with random_numbers_from(1, 2, -4):
        assert first[2] != float(torch.rand(()))


def test_an_error_inside_a_sample_brings_the_state_back_as_well() -> None:
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), random_numbers_from(1):
        _ = torch.rand(()) / (1 // 0)
    assert torch.equal(state, torch.get_rng_state())


# ---- samples ----


def test_boxes_are_fractions_of_the_image_that_the_model_sees(index: CocoIndex, tmp_path: Path) -> None:
    dataset = DetectionDataset(index, tmp_path, eval_transform(size=82, max_size=200))
    sample = dataset[3]  # 43 x 47 in the file
    assert sample is not None
    assert min(sample.pixels.shape[1:]) == 82
    assert (sample.original_size_hw, sample.image_id, sample.targets.image_id) == ((47, 43), 103, 103)
    height, width = sample.pixels.shape[1:]
    for k, box in enumerate(sample.targets.boxes.tolist()):
        # The resize's own ratios, one per axis, cancel out against the new size.
        assert box == pytest.approx([(k + 5) / 43, (2 * k + 6) / 47, 10 / 43, 12 / 47], abs=1e-6)
    assert height / width == pytest.approx(47 / 43, abs=0.02)


def test_pixels_and_labels_are_plain_tensors(index: CocoIndex, tmp_path: Path) -> None:
    sample = augmented(index, tmp_path)[9]
    assert sample is not None
    assert [type(part) for part in (sample.pixels, sample.targets.boxes, sample.targets.labels)] == [torch.Tensor] * 3
    assert (sample.pixels.dtype, sample.targets.labels.dtype) == (torch.float32, torch.int64)


def test_a_cached_image_cannot_be_changed_by_a_transform(index: CocoIndex, tmp_path: Path) -> None:
    def blacken(record: Record) -> Record:
        record["image"].zero_()
        return record

    dataset = DetectionDataset(index, tmp_path, blacken, cache=True)
    for _ in range(2):  # from the file, then from the cache
        dataset[0]
    dataset.transform = lambda record: record
    again = dataset[0]
    assert again is not None
    assert torch.equal(again.pixels, read_image(tmp_path / "0.png"))


def test_the_cache_reads_every_file_once(index: CocoIndex, tmp_path: Path) -> None:
    dataset = augmented(index, tmp_path, cache=True)
    expected = [dataset[i] for i in range(IMAGES)]
    for file in tmp_path.glob("*.png"):
        file.unlink()
    assert all(same_sample(a, dataset[i]) for i, a in enumerate(expected))


# ---- broken files ----


def test_a_broken_file_stops_with_its_name(index: CocoIndex, tmp_path: Path) -> None:
    (tmp_path / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=rf"^{re.escape(str(tmp_path))}/4\.png: cannot be decoded as an image \(.*\)$"):
        augmented(index, tmp_path)[4]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_skipped_by_choice_and_named_afterwards(
    index: CocoIndex, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "4.png").write_bytes(b"no image")
    (tmp_path / "7.png").unlink()
    dataset = augmented(index, tmp_path, broken="skip")
    assert dataset.unreadable() == []
    assert [batch.images.image_ids for batch in batches(dataset, workers)] == [
        (100, 101, 102, 103),
        (105, 106),
        (108, 109),
    ]
    assert dataset.unreadable() == [tmp_path / "4.png", tmp_path / "7.png"]
