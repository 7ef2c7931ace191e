"""The images that cost the most AP50: by how much it would rise, were this one image answered perfectly."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detrctl.evaluation.answers import Bools, Floats, Ints, Meeting, average_precision, positives
from detrctl.evaluation.causes import is_lost
from detrctl.evaluation.errors import RIGHT, Errors

MEASURE = "AP50 gained, were the image answered perfectly"
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Drawn:
    """A box (x, y, width, height) to draw: `role` is found (a right answer), truth, missed or false.

    `what` is the kind of mistake of a false one, `score` is None for truths.
    """

    role: str
    box: Box
    name: str
    score: float | None = None
    what: str = ""


@dataclass(frozen=True)
class WorstImage:
    """`cost` is in AP50. `truths`, `found`, `missed` and `false` count what the operating score shows."""

    image_id: int
    file_name: str
    cost: float
    truths: int
    found: int
    missed: int
    false: int
    drawn: tuple[Drawn, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def worst_images(errors: Errors, score: float, most: int) -> tuple[WorstImage, ...]:
    """At most so many, the costliest first; of equal ones that with more mistakes. Faultless images are none."""
    costs = image_costs(errors.meeting)
    image_ids = errors.meeting.ground_truth.image_ids
    wrong = errors.wrong & (errors.answers.scores >= score)
    lost = is_lost(errors.meeting, score)
    truths = errors.meeting.ground_truth
    mistakes = _per_image(image_ids, errors.answers.image_of[wrong]) + _per_image(image_ids, truths.image_of[lost])
    order = np.lexsort((image_ids, -mistakes, -costs))[:most]
    return tuple(_tell(errors, score, int(i), float(costs[i]), lost) for i in order if costs[i] + mistakes[i] > 0)


def _per_image(image_ids: Ints, image_of: Ints) -> Ints:
    """How often each image occurs, (I,)"""
    order = np.argsort(image_ids)
    return np.bincount(order[np.searchsorted(image_ids[order], image_of)], minlength=len(image_ids))


def image_costs(meeting: Meeting) -> Floats:
    """(I,) in the order of the truths' images: AP50 with the image's truths found first of all and nothing else said
    about it, minus AP50 as it is.
    """
    truths, answers = meeting.ground_truth, meeting.answers
    costs, classes = np.zeros(len(truths.image_ids)), 0
    place = {image: i for i, image in enumerate(truths.image_ids.tolist())}
    for category in truths.category_ids:
        if (wanted := positives(truths, category)) == 0:
            continue
        classes += 1
        mine = (answers.category_of == category) & ~meeting.ignored[0]
        asked = truths.image_of[(truths.category_of == category) & ~truths.is_crowd]
        for image, gain in _gains(answers.image_of[mine], meeting.right[mine], asked, wanted):
            costs[place[image]] += gain
    return costs / max(classes, 1)


def _gains(image_of: Ints, right: Bools, asked: Ints, wanted: int) -> Iterator[tuple[int, float]]:
    """Of one category, for every image that it has to do with; answers (n,) come best first."""
    base = average_precision(right, wanted)
    truths_in = dict(zip(*(part.tolist() for part in np.unique(asked, return_counts=True)), strict=True))
    for image in sorted(truths_in.keys() | set(image_of.tolist())):
        found_first = np.ones(truths_in.get(image, 0), dtype=np.bool_)
        yield image, average_precision(np.append(found_first, right[image_of != image]), wanted) - base


def _tell(errors: Errors, score: float, i: int, cost: float, lost: Bools) -> WorstImage:
    truths = errors.meeting.ground_truth
    image = int(truths.image_ids[i])
    drawn = tuple(_drawn(errors, score, image, lost))
    count = {role: sum(one.role == role for one in drawn) for role in ("truth", "found", "missed", "false")}
    return WorstImage(
        image,
        truths.file_names[i],
        cost,
        count["truth"] + count["missed"],
        count["found"],
        count["missed"],
        count["false"],
        drawn,
    )


def _drawn(errors: Errors, score: float, image: int, lost: Bools) -> Iterator[Drawn]:
    """Truths, then answers best first; crowds and answers in them are left out."""
    truths, answers = errors.meeting.ground_truth, errors.answers
    names = dict(zip(truths.category_ids, truths.category_names, strict=True))
    for i in np.flatnonzero((truths.image_of == image) & ~truths.is_crowd).tolist():
        role = "missed" if lost[i] else "truth"
        yield Drawn(role, _box(truths.boxes_xywh[i]), names[int(truths.category_of[i])])
    shown = (answers.image_of == image) & (answers.scores >= score) & (errors.wrong | errors.right)
    for i in np.flatnonzero(shown).tolist():
        role, kind = ("found", "") if errors.kind[i] == RIGHT else ("false", str(errors.kind[i]))
        name = names[int(answers.category_of[i])]
        yield Drawn(role, _box(answers.boxes_xywh[i]), name, float(answers.scores[i]), kind)


def _box(values: Floats) -> Box:
    x, y, width, height = values.tolist()
    return x, y, width, height
