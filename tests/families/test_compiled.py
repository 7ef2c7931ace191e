"""Under torch.compile the first step is that of eager mode: loss and gradients, in every variant."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from detrctl.families.learner import Learner
from detrctl.model.deformable_attention import DeformableAttention
from detrctl.structures import Assignment

from .small_networks import one_convolution
from .test_every_family import CASES, VARIANTS, build, two_images

pytestmark = [
    pytest.mark.slow,
    # What torch's own tracing warns of when it looks at tensors between two graphs.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]

COMPILED = ("dn", "dino")
"""Dense and deformable attention, both with denoising. Each takes a minute of a C++ compiler's time; the others are
captured and differentiated as for one, on a backbone of one convolution. DETRCTL_COMPILE=all compiles every variant.
"""
HAVE_COMPILER = any(map(shutil.which, ("g++", "clang++", "c++")))


class Stored:
    """Assigns as was asked for the first time, so that a near tie cannot fall the other way."""

    def __init__(self, assign: Callable[..., Any]):
        self._assign, self._kept = assign, list[Assignment]()
        self._again: Iterator[Assignment] | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self._again is not None:
            return next(self._again)
        self._kept.append(self._assign(*arguments, **named))
        return self._kept[-1]

    def repeat(self) -> None:
        self._again = iter(self._kept)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Each variant is compiled anew."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def step(learner: Learner) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and all gradients by name."""
    targets = CASES["usual"]
    torch.manual_seed(3)  # of the noised queries
    learner.zero_grad(set_to_none=True)
    total = learner(two_images(), targets, learner.counts(targets)).total
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_first_compiled_step_is_that_of_eager_mode(name: str) -> None:
    really = HAVE_COMPILER and (name in COMPILED or os.environ.get("DETRCTL_COMPILE") == "all")
    # Behind one convolution the fifth level's gradient is rounding and nothing else: 2.5e-6, where the largest is 1.8.
    backbone = {} if really or name == "dino 5-scale" else {"backbone": one_convolution(VARIANTS[name])}
    # Every layer is compiled anew, so there are as few as refinement and looking forward twice need.
    learner = build(name, encoder_layers=1, decoder_layers=2, **backbone).train()
    for module in learner.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # the second step would see other running statistics
        if isinstance(module, DeformableAttention):
            # As made, points of untrained queries lie on the centres of cells, where their gradient jumps.
            torch.nn.init.uniform_(module.sampling_offsets.weight, -0.05, 0.05)
            torch.nn.init.uniform_(module.sampling_offsets.bias, -3.0, 3.0)
    plan: Any = learner.criterion.plan  # type: ignore[attr-defined]
    stored = Stored(plan.matcher)
    object.__setattr__(plan, "matcher", stored)
    eager, gradients = step(learner)
    stored.repeat()
    # Only the network: losses read numbers out of tensors (counts, pairs), where a graph would break anyway.
    learner.network.compile(backend="inductor" if really else "aot_eager")
    compiled, found = step(learner)
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=0)
    assert found.keys() == gradients.keys()
    scale = max(value.abs().max() for value in gradients.values())
    for key, value in gradients.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-4 * max(value.abs().max(), 1e-3 * scale), msg=key)
