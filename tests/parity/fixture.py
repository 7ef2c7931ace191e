"""Reads parity files: numbers of official implementations under weights and images that a short rule rebuilds.

The rule: a tensor is base + scale * normal(key), drawn by NumPy's PCG64 seeded with crc32(key) + seed.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrctl.boxes import Cxcywh
from detrctl.structures import Assignment, ImageBatch, Targets

from .tally import Tally

STORED = Path(__file__).parent / "stored"


def folders() -> list[Path]:
    """The numbers kept in the project and, where DETRCTL_PARITY names one, the full folder."""
    named = os.environ.get("DETRCTL_PARITY")
    return [STORED, Path(named)] if named else [STORED]


def normal(key: str, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()) + seed))
    return generator.standard_normal(int(np.prod(shape)), dtype=np.float32).reshape(shape)


def by_rule(entry: Mapping[str, Any], key: str, seed: int) -> np.ndarray:
    """A tensor of official weights: the numbers that `key` draws, in the shape and scale that `entry` says."""
    x = normal(key, seed, tuple(entry["shape"]))
    if entry.get("mode") == "abs":
        x = np.abs(x)
    if entry.get("mode") == "center":
        x = (x - x.astype(np.float64).mean(axis=tuple(range(1, x.ndim)), keepdims=True)).astype(np.float32)
    x = np.float32(entry["base"]) + np.float32(entry["scale"]) * x
    if "crc32" in entry:
        assert zlib.crc32(x.tobytes()) == entry["crc32"], key
    return x


@dataclass(frozen=True)
class Fixture:
    """One variant: its JSON, its arrays, and what is rebuilt from them; images and boxes in `precision`."""

    path: Path
    precision: torch.dtype = torch.float32

    @cached_property
    def json(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path.with_suffix(".npz")) as held:
            return dict(held)

    def weight(self, key: str) -> np.ndarray:
        entry = self.json["state_dict"][key]
        if "tied_to" in entry:
            return self.weight(entry["tied_to"])
        return by_rule(entry, key, self.json["weight_seed"])

    def image(self, index: int) -> np.ndarray:
        height, width = self.json["image_sizes_hw"][index]
        seed = self.json["input_seed"]
        coarse = normal(f"input.image{index}.coarse", seed, (3, -(-height // 16), -(-width // 16)))
        coarse = coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width]
        return coarse + np.float32(0.5) * normal(f"input.image{index}.fine", seed, (3, height, width))

    def images(self) -> ImageBatch:
        sizes = self.json["image_sizes_hw"]
        pixels = torch.zeros(len(sizes), 3, *self.json["padded_size_hw"])
        is_padding = torch.ones(len(sizes), *self.json["padded_size_hw"], dtype=torch.bool)
        for index, (height, width) in enumerate(sizes):
            pixels[index, :, :height, :width] = torch.from_numpy(self.image(index))
            is_padding[index, :height, :width] = False
        return ImageBatch(
            pixels.to(self.precision),
            is_padding,
            torch.tensor(self.json["original_sizes_hw"]),
            tuple(range(len(sizes))),
        )

    def targets(self, case: str) -> tuple[Targets, ...]:
        count = len(self.json["image_sizes_hw"])
        return tuple(
            Targets(
                torch.from_numpy(self.arrays[f"{case}.target_labels{i}"]),
                Cxcywh(torch.from_numpy(self.arrays[f"{case}.target_boxes{i}"]).to(self.precision)),
                i,
            )
            for i in range(count)
        )

    def noise(self, name: str) -> float:
        return float(self.json["numeric_noise"].get(name, 0.0))


def tolerance(expected: np.ndarray, noise: Any) -> np.ndarray:
    """What every comparison may be off by."""
    return np.maximum(10 * np.asarray(noise), 1e-5 * np.abs(expected).max(initial=0.0))


class Ledger:
    """Compares, and keeps account: a test must have used every array and every loss that the files hold."""

    def __init__(self, held: set[str]):
        self.held, self.used = held, set()
        self.tally = Tally()
        self.reach, self.missed = 1.0, set[str]()

    @contextmanager
    def reaching(self, reach: float) -> Iterator[set[str]]:
        """Inside, what is off by no more than `reach` tolerances is counted, but does not fail; gives the names."""
        self.reach, self.missed = reach, set()
        try:
            yield self.missed
        finally:
            self.tally.in_double += sorted(self.missed)
            self.reach = 1.0

    def take(self, *names: str) -> None:
        """These are inputs or tolerances: used, not compared."""
        self.used.update(names)

    def close(
        self, name: str, actual: Tensor | np.ndarray | float, expected: np.ndarray | float, *, noise: Any
    ) -> None:
        """Within max(10 x noise, 1e-5 x the largest magnitude), everywhere."""
        self.tally.arrays += name not in self.used
        self.within(name, actual, expected, allowed=tolerance(np.asarray(expected, dtype=np.float64), noise))

    def within(
        self, name: str, actual: Tensor | np.ndarray | float, expected: np.ndarray | float, *, allowed: Any
    ) -> None:
        """Off by no more than `allowed`, which may differ from entry to entry."""
        self.used.add(name)
        actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        if actual.size == expected.size == 0:  # of layers that there are none of, whatever shape a file gives nothing
            return
        assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
        off = np.abs(actual - expected)
        # Written so that a NaN fails.
        assert (off <= self.reach * allowed).all(), (
            f"{name}: off by {off.max():.3g}, allowed {self.reach * np.max(allowed):.3g}"
        )
        if not (off <= allowed).all():
            self.missed.add(name)

    def equal(self, name: str, actual: Tensor | np.ndarray, expected: np.ndarray) -> None:
        self.used.add(name)
        np.testing.assert_array_equal(np.asarray(actual), expected, err_msg=name)

    def settle(self) -> None:
        assert self.used == self.held, f"not compared: {sorted(self.held - self.used)}"
        assert self.held, "the files hold nothing to compare"


NO_PAIRS = Assignment(*torch.zeros(3, 0, dtype=torch.int64))


class StoredNoise:
    """The draws of an official run in their order, again and again."""

    def __init__(self, draws: Sequence[np.ndarray]):
        self.draws, self.next = [torch.from_numpy(drawn) for drawn in draws], 0

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        assert self.draws, "the official run draws nothing here"
        drawn = self.draws[self.next % len(self.draws)]
        self.next += 1
        assert tuple(drawn.shape) == shape
        return drawn

    def uniform(self, *shape: int) -> Tensor:
        return self._draw(shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        drawn = self._draw(shape)
        assert drawn.numel() == 0 or int(drawn.max()) < high
        return drawn


def truths_in_order(targets: Sequence[Targets], known: Assignment) -> Tensor:
    """For each noised copy, which of the batch's truths, counted through all images, it was made of."""
    starts = torch.tensor([0] + [len(truth) for truth in targets]).cumsum(0)
    return starts[known.image] + known.truth


def fitted(rows: Tensor, count: int, filling: float) -> Tensor:
    """(rows, .) -> (count, .)"""
    return torch.cat([rows, rows.new_full((max(count - len(rows), 0), *rows.shape[1:]), filling)])[:count]


def sample(values: Tensor) -> np.ndarray:
    """64 values at evenly spaced flat positions."""
    flat = values.detach().flatten()
    return flat[np.floor(np.linspace(0, flat.numel() - 1, 64)).astype(np.int64)].numpy()
