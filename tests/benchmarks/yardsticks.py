"""Train a detector of another library from scratch in a given time, on our data path, and score it as we score ours.

    python tests/benchmarks/yardsticks.py --data DIR --model rtdetr_r18 --minutes 25 --sweep 3 --out rtdetr.json

Sizes, augmentation, averaging and time are those of a recipe (`small_data`), unless an option says otherwise;
the models stand in `opponents.py`, the data in `yardstick_data.py`. Only training counts against the time.

Without `--holdout` and `--sweep` the whole training split is used and the validation split is scored, once. With
`--holdout K` the last K training images are kept out and scored instead of the validation split. With `--sweep N` the
best of N learning rates is found on held-out images (each in `--sweep-minutes`); then the training starts anew on the
whole training split, and the validation split is scored, once.

Beside OUT.json lies OUT.detections.json, a COCO result list, for `bootstrap.py`.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from opponents import FasterRcnn, Opponent, RtDetr
from torch.optim.swa_utils import AveragedModel
from yardstick_data import Augmentation, Data, Split, at_size

from detrctl.engine.muon import Muon
from detrctl.errors import DetrctlError
from detrctl.evaluation.coco_metrics import CocoScores, score
from detrctl.evaluation.results import Result, coco_results
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import Recipe
from detrctl.structures import Batch

RATES = {"faster_rcnn_r18": 2.5e-2, "rtdetr_r18": 5e-4}
"""The middle of a sweep, and what a run without `--lr` takes: SGD and AdamW live at different rates."""

BATCHES = {"faster_rcnn_r18": 2, "rtdetr_r18": 4}
"""Small, since they make few steps in the time: at 16 images, Faster R-CNN made ten in four minutes for nothing."""

SWEEP_RATIO = 2.5
"""Between neighbouring rates of a sweep."""

SWEEP_HOLDOUT = 60
"""Training images that a sweep keeps out, unless `--holdout` says otherwise."""


@dataclass(frozen=True)
class Training:
    """What a training did: `losses` holds (seconds, images, mean loss since the last entry)."""

    lr: float
    images: int
    steps: int
    seconds: float
    diverged: bool
    losses: tuple[tuple[float, int, float], ...]

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "images_per_second": self.images / self.seconds if self.seconds else 0.0}


def make_opponent(args: argparse.Namespace, num_classes: int) -> Opponent:
    torch.manual_seed(args.seed)
    if args.model == "faster_rcnn_r18":
        return FasterRcnn(num_classes=num_classes, size=args.size, keep=args.keep, rois=args.rois)
    sizes = sorted({*args.sizes, args.size})
    if any(size % 32 or size < 128 for size in sizes):
        raise DetrctlError(f"sizes {sizes}: RT-DETR needs multiples of 32 from 128 on (it picks 300 places)")
    return RtDetr(num_classes=num_classes, keep=args.keep, library_init=args.library_init)


def batches(split: Split, args: argparse.Namespace, share: Callable[[], float]) -> Iterator[Batch]:
    """Training batches without end, epoch after epoch, each at one of the sizes; `share` of the time is gone."""
    loader = split.loader(batch=args.batch, workers=args.workers, shuffle=True, seed=args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    epoch = 0
    while True:
        split.dataset.set_epoch(epoch, plain=share() >= 1 - args.plain_end)
        for batch in loader:
            size = args.sizes[int(torch.randint(len(args.sizes), (), generator=generator))]
            yield at_size(batch, size)
        epoch += 1


def learning_rate(peak: float, *, step: int, warmup: int, share: float) -> float:
    """Linear warm-up over steps, then a cosine over the share of the time (0 to 1) that is gone."""
    return peak * min(1.0, (step + 1) / max(warmup, 1)) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def averaged_weights(module: torch.nn.Module, decay: float, warmup: int) -> AveragedModel:
    """A moving average whose decay grows as `decay` * (1 - exp(-step / warmup)), buffers included."""

    def average(old: torch.Tensor, new: torch.Tensor, step: Any) -> torch.Tensor:
        keep = decay * (1 - math.exp(-float(step) / warmup))
        return old * keep + new * (1 - keep)

    return AveragedModel(module, avg_fn=average, use_buffers=True)


def step_once(opponent: Opponent, optimizer: torch.optim.Optimizer, batch: Batch, precision: str) -> float:
    """One optimizer step -> the loss before it. Nothing moves where the loss is not finite."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = opponent.loss(batch)
    if not torch.isfinite(loss):
        return math.nan
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(opponent.module.parameters(), opponent.clip_norm)
    optimizer.step()
    return float(loss.detach())


class LossLog:
    """Mean losses over stretches of steps, printed as they come."""

    def __init__(self, every: int):
        self.every = every
        self.recent: list[float] = []
        self.rows: list[tuple[float, int, float]] = []

    def add(self, loss: float, *, seconds: float, images: int) -> None:
        self.recent.append(loss)
        if len(self.recent) == self.every:
            self.rows.append((seconds, images, sum(self.recent) / self.every))
            self.recent.clear()
            print(f"{seconds:7.1f} s  {images:6d} images  loss {self.rows[-1][2]:.3f}", flush=True)


def with_muon(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """As detrctl's `train.optimizer: muon`, at the rates and decays of an opponent's own optimizer."""
    groups = [{name: group[name] for name in ("params", "lr", "weight_decay")} for group in optimizer.param_groups]
    return Muon(groups)


def train(opponent: Opponent, split: Split, *, lr: float, minutes: float, args: argparse.Namespace) -> Training:
    """Until the time is over, or the loss is not finite; the clock starts with the first batch being loaded."""
    optimizer, log = opponent.optimizer(lr), LossLog(args.log_every)
    optimizer = with_muon(optimizer) if args.muon else optimizer
    average = averaged_weights(opponent.module, args.ema, args.ema_warmup) if args.ema else None
    opponent.module.train()
    begin, images, steps, gone, loss = time.perf_counter(), 0, 0, 0.0, 0.0
    for batch in batches(split, args, lambda: (time.perf_counter() - begin) / (60 * minutes)):
        gone = time.perf_counter() - begin
        if gone >= 60 * minutes:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(lr, step=steps, warmup=args.warmup_steps, share=gone / (60 * minutes))
        loss = step_once(opponent, optimizer, batch, args.precision)
        if not math.isfinite(loss):
            break
        if average is not None:
            average.update_parameters(opponent.module)
        steps, images = steps + 1, images + len(batch.images)
        log.add(loss, seconds=time.perf_counter() - begin, images=images)
    if average is not None:
        opponent.module = average.module
    return Training(lr, images, steps, gone, not math.isfinite(loss), tuple(log.rows))


@torch.no_grad()
def evaluate(opponent: Opponent, split: Split, args: argparse.Namespace) -> tuple[CocoScores, list[Result]]:
    """In full precision, whatever the training used."""
    opponent.module.eval()
    loader = split.loader(batch=args.batch, workers=args.workers, shuffle=False)
    found = [one for batch in loader for one in opponent.detect(batch.images)]
    results = coco_results(found, split.dataset.index.categories.ids)
    return score(split.truth, results), results


def sweep_rates(middle: float, count: int) -> tuple[float, ...]:
    """`count` rates around `middle`, in even ratios."""
    return tuple(middle * SWEEP_RATIO ** (i - (count - 1) / 2) for i in range(count))


def try_rates(data: Data, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each rate: a short training on the first images, and its AP on the held-out ones."""
    first, held_out = data.divided(limit=args.train_limit, holdout=args.holdout)
    rows = []
    for lr in sweep_rates(args.lr, args.sweep):
        opponent = make_opponent(args, data.num_classes)
        training = train(opponent, first, lr=lr, minutes=args.sweep_minutes, args=args)
        ap = None if training.diverged else evaluate(opponent, held_out, args)[0]["AP"]
        rows.append({**training.as_dict(), "AP": ap, "train_images": len(first.positions)})
        print(f"lr {lr:.2e}: AP {ap} on {len(held_out.positions)} held-out images", flush=True)
    return rows


def best_rate(rows: Sequence[dict[str, Any]]) -> float:
    """Of the row with the highest AP; rows without one diverged."""
    if all(row["AP"] is None for row in rows):
        raise DetrctlError("every learning rate of the sweep diverged: give a lower --lr")
    return max((row for row in rows if row["AP"] is not None), key=lambda row: row["AP"])["lr"]


def versions() -> dict[str, str]:
    names = ("torch", "torchvision", "transformers", "pycocotools", "numpy")
    installed = {name: metadata.version(name) for name in names if _is_installed(name)}
    return {"python": platform.python_version(), **installed}


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything from the arguments to the two files; returns what OUT.json holds."""
    torch.set_num_threads(args.threads)
    augmentation = Augmentation(**{name: getattr(args, name) for name in Augmentation.__dataclass_fields__})
    data = Data.read(args.data, augmentation=augmentation, size=args.size, seed=args.seed)
    tried = try_rates(data, args) if args.sweep else []
    choosing = args.holdout > 0 and not args.sweep
    split, held_out = data.divided(limit=None if tried else args.train_limit, holdout=args.holdout if choosing else 0)
    opponent = make_opponent(args, data.num_classes)
    training = train(opponent, split, lr=best_rate(tried) if tried else args.lr, minutes=args.minutes, args=args)
    begin = time.perf_counter()
    scores, results = evaluate(opponent, held_out if choosing else data.val, args)
    found = args.out.with_suffix(".detections.json")
    report = {
        "model": args.model,
        "parameters": sum(p.numel() for p in opponent.module.parameters()),
        "scored_on": "holdout" if choosing else "val",
        "coco": scores.as_dict(),
        "training": {**training.as_dict(), "train_images": len(split.positions)},
        "sweep": tried,
        "evaluation_seconds": time.perf_counter() - begin,
        "detections": found.name,
        "settings": {key: value for key, value in vars(args).items() if key not in ("data", "out")},
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "load": os.getloadavg()},
        "versions": versions(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found.write_text(json.dumps(results), encoding="utf-8")
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _add_recipe_fields(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fields of the recipe, under the same names; each option overrides one")
    group.add_argument("--recipe", default="small_data")
    group.add_argument("--size", type=int, help="data.eval_size; given alone, training uses it too")
    group.add_argument("--sizes", type=int, nargs="+", help="data.augment.sizes, one drawn per batch")
    group.add_argument("--flip", type=float)
    group.add_argument("--vertical-flip", type=float)
    group.add_argument("--photometric", action=argparse.BooleanOptionalAction)
    group.add_argument("--zoom-out", type=float)
    group.add_argument("--iou-crop", type=float)
    group.add_argument("--plain-end", type=float)
    group.add_argument("--ema", type=float)
    group.add_argument("--ema-warmup", type=int)
    group.add_argument("--minutes", type=float, help="train.max_minutes")


def _recipe_fields(recipe: Recipe) -> dict[str, Any]:
    augment, train_section = recipe.data.augment, recipe.train
    if augment.policy != "square" or not recipe.data.eval_square:
        raise DetrctlError("--recipe: the yardsticks need policy `square` and `eval_square: true`")
    named = ("flip", "vertical_flip", "photometric", "zoom_out", "iou_crop", "plain_end")
    return {
        **{name: getattr(augment, name) for name in named},
        "sizes": augment.sizes,
        "size": recipe.data.eval_size,
        "ema": train_section.ema,
        "ema_warmup": train_section.ema_warmup,
        "minutes": train_section.max_minutes or 25.0,
    }


def _add_choosing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("choosing on the training split")
    group.add_argument("--train-limit", type=int, help="train on the first N images only")
    group.add_argument("--holdout", type=int, default=0, help="keep out the last K training images and score them")
    group.add_argument("--sweep", type=int, default=0, help=f"try N rates around --lr; holds out {SWEEP_HOLDOUT}")
    group.add_argument("--sweep-minutes", type=float, default=6.0, help="for each of them")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder in a usual COCO layout")
    parser.add_argument("--model", choices=sorted(RATES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="report; the detections go beside it")
    parser.add_argument("--batch", type=int, help=f"images per step (default: {BATCHES})")
    parser.add_argument("--lr", type=float, help=f"peak learning rate (default: {RATES})")
    parser.add_argument("--muon", action="store_true", help="instead of its own optimizer, the one of small_data")
    parser.add_argument("--seed", type=int, default=0)
    # Not the recipe's: an opponent that makes few steps in the time would spend them all warming up.
    parser.add_argument("--warmup-steps", type=int, default=30)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--keep", type=int, default=100, help="detections per image")
    parser.add_argument("--rois", type=int, default=128, help="Faster R-CNN: regions per image in its loss")
    parser.add_argument("--library-init", action="store_true", help="RT-DETR: the library's initialisation")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=10)
    _add_recipe_fields(parser)
    _add_choosing(parser)
    args = parser.parse_args(argv)
    args.sizes = args.sizes or ([args.size] if args.size else None)
    for name, value in _recipe_fields(load_recipe(args.recipe).recipe).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.lr = args.lr or RATES[args.model]
    args.batch = args.batch or BATCHES[args.model]
    args.holdout = args.holdout or (SWEEP_HOLDOUT if args.sweep else 0)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    report = run(arguments(argv))
    print(" ".join(f"{name} {value:.3f}" for name, value in report["coco"].items() if isinstance(value, float)))


if __name__ == "__main__":
    try:
        main()
    except DetrctlError as error:
        sys.exit(f"yardsticks: {error}")
