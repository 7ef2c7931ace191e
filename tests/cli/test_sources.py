"""Files, folders and globs become image files; results go to a folder of their own."""

import json
from pathlib import Path

import pytest

from detrctl.cli.sources import filled, find_images, free_folder, fresh_folder, image_ids
from detrctl.errors import DetrctlError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.JPG", "c.png", "notes.txt", "deep/d.jpg", "odd[1].jpg", "scan"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    return Path("photos")


def found(*sources: str) -> list[str]:
    return [path.as_posix() for path in find_images(sources)]


def test_a_folder_gives_its_images_sorted_but_not_those_of_its_folders(photos: Path):
    assert found("photos") == ["photos/a.JPG", "photos/b.jpg", "photos/c.png", "photos/odd[1].jpg"]


def test_globs_are_expanded_also_into_folders(photos: Path):
    assert found("photos/*.png") == ["photos/c.png"]
    assert found("photos/**/*.jpg") == ["photos/b.jpg", "photos/deep/d.jpg", "photos/odd[1].jpg"]


def test_a_file_is_taken_whatever_its_name(photos: Path):
    assert found("photos/scan", "photos/odd[1].jpg") == ["photos/scan", "photos/odd[1].jpg"]


def test_an_image_named_twice_comes_once_where_it_came_first(photos: Path):
    assert found("photos/c.png", "photos", "./photos/b.jpg")[:2] == ["photos/c.png", "photos/a.JPG"]
    assert len(found("photos/c.png", "photos", "./photos/b.jpg")) == 4


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("none.jpg", "none.jpg: no such file or folder"),
        ("empty", "empty: no images in this folder; 'empty/**/*.jpg' looks in its subfolders"),
        ("photos/*.gif", "photos/*.gif: matches no image files"),
        ("photos/*.txt", "photos/*.txt: matches no image files"),
    ],
)
def test_a_source_without_images_is_one_line(photos: Path, source, complaint):
    with pytest.raises(DetrctlError) as error:
        find_images(["photos", source])
    assert str(error.value) == complaint


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000872.jpg", "000000000017.png"], [872, 17]),
        (["000000000872.jpg", "17.png"], [1, 2]),
        (["000000000872.jpg", "000000000872.png"], [1, 2]),
        (["000001.png", "000000.png"], [1, 2]),
        (["²" * 12 + ".jpg"], [1]),
    ],
)
def test_image_ids_are_positions_but_for_names_like_those_of_coco(names, ids):
    assert image_ids([Path("x") / name for name in names]) == ids


def images_file(folder: Path, *images: dict[str, object]) -> Path:
    file = folder / "images.json"
    file.write_text(json.dumps({"images": images, "categories": []}))
    return file


def test_listed_images_have_the_ids_of_their_file_found_by_the_longest_name(tmp_path: Path):
    listed = images_file(
        tmp_path,
        {"id": 7, "file_name": "a.png"},
        {"id": "8", "file_name": "night/a.png"},
        {"id": 9, "file_name": "night/b.png"},
        {"id": 10, "file_name": "unused.png"},
    )
    paths = [tmp_path / name for name in ("photos/night/b.png", "photos/a.png", "photos/night/a.png")]
    assert image_ids(paths, listed) == [9, 7, 8]


@pytest.mark.parametrize(("names", "how_often"), [(["b.png"], "not"), (["a.png", "a.png"], "2 times")])
def test_an_image_that_its_file_does_not_list_once_is_named(tmp_path: Path, names: list[str], how_often: str):
    listed = images_file(tmp_path, *({"id": n, "file_name": name} for n, name in enumerate(names)))
    with pytest.raises(DetrctlError) as error:
        image_ids([Path("a.png")], listed)
    assert str(error.value) == f"--ids {listed}: a.png is {how_often} among its images; each must be there once"


def test_results_get_a_new_folder_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert [fresh_folder(None).as_posix() for _ in range(3)] == ["predictions", "predictions-2", "predictions-3"]
    assert fresh_folder(Path("a/b")) == Path("a/b")
    assert (tmp_path / "a" / "b").is_dir()


def test_old_results_are_not_mixed_with_new_ones(tmp_path: Path):
    (tmp_path / "old.jpg").touch()
    with pytest.raises(DetrctlError) as error:
        fresh_folder(tmp_path)
    assert str(error.value) == f"{tmp_path}: already holds files; choose a new --out, or remove it first"
    with pytest.raises(DetrctlError) as error:
        fresh_folder(tmp_path / "old.jpg")
    assert str(error.value) == f"{tmp_path / 'old.jpg'}: cannot be made (File exists)"


def test_a_folder_is_filled_whole_or_not_at_all(tmp_path: Path):
    folder = free_folder(tmp_path / "a" / "b", name="unused")

    def interrupted(part: Path) -> None:
        (part / "half.json").write_text("{")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), filled(folder) as part:
        interrupted(part)
    assert list(tmp_path.iterdir()) == []
    with filled(folder) as part:
        (part / "whole.json").write_text("{}")
        assert not folder.exists()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "a",
        "a/b",
        "a/b/whole.json",
    ]
    with pytest.raises(DetrctlError, match=r"b: already holds files; choose a new --out, or remove it first$"):
        free_folder(folder, name="unused")
