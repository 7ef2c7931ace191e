"""Gradients against the official ones: of every parameter norm and probe, of some the first values, and the total norm.

A gradient is only as reproducible as the ReLUs and sampling cells behind it: where one sits within rounding of its
edge, kernels disagree about a whole row. What the files state as noise is a single draw of that.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from detrctl.families.learner import Learner

from .fixture import Fixture, Ledger, fitted, normal, tolerance

MOST_DRAWS = 12
"""Of our own gradients under noise of rounding's size, and only until they explain what differs from the official."""
MOST_OUTSIDE = 0.1
"""The share of norms, of probes and of first values that may be beyond the stated tolerance in every draw."""

Draw = dict[str, np.ndarray]
"""`norm` and `probe` (K,), of parameters with a gradient; `first8` (F, 8); `total` (), the norm of all of them."""


def compare_gradients(fixture: Fixture, learner: Learner, names: dict[str, str], case: str, ledger: Ledger) -> None:
    """Every entry of one fp32 run within the stated tolerance, or all of them explained by rounding.

    For that our own gradients are drawn again, with noise of rounding's size. Then each entry counts in the draw in
    which it is nearest to the official one, and the share MOST_OUTSIDE of them, if not within the tolerance there, has
    to be within ten times what the draws differ by. The ledger's tally says how many entries needed what.
    """
    if f"{case}.grad_norm" not in fixture.arrays:
        return
    official, draws = official_parts(fixture, case), list[Draw]()
    seen: list[Seen] = []
    for rounding in (None, *range(MOST_DRAWS)):
        gradients = backward(fixture, learner, names, case, rounding=rounding)
        assert [gradient is not None for gradient in gradients.values()] == with_gradient(fixture, case).tolist()
        draws.append(summarise(fixture, gradients))
        seen = [Seen(part, np.stack([draw[kind] for draw in draws])) for kind, part in official.items()]
        if all(one.is_explained for one in seen):
            break
    for one in seen:
        outside = one.outside.mean()
        assert outside <= MOST_OUTSIDE, f"{one.part.name}: {outside:.0%} of the entries are beyond the stated noise"
        ledger.within(one.part.name, one.nearest, one.part.expected, allowed=one.allowed)
        ledger.tally.count(one.outside.size, by_draws=int(one.by_draws.sum()), by_spread=int(one.outside.sum()))
    ledger.tally.draws = max(ledger.tally.draws, len(draws))
    ledger.take("main.grad_norm_noise", "main.grad_probe_noise")


@dataclass(frozen=True)
class Part:
    """Official numbers under their name in the file, and their stated noise."""

    name: str
    expected: np.ndarray
    noise: np.ndarray

    @property
    def allowed(self) -> np.ndarray:
        return tolerance(self.expected, self.noise)


@dataclass(frozen=True)
class Seen:
    """A part in all `draws` of ours (N, ...), the first of which is without noise."""

    part: Part
    draws: np.ndarray

    @property
    def nearest(self) -> np.ndarray:
        return np.take_along_axis(self.draws, self._off.argmin(0)[None], axis=0)[0]

    @property
    def _off(self) -> np.ndarray:
        return np.abs(self.draws - self.part.expected)

    @property
    def outside(self) -> np.ndarray:
        """Beyond the stated tolerance in every draw."""
        return ~(self._off <= self.part.allowed).any(0)

    @property
    def by_draws(self) -> np.ndarray:
        """Within it, but not in the first draw."""
        return ~self.outside & ~(self._off[0] <= self.part.allowed)

    @property
    def allowed(self) -> np.ndarray:
        return tolerance(self.part.expected, np.maximum(self.part.noise, np.ptp(self.draws, axis=0)))

    @property
    def is_explained(self) -> bool:
        return bool(self.outside.mean() <= MOST_OUTSIDE and (self._off.min(0) <= self.allowed).all())


def official_parts(fixture: Fixture, case: str) -> dict[str, Part]:
    """By kind. The noise of norms and probes was measured in `main`; it is scaled to the size of these gradients."""
    arrays, trained = fixture.arrays, with_gradient(fixture, case)
    scale = np.maximum(arrays[f"{case}.grad_norm"], 0) / np.maximum(arrays["main.grad_norm"], 1e-30)
    noise = {kind: (arrays[f"main.grad_{kind}_noise"] * scale)[trained] for kind in ("norm", "probe")}
    found = {
        kind: Part(f"{case}.grad_{kind}", arrays[f"{case}.grad_{kind}"][trained], values)
        for kind, values in noise.items()
    }
    if (first := f"{case}.grad_first8") in arrays:
        found["first8"] = Part(first, arrays[first], np.array(fixture.noise("main.grad_first8")))
    if (total := fixture.json["cases"][case].get("total_grad_norm")) is not None:
        found["total"] = Part(f"{case}.total_grad_norm", np.array(total), np.linalg.norm(noise["norm"]))
    return found


def with_gradient(fixture: Fixture, case: str) -> np.ndarray:
    """Of which keys there is an official gradient: bool (keys,)"""
    return fixture.arrays[f"{case}.grad_norm"] >= 0


def backward(
    fixture: Fixture, learner: Learner, names: dict[str, str], case: str, *, rounding: int | None
) -> dict[str, Tensor | None]:
    """Gradients by official name; `rounding` seeds noise of that size on the input and on every weight."""
    images, targets = fixture.images(), fixture.targets(case)
    exact = {name: value.clone() for name, value in learner.network.state_dict().items()}
    if rounding is not None:
        generator = torch.Generator().manual_seed(rounding)
        images = replace(images, pixels=jitter(images.pixels, generator))
        learner.network.load_state_dict({name: jitter(value, generator) for name, value in exact.items()})
    learner.train().zero_grad(set_to_none=True)
    learner(images, targets, learner.counts(targets)).total.backward()
    learner.network.load_state_dict(exact)
    parameters = dict(learner.network.named_parameters(remove_duplicate=False))
    return {key: official_gradient(fixture, key, parameters.get(names[key])) for key in fixture.json["grad_keys"]}


def official_gradient(fixture: Fixture, key: str, ours: Tensor | None) -> Tensor | None:
    """In the official shape, which a book of labels may have in more or fewer rows; rows that we lack get none there.

    Without denoising we have no book, while the official code gives its own a gradient of zero.
    """
    shape = fixture.json["state_dict"][key]["shape"]
    if ours is None:
        assert key == "label_enc.weight", f"our model has no {key}"
        return torch.zeros(shape)
    if ours.grad is None or list(ours.shape) == list(shape):
        return ours.grad
    assert key == "label_enc.weight", key
    assert not ours.grad[shape[0] :].any()
    return fitted(ours.grad, shape[0], 0.0)


def jitter(values: Tensor, generator: torch.Generator) -> Tensor:
    """What a sum of some hundred products is uncertain by in fp32."""
    if not values.is_floating_point():
        return values
    return values * (1 + 5e-7 * torch.randn(values.shape, generator=generator, dtype=values.dtype))


def summarise(fixture: Fixture, gradients: dict[str, Tensor | None]) -> Draw:
    """Norms, products with a fixed random vector, and first values."""
    found = {key: gradient for key, gradient in gradients.items() if gradient is not None}
    flat = {key: gradient.double().flatten().numpy() for key, gradient in found.items()}
    seed = fixture.json["weight_seed"]
    norms = np.array([np.linalg.norm(values) for values in flat.values()])
    return {
        "norm": norms,
        "probe": np.array([values @ normal(f"{key}#probe", seed, (values.size,)) for key, values in flat.items()]),
        "first8": first_values(fixture, flat),
        "total": np.linalg.norm(norms),
    }


def first_values(fixture: Fixture, flat: dict[str, np.ndarray]) -> np.ndarray:
    """(F, 8): the first values of some gradients, zeros where there are none."""
    keys = fixture.json.get("grad_first8_keys", [])
    first = np.zeros((len(keys), 8))
    for row, key in enumerate(keys):
        values = flat.get(key, np.zeros(0))[:8]
        first[row, : len(values)] = values
    return first
