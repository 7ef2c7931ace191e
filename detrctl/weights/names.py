"""Renaming whole state dicts by tables of prefixes, in either direction."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from detrctl.weights.tables import Table

PACKED = re.compile(r"in_proj_(weight|bias)$")


def swapped(table: Table) -> Table:
    """The same table, read from right to left."""
    return [(right, left) for left, right in table]


def rename(name: str, table: Table) -> str | None:
    """`name` with its prefix replaced by the first row that fits, None without one. `*` is one part between dots."""
    return next(every_rename(name, table), None)


def every_rename(name: str, table: Table) -> Iterator[str]:
    """By every row that fits, for parameters that have several names on the other side."""
    for left, right in table:
        found = re.match(re.escape(left).replace(r"\*", r"(\w+)") + r"(?=\.|$)", name)
        if found:
            yield _filled(right, found.groups()) + name[found.end() :]


def _filled(pattern: str, parts: Sequence[str]) -> str:
    """Its stars replaced one by one; what there are no parts for stays a star."""
    for part in parts:
        pattern = pattern.replace("*", part, 1)
    return pattern


def published_names(ours: str, table: Table, *, layers: int) -> list[str]:
    """Every official name of one of our parameters; where they list one head per layer, one for each of `layers`."""
    names = []
    for name in every_rename(ours, swapped(table)):
        spelt = re.sub(r"in_proj\.(weight|bias)$", r"in_proj_\1", name)
        names += [spelt.replace("*", str(layer)) for layer in range(layers)] if "*" in spelt else [spelt]
    return list(dict.fromkeys(names))


# ---- one packed projection, or three ----


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`x.q_proj.weight`, `x.k_proj.weight`, `x.v_proj.weight` become `x.in_proj_weight`, rows in this order."""
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        found = re.match(r"(.*)\.([qkv])_proj\.(weight|bias)$", name)
        if found is None:
            result[name] = value
            continue
        stem, _, kind = found.groups()
        parts = [tensors.get(f"{stem}.{letter}_proj.{kind}") for letter in "qkv"]
        if all(part is not None and part.shape == value.shape for part in parts):
            result[f"{stem}.in_proj_{kind}"] = torch.cat([part for part in parts if part is not None])
        else:
            result[name] = value
    return result


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other way round."""
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        found = PACKED.search(name)
        if found is None:
            result[name] = value
            continue
        for letter, part in zip("qkv", value.chunk(3), strict=True):
            result[f"{name[: found.start()]}{letter}_proj.{found[1]}"] = part.clone()
    return result


def renamed(
    tensors: Mapping[str, Tensor], new_name: Callable[[str], str | None]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """By their new names, and those without one by their old."""
    known: dict[str, Tensor] = {}
    unknown: dict[str, Tensor] = {}
    for name, value in tensors.items():
        new = new_name(name)
        (unknown if new is None else known)[name if new is None else new] = value
    return known, unknown
