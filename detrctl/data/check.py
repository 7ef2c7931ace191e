"""A dataset's facts in one report, before anything is trained on it."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from detrctl.data.coco import CocoIndex
from detrctl.data.summary import CocoSummary
from detrctl.errors import DataError

SHOWN = 3
"""How many names a line lists."""


@dataclass(frozen=True)
class SplitReport:
    """A split: its annotations in numbers, the image files that are missing, and the names that stand in it twice."""

    name: str
    summary: CocoSummary
    class_names: tuple[str, ...]
    images: Path
    missing: tuple[str, ...]
    repeated: tuple[str, ...]

    def lines(self) -> list[str]:
        counts = sorted(zip(self.summary.boxes_per_class, self.class_names, strict=True), reverse=True)
        shown = ", ".join(f"{name} {count}" for count, name in counts[:12])
        more = f", and {len(counts) - 12} more classes" if len(counts) > 12 else ""
        total, *facts = self.summary.lines()
        found = [
            (self.missing, f"image files are not in {self.images}"),
            (self.repeated, "file names are listed more than once"),
        ]
        facts += [f"{len(names)} {what}: {_listed(names)}" for names, what in found if names]
        return [f"{self.name}: {total}", f"  {shown}{more}", *(f"  {fact}" for fact in facts)]


def check_split(name: str, index: CocoIndex, images: Path, *, broken: str = "fail") -> SplitReport:
    """The report on a split. Files are looked for by name, not opened.

    Raises DataError if the folder or all the files are missing, or, unless `broken` is "skip", any of the files.
    """
    if not images.is_dir():
        raise DataError(f"{images}: no such folder of images")
    names = [index.image(i).file_name for i in range(len(index))]
    missing = _missing(names, images)
    if missing and (broken != "skip" or len(missing) == len(names)):
        raise DataError(
            f"{images}: {len(missing)} of the {len(names)} image files that {index.source} lists are not here: "
            f"{_listed(missing)}"
        )
    repeated = [file for file, count in Counter(names).items() if count > 1]
    return SplitReport(name, index.summary, index.categories.names, images, tuple(missing), tuple(repeated))


def require_boxes(index: CocoIndex) -> None:
    """Raises DataError if there is nothing to train on."""
    if not index.summary.boxes:
        raise DataError(f"{index.source}: not one usable box; training needs some ({'; '.join(index.summary.lines())})")


def _missing(names: list[str], images: Path) -> list[str]:
    """One listing of each folder rather than a question per file: a hundred thousand take seconds on a network disk."""
    folders = {os.path.dirname(name) for name in names}
    present = {
        os.path.join(folder, entry)
        for folder in folders
        if (images / folder).is_dir()
        for entry in os.listdir(images / folder)
    }
    return [name for name in names if os.path.join(os.path.dirname(name), os.path.basename(name)) not in present]


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
