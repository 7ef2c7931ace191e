"""Weights of one model put into another: what fits by name and shape, and class rows by the names of the classes."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detrctl.structures import Categories
from detrctl.weights.classes import is_unused, plain_name

KINDS = ("loaded", "remapped", "fresh", "unused")


@dataclass(frozen=True)
class Row:
    """What became of a tensor: `loaded` whole, `remapped` by class, left `fresh`, or `unused` by the new model."""

    name: str
    kind: str
    detail: str


@dataclass(frozen=True)
class Transfer:
    """`weights` is the new model's whole state dict; `known` are the classes that the old model had too.

    `left` are the old model's classes that are not taken over.
    """

    weights: dict[str, Tensor]
    rows: tuple[Row, ...]
    known: tuple[str, ...]
    classes: int
    left: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        counts = Counter(row.kind for row in self.rows)
        said = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)
        left = f"; {len(self.left)} of the checkpoint's not taken over, first {self.left[0]}" if self.left else ""
        return f"{said}; {len(self.known)} of {self.classes} classes known by name{left}"


def transfer(
    new: Mapping[str, Tensor],
    old: Mapping[str, Tensor],
    *,
    class_rows: Mapping[str, int],
    new_categories: Categories,
    old_categories: Categories,
    ordered_rows: Collection[str] = (),
) -> Transfer:
    """Fill `new`, a freshly initialised state dict, from `old`.

    `class_rows` names the tensors that have one row per class, with the number of rows after these (no-object). Rows go
    by class name, upper and lower case alike; classes that the old model did not know keep their fresh rows. Those of
    `ordered_rows` have as many rows, which stand for no classes, so that each keeps its place.
    """
    matches = match_names(new_categories, old_categories)
    weights: dict[str, Tensor] = {}
    rows: list[Row] = []
    for name, fresh in new.items():
        if name in ordered_rows and name in old:
            weights[name], row = _in_order(name, fresh, old[name])
        else:
            weights[name], row = _one(name, fresh, old.get(name), class_rows.get(name), matches, old_categories)
        rows.append(row)
    rows += [Row(name, "unused", "the new model has no such tensor") for name in old if name not in new]
    known = tuple(new_categories.names[row] for row in matches)
    return Transfer(weights, tuple(rows), known, len(new_categories), _left(old_categories, matches))


def match_names(new: Categories, old: Categories) -> dict[int, int]:
    """New row -> old row of the classes that both have; of two old classes with one name the first counts."""
    places = {plain_name(name): row for row, name in reversed(list(enumerate(old.names)))}
    return {row: places[plain_name(name)] for row, name in enumerate(new.names) if plain_name(name) in places}


def _left(old: Categories, matches: Mapping[int, int]) -> tuple[str, ...]:
    taken = set(matches.values())
    return tuple(name for row, name in enumerate(old.names) if row not in taken and not is_unused(name))


def _one(
    name: str, fresh: Tensor, old: Tensor | None, extra: int | None, matches: Mapping[int, int], known: Categories
) -> tuple[Tensor, Row]:
    if old is None:
        return fresh, Row(name, "fresh", "not in the checkpoint")
    if extra is not None and _same_but_rows(fresh, old) and len(old) == len(known) + extra:
        value = remap_rows(fresh, old, matches, extra)
        return value, Row(name, "remapped", f"{len(matches)} of {len(fresh) - extra} classes taken over")
    if old.shape != fresh.shape:
        return fresh, _misfit(name, fresh, old)
    return old, Row(name, "loaded", "")


def _in_order(name: str, fresh: Tensor, old: Tensor) -> tuple[Tensor, Row]:
    """(R, ...), (R', ...) -> (R, ...): as many of the first rows as both have."""
    if not _same_but_rows(fresh, old):
        return fresh, _misfit(name, fresh, old)
    count = min(len(old), len(fresh))
    value = fresh.clone()
    value[:count] = old[:count].to(value.dtype)
    kind = "loaded" if len(old) == len(fresh) else "remapped"
    return value, Row(name, kind, f"{count} of {len(old)} rows in their order: they stand for no classes")


def _same_but_rows(fresh: Tensor, old: Tensor) -> bool:
    return old.ndim == fresh.ndim and old.shape[1:] == fresh.shape[1:]


def _misfit(name: str, fresh: Tensor, old: Tensor) -> Row:
    return Row(name, "fresh", f"the checkpoint's is {tuple(old.shape)}, this one {tuple(fresh.shape)}")


def remap_rows(fresh: Tensor, old: Tensor, matches: Mapping[int, int], extra: int) -> Tensor:
    """(C + extra, ...), (C' + extra, ...) -> (C + extra, ...): known classes and the extra rows from `old`."""
    value = fresh.clone()
    if matches:
        to, source = torch.tensor(list(matches)), torch.tensor(list(matches.values()))
        value[to] = old[source].to(value.dtype)
    if extra:
        value[-extra:] = old[-extra:].to(value.dtype)
    return value
