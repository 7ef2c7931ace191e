"""Several processes of one command on this machine (`train.processes`), which find each other as torchrun's do.

No torch here, except to count GPUs: what starts processes should not wait for its import as they do themselves.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

LAUNCHER = "DETRCTL_LAUNCHER"
"""The environment variable that tells a process who started it: the launcher's process id."""
GONE = 3
"""Exit code of a process that ended because another one was gone, of which it knows no more."""
STOPPED = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of processes that ended in good order: the first one may be saving still."""
GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
PATIENCE, PATIENCE_WITHOUT_FIRST = 10.0, 1.0
"""Seconds until the rest is ended, and again until it is killed; less when the first process, which speaks, is done."""


@dataclass(frozen=True)
class Launched:
    """`code` is the command's exit code; `said` is what is still to be told, where the first process could not."""

    code: int
    said: str = ""


def is_launched() -> bool:
    """Whether `launch` started this process."""
    return LAUNCHER in os.environ


def has_company() -> bool:
    """Whether torchrun, a cluster or `launch` has already started the processes of this run."""
    return "WORLD_SIZE" in os.environ


def processes_that_fit(wanted: int, device: str) -> int:
    """Not more than there are GPUs, where `device` means GPUs: none is shared."""
    if wanted == 1 or os.name != "posix":
        return 1
    may_have_gpu = sys.platform != "linux" or any(Path(file).exists() for file in GPU_FILES)
    if device == "cpu" or (device == "auto" and not may_have_gpu):
        return wanted
    import torch

    if torch.cuda.is_available() and device in ("auto", "cuda"):
        return min(wanted, torch.cuda.device_count())
    return 1 if torch.backends.mps.is_available() and device in ("auto", "mps") else wanted


def end_with_launcher() -> None:
    """For a launched process: even if the launcher is killed, stop in good order (on Linux)."""
    if sys.platform == "linux" and is_launched():
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(os.environ[LAUNCHER]):
            raise KeyboardInterrupt


def launch(arguments: Sequence[str], processes: int) -> Launched:
    """Run `detrctl ARGUMENTS` as so many processes, of which the first one speaks, and wait for all of them.

    SIGINT and SIGTERM are passed on. When one process fails, the others are ended.
    """
    crew = Crew(_command(arguments), processes)
    passed_on = [signal.SIGINT, signal.SIGTERM, signal.SIGTSTP]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup the processes outlive the terminal
        passed_on.append(signal.SIGHUP)
    before = {number: signal.signal(number, crew.pass_on) for number in passed_on}
    try:
        crew.start()
        crew.wait()
        return crew.outcome()
    finally:
        crew.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _command(arguments: Sequence[str]) -> list[str]:
    # `-m` puts the working folder on the path, where the installed command does not: modules there could hide others.
    safe = [] if "" in sys.path or str(Path.cwd()) in sys.path else ["-P"]
    return [sys.executable, *safe, "-m", "detrctl", *arguments]


def _python_path() -> dict[str, str]:
    """A checkout that this process found otherwise than by PYTHONPATH or the working folder is found by all of them."""
    home = Path(__file__).resolve().parents[2]
    if home.name in ("site-packages", "dist-packages"):  # there anyway, and before the standard library it does harm
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(home)]))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Crew:
    """The processes, each in a group of its own: signals of the terminal reach them once, by way of the launcher."""

    def __init__(self, command: Sequence[str], processes: int):
        self._command, self._world = command, processes
        self._children: list[subprocess.Popen[bytes]] = []
        self._output: list[IO[bytes] | None] = []
        self._signal: int | None = None
        self._reached = 0  # so many of the children were there when the signal came
        self._failed: int | None = None
        self._ended_by_us: set[int] = set()

    def start(self) -> None:
        shared = {
            **os.environ,
            **_python_path(),
            LAUNCHER: str(os.getpid()),
            "WORLD_SIZE": str(self._world),
            "LOCAL_WORLD_SIZE": str(self._world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
        for rank in range(self._world):
            output = tempfile.TemporaryFile() if rank else None  # noqa: SIM115 - it is read when all have ended
            environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            child = subprocess.Popen(
                self._command, env=environment, stdout=output, stderr=output and subprocess.STDOUT, process_group=0
            )
            self._children.append(child)
            self._output.append(output)

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """The handler of signals that the launcher gets."""
        if number == signal.SIGTSTP:  # Ctrl-Z: all sleep until this process is woken
            self.end(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            self.end(signal.SIGCONT)
            return
        if self._signal is None:
            self._signal, self._reached = number, len(self._children)
        self.end(number)

    def end(self, number: int) -> None:
        """A signal to all that are there; a stop goes to their loader workers as well."""
        self._send(number, self._children)

    @staticmethod
    def _send(number: int, children: Sequence["subprocess.Popen[bytes]"]) -> None:
        for child in children:
            if child.poll() is None:
                send = os.killpg if number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL) else os.kill
                send(child.pid, number)

    def close(self) -> None:
        """Whatever happened, no process stays behind."""
        self.end(signal.SIGKILL)
        for child, output in zip(self._children, self._output, strict=True):
            child.wait()
            if output is not None:
                output.close()

    def wait(self) -> None:
        """Until all are done. From when one has failed, or the first is done, the others have little time."""
        if self._signal is not None:  # those that were not there yet; a second one would mean "at once" to the others
            self._send(self._signal, self._children[self._reached :])
        deadline: float | None = None
        told = iter((signal.SIGTERM, signal.SIGKILL))
        while any(child.poll() is None for child in self._children):
            if deadline is None and (patience := self._patience()) is not None:
                deadline = time.monotonic() + patience
            if deadline is not None and time.monotonic() > deadline:
                living = {rank for rank, child in enumerate(self._children) if child.poll() is None}
                self._ended_by_us |= living
                self.end(next(told, signal.SIGKILL))
                deadline = time.monotonic() + PATIENCE
            time.sleep(0.05)
        self._patience()

    def _patience(self) -> float | None:
        codes = [child.poll() for child in self._children]
        failed = [rank for rank, code in enumerate(codes) if code is not None and code not in (*STOPPED, GONE)]
        if self._failed is None and failed:
            self._failed = failed[0]
        if codes[0] is not None:
            return PATIENCE_WITHOUT_FIRST
        return PATIENCE if failed or GONE in codes else None

    def outcome(self) -> Launched:
        """The first process's exit code, unless it only suffered from another one's end."""
        code = self._children[0].returncode
        suffered = code == GONE or 0 in self._ended_by_us
        if suffered and self._failed:
            return self._outcome_of(self._failed)
        if code >= 0:
            return Launched(code)
        if self._signal is not None:
            return Launched(128 + self._signal, "warning: stopped at once; nothing more was saved\n")
        return self._outcome_of(0)

    def _outcome_of(self, rank: int) -> Launched:
        code, output = self._children[rank].returncode, self._output[rank]
        if code < 0:
            name = signal.Signals(-code).name
            return Launched(128 - code, f"process {rank + 1} of {self._world} was ended by {name}\n")
        if output is None:
            return Launched(code)
        output.seek(0)
        return Launched(code, output.read().decode(errors="replace"))
