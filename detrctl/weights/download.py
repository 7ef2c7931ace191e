"""A published file comes whole or not at all."""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from detrctl.errors import DetrctlError
from detrctl.weights.published_files import PublishedFile

PIECE = 2**20
TIMEOUT_SECONDS = 30
STATED_HASH = "X-Linked-ETag"
"""Where Hugging Face's server says a large file's SHA-256, on its way to the server that has the file."""

Heard = Callable[[int, int], None]
"""Bytes that have come, bytes in all (0: the server does not say)."""


@dataclass(frozen=True)
class Fetched:
    """`sha256` is the whole hash. `was_there`: nothing had to be fetched. `is_stated`: the server named that hash."""

    path: Path
    sha256: str
    was_there: bool
    is_stated: bool = False


def download(file: PublishedFile, folder: Path, heard: Heard = lambda done, total: None) -> Fetched:
    """The file in `folder`, which is made. DetrctlError, one line, for whatever keeps it from being whole."""
    assert file.url is not None
    place = folder / file.name if file.needs_folder else folder
    path = place / file.filename
    place.mkdir(parents=True, exist_ok=True)
    for name in file.beside:
        if not (place / name).exists():
            _fetch(f"{file.url.rsplit('/', 1)[0]}/{name}", place / name, None, lambda done, total: None)
    if path.exists():
        digest = _hash_of(path)
        if file.sha256 is not None and not digest.startswith(file.sha256):
            raise DetrctlError(
                f"{path}: is there, but is not the published file (SHA-256 {digest[:8]}..., not {file.sha256}...): "
                "move it away"
            )
        return Fetched(path, digest, was_there=True)
    came = _fetch(file.url, path, file.sha256, heard)
    return Fetched(path, came.sha256, was_there=False, is_stated=came.stated is not None)


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _Came:
    """The hash of what came, and the one that the server stated, if any."""

    sha256: str
    stated: str | None


def _fetch(url: str, path: Path, sha256: str | None, heard: Heard) -> _Came:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        came = _receive(url, part, heard)
        if sha256 is not None and not came.sha256.startswith(sha256):
            raise DetrctlError(
                f"{url}: not the published file came (SHA-256 {came.sha256[:8]}..., not {sha256}...); nothing is kept"
            )
        if came.stated is not None and came.sha256 != came.stated:
            raise DetrctlError(
                f"{url}: not the file came that the server announced "
                f"(SHA-256 {came.sha256[:8]}..., not {came.stated[:8]}...); nothing is kept"
            )
        os.replace(part, path)
    except HTTPError as error:
        error.close()
        raise DetrctlError(f"{url}: could not be downloaded: the server says {error.code} {error.reason}") from error
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise DetrctlError(f"{url}: could not be downloaded: {reason}") from error
    finally:
        part.unlink(missing_ok=True)
    return came


class _Redirects(HTTPRedirectHandler):
    """Keeps the hash that a server states before it sends us on."""

    stated: str | None = None

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        self.stated = self.stated or _stated_hash(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _stated_hash(headers: Message) -> str | None:
    """None for the shorter hashes of files that lie in the repository itself."""
    found = re.fullmatch(r'(?:W/)?"([0-9a-f]{64})"', headers.get(STATED_HASH) or "")
    return found[1] if found else None


def _receive(url: str, part: Path, heard: Heard) -> _Came:
    """Into `part`. DetrctlError where the connection ended early."""
    digest, done, redirects = hashlib.sha256(), 0, _Redirects()
    response: HTTPResponse
    with build_opener(redirects).open(url, timeout=TIMEOUT_SECONDS) as response, part.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        while piece := response.read(PIECE):
            file.write(piece)
            digest.update(piece)
            done += len(piece)
            heard(done, total)
    if done < total:
        raise DetrctlError(f"{url}: broke off after {done} of {total} bytes; try again")
    return _Came(digest.hexdigest(), redirects.stated or _stated_hash(response.headers))
