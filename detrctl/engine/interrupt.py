"""Ctrl-C and SIGTERM as a request to stop in good order."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal after everything was saved. The message says how to go on."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """While active, the first Ctrl-C or SIGTERM is noted in `signal_number`; a second Ctrl-C stops at once.

    A SIGTERM that follows a Ctrl-C changes nothing: `torchrun` sends one to processes that are already stopping.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python handles signals in no other thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = self.signal_number or number

    def agree(self, number: int) -> None:
        """Stop for the signal that another process got."""
        self.signal_number = number

    @property
    def exit_code(self) -> int:
        """As shells count: 128 + the number of the signal."""
        return 128 + (self.signal_number or signal.SIGINT)


def ignore_in_worker(worker: int) -> None:
    """For loader workers: a Ctrl-C reaches the whole process group, but it is the trainer that ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
