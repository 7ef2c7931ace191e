"""The files that prediction leaves behind: pictures, predictions.json, predictions.csv."""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detrctl.engine.predict import FileResult, ImageResult
from detrctl.errors import DetrctlError
from detrctl.evaluation.results import Result, coco_results

COLUMNS = ("file_name", "image_id", "category_id", "class", "score", "x", "y", "width", "height")


class PredictionFolder:
    """Takes results one by one: each picture is written at once, the tables at the end.

    Errors of writing (no space left, no permission) are one line naming the file.
    """

    def __init__(self, path: Path, category_ids: Sequence[int], *, pictures: bool = True):
        self.path = path
        self._category_ids = category_ids
        self._pictures = pictures
        self._taken: set[str] = set()
        self._rows: list[tuple[str, Result]] = []

    def add(self, file: FileResult, kept: ImageResult, image_id: int) -> None:
        """The `kept` detections of a file, under the image id that they get in the tables."""
        entries = coco_results([kept.detections], self._category_ids)
        about = {"image_id": image_id, "file_name": str(file.path)}
        self._rows += [(name, {**entry, **about}) for name, entry in zip(kept.names, entries, strict=True)]
        if self._pictures and file.pixels is not None:
            place = self._picture_of(file.path)
            with _written(place):
                kept.draw(file.pixels).save(place, quality=92, subsampling=0)  # colour lines stay sharp

    def _picture_of(self, image: Path) -> Path:
        """The image's own name with .jpg, numbered where it is taken: by another folder's image, or one in capitals."""
        names = itertools.chain([f"{image.stem}.jpg"], (f"{image.stem}-{n}.jpg" for n in itertools.count(2)))
        name = next(name for name in names if name.lower() not in self._taken)
        self._taken.add(name.lower())
        return self.path / name

    def finish(self, *, as_csv: bool = False) -> str:
        """Writes the tables and says, in one line, what lies in the folder."""
        tables = [self._write_json()] + ([self._write_csv()] if as_csv else [])
        pictures = [f"{len(self._taken)} picture{'' if len(self._taken) == 1 else 's'}"] if self._pictures else []
        return f"{self.path}: {', '.join(pictures + tables)}"

    def _write_json(self) -> str:
        """COCO's result format, an entry a line, each with its file's name."""
        place = self.path / "predictions.json"
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for _, entry in self._rows)
        with _written(place):
            place.write_text(f"[\n{lines}\n]\n" if lines else "[]\n", encoding="utf-8")
        return place.name

    def _write_csv(self) -> str:
        place = self.path / "predictions.csv"
        with _written(place), place.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            table.writerows(_csv_row(name, entry) for name, entry in self._rows)
        return place.name


def _csv_row(name: str, entry: Result) -> list[Any]:
    return [entry["file_name"], entry["image_id"], entry["category_id"], name, entry["score"], *entry["bbox"]]


@contextmanager
def _written(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DetrctlError(f"{place}: cannot be written ({error.strerror or error})") from None
