"""Truths mean the same, whether an annotation file is scored as it is or by way of the index that training reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrctl.data.coco import CocoIndex
from detrctl.errors import DataError
from detrctl.evaluation.ground_truth import GroundTruth, read_json

BOX = [10, 10, 20, 20]


def truth(**changes: Any) -> dict[str, Any]:
    fields = {"image_id": 1, "category_id": 5, "bbox": BOX, "area": 300, "iscrowd": 0} | changes
    return {name: value for name, value in fields.items() if value is not ...}


def content(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "categories": [{"id": 5, "name": "thing"}],
        "annotations": [truth(), *annotations],
    } | changes


def both(tmp_path: Path, data: Any) -> tuple[GroundTruth, GroundTruth]:
    path = tmp_path / "truths.json"
    path.write_text(json.dumps(data))
    return GroundTruth.from_file(path), GroundTruth.from_coco_dict(CocoIndex.read(path).ground_truth())


ODD: list[tuple[dict[str, Any], bool]] = [
    *(({"iscrowd": value}, True) for value in (0, "0", "", None, ..., False, 0.0, 1, "1", True, "no", 2)),
    *(({"image_id": value}, True) for value in ("1", 1.0)),
    *(({"image_id": value}, False) for value in (True, 2, "one", 1.5, None, ..., [1], 10**30, "9" * 40)),
    *(({"category_id": value}, True) for value in ("5", 5.0)),
    *(({"category_id": value}, False) for value in (6, None, "thing")),
    *(({"area": value}, True) for value in ("250", None, ..., "large", float("nan"), 10**400, [1], 0)),
    *(({"bbox": value}, True) for value in (["10", 10, "20", 20.5], [0, 0, 0, 0], [-5, 3, 900, 900], [True, 1, 5, 5])),
    *(
        ({"bbox": value}, False)
        for value in (None, ..., [1, 2, 3], [1, 2, 3, None], [1, 2, 3, "wide"], [[1, 2, 3, 4]], [1, 2, 3, 10**400])
    ),
    *(({"bbox": [1, 2, 3, value]}, False) for value in (float("nan"), float("inf"), 1e200, "1e999")),
]


@pytest.mark.parametrize(("odd", "usable"), ODD, ids=str)
def test_odd_values_mean_the_same_in_training_and_in_scoring(tmp_path: Path, odd: dict[str, Any], usable: bool) -> None:
    direct, indexed = both(tmp_path, content(truth(**odd)))
    assert len(direct.image_of) == 1 + usable
    assert direct.left_out == 1 - usable
    for name in ("image_of", "category_of", "boxes_xywh", "areas", "is_crowd"):
        np.testing.assert_array_equal(getattr(direct, name), getattr(indexed, name), err_msg=name)


def test_crowds_are_what_iscrowd_says_also_as_text(tmp_path: Path) -> None:
    direct, _ = both(tmp_path, content(*(truth(iscrowd=value) for value in ("0", "", "1", 1, None))))
    assert direct.is_crowd.tolist() == [False, False, False, True, True, False]


def test_ids_as_text_and_names_that_are_missing_are_read_alike(tmp_path: Path) -> None:
    data = content(
        images=[{"id": "1", "file_name": "a.png", "width": 9, "height": 9}],
        categories=[{"id": "5", "name": None}, {"id": 6.0}],
    )
    direct, indexed = both(tmp_path, data)
    assert direct.image_ids.tolist() == indexed.image_ids.tolist() == [1]
    assert (direct.category_ids, direct.category_names) == ((5, 6), ("5", "6"))
    assert (indexed.category_ids, indexed.category_names) == ((5, 6), ("5", "6"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply to be read"),
        ("[" + "9" * 5000 + "]", "holds a number of thousands of digits; the file is damaged"),
    ],
    ids=["nested", "digits"],
)
def test_json_that_python_cannot_hold_is_one_line(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert str(caught.value) == f"{path}: {why}"


def test_an_annotation_file_that_is_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    deep = "[" * 100_000 + "]" * 100_000
    path.write_text(json.dumps(content()).replace('"area": 300', f'"area": 300, "segmentation": {deep}'))
    with pytest.raises(DataError) as caught:
        CocoIndex.read(path)
    assert str(caught.value) == f"{path}: nested too deeply to be an annotation file"
