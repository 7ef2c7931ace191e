"""Any image file becomes the RGB pixels that its annotations speak of."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrctl.data.images import pixels_of, read_image
from detrctl.errors import DataError

COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 9, 9], [100, 50, 25], [255, 255, 255]]], np.uint8)
"""Two rows, three columns, all different."""


def stored(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def with_orientation(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return stored(path, Image.fromarray(COLOURS), exif=exif)


def as_array(pixels: torch.Tensor) -> np.ndarray:
    assert pixels.dtype == torch.uint8
    assert pixels.permute(1, 2, 0).is_contiguous()
    return pixels.permute(1, 2, 0).numpy()


def test_rgb_pixels_come_as_they_are(tmp_path: Path) -> None:
    np.testing.assert_array_equal(as_array(read_image(stored(tmp_path / "a.png", Image.fromarray(COLOURS)))), COLOURS)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_is_the_same_in_all_three_channels(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    expected = np.array(image.convert("L"))
    np.testing.assert_array_equal(
        as_array(read_image(stored(tmp_path / "a.png", image))), expected[..., None].repeat(3, 2)
    )


def test_grey_with_transparency_keeps_its_grey(tmp_path: Path) -> None:
    image = _grey_alpha()
    np.testing.assert_array_equal(as_array(read_image(stored(tmp_path / "a.png", image)))[..., 0], [[7, 90]])


def _grey_alpha() -> Image.Image:
    image = Image.new("LA", (2, 1))
    image.putpixel((0, 0), (7, 255))
    image.putpixel((1, 0), (90, 0))
    return image


def test_transparent_pixels_keep_the_colour_that_is_stored(tmp_path: Path) -> None:
    rgba = np.dstack([COLOURS, np.array([[255, 128, 0], [1, 2, 3]], np.uint8)])
    np.testing.assert_array_equal(as_array(read_image(stored(tmp_path / "a.png", Image.fromarray(rgba)))), COLOURS)


@pytest.mark.parametrize("options", [{}, {"transparency": 0}, {"transparency": bytes([0, 128, 255])}])
def test_a_palette_becomes_its_colours_with_and_without_transparency(
    tmp_path: Path, options: dict[str, object]
) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    pixels = as_array(read_image(stored(tmp_path / "a.png", image, **options)))
    np.testing.assert_array_equal(pixels, [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixels = as_array(read_image(stored(tmp_path / "a.jpg", image, quality=100)))
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_uses_its_full_range(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 257], [32767, 32896, 65407, 65535]], np.uint16)
    pixels = as_array(read_image(stored(tmp_path / f"a.{suffix}", Image.fromarray(values))))
    expected = np.floor(values / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(pixels[..., 0], expected)
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_prediction_sees_an_image_as_a_viewer_shows_it(tmp_path: Path, orientation: int) -> None:
    # What each EXIF orientation says of the stored rows and columns (TIFF 6.0, tag 274).
    upright = {
        1: COLOURS,
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2),
        6: COLOURS[::-1].transpose(1, 0, 2),
        7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
        8: COLOURS[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    path = with_orientation(tmp_path / "a.png", orientation)
    np.testing.assert_array_equal(as_array(read_image(path)), upright)
    with Image.open(path) as image:
        np.testing.assert_array_equal(as_array(pixels_of(image)), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_annotated_size_decides_whether_an_image_is_turned(tmp_path: Path, orientation: int) -> None:
    path = with_orientation(tmp_path / "a.png", orientation)
    # Annotated as stored (3 x 2): never turned, whatever EXIF says.
    np.testing.assert_array_equal(as_array(read_image(path, size_wh=(3, 2))), COLOURS)
    if orientation >= 5:  # Annotated as a viewer shows it.
        np.testing.assert_array_equal(as_array(read_image(path, size_wh=(2, 3))), as_array(read_image(path)))


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    path = with_orientation(tmp_path / "a.png", 3)
    expected = f"{path}: the image is 3 x 2, its annotations say 2 x 3; its boxes cannot be placed"
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        read_image(path, size_wh=(2, 3))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / 'no.png'))}: no such image file$"):
        read_image(tmp_path / "no.png")


@pytest.mark.filterwarnings("ignore:Truncated File Read")  # Pillow says so of TIFF before it gives up
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    whole = stored(
        tmp_path / f"whole.{suffix}", Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    )
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: cannot be decoded as an image \(.+\)$"):
        read_image(path)


def test_text_and_folders_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(DataError, match=r"text\.jpg: cannot be decoded as an image \(cannot identify image file\)$"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(DataError, match=r"folder\.jpg: cannot be decoded as an image"):
        read_image(tmp_path / "folder.jpg")
