"""Published files come from a server whole and checked, or not at all; the server here is on loopback."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from detrctl.errors import DetrctlError
from detrctl.recipe.locate import shipped
from detrctl.weights.download import download
from detrctl.weights.published_files import PUBLISHED, PublishedFile, published_file

CONTENT = b"weights" * 500_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    asked: list[str]
    stated: str | None = None

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/resolve/"):
            self.send_response(302)
            self.send_header("Location", self.path.replace("/resolve/", "/store/"))
            if self.stated is not None:
                self.send_header("X-Linked-ETag", self.stated)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/gone.pth":
            self.send_error(404)
            return
        body = b'{"model_type": "detr"}' if self.path.endswith(".json") else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:100_000] if self.path == "/short.pth" else body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    Handler.asked, Handler.stated = [], None
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def official(server: str, name: str = "whole.pth", sha256: str | None = SHA256[:8]) -> PublishedFile:
    return PublishedFile("mine", "detr_r50", "a page", f"{server}/{name}", sha256)


def refusal(file: PublishedFile, folder: Path) -> str:
    with pytest.raises(DetrctlError) as caught:
        download(file, folder)
    return str(caught.value)


def test_a_file_is_fetched_once_and_its_hash_checked_each_time(server: str, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    found = download(official(server), tmp_path / "new", lambda done, total: heard.append((done, total)))
    assert (found.path, found.sha256, found.was_there) == (tmp_path / "new" / "whole.pth", SHA256, False)
    assert found.path.read_bytes() == CONTENT
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert download(official(server), tmp_path / "new").was_there
    assert Handler.asked == ["/whole.pth"]
    found.path.write_bytes(b"other")
    digest = hashlib.sha256(b"other").hexdigest()
    assert refusal(official(server), tmp_path / "new") == (
        f"{found.path}: is there, but is not the published file (SHA-256 {digest[:8]}..., not {SHA256[:8]}...): "
        "move it away"
    )


def test_a_model_of_the_hub_comes_with_its_config_into_a_folder_of_its_own(server: str, tmp_path: Path) -> None:
    file = replace(official(server, "main/model.safetensors", None), beside=("config.json",))
    found = download(file, tmp_path)
    assert found.path == tmp_path / "mine" / "model.safetensors"
    assert (found.path.parent / "config.json").read_text() == '{"model_type": "detr"}'
    assert Handler.asked == ["/main/config.json", "/main/model.safetensors"]


def test_a_hash_that_the_server_states_before_it_sends_us_on_is_checked(server: str, tmp_path: Path) -> None:
    file = official(server, "resolve/whole.pth", None)
    Handler.stated = f'"{"0" * 64}"'
    assert refusal(file, tmp_path) == (
        f"{server}/resolve/whole.pth: not the file came that the server announced "
        f"(SHA-256 {SHA256[:8]}..., not 00000000...); nothing is kept"
    )
    assert list(tmp_path.iterdir()) == []
    Handler.stated = f'"{SHA256}"'
    assert download(file, tmp_path / "right").is_stated
    assert Handler.asked == ["/resolve/whole.pth", "/store/whole.pth"] * 2


@pytest.mark.parametrize("stated", [None, '"e7da11f8d0c44a0f8c86a3b0c1d2e3f405162738"'])
def test_where_the_server_states_no_sha256_nothing_is_checked(server: str, tmp_path: Path, stated: str | None) -> None:
    Handler.stated = stated
    found = download(official(server, "resolve/whole.pth", None), tmp_path)
    assert (found.sha256, found.is_stated) == (SHA256, False)


def test_what_is_not_whole_is_one_line_and_leaves_nothing(server: str, tmp_path: Path) -> None:
    wrong = official(server, sha256="00000000")
    assert refusal(wrong, tmp_path) == (
        f"{server}/whole.pth: not the published file came (SHA-256 {SHA256[:8]}..., not 00000000...); nothing is kept"
    )
    assert refusal(official(server, "short.pth"), tmp_path) == (
        f"{server}/short.pth: broke off after 100000 of 3500000 bytes; try again"
    )
    assert refusal(official(server, "gone.pth"), tmp_path) == (
        f"{server}/gone.pth: could not be downloaded: the server says 404 Not Found"
    )
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    said = refusal(official("http://127.0.0.1:1"), tmp_path)
    assert re.fullmatch(r"http://127\.0\.0\.1:1/whole\.pth: could not be downloaded: .*[Rr]efused", said)


def test_every_published_file_has_a_recipe_and_only_hashes_that_its_name_states() -> None:
    assert len({file.name for file in PUBLISHED}) == len(PUBLISHED)
    for file in PUBLISHED:
        assert file.recipe in shipped()
        assert (file.sha256 is None) or file.filename.endswith(f"-{file.sha256}.pth")
    assert sum(file.sha256 is not None for file in PUBLISHED) == 4


def test_unknown_names_and_what_no_program_can_fetch_are_one_line() -> None:
    with pytest.raises(DetrctlError) as caught:
        published_file("detr_r500")
    assert str(caught.value) == "detr_r500: no published file of this name; `detrctl weights list` shows them"
    with pytest.raises(DetrctlError) as caught:
        published_file("dino_4scale_r50")
    assert str(caught.value) == (
        "dino_4scale_r50: its authors publish it behind a page only: get it at github.com/IDEA-Research/DINO and give "
        "its path to --ckpt, --init-from or `detrctl weights inspect`"
    )
