"""Where a dataset keeps its splits: the usual COCO layouts, found from a root folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from detrctl.errors import DataError

ALIASES = {"valid": "val", "validation": "val", "training": "train"}
IN_FOLDER = "_annotations.coco.json"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")

LOOKED_FOR = (
    "annotations/instances_train2017.json with train2017/, annotations/instances_train.json with images/, "
    "or train/_annotations.coco.json"
)


@dataclass(frozen=True)
class SplitFiles:
    """The folder that a split's file names start from, and its annotation file (None: it can only be predicted)."""

    images: Path
    annotations: Path | None


def find_splits(root: Path) -> dict[str, SplitFiles]:
    """The splits of a dataset by name: `train`, `val`, `test`, ... ("valid" is `val`, "train2017" is `train`).

    Raises DataError if the folder is missing or none of the layouts is there.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds the images and annotations of a dataset")
    splits = _annotation_folder(root) | _folders_with_annotations(root)
    if not splits:
        raise DataError(f"{root}: no COCO annotations found; looked for {LOOKED_FOR}")
    return _unlabelled(root, splits) | splits


def _canonical(name: str) -> str:
    """`train2017` and `training` are `train`."""
    bare = re.sub(r"[-_]?20\d\d$", "", name.lower())
    return ALIASES.get(bare, bare)


def _annotation_folder(root: Path) -> dict[str, SplitFiles]:
    """annotations/instances_NAME.json; the images in NAME/, images/NAME/ or images/."""
    splits = {}
    for file in sorted((root / "annotations").glob("instances_*.json")):
        name = file.stem.removeprefix("instances_")
        folders = [root / name, root / "images" / name]
        folders += [root / "images" / _canonical(name), root / _canonical(name), root / "images", root]
        images = next(folder for folder in folders if folder.is_dir())
        splits.setdefault(_canonical(name), SplitFiles(images, file))
    return splits


def _folders_with_annotations(root: Path) -> dict[str, SplitFiles]:
    """NAME/_annotations.coco.json, the images beside it."""
    files = sorted(root.glob(f"*/{IN_FOLDER}"))
    return {_canonical(file.parent.name): SplitFiles(file.parent, file) for file in files}


def _unlabelled(root: Path, labelled: dict[str, SplitFiles]) -> dict[str, SplitFiles]:
    """Folders of images beside the labelled ones, such as test2017/ or images/test/."""
    taken = {split.images for split in labelled.values()}
    folders = [folder for parent in (root, root / "images") if parent.is_dir() for folder in sorted(parent.iterdir())]
    return {
        _canonical(folder.name): SplitFiles(folder, None)
        for folder in folders
        if folder.is_dir() and folder not in taken and _holds_images(folder)
    }


def _holds_images(folder: Path) -> bool:
    return any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir())
