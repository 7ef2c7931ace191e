"""The built-in set is frozen, is what the README says of it, and appears whole or not at all."""

import hashlib
import json
import multiprocessing
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrctl.data import shapes
from detrctl.data.check import check_split
from detrctl.data.coco import CocoIndex, find_splits
from detrctl.data.shapes import CATEGORY_IDS, ShapesStatistics, ensure_shapes, statistics, write_shapes
from detrctl.data.shapes_drawing import FIGURES, draw_image
from detrctl.errors import DataError

SOME = {"train": 120, "val": 40}
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of the set."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, SOME)
    return folder


def digest_of(root: Path, split: str) -> str:
    """Of the annotations and of the decoded pixels: a file's bytes depend on the PNG encoder."""
    digest = hashlib.sha256((root / "annotations" / f"instances_{split}.json").read_bytes())
    for file in sorted((root / "images" / split).glob("*.png")):
        with Image.open(file) as image:
            digest.update(np.array(image).tobytes())
    return digest.hexdigest()[:16]


# ---- frozen ----


def test_pixels_and_annotations_are_frozen(root: Path) -> None:
    assert {split: digest_of(root, split) for split in SOME} == {
        "train": "d63347655369c530",
        "val": "bd48a007766d0797",
    }


def test_an_image_is_the_same_whatever_was_drawn_before() -> None:
    first, boxes = draw_image("train", 5)
    draw_image("val", 0)
    again, boxes_again = draw_image("train", 5)
    np.testing.assert_array_equal(first, again)
    assert boxes == boxes_again
    assert draw_image("val", 5)[0].tobytes() != first.tobytes()


def test_the_first_images_have_these_statistics(root: Path) -> None:
    assert statistics(root, "train").lines() == [
        "120 images, 15.0% of them without objects",
        "345 boxes: circle 56, square 48, triangle 60, star 66, cross 61, ring 54",
        "small 35.4%, medium 56.8%, large 7.8%; 78.8% meet another box",
    ]
    assert statistics(root, "val").lines() == [
        "40 images, 10.0% of them without objects",
        "109 boxes: circle 14, square 24, triangle 12, star 20, cross 17, ring 22",
        "small 32.1%, medium 58.7%, large 9.2%; 78.0% meet another box",
    ]


@pytest.mark.slow
def test_the_whole_set_has_the_published_statistics(tmp_path: Path) -> None:
    whole = ensure_shapes(tmp_path)
    assert {split: digest_of(whole, split) for split in shapes.SPLITS} == {
        "train": "94ae654e5cebcdbc",
        "val": "e4eba362b88e555b",
    }
    assert statistics(whole, "train").lines() == [
        "2000 images, 14.8% of them without objects",
        "5579 boxes: circle 876, square 892, triangle 947, star 1009, cross 911, ring 944",
        "small 37.4%, medium 53.8%, large 8.8%; 74.9% meet another box",
    ]
    assert statistics(whole, "val").lines() == [
        "300 images, 13.3% of them without objects",
        "820 boxes: circle 119, square 136, triangle 141, star 144, cross 128, ring 152",
        "small 35.7%, medium 55.4%, large 8.9%; 72.9% meet another box",
    ]
    table = README.read_text(encoding="utf-8").partition("| `shapes` |")[2].splitlines()[2:4]
    assert table == [readme_row(split, statistics(whole, split)) for split in ("train", "val")]


def readme_row(split: str, counted: ShapesStatistics) -> str:
    sizes = (counted.small, counted.medium, counted.large, counted.overlapping)
    cells = [split, str(counted.images), f"{counted.images_without_boxes:.1%}", str(counted.boxes)]
    return f"| {' | '.join([*cells, *(f'{share:.1%}' for share in sizes)])} |"


def test_statistics_count_by_hand(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [
            {"image_id": 1, "category_id": 8, "bbox": [0, 0, 10, 10], "area": 100},
            {"image_id": 1, "category_id": 8, "bbox": [9, 9, 40, 40], "area": 1600},
            {"image_id": 1, "category_id": 1, "bbox": [49, 0, 5, 5], "area": 25},
            {"image_id": 1, "category_id": 1, "bbox": [60, 0, 100, 100], "area": 10000},
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    counted = statistics(tmp_path, "val")
    assert counted == ShapesStatistics(
        2, 4, dict.fromkeys(FIGURES, 0) | {"ring": 2, "circle": 2}, 0.5, 0.5, 0.25, 0.25, 0.5
    )


# ---- what it is made of ----


def test_it_is_a_coco_folder_that_takes_the_common_path(root: Path) -> None:
    splits = find_splits(root)
    assert sorted(splits) == ["train", "val"]
    for split in splits.values():
        assert split.annotations is not None
        index = CocoIndex.read(split.annotations)
        assert index.categories.names == tuple(CATEGORY_IDS)
        assert index.categories.ids == (1, 2, 3, 5, 6, 8)
        report = check_split(index, split.images)
        assert (report.missing, report.repeated) == ((), ())
        assert len(report.lines()) == 3  # totals, classes, images without boxes: nothing to mend


def test_no_image_id_stands_in_both_splits(root: Path) -> None:
    ids = [CocoIndex.read(root / "annotations" / f"instances_{split}.json").image_ids.tolist() for split in SOME]
    assert ids == [list(range(1, 121)), list(range(2001, 2041))]


def test_boxes_lie_inside_images_of_the_stated_sizes(root: Path) -> None:
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    assert {side for size in sizes.values() for side in size} <= set(range(112, 161, 4))
    assert sum(width != height for width, height in sizes.values()) > 100
    assert len(content["annotations"]) > 300
    for annotation in content["annotations"]:
        (x, y, w, h), (width, height) = annotation["bbox"], sizes[annotation["image_id"]]
        assert min(x, y) >= 0
        assert x + w <= width + 0.02
        assert y + h <= height + 0.02
        assert min(w, h) >= 5
        assert annotation["area"] == pytest.approx(w * h, abs=0.01)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_fills_its_square_and_stays_in_it(name: str) -> None:
    grid = np.linspace(-1.5, 1.5, 601)
    inside = FIGURES[name](*np.meshgrid(grid, grid))
    rows, columns = grid[inside.any(axis=1)], grid[inside.any(axis=0)]
    for axis in (rows, columns):
        assert -1.25 < axis.min() < -0.8
        assert 0.8 < axis.max() < 1.25
    assert inside[300, 300] == (name != "ring")


# ---- whole or not at all ----


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(shapes, "SPLITS", {"train": 4, "val": 2})
    monkeypatch.setenv("DETRCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_is_drawn_once_into_the_cache_folder(tiny: Path) -> None:
    root = ensure_shapes()
    assert root == tiny / "shapes-v1"
    assert sorted(str(file.relative_to(root)) for file in root.rglob("*.*")) == [
        "annotations/instances_train.json",
        "annotations/instances_val.json",
        *(f"images/train/{n:06d}.png" for n in range(4)),
        *(f"images/val/{n:06d}.png" for n in range(2)),
    ]
    written = (root / "annotations" / "instances_val.json").stat().st_mtime_ns
    assert ensure_shapes() == root
    assert (root / "annotations" / "instances_val.json").stat().st_mtime_ns == written


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DETRCTL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert shapes.cache_folder() == tmp_path / "detrctl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert shapes.cache_folder() == Path.home() / ".cache" / "detrctl"


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_processes_that_start_together_end_with_one_whole_set(tiny: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=ensure_shapes) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [entry.name for entry in tiny.iterdir()] == ["shapes-v1"]
    assert len(list(tiny.rglob("*.png"))) == 6


def test_an_interrupted_drawing_leaves_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path, counts: dict[str, int]) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "write_shapes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_shapes()
    assert list(tiny.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, counts: dict[str, int]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shapes, "write_shapes", full)
    expected = "the shapes set cannot be written here ({}); set DETRCTL_CACHE to another folder"
    with pytest.raises(DataError, match=re.escape(f"{tiny}: {expected.format('No space left on device')}")):
        ensure_shapes()
    (tiny / "file").write_text("not a folder")
    with pytest.raises(DataError, match=re.escape(f"{tiny / 'file'}: {expected.format('File exists')}")):
        ensure_shapes(tiny / "file")
