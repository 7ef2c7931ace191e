"""Before training, one report names everything odd about a split, and what makes it unusable is one line."""

import re
from pathlib import Path

import pytest
from PIL import Image

from detrctl.data.check import check_split, require_boxes
from detrctl.data.coco import CocoIndex
from detrctl.data.images import read_image
from detrctl.errors import DataError
from tests.data.coco_files import annotation, content, index_of, write_image


def five_images(tmp_path: Path, *names: str) -> CocoIndex:
    """Five entries in two folders; only the named files exist."""
    files = ["a/0.png", "a/1.png", "b/2.png", "3.png", "4.png"]
    for name in names:
        write_image(tmp_path / "images" / name)
    (tmp_path / "images").mkdir(exist_ok=True)
    images = [{"id": n, "file_name": name, "width": 100, "height": 80} for n, name in enumerate(files)]
    return index_of(tmp_path, content(annotation(image_id=2), images=images))


def test_missing_files_are_counted_and_the_first_named(tmp_path: Path) -> None:
    index = five_images(tmp_path, "a/1.png")
    expected = f"{tmp_path / 'images'}: of the 5 image files these are missing: 4 (a/0.png, b/2.png, 3.png, ...)"
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        check_split(index, tmp_path / "images")


def test_missing_files_are_reported_only_where_broken_images_are_skipped(tmp_path: Path) -> None:
    index = five_images(tmp_path, "a/0.png", "a/1.png", "b/2.png", "3.png")
    report = check_split(index, tmp_path / "images", broken="skip")
    assert report.missing == ("4.png",)
    assert report.lines() == [
        "5 images, 1 boxes of 1 classes: 1 small, 0 medium, 0 large, at most 1 in an image",
        "boxes by class: thing 1",
        "images without boxes, kept: 4",
        "image files that are missing, skipped: 1 (4.png)",
    ]


def odd_images(tmp_path: Path) -> CocoIndex:
    """One file of every kind; the turned ones are annotated as a viewer shows them, but for the last of them."""
    (tmp_path / "images").mkdir()
    rgb, exif = Image.new("RGB", (40, 20)), Image.Exif()
    exif[0x0112] = 6
    images = {
        "rgb.png": (rgb, {}, (40, 20)),
        "grey.jpg": (rgb.convert("L"), {}, (40, 20)),
        "bits.png": (rgb.convert("1"), {}, (40, 20)),
        "deep.png": (Image.new("I;16", (40, 20)), {}, (40, 20)),
        "palette.png": (rgb.convert("P"), {}, (40, 20)),
        "clear.png": (rgb.convert("RGBA"), {}, (40, 20)),
        "print.jpg": (rgb.convert("CMYK"), {}, (40, 20)),
        "turned.jpg": (rgb, {"exif": exif}, (20, 40)),
        "turned.png": (rgb, {"exif": exif}, (20, 40)),
        "as_stored.jpg": (rgb, {"exif": exif}, (40, 20)),
    }
    entries = []
    for number, (name, (image, options, (width, height))) in enumerate(images.items()):
        image.save(tmp_path / "images" / name, **options)
        entries.append({"id": number, "file_name": name, "width": width, "height": height})
    return index_of(tmp_path, content(images=entries))


def test_kinds_of_image_files_are_counted(tmp_path: Path) -> None:
    index = odd_images(tmp_path)
    expected = [
        "16-bit grey images, read as RGB: 1",
        "CMYK images, read as RGB: 1",
        "grey images, read as RGB: 2",
        "palette images, read as RGB: 1",
        "transparent images, read as RGB: 1",
        "images turned as their EXIF orientation says: 2",
    ]
    assert check_split(index, tmp_path / "images").facts()[2:] == expected
    assert check_split(index, tmp_path / "images", most_opened=3).facts()[2:] == [
        "of 10 image files, 3 spread evenly were opened for this:",
        "16-bit grey images, read as RGB: 1",
        "CMYK images, read as RGB: 1",
    ]
    for i in range(len(index)):  # The report and the reader agree.
        image = index.image(i)
        assert read_image(tmp_path / "images" / image.file_name, size_wh=(image.width, image.height)).shape[0] == 3


def test_files_that_reading_would_refuse_are_named_at_once(tmp_path: Path) -> None:
    index, folder = odd_images(tmp_path), tmp_path / "images"
    write_image(folder / "rgb.png", width=20, height=40)
    with pytest.raises(DataError, match=r": image files that are of another size than annotated: 1 \(rgb\.png\)$"):
        check_split(index, folder)
    (folder / "grey.jpg").write_text("no image")
    with pytest.raises(DataError, match=r": image files that cannot be opened: 1 \(grey\.jpg\)$"):
        check_split(index, folder)
    assert check_split(index, folder, broken="skip").facts()[-2:] == [
        "image files that cannot be opened, skipped: 1 (grey.jpg)",
        "image files of another size than annotated, skipped: 1 (rgb.png)",
    ]


@pytest.mark.parametrize("broken", ["fail", "skip"])
def test_a_folder_that_holds_none_of_the_files_is_refused_in_any_case(tmp_path: Path, broken: str) -> None:
    with pytest.raises(DataError, match=r"of the 5 image files these are missing: 5 \(a/0"):
        check_split(five_images(tmp_path), tmp_path / "images", broken=broken)
    with pytest.raises(DataError, match=r"no: no such folder of images$"):
        check_split(five_images(tmp_path), tmp_path / "no", broken=broken)


def test_file_names_that_stand_twice_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    images = [content()["images"][0] | {"id": n} for n in range(3)]
    report = check_split(index_of(tmp_path, content(images=images)), tmp_path)
    assert report.lines()[-1] == "file names that are listed more than once: 1 (a.png)"


def test_classes_are_listed_by_their_boxes_and_many_are_cut(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    categories = [{"id": n, "name": f"c{n}"} for n in range(15)]
    boxes = [annotation(id=n * n + k, category_id=n) for n in range(15) for k in range(n)]
    report = check_split(index_of(tmp_path, content(*boxes, categories=categories)), tmp_path)
    assert report.lines()[1].startswith("boxes by class: c14 14, c13 13, ")
    assert report.lines()[1].endswith("c3 3, and 3 more classes")


def test_a_split_without_a_usable_box_cannot_be_trained_on(tmp_path: Path) -> None:
    index = index_of(tmp_path, content(annotation(iscrowd=1)))
    expected = (
        f"the training split has no boxes: there is nothing to learn from it ({index.source}: "
        "1 images, 0 boxes of 1 classes: 0 small, 0 medium, 0 large, "
        "at most 0 in an image; images without boxes, kept: 1; classes without boxes, kept: 1; "
        "crowd annotations, left out of training, kept for evaluation: 1)"
    )
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        require_boxes(index)
    require_boxes(index_of(tmp_path, content(annotation())))
