"""Detections in COCO's result format: written from a model's answers, read back from a file.

One entry a detection: `image_id`, `category_id` (the dataset's own ids), `bbox` as [x, y, width, height] in pixels,
`score`. No torch is imported here.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detrctl.errors import DataError
from detrctl.evaluation.ground_truth import GroundTruth, is_box, is_id, is_number, read_json

if TYPE_CHECKING:
    from detrctl.structures import Detections

Result = dict[str, Any]


def coco_results(
    detections: Iterable["Detections"], category_ids: Sequence[int | None], *, queries: bool = False
) -> list[Result]:
    """Contiguous labels become `category_ids`, xyxy becomes xywh; a class whose id is None is left out.

    With `queries` an entry says which `query` it came from, too.

    Numbers are the shortest decimals that are still the same float32, so that a file gives exactly the scores that
    the detections themselves give.
    """
    return [result for found in detections for result in _results_of_image(found, category_ids, queries)]


def _results_of_image(found: "Detections", category_ids: Sequence[int | None], queries: bool) -> list[Result]:
    boxes = found.boxes.detach().float().cpu().numpy()
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    scores = _shortest(found.scores.detach().float().cpu().numpy())
    rows = zip(found.labels.tolist(), _shortest(sides), scores, found.queries.tolist(), strict=True)
    return [
        {"image_id": found.image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        | ({"query": query} if queries else {})
        for label, box, score, query in rows
        if category_ids[label] is not None
    ]


def _shortest(values: npt.NDArray[np.float32]) -> list[Any]:
    """float32 0.1 as 0.1, not as 0.10000000149011612; same shape, as nested lists."""
    return values.astype(np.str_).astype(np.float64).tolist()


def read_results(path: str | Path) -> list[Result]:
    """Reads and checks a COCO result file. Raises DataError naming the first entry that is wrong."""
    content = read_json(Path(path))
    if not isinstance(content, list):
        raise DataError(f"{path}: is not a COCO result file (a list of detections is needed)")
    for i, entry in enumerate(content):
        if problem := _problem_of(entry):
            raise DataError(f"{path}: entry {i}: {problem}")
    return content


def _problem_of(entry: object) -> str | None:
    if not isinstance(entry, dict):
        return "is not an object with image_id, category_id, bbox, score"
    if missing := [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]:
        return f"has no {', '.join(missing)}"
    for key in ("image_id", "category_id"):
        if not is_id(entry[key]):
            return f"{key} is {entry[key]!r}, a whole number is needed"
    if not is_box(entry["bbox"]):
        return f"bbox is {entry['bbox']!r}, four finite numbers [x, y, width, height] are needed"
    if "query" in entry and not is_id(entry["query"]):
        return f"query is {entry['query']!r}, a whole number is needed"
    score = entry["score"]
    return None if is_number(score) else f"score is {score!r}, a finite number is needed"


def check_known(results: Sequence[Result], ground_truth: GroundTruth, *, source: str) -> None:
    """Every result must be about an image and a category of the ground truth; else DataError on the first one."""
    images, categories = set(ground_truth.image_ids.tolist()), set(ground_truth.category_ids)
    for i, result in enumerate(results):
        if result["image_id"] not in images:
            unknown = f"image_id {result['image_id']}"
        elif result["category_id"] not in categories:
            unknown = f"category_id {result['category_id']}"
        else:
            continue
        raise DataError(f"{source}: entry {i}: {unknown} is not in the annotations; are they of another dataset?")


def matched_by_file_name(
    results: Sequence[Result], ground_truth: GroundTruth, *, source: str = "results"
) -> list[Result]:
    """Results that carry a `file_name` get the image id that the annotations give to that file.

    Pictures outside a dataset have no COCO id, so `predict` numbers them; by the name they can be scored all the same.
    Folders count only where the bare name is listed twice. Raises DataError where the annotations name their files, but
    not this one: its number would be that of some other image.
    """
    listed: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for name, image_id in zip(ground_truth.file_names, ground_truth.image_ids.tolist(), strict=True):
        if name:
            listed.setdefault(PurePath(name).name, []).append((PurePath(name).parts, image_id))
    if not listed:
        return list(results)
    matched = []
    for i, result in enumerate(results):
        if "file_name" not in result:
            matched.append(result)
            continue
        ids = _ids_of(PurePath(str(result["file_name"])), listed)
        if len(ids) != 1:
            how_often = "more than once" if ids else "not"
            raise DataError(f"{source}: entry {i}: file {result['file_name']!r} is {how_often} in the annotations")
        matched.append({**result, "image_id": ids[0]})
    return matched


def _ids_of(file: PurePath, listed: Mapping[str, Sequence[tuple[tuple[str, ...], int]]]) -> list[int]:
    """Images of the file's name; of several, those whose folders are the file's too."""
    candidates = listed.get(file.name, [])
    exact = [image_id for parts, image_id in candidates if file.parts[-len(parts) :] == parts]
    return exact if len(exact) == 1 else [image_id for _, image_id in candidates]
