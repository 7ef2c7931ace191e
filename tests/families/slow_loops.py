"""DAB-Deformable-DETR and DINO once more: one image, one token, one query, one sampled point at a time, in fp64.

Written from the papers and the published code. Of the product it takes the weights by name and the backbone's features,
nothing else. All positions are (x, y); boxes are centre x, centre y, width, height; a grid is (h, w, D).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
EPS = 1e-3


@dataclass(frozen=True)
class Level:
    """`tokens` (h, w, D), `position` (h, w, D), `padding` (h, w) bool, `ratio` (2,): the image's share, (x, y)."""

    tokens: Array
    position: Array
    padding: Array
    ratio: Array


class Weights:
    """A network's parameters, in fp64, and the layers that are made of them."""

    def __init__(self, network: torch.nn.Module):
        self.named = {name: value.detach().double().numpy() for name, value in network.state_dict().items()}

    def linear(self, name: str, x: Array) -> Array:
        return self.named[f"{name}.weight"] @ x + self.named[f"{name}.bias"]

    def mlp(self, name: str, x: Array) -> Array:
        depth = 1 + max(int(key.split(".")[-2]) for key in self.named if key.startswith(f"{name}.layers."))
        for layer in range(depth):
            x = self.linear(f"{name}.layers.{layer}", x)
            x = np.maximum(x, 0) if layer + 1 < depth else x
        return x

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean()
        return (
            centred / math.sqrt((centred**2).mean() + 1e-5) * self.named[f"{name}.weight"] + self.named[f"{name}.bias"]
        )

    def feedforward(self, name: str, x: Array) -> Array:
        return self.linear(f"{name}.linear2", np.maximum(self.linear(f"{name}.linear1", x), 0))

    def of_layer(self, name: str, layer: int) -> str:
        """The head of its own that a layer has, or else the one for all."""
        own = f"{name}.{layer}"
        return own if any(key.startswith(f"{own}.") for key in self.named) else name


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def logit(x: Array) -> Array:
    """With both ends held off, as DAB-DETR and DINO do."""
    return np.log(np.maximum(np.clip(x, 0, 1), EPS) / np.maximum(1 - np.clip(x, 0, 1), EPS))


def waves(angle: float, width: int, temperature: float) -> list[float]:
    """Sine and cosine by turns, of longer and longer waves."""
    made = []
    for pair in range(width // 2):
        slow = angle / temperature ** (2 * pair / width)
        made += [math.sin(slow), math.cos(slow)]
    return made


# ---- features ----


@dataclass(frozen=True)
class Sines:
    """How positions in the image are encoded; `offset` is added to the count of rows and columns, which starts at 1."""

    temperature: float
    offset: float


PUBLISHED_SINES = {"dab_deformable": Sines(10000.0, -0.5), "dino": Sines(20.0, 0.0)}
"""Of IDEA-Research/DAB-DETR's models/dab_deformable_detr/position_encoding.py, which IDEA-Research/DN-DETR has too and
which nothing sets, and of IDEA-Research/DINO's configuration."""


def levels(weights: Weights, features: list[Array], padding: Array, sines: Sines) -> list[Level]:
    """Projections, coarser levels, positions and masks of one image; `features` (C, h, w), `padding` (H, W)."""
    made, source = [], features[-1]
    count = 1 + max(int(key.split(".")[2]) for key in weights.named if key.startswith("neck.projections."))
    for number in range(count):
        name, is_extra = f"neck.projections.{number}", number >= len(features)
        values = convolved(weights, f"{name}.0", source if is_extra else features[number], step=2 if is_extra else 1)
        values = group_normed(weights, f"{name}.1", values)
        source = values if is_extra else source
        mask = shrunk(padding, values.shape[1:])
        level = weights.named["neck.level_embedding.weight"][number]
        made.append(
            Level(
                np.moveaxis(values, 0, 2),
                positions(mask, len(values), sines) + level,
                mask,
                np.array([(~mask[0]).mean(), (~mask[:, 0]).mean()]),
            )
        )
    return made


def convolved(weights: Weights, name: str, values: Array, *, step: int) -> Array:
    kernel, bias = (torch.from_numpy(weights.named[f"{name}.{kind}"]) for kind in ("weight", "bias"))
    padding = kernel.shape[-1] // 2
    return F.conv2d(torch.from_numpy(values)[None], kernel, bias, stride=step, padding=padding)[0].numpy()


def group_normed(weights: Weights, name: str, values: Array) -> Array:
    """(D, h, w), in 32 groups or, in narrower models, as many as divide both."""
    groups = math.gcd(32, len(values))
    apart = values.reshape(groups, -1)
    apart = (apart - apart.mean(1, keepdims=True)) / np.sqrt(apart.var(1, keepdims=True) + 1e-5)
    scale, shift = (weights.named[f"{name}.{kind}"][:, None, None] for kind in ("weight", "bias"))
    return apart.reshape(values.shape) * scale + shift


def shrunk(padding: Array, size: tuple[int, ...]) -> Array:
    """The pixel whose cell begins where this one does."""
    height, width = size
    rows, columns = padding.shape
    columns_of = [column * columns // width for column in range(width)]
    return padding[[row * rows // height for row in range(height)]][:, columns_of]


def positions(padding: Array, width: int, sines: Sines) -> Array:
    """Rows first, columns after; both counted within the image, whose length is a whole turn."""
    height, across = padding.shape
    made = np.zeros((height, across, width))
    for row in range(height):
        for column in range(across):
            above, left = (~padding[: row + 1, column]).sum(), (~padding[row, : column + 1]).sum()
            y = (above + sines.offset) / ((~padding[:, column]).sum() + 1e-6) * 2 * math.pi
            x = (left + sines.offset) / ((~padding[row]).sum() + 1e-6) * 2 * math.pi
            made[row, column] = waves(y, width // 2, sines.temperature) + waves(x, width // 2, sines.temperature)
    return made


# ---- attention ----


def deformable_attention(
    weights: Weights, name: str, heads: int, query: Array, places: list[Array], grids: list[Array]
) -> Array:
    """One query. `places` is its point or box on every level, `grids` the projected values, zero at padding."""
    width, count = len(query), len(grids)
    offsets = weights.linear(f"{name}.sampling_offsets", query).reshape(heads, count, -1, 2)
    points = offsets.shape[2]
    shares = weights.linear(f"{name}.attention_weights", query).reshape(heads, -1)
    mixed = np.zeros(width)
    for head in range(heads):
        channels = slice(head * width // heads, (head + 1) * width // heads)
        share = np.exp(shares[head] - shares[head].max())
        share = (share / share.sum()).reshape(count, points)
        for number, (place, grid) in enumerate(zip(places, grids, strict=True)):
            size = np.array([grid.shape[1], grid.shape[0]])
            for point in range(points):
                step = offsets[head, number, point]
                step = step / points * place[2:] / 2 if len(place) == 4 else step / size
                seen = bilinear(grid, (place[:2] + step) * size - 0.5)
                mixed[channels] += share[number, point] * seen[channels]
    return weights.linear(f"{name}.output_proj", mixed)


def bilinear(grid: Array, where: Array) -> Array:
    """Between the four cells around `where`, which counts cells; outside the grid is zero."""
    found = np.zeros(grid.shape[2])
    x, y = where
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < grid.shape[0] and 0 <= column < grid.shape[1]:
                found += (1 - abs(x - column)) * (1 - abs(y - row)) * grid[row, column]
    return found


def value_grids(weights: Weights, name: str, levels: list[Level]) -> list[Array]:
    grids = []
    for level in levels:
        grid = np.zeros_like(level.tokens)
        for row, column in np.argwhere(~level.padding):
            grid[row, column] = weights.linear(f"{name}.value_proj", level.tokens[row, column])
        grids.append(grid)
    return grids


def self_attention(weights: Weights, name: str, heads: int, placed: Array, contents: Array, blocked: Array) -> Array:
    """(Q, D) with positions for who looks at whom, (Q, D) for what is seen, (Q, Q) True where one may not look."""
    count, width = contents.shape
    matrix, bias = weights.named[f"{name}.in_proj.weight"], weights.named[f"{name}.in_proj.bias"]
    asked, offered = (placed @ matrix[i : i + width].T + bias[i : i + width] for i in (0, width))
    shown = contents @ matrix[2 * width :].T + bias[2 * width :]
    mixed = np.zeros_like(contents)
    for query in range(count):
        for head in range(heads):
            channels = slice(head * width // heads, (head + 1) * width // heads)
            fit = np.array([asked[query, channels] @ offered[key, channels] for key in range(count)])
            share = np.where(blocked[query], 0.0, np.exp((fit - fit.max()) / math.sqrt(width / heads)))
            mixed[query, channels] = share @ shown[:, channels] / share.sum()
    return np.stack([weights.linear(f"{name}.out_proj", row) for row in mixed])


# ---- encoder and proposals ----


def centre(level: Level, row: int, column: int) -> Array:
    """Of a cell, in fractions of the image without padding."""
    height, width = level.padding.shape
    return np.array([(column + 0.5) / (width * level.ratio[0]), (row + 0.5) / (height * level.ratio[1])])


def encoded(weights: Weights, levels: list[Level], heads: int) -> list[Level]:
    count = 1 + max(int(key.split(".")[2]) for key in weights.named if key.startswith("encoder.layers."))
    for number in range(count):
        name = f"encoder.layers.{number}"
        attention, after = f"{name}.attention.attention", []
        grids = value_grids(weights, attention, levels)
        for level in levels:
            tokens = np.zeros_like(level.tokens)
            for row, column in np.ndindex(level.padding.shape):
                token, point = level.tokens[row, column], centre(level, row, column)
                places = [point * other.ratio for other in levels]
                seen = deformable_attention(
                    weights, attention, heads, token + level.position[row, column], places, grids
                )
                token = weights.norm(f"{name}.attention_step.norm", token + seen)
                fed = weights.feedforward(f"{name}.feedforward", token)
                tokens[row, column] = weights.norm(f"{name}.feedforward_step.norm", token + fed)
            after.append(Level(tokens, level.position, level.padding, level.ratio))
        levels = after
    return levels


def proposed(weights: Weights, levels: list[Level], count: int) -> Array:
    """The boxes (count, 4) of the tokens with the best class, best first."""
    name, found = "queries.proposals", []
    for number, level in enumerate(levels):
        for row, column in np.ndindex(level.padding.shape):
            box = np.concatenate([centre(level, row, column), [0.05 * 2**number] * 2])
            inside = not level.padding[row, column] and bool(((box > 0.01) & (box < 0.99)).all())
            token = level.tokens[row, column] if inside else np.zeros(level.tokens.shape[2])
            token = weights.norm(f"{name}.norm", weights.linear(f"{name}.project", token))
            score = weights.linear(f"{name}.class_head", token).max()
            moved = sigmoid(weights.mlp(f"{name}.box_head", token) + np.log(box / (1 - box))) if inside else np.ones(4)
            found.append((score, moved))
    return np.stack([box for _, box in sorted(found, key=lambda pair: -pair[0])[:count]])


# ---- denoising ----


def noised(
    weights: Weights, truths: list[tuple[Array, Array]], image: int, groups: int, draws: dict[str, list[Array]]
) -> tuple[Array, Array]:
    """Contents (groups * most, D - 1) and boxes of one image's noised truths in DN-DETR; `truths` are of all images.

    `draws`: a number per group and truth that says whether the label changes (below 0.2), labels for those that do,
    and four numbers per group and truth by which the box moves.
    """
    table, most = weights.named["denoising.labels.weight"], max(len(labels) for labels, _ in truths)
    contents, boxes = np.zeros((groups * most, table.shape[1] + 1)), np.full((groups * most, 4), 0.5)
    flip, new = draws["uniform"][0], iter(draws["integers"][0])
    position = 0
    for group in range(groups):
        for owner, (labels, all_boxes) in enumerate(truths):
            for truth, (label, box) in enumerate(zip(labels, all_boxes, strict=True)):
                label = next(new) if flip[position] < 0.2 else label
                part = 2 * draws["uniform"][1][position] - 1
                reach = np.concatenate([box[2:] / 2, box[2:]])
                if owner == image:
                    slot = group * most + truth
                    contents[slot] = [*table[label], 1.0]
                    boxes[slot] = sigmoid(logit(np.clip(box + 0.4 * part * reach, 0, 1)))
                position += 1
    return contents, boxes


def may_not_look(groups: int, size: int, own: int) -> Array:
    """Own queries see no noised one; noised ones see their own group and all own queries."""
    blocked = np.zeros((groups * size + own, groups * size + own), dtype=bool)
    for row, column in np.ndindex(*blocked.shape):
        if column < groups * size:
            blocked[row, column] = row >= groups * size or row // size != column // size
    return blocked


# ---- decoder ----


def decoded(
    weights: Weights, levels: list[Level], heads: int, contents: Array, boxes: Array, blocked: Array, *, is_dino: bool
) -> list[tuple[Array, Array]]:
    """Logits (Q, C) and boxes (Q, 4) after every layer."""
    base, answers = boxes, []
    count = 1 + max(int(key.split(".")[2]) for key in weights.named if key.startswith("decoder.layers."))
    for number in range(count):
        name = f"decoder.layers.{number}"
        spots = np.stack([box_position(weights, box, levels[0].ratio) for box in boxes])
        if number and not is_dino:
            spots = spots * np.stack([weights.mlp("decoder.places.scale", row) for row in contents])
        seen = self_attention(weights, f"{name}.self_attention.attention", heads, contents + spots, contents, blocked)
        contents = each(weights, f"{name}.self_step.norm", contents + seen)
        attention = f"{name}.cross_attention.attention"
        grids, rows = value_grids(weights, attention, levels), []
        for content, spot, box in zip(contents, spots, boxes, strict=True):
            places = [box * np.concatenate([level.ratio, level.ratio]) for level in levels]
            rows.append(deformable_attention(weights, attention, heads, content + spot, places, grids))
        contents = each(weights, f"{name}.cross_step.norm", contents + np.stack(rows))
        fed = np.stack([weights.feedforward(f"{name}.feedforward", row) for row in contents])
        contents = each(weights, f"{name}.feedforward_step.norm", contents + fed)
        said = each(weights, "decoder.norm", contents) if is_dino else contents
        class_head, box_head = (
            weights.of_layer(f"decoder.heads.{kind}", number) for kind in ("class_head", "box_head")
        )
        logits = np.stack([weights.linear(class_head, row) for row in said])
        answers.append((logits, sigmoid(logit(base) + np.stack([weights.mlp(box_head, row) for row in said]))))
        boxes = base = sigmoid(logit(boxes) + np.stack([weights.mlp(box_head, row) for row in contents]))
    return answers


def each(weights: Weights, name: str, rows: Array) -> Array:
    return np.stack([weights.norm(name, row) for row in rows])


def box_position(weights: Weights, box: Array, ratio: Array) -> Array:
    """y, x, w, h as waves, of the finest level with its padding, through two linear layers."""
    x, y, width, height = box * np.concatenate([ratio, ratio])
    half = len(weights.named["neck.level_embedding.weight"][0]) // 2
    made: list[float] = []
    for number in (y, x, width, height):
        made += waves(number * 2 * math.pi, half, 10000.0)
    return weights.mlp("decoder.places.from_box", np.array(made))


def plain(values: Tensor) -> Array:
    return values.detach().double().numpy()
