"""What a recipe's model costs: parameters and multiply-adds, part by part. Nothing is computed, so it takes seconds."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from detrctl.engine.build import build_learner
from detrctl.errors import DetrctlError
from detrctl.model.deformable_attention import DeformableAttention
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories, ImageBatch

COCO_COLUMNS = 91
"""Classes of the published models, whose heads count them by category id."""

CORNERS = 4
"""Pixels that one sampled point is interpolated from."""


@dataclass(frozen=True)
class PartCost:
    """`parameters` in all, of which `trained`; `multiply_adds` of one image."""

    name: str
    parameters: int
    trained: int
    multiply_adds: int


@dataclass(frozen=True)
class Cost:
    """`parts` in the order of the computation; together they are everything."""

    size_hw: tuple[int, int]
    parts: tuple[PartCost, ...]

    @property
    def total(self) -> PartCost:
        sums = (sum(getattr(part, name) for part in self.parts) for name in ("parameters", "trained", "multiply_adds"))
        return PartCost("total", *sums)


def cost_of(recipe: Recipe, *, size_hw: tuple[int, int] = (800, 1066), num_classes: int = COCO_COLUMNS) -> Cost:
    """Of one image of this size. Counted are convolutions, matrix products, attention and deformable sampling; norms,
    activations and softmax are not, as usual.
    """
    if recipe.model.family == "faster_rcnn":
        raise DetrctlError("--cost counts the DETR family; what Faster R-CNN computes depends on what it finds")
    names = tuple(str(number) for number in range(num_classes))
    network = build_learner(recipe, Categories(names, tuple(range(num_classes))), pretrained=False).network
    sizes = {name: _sizes(part) for name, part in network.named_children()}
    products = _products(network.eval().requires_grad_(False).to("meta"), size_hw)
    parts = (PartCost(name, *size, products[name]) for name, size in sizes.items())
    return Cost(size_hw, tuple(part for part in parts if part.parameters or part.multiply_adds))


def _sizes(part: nn.Module) -> tuple[int, int]:
    """Parameters in all, and those that are trained."""
    return _count(part.parameters()), _count(p for p in part.parameters() if p.requires_grad)


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _products(network: nn.Module, size_hw: tuple[int, int]) -> Counter[str]:
    """Multiply-adds of the network's children, by name; tensors have shapes only."""
    sampled, handles = _count_samples(network)
    images = ImageBatch(
        torch.zeros(1, 3, *size_hw, device="meta"),
        torch.zeros(1, *size_hw, dtype=torch.bool, device="meta"),
        torch.tensor([size_hw]),
        (0,),
    )
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    stem = f"{type(network).__name__}."
    counted = {place: sum(ops.values()) // 2 for place, ops in counter.get_flop_counts().items()}
    names = [name for name, _ in network.named_children()]
    return Counter({name: counted.get(stem + name, 0) + sampled[name] for name in names})


def _count_samples(network: nn.Module) -> tuple[Counter[str], list[RemovableHandle]]:
    """Deformable attention samples without a matrix product: four corners of every point, then the weighted sum."""
    counts: Counter[str] = Counter()

    def listen(child: str, attention: DeformableAttention) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, result: torch.Tensor) -> None:
            points = attention.attention_weights.out_features // attention.heads
            counts[child] += result.numel() * points * (CORNERS + 1)

        return hook

    handles = [
        module.register_forward_hook(listen(re.split(r"\.", name)[0], module))
        for name, module in network.named_modules()
        if isinstance(module, DeformableAttention)
    ]
    return counts, handles
