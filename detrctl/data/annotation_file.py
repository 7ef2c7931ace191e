"""Reads a COCO JSON file, keeping only what detection needs.

A training file of COCO's size is half a gigabyte, most of it polygons. Python's own reader needs 2.9 GB and half a
minute for it; msgspec skips what is not asked for. Values stay as they are in the file: `coco.py` judges them.
"""

import json
import mmap
from pathlib import Path
from typing import Any

import msgspec

from detrctl.errors import DataError


class ImageEntry(msgspec.Struct, gc=False):
    """An item of `images`."""

    id: Any = None
    file_name: Any = None
    height: Any = None
    width: Any = None


class Annotation(msgspec.Struct, gc=False):
    """An item of `annotations`."""

    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    area: Any = None
    iscrowd: Any = None


class Category(msgspec.Struct, gc=False):
    """An item of `categories`."""

    id: Any = None
    name: Any = None


class AnnotationFile(msgspec.Struct, gc=False):
    """The top level. Without `annotations` it describes images that can only be predicted."""

    images: list[ImageEntry]
    categories: list[Category]
    annotations: list[Annotation] | None = None


def read_annotation_file(path: Path) -> AnnotationFile:
    """Raises DataError, with line and column if the JSON is broken, with the place if it is no COCO detection file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return msgspec.json.decode(content, type=AnnotationFile)
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply to be an annotation file") from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        # An empty file (which mmap refuses), a byte-order mark, a bare NaN, or something truly wrong.
        return _read_patiently(path)


def _read_patiently(path: Path) -> AnnotationFile:
    """Python's reader takes NaN and Infinity, as its own writer puts them into files, and says where JSON is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg}); the file is damaged or cut off"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    except ValueError:
        raise DataError(f"{path}: holds a number of thousands of digits; the file is damaged") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply to be an annotation file") from None
    try:
        return msgspec.convert(content, type=AnnotationFile)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: not a COCO detection file ({_plain(str(error))})") from None


def _plain(message: str) -> str:
    """msgspec says: Expected `array`, got `object` - at `$.images`"""
    return message.replace("`", "").replace(" - at $", " at $").replace("Object missing", "missing")
