"""The usual COCO layouts are found from their root; where something is missing, one line says what."""

import re
from pathlib import Path

import pytest

from detrctl.data.layouts import ImageFinder, SplitFiles, choose_split, find_splits, named_split
from detrctl.errors import DataError
from tests.data.coco_files import content, write_image, write_json


def test_coco_2017(tmp_path: Path) -> None:
    for name in ("train2017", "val2017"):
        write_image(tmp_path / name / "a.png")
        write_json(tmp_path / "annotations" / f"instances_{name}.json", content())
        write_json(tmp_path / "annotations" / f"person_keypoints_{name}.json", content())
    write_image(tmp_path / "test2017" / "b.png")
    assert find_splits(tmp_path) == {
        "train": SplitFiles(tmp_path / "train2017", tmp_path / "annotations" / "instances_train2017.json"),
        "val": SplitFiles(tmp_path / "val2017", tmp_path / "annotations" / "instances_val2017.json"),
        "test": SplitFiles(tmp_path / "test2017", None),
    }


@pytest.mark.parametrize("folder", ["images", "images/train", "train", "images/train2017", "training", "."])
def test_images_and_annotations_side_by_side(tmp_path: Path, folder: str) -> None:
    write_image(tmp_path / folder / "a.png")
    file = write_json(tmp_path / "annotations" / "instances_train.json", content())
    if folder == "images/train2017":
        file = file.rename(file.with_name("instances_train2017.json"))
    assert find_splits(tmp_path) == {"train": SplitFiles(tmp_path / folder, file)}


def test_the_folder_that_holds_the_named_files_is_taken_where_several_exist(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "other.png")
    write_image(tmp_path / "images" / "sub" / 'quoted " ä.png')
    entry = content()["images"][0] | {"file_name": 'sub/quoted " ä.png'}
    write_json(tmp_path / "annotations" / "instances_train.json", content(images=[entry]))
    assert find_splits(tmp_path)["train"].images == tmp_path / "images"


def test_a_folder_per_split_with_its_annotations_inside(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        write_json(tmp_path / name / "_annotations.coco.json", content())
        write_image(tmp_path / name / "a.png")
    found = find_splits(tmp_path)
    assert sorted(found) == ["test", "train", "val"]
    assert found["val"] == SplitFiles(tmp_path / "valid", tmp_path / "valid" / "_annotations.coco.json")


def test_a_broken_annotation_file_is_found_all_the_same(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text("")
    assert find_splits(tmp_path)["train"].images == tmp_path / "images"


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    expected = f"{tmp_path / 'no'}: no such folder; give the folder that holds a dataset's images and annotations"
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        find_splits(tmp_path / "no")


def test_a_root_without_annotations_says_what_was_looked_for(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "a.png")
    expected = (
        f"{tmp_path}: no COCO annotations found; looked for annotations/instances_train2017.json "
        "(images in train2017/), annotations/instances_train.json (images in images/, images/train/ or train/), "
        "and train/_annotations.coco.json"
    )
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        find_splits(tmp_path)


def test_a_split_is_chosen_by_any_of_its_names_or_the_others_are_listed(tmp_path: Path) -> None:
    splits = {name: SplitFiles(tmp_path / name, None) for name in ("val", "train")}
    for name in ("val", "valid", "val2017", "validation"):
        assert choose_split(splits, name, tmp_path) is splits["val"]
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path))}: no split 'test'; there is train, val$"):
        choose_split(splits, "test", tmp_path)


def test_a_split_named_by_hand_must_exist(tmp_path: Path) -> None:
    file = write_json(tmp_path / "a.json", content())
    assert named_split(tmp_path, file) == SplitFiles(tmp_path, file)
    assert named_split(tmp_path, None).annotations is None
    with pytest.raises(DataError, match=r"no: no such folder of images$"):
        named_split(tmp_path / "no", file)
    with pytest.raises(DataError, match=r"no\.json: no such annotation file$"):
        named_split(tmp_path, tmp_path / "no.json")


def test_an_image_is_found_by_its_splits_annotations_where_names_repeat(tmp_path: Path) -> None:
    for name in ("train", "val"):
        write_image(tmp_path / "images" / name / "a.png")
    val = write_json(tmp_path / "annotations" / "instances_val.json", content())
    assert ImageFinder(tmp_path, val).find("a.png") == tmp_path / "images" / "val" / "a.png"
    elsewhere = write_json(tmp_path / "other.json", content())
    assert ImageFinder(tmp_path, elsewhere).find("a.png") is None, "either could be it"
    assert ImageFinder(tmp_path, elsewhere).find("train/a.png") == tmp_path / "images" / "train" / "a.png"


def test_an_image_is_found_anywhere_in_the_folder_or_not_at_all(tmp_path: Path) -> None:
    write_image(tmp_path / "deep" / "down" / "b.png")
    finder = ImageFinder(tmp_path, tmp_path / "gt.json")
    assert finder.find("b.png") == finder.find("down/b.png") == tmp_path / "deep" / "down" / "b.png"
    assert finder.find("c.png") is None
    assert finder.find("") is None
    with pytest.raises(DataError, match=r"nowhere: no such folder; give the one that holds the images$"):
        ImageFinder(tmp_path / "nowhere", tmp_path / "gt.json")
