"""Who answers for which truth of a whole split, small enough for a checkpoint, and how much that has moved since.

The instability is DN-DETR's (Li et al. 2022, section 3.1; see `inspection.instability`), here from one evaluation of a
training to the next. N images, T truths of all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from detrctl.inspection.matching import NOBODY

FIRST = "nothing was evaluated before"
OTHER_IMAGES = "the evaluation before was of other images, truths or queries"


@dataclass(frozen=True, eq=False)
class Matched:
    """The last decoder layer's matching of a split; int64 tensors on the CPU, images by ascending id.

    `image_ids` and `truths`, how many each image has, (N,). For every truth, image after image, its query, (T,), and
    in two-stage detectors the encoder token that proposed this query, (T,); NOBODY without a query.
    """

    image_ids: Tensor
    truths: Tensor
    queries: Tensor
    tokens: Tensor | None = None

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


@dataclass(frozen=True)
class Moved:
    """From the evaluation before to this one, `epochs` later; means over all `images`, those without truths included.

    `instability` is DN-DETR's, with queries told apart by slot; `by_token`, in two-stage detectors, the same by encoder
    token, which alone is fair where a slot is but a rank. `most` is the largest possible. With nothing to compare with
    the numbers are None and `gap` says why.
    """

    images: int
    most: float
    instability: float | None = None
    by_token: float | None = None
    epochs: float | None = None
    gap: str | None = None


def pack(by_image: Mapping[int, tuple[Tensor, Tensor | None]]) -> Matched:
    """Image id -> queries (G,) and, all of them or none, tokens (G,) of its truths."""
    ids = sorted(by_image)
    nothing = torch.zeros(0, dtype=torch.int64)
    tokens = [tokens for i in ids if (tokens := by_image[i][1]) is not None]
    return Matched(
        torch.tensor(ids, dtype=torch.int64),
        torch.tensor([len(by_image[i][0]) for i in ids], dtype=torch.int64),
        torch.cat([nothing, *(by_image[i][0] for i in ids)]),
        torch.cat(tokens) if tokens else None,
    )


def unpack(state: Mapping[str, Any]) -> Matched | None:
    """What `Matched.state` gave; None where a checkpoint holds no such thing, or a damaged one."""
    if not {"image_ids", "truths", "queries"} <= state.keys() <= {field.name for field in fields(Matched)}:
        return None
    if not all(isinstance(part, Tensor) and part.dtype == torch.int64 and part.dim() == 1 for part in state.values()):
        return None
    found = Matched(**state)
    lengths = {
        int(found.truths.sum()),
        len(found.queries),
        len(found.queries if found.tokens is None else found.tokens),
    }
    return found if len(found.image_ids) == len(found.truths) and len(lengths) == 1 else None


def moved(before: Matched | None, after: Matched, *, epochs: float, missing: str = FIRST) -> Moved:
    """`missing` says why there is no matching `before`, if there is none."""
    images = max(len(after.image_ids), 1)
    most = 2 * int((after.queries != NOBODY).sum()) / images
    if before is None or not _comparable(before, after):
        return Moved(len(after.image_ids), most, gap=missing if before is None else OTHER_IMAGES)
    owner = torch.repeat_interleave(torch.arange(len(after.image_ids)), after.truths)
    by_token = None
    if before.tokens is not None and after.tokens is not None:
        by_token = _entries_apart(owner, before.tokens, after.tokens) / images
    by_slot = _entries_apart(owner, before.queries, after.queries) / images
    return Moved(len(after.image_ids), most, by_slot, by_token, epochs)


def _comparable(before: Matched, after: Matched) -> bool:
    same = torch.equal(before.image_ids, after.image_ids) and torch.equal(before.truths, after.truths)
    return same and (before.tokens is None) == (after.tokens is None)


def _entries_apart(owner: Tensor, before: Tensor, after: Tensor) -> int:
    """How many entries of the images' index vectors differ: three times (T,), of each truth its image and its query.

    An entry is -1 in both vectors, or the same truth in both, or differs. So it is the queries that are matched before
    or after, less those that keep their truth.
    """
    keys = [torch.stack([owner, queries])[:, queries != NOBODY] for queries in (before, after)]
    used = torch.unique(torch.cat(keys, dim=1), dim=1).shape[1]
    return used - int(((before == after) & (before != NOBODY)).sum())
