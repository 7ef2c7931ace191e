import io
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """with terminal() as (out, err): both streams are a terminal of 40 columns, asked for no colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")

    @contextmanager
    def streams(columns=40):
        monkeypatch.setenv("COLUMNS", str(columns))
        out, err = Terminal(), Terminal()
        with redirect_stdout(out), redirect_stderr(err):
            yield out, err

    return streams
