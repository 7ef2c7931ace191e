"""A published file comes whole or not at all."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from detrctl.errors import DetrctlError
from detrctl.weights.published_files import PublishedFile

PIECE = 2**20
TIMEOUT_SECONDS = 30

Heard = Callable[[int, int], None]
"""Bytes that have come, bytes in all (0: the server does not say)."""


@dataclass(frozen=True)
class Fetched:
    """`sha256` is the whole hash. `was_there`: nothing had to be fetched."""

    path: Path
    sha256: str
    was_there: bool


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
    return Fetched(path, _fetch(file.url, path, file.sha256, heard), was_there=False)


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, path: Path, sha256: str | None, heard: Heard) -> str:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        digest = _receive(url, part, heard)
        if sha256 is not None and not digest.startswith(sha256):
            raise DetrctlError(
                f"{url}: not the published file came (SHA-256 {digest[:8]}..., not {sha256}...); nothing is kept"
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
    return digest


def _receive(url: str, part: Path, heard: Heard) -> str:
    """Into `part`; the hash of what came. DetrctlError where the connection ended early."""
    digest, done = hashlib.sha256(), 0
    response: HTTPResponse
    with urlopen(url, timeout=TIMEOUT_SECONDS) as response, part.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        while piece := response.read(PIECE):
            file.write(piece)
            digest.update(piece)
            done += len(piece)
            heard(done, total)
    if done < total:
        raise DetrctlError(f"{url}: broke off after {done} of {total} bytes; try again")
    return digest.hexdigest()
