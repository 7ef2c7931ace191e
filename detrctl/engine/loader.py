"""A DataLoader whose workers fail in one line and never keep the program from ending."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from detrctl.errors import DataError
from detrctl.structures import Batch


class Loader(DataLoader[Batch | None]):
    """torch's loader, except that a worker's DataError arrives as it was raised, without the worker's traceback."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        if self.num_workers:
            # Workers ignore SIGTERM, and that is what multiprocessing ends them with at exit, waiting for ever.
            atexit.unregister(_end_workers)
            atexit.register(_end_workers)

    def __iter__(self) -> Iterator[Batch | None]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except DataError as error:
            raise DataError(_said(error)) from None


def _said(error: DataError) -> str:
    """torch puts the worker's whole traceback into the message; what was said is on its last line."""
    text = str(error).rstrip()
    if not text.startswith("Caught "):
        return text
    return text.splitlines()[-1].removeprefix(f"{DataError.__module__}.{DataError.__qualname__}: ")


def _end_workers() -> None:
    """Runs before multiprocessing's own clean-up, since it was registered later."""
    children = [child for child in multiprocessing.active_children() if child.daemon]
    if children:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes a killed worker for an accident
    for child in children:
        child.kill()
        child.join()
