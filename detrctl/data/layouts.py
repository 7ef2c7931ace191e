"""Where a dataset keeps its splits: the usual COCO layouts, found from a root folder."""

import json
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from detrctl.errors import DataError

ALIASES = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
IN_FOLDER = "_annotations.coco.json"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")

LOOKED_FOR = (
    "annotations/instances_train2017.json (images in train2017/), annotations/instances_train.json "
    "(images in images/, images/train/ or train/), and train/_annotations.coco.json"
)


@dataclass(frozen=True)
class SplitFiles:
    """The folder that a split's file names start from, and its annotation file (None: it can only be predicted)."""

    images: Path
    annotations: Path | None


def find_splits(root: Path) -> dict[str, SplitFiles]:
    """The splits of a dataset by name: `train`, `val`, `test`, ... ("valid" is `val`, "train2017" is `train`).

    Folders of images that no annotation file speaks of are splits without labels. Raises DataError if the folder is
    missing or no annotation file is where it usually is.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds a dataset's images and annotations")
    labelled = _folders_with_annotations(root) | _annotation_folder(root)
    if not labelled:
        raise DataError(f"{root}: no COCO annotations found; looked for {LOOKED_FOR}")
    return _unlabelled(root, labelled) | labelled


def choose_split(splits: Mapping[str, SplitFiles], name: str, where: Path | str) -> SplitFiles:
    """The split that a user names, also as "valid" or "val2017". Raises DataError listing those that there are."""
    split = splits.get(name) or splits.get(_canonical(name))
    if split is None:
        raise DataError(f"{where}: no split '{name}'; there is {', '.join(sorted(splits)) or 'none'}")
    return split


def named_split(images: Path, annotations: Path | None) -> SplitFiles:
    """A split given by hand. Raises DataError if the folder or the file is missing."""
    if not images.is_dir():
        raise DataError(f"{images}: no such folder of images")
    if annotations is not None and not annotations.is_file():
        raise DataError(f"{annotations}: no such annotation file")
    return SplitFiles(images, annotations)


class ImageFinder:
    """Finds the images that an annotation file names, somewhere in a dataset folder.

    Where the file is that of one of the folder's splits, these are the split's images; elsewhere a name counts with its
    folders as far as they are needed to tell files apart. Raises DataError if there is no such folder.
    """

    def __init__(self, root: Path, annotations: Path):
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give the one that holds the images")
        self._root = root
        splits = _folders_with_annotations(root) | _annotation_folder(root)
        same = [s.images for s in splits.values() if s.annotations and s.annotations.resolve() == annotations.resolve()]
        self._folders = [*same, root, root / "images"]
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, name: str) -> Path | None:
        """None where it is not there, or several files could be it."""
        if not name:
            return None
        for folder in self._folders:
            if (folder / name).is_file():
                return folder / name
        wanted = PurePath(name).parts
        found = self._everywhere().get(wanted[-1], [])
        exact = [file for file in found if file.parts[-len(wanted) :] == wanted]
        candidates = exact or found
        return candidates[0] if len(candidates) == 1 else None

    def _everywhere(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            for file in sorted(self._root.rglob("*")):
                if file.suffix.lower() in IMAGE_SUFFIXES:
                    self._by_name.setdefault(file.name, []).append(file)
        return self._by_name


def _canonical(name: str) -> str:
    """`train2017` and `training` are `train`."""
    bare = re.sub(r"[-_]?20\d\d$", "", name.lower())
    return ALIASES.get(bare, bare)


def _annotation_folder(root: Path) -> dict[str, SplitFiles]:
    """annotations/instances_NAME.json; the images in NAME/, images/NAME/ or images/."""
    splits: dict[str, SplitFiles] = {}
    for file in sorted((root / "annotations").glob("instances_*.json")):
        name = file.stem.removeprefix("instances_")
        splits.setdefault(_canonical(name), SplitFiles(_image_folder(root, name, file), file))
    return splits


def _image_folder(root: Path, name: str, annotations: Path) -> Path:
    """The first usual folder that holds the file that the annotations name first; else the first that exists."""
    same = dict.fromkeys((name, _canonical(name), *_spellings(_canonical(name))))
    usual = [parent / spelling for spelling in same for parent in (root, root / "images")] + [root / "images", root]
    folders = [folder for folder in usual if folder.is_dir()]
    first = _first_file_name(annotations)
    return next((folder for folder in folders if first and (folder / first).is_file()), folders[0])


def _spellings(name: str) -> list[str]:
    return [other for other, canonical in ALIASES.items() if canonical == name]


def _first_file_name(annotations: Path) -> str | None:
    """The first `file_name` in a JSON file that may be too large to be read for this."""
    try:
        with annotations.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = re.search(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', content)
            return str(json.loads(found.group(1))) if found else None
    except (OSError, ValueError):
        return None  # Empty, unreadable or broken: the reader of annotations says so better.


def _folders_with_annotations(root: Path) -> dict[str, SplitFiles]:
    """NAME/_annotations.coco.json, the images beside it."""
    files = sorted(root.glob(f"*/{IN_FOLDER}"))
    return {_canonical(file.parent.name): SplitFiles(file.parent, file) for file in files}


def _unlabelled(root: Path, labelled: Mapping[str, SplitFiles]) -> dict[str, SplitFiles]:
    """Folders of images beside the labelled ones, such as test2017/ or images/test/."""
    taken = {split.images for split in labelled.values()}
    parents = [parent for parent in (root, root / "images") if parent.is_dir()]
    folders = [folder for parent in parents for folder in sorted(parent.iterdir()) if folder.is_dir()]
    return {
        _canonical(folder.name): SplitFiles(folder, None)
        for folder in folders
        if folder not in taken and _holds_images(folder)
    }


def _holds_images(folder: Path) -> bool:
    return any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir())
