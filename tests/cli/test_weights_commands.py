"""`detrctl weights`: what is said of files, and what is written."""

import hashlib
import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from detrctl.cli.app import run
from detrctl.engine.checkpoint import load
from detrctl.weights import download, published_files
from detrctl.weights.published_files import PublishedFile
from tests.cli.tiny import make_run
from tests.weights.published import published


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def official(name: str, variant: str = "detr", **arguments: object) -> None:
    """An official file whose weights are zeros."""
    tensors = {key: torch.zeros(shape) for key, shape in published(variant, **arguments).items()}
    torch.save({"model": tensors, "epoch": 3, "args": Namespace(nheads=8)}, name)


def test_inspect_says_what_an_official_file_is_and_which_recipe_is_nearest(capsys):
    official("x.pth")
    assert run(["weights", "inspect", "x.pth"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[:2] == [
        "file      x.pth: PyTorch, its 'model'; also there: args, epoch",
        "model     DETR, in official names",
    ]
    assert lines[2].startswith("recipe    none fits in every field; detr_r101 is nearest, which differs in 6")
    assert "            model.width: 256, not 16" in lines
    assert "classes   91 columns by COCO's category ids, 80 of them used" in lines
    assert "assumed   dilation false: weights do not tell" in lines
    assert lines[-1].startswith("fit       ")
    assert lines[-1].endswith(" loaded, 0 fresh, 0 misfit, 0 unused")
    assert said.err == (
        "warning: taken for DETR: its weights could be those of DETR-DC5 as well; --recipe says which it is\n"
    )


def test_inspect_names_what_does_not_fit_the_recipe_that_the_file_is_said_to_be_of(capsys):
    official("x.pth", num_queries=7)
    assert run(["weights", "inspect", "x.pth", "--recipe", "detr_dc5_r50", "--json", "x.json"]) == 0
    out = capsys.readouterr().out
    assert "recipe    detr_dc5_r50 fits in every field that weights depend on" in out
    assert "tensor " in out
    assert "more: --tensors shows all" in out
    found = json.loads(Path("x.json").read_text())
    rows = {row["name"]: (row["kind"], row["detail"]) for row in found["rows"]}
    assert rows["queries.position.weight"] == ("misfit", "(7, 16) in the file, (100, 256) in the model")
    assert rows["encoder.layers.1.feedforward.linear1.bias"] == ("fresh", "not in the file")
    assert found["counts"]["misfit"] > 0


def test_inspect_of_our_own_checkpoint_tells_its_classes(capsys, here: Path):
    make_run(Path("runs/a"), here)
    assert run(["weights", "inspect", "runs/a"]) == 0
    out = capsys.readouterr().out
    assert "detrctl checkpoint\nmodel     family detr\n" in out
    assert "classes   2: cell, clump\n" in out
    assert run(["weights", "inspect", "runs/a", "--tensors"]) == 0
    assert "decoder.heads.class_head.weight" in capsys.readouterr().out


def test_convert_goes_to_the_official_format_and_back(capsys, here: Path):
    path = make_run(Path("runs/a"), here)
    assert run(["weights", "convert", "runs/a", "--to", "official", "--out", "a.pth"]) == 0
    assert run(["weights", "convert", "a.pth", "--to", "detrctl", "--out", "b.pt"]) == 0
    assert capsys.readouterr().out == "a.pth\nb.pt\n"
    before, after = load(path), load(Path("b.pt"))
    kept = {name for name in before.weights if not name.endswith("num_batches_tracked")}
    assert kept <= after.weights.keys()
    assert all(torch.equal(after.weights[name], before.weights[name]) for name in kept)
    assert after.categories.names == ("cell", "clump")


def test_list_names_every_file_and_says_where_no_hash_is_known(capsys):
    assert run(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[1:-2]}
    assert list(rows) == [file.name for file in published_files.PUBLISHED]
    assert "e632da11..." in rows["detr_r50"]
    assert "not known" in rows["hf_detr_r50"]


def test_download_says_where_the_file_is_and_what_was_checked(capsys, here: Path, monkeypatch: pytest.MonkeyPatch):
    digest = hashlib.sha256(b"w").hexdigest()[:8]
    (here / "served.pth").write_bytes(b"w")
    file = PublishedFile("mine", "detr_r50", "page", (here / "served.pth").as_uri(), digest)
    monkeypatch.setattr(published_files, "PUBLISHED", (file,))
    assert run(["weights", "download", "mine"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"weights/served.pth: downloaded, SHA-256 {digest}... as published"
    assert second == "recipe detr_r50: detrctl eval --ckpt weights/served.pth --recipe detr_r50 --data COCO"
    assert run(["weights", "download", "mine"]) == 0
    assert "was there already" in capsys.readouterr().out
    assert run(["weights", "download", "other"]) == 2
    assert capsys.readouterr().err == "other: no published file of this name; `detrctl weights list` shows them\n"


@pytest.mark.parametrize("is_stated", [True, False])
def test_download_says_who_knows_the_hash(capsys, here: Path, monkeypatch: pytest.MonkeyPatch, is_stated: bool):
    file = PublishedFile("mine", "detr_r50", "page", "https://example.org/w.pth")
    monkeypatch.setattr(published_files, "PUBLISHED", (file,))
    found = download.Fetched(Path("weights/w.pth"), "ab" * 32, was_there=False, is_stated=is_stated)
    monkeypatch.setattr(download, "download", lambda *_: found)
    assert run(["weights", "download", "mine"]) == 0
    said = capsys.readouterr()
    checked = "SHA-256 abababab... as its server says" if is_stated else "hash not checked"
    assert said.out.splitlines()[0] == f"weights/w.pth: downloaded, {checked}"
    warning = f"warning: which hash w.pth should have is not known here; this one's SHA-256 is {'ab' * 32}\n"
    assert said.err == ("" if is_stated else warning)


def test_a_hostile_file_is_one_line(capsys, here: Path):
    Path("x.pth").write_bytes(b"PK\x03\x04 and nothing more")
    for command in (["inspect", "x.pth"], ["convert", "x.pth", "--to", "hf"]):
        assert run(["weights", *command]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err == "x.pth: cut short: the end of the file is missing; copy or download it again\n"
