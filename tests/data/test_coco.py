"""What an annotation file says reaches training, evaluation and the report; what is wrong with it is said plainly."""

import json
import pickle
import re
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detrctl.data.coco import CocoIndex
from detrctl.errors import DataError
from tests.data.coco_files import annotation, content, index_of, write_json


def boxes(index: CocoIndex, i: int = 0, size_hw: tuple[int, int] | None = None) -> list[list[float]]:
    return index.targets(i, size_hw)[0].tolist()


def facts(index: CocoIndex) -> dict[str, Any]:
    """The counts of mended and left-out things that are not zero."""
    totals = ("images", "annotations", "boxes", "boxes_per_class", "small", "medium", "large", "most_boxes_in_an_image")
    return {name: value for name, value in vars(index.summary).items() if value and name not in totals}


# ---- what training sees ----


def test_any_category_ids_become_contiguous_labels_and_come_out_again(tmp_path: Path) -> None:
    categories = [{"id": 90, "name": "z"}, {"id": 0, "name": "a"}, {"id": 7, "name": "m", "supercategory": "x"}]
    given = [annotation(id=n, category_id=c) for n, c in enumerate([7, 90, 0, 90])]
    index = index_of(tmp_path, content(*given, categories=categories))
    assert index.categories.names == ("a", "m", "z")
    assert index.categories.ids == (0, 7, 90)
    assert index.targets(0)[1].tolist() == [1, 2, 0, 2]
    assert [item["category_id"] for item in index.ground_truth()["annotations"]] == [7, 90, 0, 90]
    assert [item["id"] for item in index.ground_truth()["annotations"]] == [1, 2, 3, 4]
    assert index.ground_truth()["categories"] == [
        {"id": 0, "name": "a"},
        {"id": 7, "name": "m"},
        {"id": 90, "name": "z"},
    ]


def test_boxes_become_corners_clamped_to_the_image(tmp_path: Path) -> None:
    given = [[10, 20, 30, 40.5], [-5, -6, 20, 20], [90, 70, 50, 50], [82, 0, 10, 80]]
    index = index_of(tmp_path, content(*(annotation(bbox=box) for box in given)))
    assert boxes(index) == [[10, 20, 40, 60.5], [0, 0, 15, 14], [90, 70, 100, 80], [82, 0, 92, 80]]
    assert facts(index) == {"leaving_the_image": 2}
    assert [item["bbox"] for item in index.ground_truth()["annotations"]][1] == [-5, -6, 20, 20]


def test_a_box_stays_if_some_width_and_height_is_left_after_clamping(tmp_path: Path) -> None:
    def stays_plainly(x: float, y: float, w: float, h: float) -> bool:
        x1, x2, y1, y2 = max(x, 0), min(x + w, 100), max(y, 0), min(y + h, 80)
        return x2 > x1 and y2 > y1

    random = np.random.default_rng(0)
    given = [np.round(random.uniform(-60, 140, 4), 1).tolist() for _ in range(400)]
    given += [[0, 0, 0, 5], [0, 0, 5, 0], [100, 0, 5, 5], [99.9, 79.9, 5, 5], [-5, 0, 5, 5], [50, 50, -10, 10]]
    index = index_of(tmp_path, content(*(annotation(id=n, bbox=box) for n, box in enumerate(given))))
    expected = [box for box in given if stays_plainly(*box)]
    assert len(boxes(index)) == len(expected) == index.summary.boxes
    assert index.summary.without_area == len(given) - len(expected) > 50
    np.testing.assert_allclose([b[0] for b in boxes(index)], [max(b[0], 0) for b in expected], atol=1e-4)


def test_crowds_are_left_out_of_training_and_kept_for_evaluation(tmp_path: Path) -> None:
    index = index_of(tmp_path, content(annotation(), annotation(id=2, iscrowd=1, bbox=[0, 0, 50, 50])))
    assert boxes(index) == [[10, 10, 30, 30]]
    assert [item["iscrowd"] for item in index.ground_truth()["annotations"]] == [0, 1]
    assert facts(index) == {"crowds": 1}


def test_images_without_boxes_are_kept(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "width": 9, "height": 8} for n in (5, 3)]
    index = index_of(tmp_path, content(images=images))
    assert [index.image(i).id for i in range(len(index))] == [5, 3]
    truths, labels = index.targets(1)
    assert truths.shape == (0, 4)
    assert (truths.dtype, labels.dtype, labels.shape) == (torch.float32, torch.int64, (0,))
    assert facts(index) == {"images_without_boxes": 2}
    assert len(index.ground_truth()["images"]) == 2


def test_missing_area_and_iscrowd_are_derived(tmp_path: Path) -> None:
    given = [annotation(area=...), annotation(area=None, iscrowd=...), annotation(iscrowd=None, area=7)]
    index = index_of(tmp_path, content(*given))
    assert [item["area"] for item in index.ground_truth()["annotations"]] == [400, 400, 7]
    assert [item["iscrowd"] for item in index.ground_truth()["annotations"]] == [0, 0, 0]
    assert facts(index) == {"areas_derived": 2, "iscrowd_missing": 2}


@pytest.mark.parametrize(
    ("bad", "fact"),
    [
        ({"image_id": 2}, "unknown_image"),
        ({"image_id": None}, "unknown_image"),
        ({"image_id": 1.5}, "unknown_image"),
        ({"image_id": 10**30}, "unknown_image"),
        ({"category_id": 9}, "unknown_category"),
        ({"category_id": "thing"}, "unknown_category"),
        ({"bbox": [1, 2, 3, float("nan")]}, "unusable_boxes"),
        ({"bbox": [1, 2, float("inf"), 3]}, "unusable_boxes"),
        ({"bbox": [1, 2, 3]}, "unusable_boxes"),
        ({"bbox": [1, 2, 3, None]}, "unusable_boxes"),
        ({"bbox": [1, 2, 3, "wide"]}, "unusable_boxes"),
        ({"bbox": None}, "unusable_boxes"),
        ({"bbox": ...}, "unusable_boxes"),
        ({"bbox": [[1, 2, 3, 4]]}, "unusable_boxes"),
    ],
)
def test_what_cannot_be_used_is_counted_and_left_out(tmp_path: Path, bad: dict[str, Any], fact: str) -> None:
    index = index_of(tmp_path, content(annotation(), annotation(id=2, **bad), annotation(id=3, bbox=[1, 2, 3, 4])))
    assert boxes(index) == [[10, 10, 30, 30], [1, 2, 4, 6]]
    assert len(index.ground_truth()["annotations"]) == 2
    assert facts(index) == {fact: 1}
    assert index.summary.annotations == 3


def test_numbers_written_as_text_or_with_a_point_are_read(tmp_path: Path) -> None:
    data = content(
        annotation(image_id="1", category_id=1.0, bbox=["10", 10, "20", 20.0], area="400", iscrowd="0"),
        images=[{"id": 1.0, "file_name": "a.png", "width": "100", "height": 80.0}],
        categories=[{"id": "1", "name": 5}],
    )
    index = index_of(tmp_path, data)
    assert boxes(index) == [[10, 10, 30, 30]]
    assert index.categories.names == ("5",)
    assert facts(index) == {}


def test_annotations_in_any_order_find_their_image_and_keep_their_order(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    ids = random.permutation(50) * 3
    images = [{"id": int(n), "file_name": f"{n}.png", "width": 500, "height": 500} for n in ids]
    owners = random.choice(ids, 300).tolist()
    index = index_of(
        tmp_path,
        content(*(annotation(id=k, image_id=n, bbox=[k, 1, 1, 1]) for k, n in enumerate(owners)), images=images),
    )
    for i, image_id in enumerate(ids):
        assert [box[0] for box in boxes(index, i)] == [k for k, owner in enumerate(owners) if owner == image_id]


def test_an_image_without_size_is_clamped_to_the_file_that_is_read(tmp_path: Path) -> None:
    index = index_of(tmp_path, content(annotation(bbox=[90, 0, 100, 10]), images=[{"id": 1, "file_name": "a.png"}]))
    assert boxes(index) == [[90, 0, 190, 10]]
    assert boxes(index, size_hw=(50, 120)) == [[90, 0, 120, 10]]
    assert facts(index) == {"images_without_size": 1}


def test_file_names_of_any_script_and_length_come_back(tmp_path: Path) -> None:
    names = ["a.png", "ordner/Löwe 1.jpg", "図/写真.png", "x" * 300]
    index = index_of(
        tmp_path,
        content(images=[{"id": n, "file_name": name, "width": 1, "height": 2} for n, name in enumerate(names)]),
    )
    assert [index.image(i).file_name for i in range(4)] == names
    assert (index.image(3).id, index.image(3).width, index.image(3).height) == (3, 1, 2)


def test_a_file_without_annotations_lists_images_to_predict(tmp_path: Path) -> None:
    data = content()
    del data["annotations"]
    assert index_of(tmp_path, data).summary.annotations == 0


def test_the_report_says_everything_in_sentences(tmp_path: Path) -> None:
    given = [
        annotation(),
        annotation(id=2, bbox=[0, 0, 40, 40], area=1600),
        annotation(id=3, bbox=[0, 0, 99, 99], area=9801, iscrowd=...),
        annotation(id=4, iscrowd=1, area=...),
        annotation(id=5, bbox=[1, 1, 0, 5]),
        annotation(id=6, image_id=3),
        annotation(id=7, category_id=3),
        annotation(id=8, bbox=[]),
    ]
    images = [*content()["images"], {"id": 2, "file_name": "b.png"}]
    categories = [*content()["categories"], {"id": 2, "name": "unseen"}]
    assert index_of(tmp_path, content(*given, images=images, categories=categories)).summary.lines() == [
        "2 images, 3 boxes of 2 classes: 1 small, 1 medium, 1 large, at most 3 in an image",
        "images without boxes, kept: 1",
        "classes without boxes, kept: 1",
        "images without width and height, taken from the image files: 1",
        "crowd annotations, left out of training, kept for evaluation: 1",
        "annotations without iscrowd, taken as single objects: 1",
        "annotations without area, taken as width x height of the box: 1",
        "boxes that leave their image, clipped in training: 1",
        "boxes without area inside the image, left out of training: 1",
        "annotations whose box is not four finite numbers, left out: 1",
        "annotations of an image that is not listed, left out: 1",
        "annotations of a category that is not listed, left out: 1",
    ]


# ---- what is wrong with a file ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [1,\n 2', ":2:3: not valid JSON (Expecting ',' delimiter); the file is damaged or cut off"),
        ("", ":1:1: not valid JSON (Expecting value); the file is damaged or cut off"),
        ("[]", ": not a COCO detection file (Expected object, got array)"),
        ('{"a": 1}', ": not a COCO detection file (missing required field images)"),
        ('{"images": {}}', ": not a COCO detection file (Expected array, got object at $.images)"),
        ('{"images": [], "categories": []}', ": `categories` lists nothing; a detector needs at least one class"),
        (
            json.dumps(content(images=[])),
            ": the split is empty, `images` lists nothing",
        ),
        (
            json.dumps(content(images=content()["images"] * 2)),
            ": 1 image ids stand for more than one entry: 1; give every entry its own id",
        ),
        (
            json.dumps(content(categories=[{"id": n // 2, "name": "x"} for n in range(12)])),
            ": 6 category ids stand for more than one entry: 0, 1, 2, 3, 4, ...; give every entry its own id",
        ),
        (
            json.dumps(content(images=[{"id": "one", "file_name": "a.png"}])),
            ": images[0].id: 'one' is not a whole number",
        ),
        (
            json.dumps(content(images=[{"id": 1}])),
            ": images[0].file_name: None is not the name of a file",
        ),
        (json.dumps(content(categories=[{"name": "x"}])), ": categories[0].id: None is not a whole number"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"^{re.escape(str(path) + message)}$"):
        CocoIndex.read(path)


def test_a_missing_folder_or_binary_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.json: no such annotation file$"):
        CocoIndex.read(tmp_path / "no.json")
    with pytest.raises(DataError, match=r": cannot be read \(Is a directory\)$"):
        CocoIndex.read(tmp_path)
    (tmp_path / "binary.json").write_bytes(b'{"\xff\xfe": 1}')
    with pytest.raises(DataError, match=r"binary\.json: not a text file in UTF-8 \(byte 2\)$"):
        CocoIndex.read(tmp_path / "binary.json")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content(annotation())), encoding="utf-8-sig")
    assert CocoIndex.read(path).summary.boxes == 1


# ---- memory ----


def pickled_for_a_worker(index: CocoIndex) -> memoryview:
    return ForkingPickler.dumps(index)


def test_a_process_started_by_spawn_gets_the_index_without_a_copy(tmp_path: Path) -> None:
    few, many = (
        index_of(tmp_path, content(*(annotation(id=n, bbox=[n, 1, 2, 2]) for n in range(count)))) for count in (1, 3000)
    )
    # Handles of shared memory, whatever the number of boxes; a common pickle would carry the boxes themselves.
    assert abs(len(pickled_for_a_worker(few)) - len(pickled_for_a_worker(many))) < 100
    received = pickle.loads(pickled_for_a_worker(many))
    received.boxes_xywh[5, 0] = -1
    assert many.boxes_xywh[5, 0] == -1


def test_the_index_holds_no_python_object_per_image_or_box(tmp_path: Path) -> None:
    # Reference counts of such objects would be written to, and so copied, by every worker started by fork.
    index = index_of(tmp_path, content(*(annotation(id=n) for n in range(3000))))
    held = {name: value for name, value in vars(index).items() if not isinstance(value, Tensor)}
    assert set(held) == {"source", "categories", "summary", "labelled"}
    assert len(pickle.dumps(held)) < 1500


def test_reading_again_gives_the_same(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", content(annotation(), annotation(id=2, bbox=[0, 0, 50, 50])))
    assert CocoIndex.read(path).ground_truth() == CocoIndex.read(path).ground_truth()


def test_a_name_with_half_a_pair_of_surrogates_is_a_name_that_no_file_has(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(
        '{"images": [{"id": 1, "file_name": "a\\ud800.jpg", "height": 9, "width": 9}], "categories": [{"id": 1}]}'
    )
    assert CocoIndex.read(file).image(0).file_name == "a?.jpg"
