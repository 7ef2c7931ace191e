"""What to predict on: files, folders and globs become a list of image files. No torch here."""

import errno
import glob
import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from detrctl.cli import render
from detrctl.coco_values import whole_number
from detrctl.data.layouts import IMAGE_SUFFIXES
from detrctl.errors import DetrctlError

COCO_NAME = re.compile("[0-9]{12}")


def find_images(sources: Sequence[str]) -> list[Path]:
    """Image files in the order of the sources, each once; folders and globs give theirs sorted.

    A file named by itself is taken whatever its suffix; folders and globs give only files with an image's suffix.
    Raises DetrctlError for a source that is not there or gives no image.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        for path in _of_source(source):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _of_source(source: str) -> list[Path]:
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _images(
            path.iterdir(), f"{source}: no images in this folder; '{source}/**/*.jpg' looks in its subfolders"
        )
    if glob.has_magic(source):
        matches = (Path(match) for match in glob.iglob(source, recursive=True))
        return _images(matches, f"{source}: matches no image files")
    raise DetrctlError(f"{source}: no such file or folder")


def _images(paths: Iterable[Path], complaint: str) -> list[Path]:
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not images:
        raise DetrctlError(complaint)
    return sorted(images)


def image_ids(paths: Sequence[Path], listed: Path | None = None) -> list[int]:
    """1, 2, 3, ...; the numbers in the names where all are of twelve digits, as COCO's are, and differ.

    Other numbers say nothing about ids: annotation files number their images as they like. `listed` is such a file,
    whose ids are then taken. Raises DetrctlError where it cannot be read or does not list each of the images once.
    """
    if listed is not None:
        return _listed_ids(paths, listed)
    stems = [path.stem for path in paths]
    if all(COCO_NAME.fullmatch(stem) for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(paths) + 1))


def _listed_ids(paths: Sequence[Path], file: Path) -> list[int]:
    """A name in the file may have folders: it means the image whose path ends with it, the longest name first."""
    from detrctl.data.annotation_file import read_annotation_file

    ids: dict[str, list[int]] = {}
    for entry in read_annotation_file(file).images:
        number = whole_number(entry.id)
        if isinstance(entry.file_name, str) and number is not None:
            ids.setdefault(Path(entry.file_name).as_posix(), []).append(number)
    found = []
    for path in paths:
        parts = path.resolve().parts
        names = ("/".join(parts[start:]) for start in range(1, len(parts)))
        matches = next((ids[name] for name in names if name in ids), [])
        if len(matches) != 1:
            how_often = f"{len(matches)} times" if matches else "not"
            raise DetrctlError(f"--ids {file}: {path} is {how_often} among its images; each must be there once")
        found += matches
    return found


def fresh_folder(out: Path | None, *, name: str = "predictions") -> Path:
    """An empty folder for results: `out`, or predictions, predictions-2, predictions-3, ... whichever is free.

    Raises DetrctlError where `out` already holds something, so that old and new results never mix.
    """
    folder = free_folder(out, name=name)
    with _folders_for(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def free_folder(out: Path | None, *, name: str) -> Path:
    """As `fresh_folder`, but nothing is made yet."""
    folder = out or next(path for path in _numbered(Path(name)) if not path.exists())
    with _folders_for(folder):
        if folder.is_dir() and any(folder.iterdir()):
            raise DetrctlError(f"{folder}: already holds files; choose a new --out, or remove it first")
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    return folder


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """with filled(folder) as part: write into `part`; what lies there comes into `folder` at the end.

    Whatever ends the block before, Ctrl-C too, leaves nothing behind.
    """
    home = next(path for path in folder.resolve().parents if path.is_dir())
    part = home / f".{folder.resolve().name}.{os.getpid()}.part"
    try:
        with _folders_for(folder):
            part.mkdir()
        yield part
        with _folders_for(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(part.iterdir()):
                file.replace(folder / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def say_files(folder: Path, files: Sequence[Path]) -> None:
    """After an empty line, a line for each; they were written by these names into what is `folder` now."""
    render.say("")
    for file in files:
        render.say(f"wrote {folder / file.name}")


@contextmanager
def _folders_for(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DetrctlError(f"{folder}: cannot be made ({error.strerror})") from None


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for n in itertools.count(2):
        yield path.with_name(f"{path.name}-{n}")


def counted(n: int, thing: str) -> str:
    """1 image, 2 images"""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
