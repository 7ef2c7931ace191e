"""Files of weights by others open safely or not at all, and each reason is one plain line."""

import json
import os
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from detrctl.errors import CheckpointError
from detrctl.weights.files import WeightFile, printable, read_content, weight_file

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
CUT = "cut short: the end of the file is missing; copy or download it again"


class RunsCode:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def opened(path: Path) -> WeightFile:
    return weight_file(read_content(path))


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] = WEIGHTS) -> bool:
    return set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_an_official_file_gives_its_weights_and_its_command_line_and_names_the_rest(tmp_path: Path, zipped: bool):
    content = {"model": WEIGHTS, "optimizer": {"state": {}}, "epoch": 49, "args": Namespace(nheads=8, dilation=True)}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    file = opened(tmp_path / "x.pth")
    assert same(file.tensors)
    assert file.arguments == {"nheads": 8, "dilation": True}
    assert (file.part, file.aside) == ("model", ("args", "epoch", "optimizer"))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (WEIGHTS, ""),
        ({"state_dict": WEIGHTS}, "state_dict"),
        ({"model": {"a": torch.zeros(1)}, "ema_model": WEIGHTS}, "ema_model"),
        ({"model": {"a": torch.zeros(1)}, "ema": {"module": WEIGHTS, "updates": 7}}, "ema.module"),
        ({"model": WEIGHTS, "ema": None}, "model"),
    ],
)
def test_weights_are_found_in_every_usual_wrapper_and_an_average_comes_first(tmp_path: Path, content: Any, part: str):
    torch.save(content, tmp_path / "x.pt")
    assert opened(tmp_path / "x.pt").part == part
    assert same(opened(tmp_path / "x.pt").tensors)


def test_what_wrappers_put_before_names_and_counters_leave_behind_goes(tmp_path: Path):
    prefixed = {f"module._orig_mod.{name}": value for name, value in WEIGHTS.items()}
    torch.save({"model": {**prefixed, "module.a.total_ops": torch.zeros(1), "epoch": 3}}, tmp_path / "x.pth")
    assert same(opened(tmp_path / "x.pth").tensors)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(tmp_path: Path, zipped: bool):
    trap = tmp_path / "trap"
    content = {"model": WEIGHTS, "args": RunsCode(trap)}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    assert message(tmp_path / "bad.pth") == (
        f"refused: it names {os.mkdir.__module__}.mkdir, and opening what is no tensor or plain value could run code"
    )
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(RunsCode(trap)))
    assert message(tmp_path / "bare.pth").startswith("not a file of weights (")
    assert not trap.exists()


def test_files_that_end_too_early_are_each_one_plain_line(tmp_path: Path):
    torch.save({"model": WEIGHTS}, tmp_path / "zip.pth")
    torch.save({"model": WEIGHTS}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(WEIGHTS, tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text('{"weight_map": {"a"')
    for name in ("zip.pth", "old.pth", "x.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for length in (20, len(whole) // 2, len(whole) - 4):
            path = tmp_path / f"cut{length}-{name}"
            path.write_bytes(whole[:length])
            expected = (
                CUT if name.endswith("pth") else "a safetensors file cut short or damaged; copy or download it again"
            )
            assert message(path) == expected
    assert message(tmp_path / "x.json") == "not a JSON file, or cut short"


def test_whatever_byte_of_its_table_is_changed_a_file_opens_or_is_one_plain_line(tmp_path: Path):
    torch.save(WEIGHTS, tmp_path / "good.pth")
    good = (tmp_path / "good.pth").read_bytes()
    first = good.index(b"PK\x01\x02")  # the central directory, where versions, flags and names stand
    changed, seen = tmp_path / "changed.pth", set()
    for place in range(first, len(good)):
        for value in {0xFF, good[place] ^ 0x08, 64} - {good[place]}:
            changed.write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
            try:
                opened(changed)
            except CheckpointError as error:
                seen.add(str(error).removeprefix(f"{changed}: "))
    assert "damaged, or not a file of weights" in seen
    assert not any("\n" in line for line in seen)


def test_names_out_of_a_file_are_part_of_one_line():
    assert printable("a.weight") == "a.weight"
    assert printable("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    assert len(printable("x" * 999)) == 80


def test_files_without_weights_are_each_one_plain_line(tmp_path: Path):
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": {"a": 1}}, tmp_path / "plain.pth")
    kinds = "(.pth, .pt, .bin, .safetensors, or a .json index of parts)"
    assert message(tmp_path / "text.pth") == f"not a file of weights {kinds}"
    assert message(tmp_path / "empty.pth") == f"not a file of weights {kinds}"
    none = "holds no weights: tensors by name, or these as its 'model' or 'state_dict'"
    assert message(tmp_path / "list.pth") == none
    assert message(tmp_path / "plain.pth") == none
    assert message(tmp_path / "gone.pth") == "no such file"
    assert message(tmp_path).startswith("a folder without a file of weights (model.safetensors, ")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_model_in_several_parts_is_read_whole_and_its_folder_stands_for_it(tmp_path: Path, kind: str):
    names = {"a.weight": f"model-1.{kind}", "b": f"model-2.{kind}"}
    for name, file in names.items():
        part = {name: WEIGHTS[name]}
        save_file(part, tmp_path / file) if kind == "safetensors" else torch.save(part, tmp_path / file)
    stem = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    index = tmp_path / f"{stem}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (tmp_path / "config.json").write_text('{"model_type": "detr"}')
    for path in (index, tmp_path):
        assert same(opened(path).tensors)
        assert opened(path).config == {"model_type": "detr"}
    index.write_text(json.dumps({"weight_map": {**names, "c": f"model-2.{kind}"}}))
    assert message(index) == "1 of its tensors are in none of the files, first c"
    (tmp_path / f"model-2.{kind}").unlink()
    assert message(index) == f"its part model-2.{kind} is missing; copy or download it, too"


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "index.json"])
def test_an_index_cannot_name_files_elsewhere_or_itself(tmp_path: Path, name: str):
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert message(tmp_path / "index.json") == (
        f"names the file '{name}', where only files of weights beside it may stand"
    )


def test_an_index_without_a_map_is_one_line(tmp_path: Path):
    for content in ("[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}'):
        (tmp_path / "index.json").write_text(content)
        assert message(tmp_path / "index.json") == "not an index of files of weights (it has no weight_map)"
