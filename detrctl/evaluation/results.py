"""Detections in COCO's result format: written from a model's answers, read back from a file.

One entry a detection: `image_id`, `category_id` (the dataset's own ids), `bbox` as [x, y, width, height] in pixels,
`score`. No torch is imported here.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detrctl.errors import DataError
from detrctl.evaluation.ground_truth import GroundTruth, is_box, is_id, is_number, read_json

if TYPE_CHECKING:
    from detrctl.structures import Detections

Result = dict[str, Any]


def coco_results(detections: Iterable["Detections"], category_ids: Sequence[int | None]) -> list[Result]:
    """Contiguous labels become `category_ids`, xyxy becomes xywh; a class whose id is None is left out.

    Numbers are the shortest decimals that are still the same float32, so that a file gives exactly the scores that
    the detections themselves give.
    """
    return [result for found in detections for result in _results_of_image(found, category_ids)]


def _results_of_image(found: "Detections", category_ids: Sequence[int | None]) -> list[Result]:
    boxes = found.boxes.detach().float().cpu().numpy()
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    scores = _shortest(found.scores.detach().float().cpu().numpy())
    rows = zip(found.labels.tolist(), _shortest(sides), scores, strict=True)
    return [
        {"image_id": found.image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for label, box, score in rows
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


def matched_by_file_name(results: Sequence[Result], ground_truth: GroundTruth) -> list[Result]:
    """Results that carry a `file_name` get the image id that the annotations give to that file.

    Pictures outside a dataset have no COCO id, so `predict` numbers them; by the name they can be scored all the same.
    Names are compared without folders. Results without a name, or with one that is not listed once, stay as they are.
    """
    names = [PurePath(name).name for name in ground_truth.file_names]
    count = Counter(names)
    ids = {name: int(i) for name, i in zip(names, ground_truth.image_ids, strict=True) if count[name] == 1}
    return [
        {**result, "image_id": ids.get(PurePath(str(result["file_name"])).name, result["image_id"])}
        if "file_name" in result
        else result
        for result in results
    ]
