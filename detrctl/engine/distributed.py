"""One process or many with the same code: who am I, and what do all of us say together.

Every collective is called on every process at the same point of the program, whatever its data holds.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detrctl.errors import DetrctlError

T = TypeVar("T")
TIMEOUT = datetime.timedelta(hours=6)
"""Processes wait for the first one while it evaluates, which on COCO takes longer than the backends' default."""


class ProcessGone(DetrctlError):
    """Another process of the run has ended, and this one cannot go on without it."""


class Processes(Protocol):
    """All processes of a run, seen from one of them."""

    rank: int
    world: int

    @property
    def first(self) -> bool: ...
    def sum(self, values: Tensor) -> Tensor: ...
    def gather(self, value: T) -> list[T]: ...
    def from_first(self, value: T) -> T: ...
    def average_gradients(self, parameters: Sequence[nn.Parameter], *, fine: bool) -> bool: ...
    def copy_from_first(self, tensors: Sequence[Tensor]) -> None: ...


class Alone:
    """The only process."""

    rank, world, first = 0, 1, True

    def sum(self, values: Tensor) -> Tensor:
        return values

    def gather(self, value: T) -> list[T]:
        return [value]

    def from_first(self, value: T) -> T:
        return value

    def average_gradients(self, parameters: Sequence[nn.Parameter], *, fine: bool) -> bool:
        return fine

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Nobody to copy from."""


class Group:
    """One of several processes, started by `torchrun`."""

    def __init__(self, *, rank: int, world: int, device: torch.device):
        self.rank, self.world, self._device = rank, world, device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Element by element over all processes; returns a tensor on the device of `values`."""
        shared = values.to(self._device, copy=True)
        with _a_process_may_be_gone():
            dist.all_reduce(shared)
        return shared.to(values.device)

    def gather(self, value: T) -> list[T]:
        """The value of every process, in the order of their ranks."""
        values: list[Any] = [None] * self.world
        with _a_process_may_be_gone():
            dist.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """What the first process holds, whatever the others pass."""
        values = [value]
        with _a_process_may_be_gone():
            dist.broadcast_object_list(values, src=0, device=self._device)
        return values[0]

    def average_gradients(self, parameters: Sequence[nn.Parameter], *, fine: bool) -> bool:
        """Average all gradients in one collective; returns whether the step was `fine` on every process.

        By hand instead of by `DistributedDataParallel`: a process that got a NaN, an image without boxes or a
        parameter that it did not use still takes part in the same single collective, so none waits for another for
        ever. A gradient that one process has is the zero of those that have none.
        """
        gradients = [parameter.grad if fine else None for parameter in parameters]
        said = [float(fine), *(float(gradient is not None) for gradient in gradients)]
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        heard = self.sum(torch.cat([torch.tensor(said, device=self._device), *(g.float().flatten() for g in filled)]))
        all_fine, used = bool(heard[0] == self.world), heard[1 : len(said)].tolist()
        if all_fine:
            parts = heard[len(said) :].div_(self.world).split([p.numel() for p in parameters])
            for parameter, gradient, part, uses in zip(parameters, filled, parts, used, strict=True):
                # Copied into the gradient's own memory format, which a fused optimizer expects.
                parameter.grad = gradient.copy_(part.view(parameter.shape)) if uses else None
        return all_fine

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite every tensor by the first process's."""
        with _a_process_may_be_gone():
            for tensor in tensors:
                held = tensor.to(self._device).contiguous()
                dist.broadcast(held, src=0)
                tensor.copy_(held)


@contextlib.contextmanager
def _a_process_may_be_gone() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo and nccl say in many ways that the connection is closed
        raise ProcessGone("another process of this run has ended; its own message says why") from error


def on_first(processes: Processes, make: Callable[[], T]) -> T:
    """What the first process makes, on all of them; a mistake of the user's is raised on all of them."""
    made: list[T] = []
    error: DetrctlError | None = None
    if processes.first:
        try:
            made = [make()]
        except DetrctlError as raised:
            error = raised
    made, error = processes.from_first((made, error))
    if error is not None:
        raise error
    return made[0]


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one. DetrctlError if the device is not there."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(kind for kind, there in available.items() if there) if name == "auto" else name
    if kind not in available:
        raise DetrctlError(f"--device {name}: no such device; choose auto, cpu, cuda or mps")
    if not available[kind]:
        raise DetrctlError(f"--device {name}: not available on this machine; use --device cpu, or auto")
    if kind == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise DetrctlError(
                f"process {local_rank} has no GPU of its own (this machine has {torch.cuda.device_count()}); "
                "start at most as many processes, or use --device cpu"
            )
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device(kind)


def emulates_bf16(device: torch.device, capabilities: Mapping[str, Any] | None = None) -> bool:
    """Whether this is a CPU that is known to have no bf16 arithmetic: a step then took 2.8 times as long as in fp32."""
    if device.type != "cpu":
        return False
    ask = getattr(torch.cpu, "get_capabilities", dict)  # new in PyTorch 2.9
    known = ask() if capabilities is None else capabilities
    return known.get("architecture") == "x86_64" and not (known.get("amx_bf16") or known.get("avx512_bf16"))


def precision_of_use(trained: str, device: torch.device) -> tuple[str, tuple[str, ...]]:
    """What to evaluate and predict in after training in `trained`, and what the user should hear of it."""
    if trained == "bf16" and emulates_bf16(device):
        return "fp32", ("this CPU has no bf16 arithmetic, so that fp32 is used where training used bf16",)
    return trained, ()


@contextlib.contextmanager
def connected(device: torch.device) -> Iterator[Processes]:
    """The processes that `torchrun` started, or this one alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Alone()
        return
    cuda = device.type == "cuda"
    try:
        with _a_process_may_be_gone():
            dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT, device_id=device if cuda else None)
    except ValueError as error:  # torch's for variables that torchrun sets
        raise DetrctlError(
            f"the {world} processes that WORLD_SIZE tells of cannot meet ({error}); start them with torchrun, or unset "
            "WORLD_SIZE for one process"
        ) from error
    try:
        yield Group(rank=dist.get_rank(), world=world, device=device)
    finally:
        dist.destroy_process_group()


def share_cores(device: torch.device) -> int:
    """Give each process of this machine its part of the cores, and return how many threads that is.

    `torchrun` otherwise leaves one thread to each, which on a CPU leaves most of the machine idle.
    """
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if local_world > 1 and device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // local_world))
    return torch.get_num_threads()
