"""A trained detector, ready for images that nobody has labelled."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrctl.boxes import XyxyPx
from detrctl.data.batch import Sample, collate
from detrctl.data.dataset import to_sample
from detrctl.data.images import pixels_of, read_image
from detrctl.data.transforms import make_record
from detrctl.engine.build import learner_from, transform
from detrctl.engine.checkpoint import find_checkpoint
from detrctl.engine.distributed import choose_device, precision_of_use
from detrctl.engine.evaluate import detect_all, on_device
from detrctl.engine.open_weights import open_weights
from detrctl.errors import DataError, DetrctlError
from detrctl.evaluation.drawing import Mark, class_colour, draw
from detrctl.families.learner import Learner
from detrctl.recipe.schema import Recipe
from detrctl.structures import Batch, Categories, Detections

Picture = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a Pillow image, a NumPy array (H, W, 3) or (H, W) uint8, or a tensor (3, H, W) uint8; colours are RGB."""


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What was found in one image, best first, K detections on the CPU.

    `size_hw` is the height and width in pixels of the image as a viewer shows it; boxes refer to it and may leave it.
    """

    detections: Detections
    categories: Categories
    size_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.detections)

    @property
    def scores(self) -> Tensor:
        """(K,), 0 to 1"""
        return self.detections.scores

    @property
    def boxes(self) -> XyxyPx:
        """(K, 4) xyxy in pixels"""
        return self.detections.boxes

    @property
    def names(self) -> tuple[str, ...]:
        """The class of each detection."""
        return tuple(self.categories.names[label] for label in self.detections.labels.tolist())

    def best(self, *, score: float = 0.0, top: int | None = None) -> "ImageResult":
        """Only the detections with at least `score`, and of these at most `top`."""
        rank = torch.arange(len(self))
        kept = (self.scores >= score) & (rank < (len(self) if top is None else top))
        return replace(self, detections=self.detections.keep(kept))

    def draw(self, image: Picture) -> Image.Image:
        """The image with boxes and labels, one colour a class."""
        found = zip(self.boxes.tolist(), self.names, self.scores.tolist(), self.detections.labels.tolist(), strict=True)
        marks = [
            Mark((x0, y0, x1, y1), f"{name} {score:.2f}", class_colour(label))
            for (x0, y0, x1, y1), name, score, label in found
        ]
        return draw(Image.fromarray(to_pixels(image).permute(1, 2, 0).numpy()), marks)


class Predictor:
    """A learner with the categories, the image size and the score threshold that it was trained with.

    `notes` are worth a line to the user.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        recipe: Recipe,
        categories: Categories,
        device: torch.device,
        notes: tuple[str, ...] = (),
    ):
        self.categories = categories
        self.recipe = recipe
        self._learner = on_device(learner, device).eval()
        self._device = device
        self._precision, about_precision = precision_of_use(recipe.train.precision, device)
        self.notes = (*notes, *about_precision)
        self._transform = transform(recipe, augment=False)

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        score: float | None = None,
        top: int | None = None,
        batch_size: int | None = None,
    ) -> list[ImageResult]:
        """One `ImageResult` per image, in order; one image alone gives a list of one.

        Keeps detections with at least `score` (default: the recipe's `evaluate.score`), and of these at most the `top`
        best of each image. `batch_size` images (default: the recipe's) go through the model at a time.

        Raises DataError for a file that is not an image and for pixels of another shape or type than `Picture` says.
        """
        least = self.recipe.evaluate.score if score is None else score
        size = self.recipe.evaluate.batch_size if batch_size is None else batch_size
        samples = (self._sample(to_pixels(image), i) for i, image in enumerate(_many(images)))
        return [
            ImageResult(found, self.categories, size_hw).best(score=least, top=top)
            for batch in _batches(samples, size)
            for found, size_hw in self._detect(batch)
        ]

    def _sample(self, pixels: Tensor, i: int) -> Sample:
        height, width = pixels.shape[-2:]
        nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        return to_sample(self._transform(make_record(pixels, *nothing)), i, (height, width))

    def _detect(self, batch: Batch) -> Iterator[tuple[Detections, tuple[int, int]]]:
        for images, detections in detect_all(self._learner, [batch], device=self._device, precision=self._precision):
            for found, (height, width) in zip(detections, images.original_sizes_hw.tolist(), strict=True):
                yield _on_cpu(found), (height, width)


def load(
    ckpt: str | Path | None = None, *, device: str = "auto", trust: bool = False, recipe: str | None = None
) -> Predictor:
    """The detector of a checkpoint file or run folder; without one, of the newest run under `runs/`.

    An official or Hugging Face file is one as well; `recipe` says which it is of where it cannot tell (DC5).
    `device` is `auto`, `cpu`, `cuda` or `mps`. `trust` lets a checkpoint import model parts that are not ours. Raises
    CheckpointError where there is no checkpoint or it cannot be used.
    """
    opened = open_weights(find_checkpoint(None if ckpt is None else Path(ckpt)), recipe=recipe)
    checkpoint = opened.checkpoint
    return Predictor(
        learner_from(checkpoint, trust=trust),
        recipe=checkpoint.recipe,
        categories=checkpoint.categories,
        device=choose_device(device),
        notes=opened.notes,
    )


def to_pixels(image: Picture) -> Tensor:
    """uint8 RGB (3, H, W), whatever kind of picture it is."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return pixels_of(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        return _from_array(image)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
        return image.cpu()
    raise _not_a_picture(image)


def _from_array(image: np.ndarray) -> Tensor:
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.shape[2] != 3:
        raise _not_a_picture(image)
    return torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous()  # torch warns of read-only arrays


def _not_a_picture(image: Any) -> DataError:
    what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, np.ndarray | Tensor) else type(image).__name__
    return DataError(
        f"predict: an image is {what}; "
        "a path, a Pillow image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W) is needed"
    )


def _many(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """A single picture becomes a list of one; an array or tensor with a fourth axis is many pictures."""
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    return [images] if isinstance(images, str | Path | Image.Image) else images


def _batches(samples: Iterable[Sample], size: int) -> Iterator[Batch]:
    if size < 1:
        raise DetrctlError(f"predict: batch_size is {size}, at least 1 is needed")
    remaining = iter(samples)
    while batch := collate(list(islice(remaining, size))):
        yield batch


def _on_cpu(found: Detections) -> Detections:
    return Detections(
        found.scores.float().cpu(),
        found.labels.cpu(),
        XyxyPx(found.boxes.float().cpu()),
        found.queries.cpu(),
        found.image_id,
    )


@dataclass(frozen=True, eq=False)
class FileResult:
    """What became of one file: its pixels (3, H, W) and everything found in them, or the `problem` with it."""

    path: Path
    pixels: Tensor | None
    result: ImageResult | None
    problem: str | None = None


def predict_files(
    predictor: Predictor, paths: Sequence[Path], *, batch_size: int | None = None
) -> Iterator[FileResult]:
    """Every detection, whatever its score, file by file in order. Files that are no images do not stop the others."""
    size = batch_size or predictor.recipe.evaluate.batch_size
    for group in _read_ahead(paths, size):
        readable = [pixels for _, pixels, _ in group if pixels is not None]
        results = iter(predictor.predict(readable, score=0.0, batch_size=size))
        for path, pixels, problem in group:
            yield FileResult(path, pixels, None if pixels is None else next(results), problem)


Read = tuple[Path, Tensor | None, str | None]


def _read_ahead(paths: Sequence[Path], size: int) -> Iterator[list[Read]]:
    """Files in groups of `size`, decoded by threads while the group before is worked on."""
    with ThreadPoolExecutor(min(size, 8)) as threads:
        groups = (paths[start : start + size] for start in range(0, len(paths), size))
        pending = [threads.submit(_read, path) for path in next(groups, ())]
        while pending:
            group, pending = pending, [threads.submit(_read, path) for path in next(groups, ())]
            yield [future.result() for future in group]


def _read(path: Path) -> Read:
    try:
        return path, read_image(path), None
    except DataError as error:
        return path, None, str(error)
