"""Times deformable attention against the per-level `grid_sample` formula, all in one run.

    PYTHONPATH=. python tests/benchmarks/deformable_attention.py [--device cpu] [--compile] [--repeat 5]

The default size is that of Deformable DETR's encoder on an image of 800 x 1066 pixels: 17,821 tokens in 4 levels, 8
heads of 32 channels, 4 points, every token a query, fp32. The ways take turns, so that all meet the same machine; each
figure is the fastest turn. Ratios count, not times.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detrctl.model.sampled_sum import LevelShapes, deformable_attention

LEVELS = ((100, 134), (50, 67), (25, 34), (13, 17))
HEADS, DEPTH, POINTS = 8, 32, 4
Attend = Callable[[Tensor, LevelShapes, Tensor, Tensor], Tensor]


def per_level(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The formula as it is mostly written: each level an image that is sampled, then one weighted sum."""
    batch, _, heads, depth = values.shape
    found = []
    for level, image in enumerate(values.split([height * width for height, width in shapes], dim=1)):
        pictures = image.permute(0, 2, 3, 1).reshape(batch * heads, depth, *shapes[level])
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        found.append(F.grid_sample(pictures, grid, padding_mode="zeros", align_corners=False))
    shares = weights.transpose(1, 2).flatten(0, 1).flatten(2)[:, None]
    return (torch.cat(found, dim=-1) * shares).sum(-1).view(batch, heads * depth, -1).transpose(1, 2)


def made(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations some cells around each token as in a trained model, and weights."""
    torch.manual_seed(0)
    centres = torch.cat([_centres(height, width) for height, width in LEVELS])
    tokens, sizes = len(centres), torch.tensor([(width, height) for height, width in LEVELS])[:, None]
    offsets = 2 * torch.randn(1, tokens, HEADS, len(LEVELS), POINTS, 2) / sizes
    weights = torch.randn(1, tokens, HEADS, len(LEVELS) * POINTS).softmax(-1).unflatten(-1, (len(LEVELS), POINTS))
    values = torch.randn(1, tokens, HEADS, DEPTH)
    parts = (values, centres[None, :, None, None, None] + offsets, weights)
    return tuple(part.to(device).requires_grad_() for part in parts)  # type: ignore[return-value]


def _centres(height: int, width: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([columns / width, rows / height], dim=-1).view(-1, 2)


def forward(attend: Attend, parts: Sequence[Tensor]) -> None:
    with torch.no_grad():
        attend(parts[0], LEVELS, *parts[1:])


def forward_and_backward(attend: Attend, parts: Sequence[Tensor]) -> None:
    mixed = attend(parts[0], LEVELS, *parts[1:])
    torch.autograd.grad(mixed, parts, torch.ones_like(mixed))


def milliseconds(work: Callable[[], None], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return 1000 * (time.perf_counter() - start)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Times deformable attention against grid_sample level by level.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also under torch.compile (needs a C++ compiler)")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args(argv)
    ways: dict[str, Attend] = {"grid_sample": per_level, "detrctl": deformable_attention}
    if args.compile:
        ways |= {f"{name}, compiled": torch.compile(attend) for name, attend in ways.items()}
    parts = made(args.device)
    print(f"{parts[0].shape[1]} tokens, {torch.get_num_threads()} threads, {args.device}, torch {torch.__version__}")
    for title, task in (("forward", forward), ("forward + backward", forward_and_backward)):
        for attend in ways.values():
            task(attend, parts)  # warm up, compile
        times = {name: float("inf") for name in ways}
        for _ in range(args.repeat):
            for name, attend in ways.items():
                taken = milliseconds(lambda attend=attend, task=task: task(attend, parts), args.device)  # type: ignore[misc]
                times[name] = min(times[name], taken)
        for name, taken in times.items():
            print(f"{title:18}  {name:22} {taken:7.0f} ms  {times['grid_sample'] / taken:5.2f} x grid_sample")


if __name__ == "__main__":
    main()
