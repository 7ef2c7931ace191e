"""Real processes for tests, forked from a server that has imported torch once."""

import contextlib
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

SECONDS = 90
"""After which a child is given up: a hang is a failure, not a wait."""

_context = multiprocessing.get_context("forkserver")
_PRELOADED = ["tests.engine.children", "tests.engine.tiny", "detrctl.engine.train", "detrctl.cli.app"]
_context.set_forkserver_preload(_PRELOADED)


def start(function: Callable[..., Any], *arguments: Any, output: Path, **environment: str) -> BaseProcess:
    """Call `function(*arguments)` in a new process with as many threads; stdout and stderr go to the file `output`."""
    threads = torch.get_num_threads()  # sums depend on it, and so do comparisons bit by bit
    child = _context.Process(target=_call, args=(function, arguments, output, environment, threads), daemon=False)
    child.start()
    return child


def _call(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    output: Path,
    environment: dict[str, str],
    threads: int,
) -> None:
    os.setsid()  # a group of its own, as a terminal gives to a command
    os.environ.update(environment)
    torch.set_num_threads(threads)
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        code = function(*arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code or 0)


def finish(child: BaseProcess) -> int:
    """Its exit code. Fails when it hangs."""
    child.join(SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise AssertionError(f"process {child.pid} hangs")
    return child.exitcode


@contextlib.contextmanager
def group(world: int, function: Callable[..., Any], *arguments: Any, folder: Path) -> Iterator[list[BaseProcess]]:
    """`world` processes that find each other as those of torchrun do; output in FOLDER/out-RANK.txt."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [
        start(function, *arguments, output=folder / f"out-{rank}.txt", RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(world)
    ]
    try:
        yield children
    finally:
        for child in children:
            if child.is_alive():
                child.kill()
                child.join()


def run_group(world: int, function: Callable[..., Any], *arguments: Any, folder: Path) -> list[int]:
    """Their exit codes."""
    with group(world, function, *arguments, folder=folder) as children:
        return [finish(child) for child in children]
