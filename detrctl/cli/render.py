"""Everything that is shown to a person. The only file that knows rich, and only where there is a terminal.

Piped, everything is plain text: no colours, no wrapping, columns apart by two spaces. `NO_COLOR` is respected.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO


def say(text: str) -> None:
    """One line, or several, of a command's answer, on stdout."""
    print(text)


def warn(text: str) -> None:
    """Something to know that stops nothing, on stderr."""
    _styled(f"warning: {text}", "yellow")


def error(text: str) -> None:
    """What the user has to put right, on stderr, as it is."""
    _styled(text, "red")


def _styled(text: str, style: str) -> None:
    if not sys.stderr.isatty():
        print(text, file=sys.stderr)
        return
    # Printing past a bar would break its line; its own console puts the text above it.
    console = _consoles_of_bars[-1] if _consoles_of_bars else _console(sys.stderr)
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


_consoles_of_bars: list[Any] = []


def _console(file: TextIO) -> Any:
    from rich.console import Console

    return Console(file=file, color_system=None if os.environ.get("NO_COLOR") else "auto")


# ---- tables ----


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns of numbers stand to the right. A terminal gets lines no wider than itself, a pipe the whole text."""
    right = [_is_numeric([row[index] for row in rows]) for index in range(len(columns))]
    if sys.stdout.isatty():
        _console(sys.stdout).print(_rich_table(columns, rows, right))
        return
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if end else cell.ljust(width) for cell, width, end in zip(row, widths, right, strict=True)
        ]
        say("  ".join(cells).rstrip())


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for index, (name, end) in enumerate(zip(columns, right, strict=True)):
        made.add_column(Text(name), justify="right" if end else "left", overflow="fold", no_wrap=index == 0)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers, but for one word that stands for "none"."""
    words = {cell for cell in cells if not cell.lstrip("-").replace(".", "", 1).rstrip("%").isdigit()}
    no_digits = not any(letter.isdigit() for word in words for letter in word)
    return len(words) <= 1 and no_digits and words != set(cells)


# ---- work that takes time ----


class Live:
    """A bar that moves below the lines that are said meanwhile. Without a terminal there is no bar."""

    def bar(self, done: int, total: int, text: str = "") -> None:
        """How far the work is, and behind it what changes all the time: losses, rates, memory."""


class _Bar(Live):
    def __init__(self, progress: Any, label: str):
        self._progress = progress
        self._task = progress.add_task(label, total=None, text="")

    def bar(self, done: int, total: int, text: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total, text=text)


STEADY_SECONDS = 600
"""Over how long rich averages the speed that it tells the time left by: its own 30 s forget slow steps."""


@contextmanager
def live(label: str, *, time_left: bool = True) -> Iterator[Live]:
    """with live("training") as shown: shown.bar(3, 10, "loss 1.23"); say("epoch 1 ...")

    `time_left` is told by the speed so far; without it the text can say better.
    """
    if not sys.stderr.isatty():
        yield Live()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        *([TimeRemainingColumn()] if time_left else []),
        TextColumn("{task.fields[text]}", markup=False),
        console=_console(sys.stderr),
        redirect_stdout=sys.stdout.isatty(),  # lines stand above the bar; a piped stdout stays a pipe
        transient=True,
        speed_estimate_period=STEADY_SECONDS,
    )
    with shown:
        _consoles_of_bars.append(shown.console)
        try:
            yield _Bar(shown, label)
        finally:
            _consoles_of_bars.pop()


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """with progress("evaluating", "images") as heard: heard(done, total)"""
    with live(label) as shown:
        yield lambda done, total: shown.bar(done, total, unit)
