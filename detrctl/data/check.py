"""A dataset's facts in one report, before anything is trained on it."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detrctl.data.coco import CocoIndex
from detrctl.data.image_facts import ImageFacts, look_into
from detrctl.data.summary import CocoSummary
from detrctl.errors import DataError

SHOWN = 3
"""How many names a line lists."""

MOST_OPENED = 20_000
"""Files whose headers are looked at: two seconds for each ten thousand."""


@dataclass(frozen=True)
class SplitReport:
    """A split: its annotations in numbers, what its image files are, and the names of those with something wrong."""

    summary: CocoSummary
    class_names: tuple[str, ...]
    missing: tuple[str, ...]
    repeated: tuple[str, ...]
    files: ImageFacts

    def lines(self) -> list[str]:
        """The total, the boxes of each class, then one line for each oddity."""
        counts = sorted(zip(self.summary.boxes_per_class, self.class_names, strict=True), reverse=True)
        shown = ", ".join(f"{name} {count}" for count, name in counts[:12])
        more = f", and {len(counts) - 12} more classes" if len(counts) > 12 else ""
        return [self.summary.total(), f"boxes by class: {shown}{more}", *self.facts()]

    def facts(self) -> list[str]:
        """Everything odd, one line each."""
        named = (
            ("image files that are missing, skipped", self.missing),
            ("image files that cannot be opened, skipped", self.files.unreadable),
            ("image files of another size than annotated, skipped", self.files.other_size),
            ("file names that are listed more than once", self.repeated),
        )
        files, present = self.files.facts(), self.summary.images - len(self.missing)
        if self.files.looked_at < present:
            files = [f"of {present} image files, {self.files.looked_at} spread evenly were opened for this:", *files]
        return self.summary.facts() + files + [f"{what}: {listed(names)}" for what, names in named if names]


def check_split(index: CocoIndex, images: Path, *, broken: str = "fail", most_opened: int = MOST_OPENED) -> SplitReport:
    """The report on a split. All files are looked for, at most `most_opened` are opened, none is decoded.

    Raises DataError if the folder or all the files are missing, or, unless `broken` is "skip", if there is any file
    that is missing, cannot be opened or has another size than annotated.
    """
    if not images.is_dir():
        raise DataError(f"{images}: no such folder of images")
    names = [index.image(i).file_name for i in range(len(index))]
    missing = _missing(names, images)
    if missing and (broken != "skip" or len(missing) == len(names)):
        raise DataError(f"{images}: of the {len(names)} image files these are missing: {listed(missing)}")
    gone = set(missing)
    present = [i for i, file in enumerate(names) if file not in gone]
    files = look_into(index, images, _spread(present, most_opened))
    if broken != "skip":
        for wrong, what in (
            (files.unreadable, "cannot be opened"),
            (files.other_size, "are of another size than annotated"),
        ):
            if wrong:
                raise DataError(f"{images}: image files that {what}: {listed(wrong)}")
    repeated = [file for file, count in Counter(names).items() if count > 1]
    return SplitReport(index.summary, index.categories.names, tuple(missing), tuple(repeated), files)


def require_boxes(index: CocoIndex) -> None:
    """Raises DataError if there is nothing to train on."""
    if not index.summary.boxes:
        found = "; ".join(index.summary.lines())
        raise DataError(f"the training split has no boxes: there is nothing to learn from it ({index.source}: {found})")


def _spread(positions: list[int], most: int) -> list[int]:
    """All of them, or `most` at even distances: files that lie together are often of one kind."""
    if len(positions) <= most:
        return positions
    return [positions[n * len(positions) // most] for n in range(most)]


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


def listed(names: Sequence[str]) -> str:
    """4 (a.png, b.png, c.png, ...)"""
    return f"{len(names)} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
