"""A headless Chromium that a test drives through its DevTools pipe: nothing to install but the browser itself."""

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
READS, WRITES = 3, 4
"""The file descriptors of Chromium's end of the pipe."""


def find_browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page. `errors` are exceptions, error messages on the console and requests that failed."""

    def __init__(self, browser: str, url: str, *, size: tuple[int, int] = (1280, 1000), dark: bool = False):
        self._profile = tempfile.TemporaryDirectory()
        ours, theirs = _pipes()
        self._process = subprocess.Popen(
            [browser, *FLAGS, f"--user-data-dir={self._profile.name}", f"--window-size={size[0]},{size[1]}"],
            close_fds=False,
            preexec_fn=lambda: _place(theirs),
            stderr=subprocess.DEVNULL,
        )
        for end in theirs:
            os.close(end)
        self._in, self._out = os.fdopen(ours[0], "rb"), os.fdopen(ours[1], "wb")
        self._ids, self._session, self._rest = itertools.count(1), None, b""
        self.errors: list[str] = []
        self._loaded = False
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=url)
        while not self._loaded:
            self._receive()

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        self._call("Browser.close")
        self._process.wait(20)
        self._in.close()
        self._out.close()
        self._profile.cleanup()

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, which must be plain data."""
        done = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """A key of the keyboard, to whatever has the focus."""
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Tab": 9, "Enter": 13}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)
        self.settle()

    def hover(self, selector: str) -> None:
        """The mouse to the middle of an element, which is scrolled into view."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{element}.scrollIntoView({{block: 'center'}})")
        box = self.run(f"{element}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def hover_at(self, x: float, y: float) -> None:
        """The mouse to a place in the window."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def settle(self) -> None:
        """Until what was changed is drawn, and the pointer's place on it told."""
        frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))"
        self._call("Runtime.evaluate", expression=frames, awaitPromise=True)

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page, however long."""
        part = {}
        if whole:
            size = self._call("Page.getLayoutMetrics")["cssContentSize"]
            part = {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        data = self._call("Page.captureScreenshot", format="png", **part)["data"]
        file.write_bytes(base64.b64decode(data))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while (answer := self._receive()).get("id") != number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        """The next message; events are noted."""
        while b"\0" not in self._rest:
            more = os.read(self._in.fileno(), 1 << 16)
            assert more, "the browser has gone"
            self._rest += more
        first, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(first)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, said: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Runtime.exceptionThrown":
            self.errors.append(str(said["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and said["type"] in ("error", "assert"):
            self.errors.append(str(said["args"]))
        elif event == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(said["entry"]["text"])
        elif event == "Network.requestWillBeSent" and not said["request"]["url"].startswith(("file:", "data:")):
            self.errors.append(f"asks the network for {said['request']['url']}")


def _pipes() -> tuple[Sequence[int], Sequence[int]]:
    """(what we read from, what we write to), (what the browser reads from, what it writes to)"""
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    # Out of the way of the two numbers that they get in the browser.
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (their_in, their_out)]
    for end in (their_in, their_out):
        os.close(end)
    return (our_in, our_out), high


def _place(ends: Sequence[int]) -> None:
    os.dup2(ends[0], READS)
    os.dup2(ends[1], WRITES)
