"""Decoded images kept in memory that loader processes share."""

import mmap
from typing import Any

import torch
from torch import Tensor

LIMIT_BYTES = 512 * 2**20


class ImageCache:
    """uint8 pixels (3, H, W), colours together in memory, by position; filled as images are first read.

    The memory is anonymous and shared: processes started by fork read what any of them has decoded, and nothing is laid
    in /dev/shm, which is small in containers. Processes started by spawn begin with an empty cache of their own.

    Nothing is kept (`get` always gives None) where the images need more than `limit_bytes`, or their sizes are unknown.
    """

    def __init__(self, sizes_hw: Tensor, limit_bytes: int = LIMIT_BYTES):
        self._sizes_hw = sizes_hw
        lengths = 3 * sizes_hw.prod(dim=1)
        self._ends = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        total = int(self._ends[-1])
        self.is_used = bool((lengths > 0).all()) and 0 < total <= limit_bytes
        self._allocate()

    def _allocate(self) -> None:
        count, total = (len(self._sizes_hw), int(self._ends[-1])) if self.is_used else (1, 1)
        self._pixels = torch.frombuffer(mmap.mmap(-1, total), dtype=torch.uint8)
        self._filled = torch.frombuffer(mmap.mmap(-1, count), dtype=torch.uint8)

    def get(self, i: int) -> Tensor | None:
        """A copy, so that no transform can write into what is kept."""
        if not self.is_used or not self._filled[i]:
            return None
        height, width = self._sizes_hw[i].tolist()
        return self._slot(i).clone().reshape(height, width, 3).permute(2, 0, 1)

    def put(self, i: int, pixels: Tensor) -> None:
        if self.is_used and pixels.shape[1:] == tuple(self._sizes_hw[i].tolist()):
            self._slot(i).copy_(pixels.permute(1, 2, 0).reshape(-1))
            self._filled[i] = 1

    def _slot(self, i: int) -> Tensor:
        start, end = self._ends[i : i + 2].tolist()
        return self._pixels[start:end]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_pixels", "_filled")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._allocate()
