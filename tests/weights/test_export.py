"""What is written in another format reads back as the same model, here and where that format comes from."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from detrctl.engine.build import build_learner, learner_from
from detrctl.engine.checkpoint import Checkpoint, save
from detrctl.engine.convert_weights import convert_weights
from detrctl.engine.open_weights import open_weights
from detrctl.errors import CheckpointError
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories, ImageBatch
from detrctl.weights import export
from tests.weights.hugging import images, outputs
from tests.weights.published import published

CATEGORIES = Categories(("cat", "dog", "bird"), (3, 5, 9))
SIZES: dict[str, Any] = {"width": 32, "heads": 4, "feedforward": 24, "encoder_layers": 1, "decoder_layers": 2}
BACKBONE: dict[str, Any] = {"name": "resnet10"}
VARIANTS: dict[str, dict[str, Any]] = {
    "detr": {"family": "detr", "queries": 7},
    "conditional": {"family": "conditional", "queries": 7},
    "dab": {"family": "dab", "queries": 7},
    "dab, patterns": {"family": "dab", "queries": 7, "patterns": 3},
    "deformable": {"family": "deformable", "queries": 7, "encoder_points": 3},
    "refined": {"family": "deformable", "reference": "refined", "prediction_heads": "per_layer"},
    "two-stage": {
        "family": "deformable",
        "reference": "refined",
        "prediction_heads": "per_layer",
        "query_source": "proposals",
        "queries": 9,
    },
    "dn": {"family": "dab", "denoising": {"kind": "grouped"}},
    "dn, patterns": {"family": "dab", "denoising": {"kind": "grouped"}, "patterns": 2},
    "dab-deformable": {"family": "dab_deformable", "queries": 9},
    "dab-deformable, fixed": {
        "family": "dab_deformable",
        "queries": 9,
        "reference": "fixed",
        "prediction_heads": "shared",
    },
    "dn-deformable": {"family": "dab_deformable", "queries": 9, "denoising": {"kind": "grouped"}},
    "dino": {"family": "dino", "queries": 9},
    "dino, classes by layer": {"family": "dino", "queries": 9, "prediction_heads": "class_per_layer"},
    "dino, boxes by layer": {"family": "dino", "queries": 9, "prediction_heads": "box_per_layer"},
    "dino, heads by layer": {"family": "dino", "queries": 9, "prediction_heads": "per_layer"},
    "dino, one class head": {"family": "dino", "queries": 9, "proposal_heads": "decoder_class"},
    "dino, one box head": {"family": "dino", "queries": 9, "proposal_heads": "decoder_box"},
    "dino, one pair of heads": {"family": "dino", "queries": 9, "proposal_heads": "decoder"},
    "dino 5-scale": {"family": "dino", "queries": 9, "backbone": BACKBONE | {"stages": [2, 3, 4, 5]}},
}
HUGGING = ["detr", "conditional", "dab", "dab, patterns", "deformable", "refined", "two-stage"]


def checkpoint(folder: Path, name: str, **more: Any) -> tuple[Path, Checkpoint]:
    """A file of a model whose weights are all random."""
    recipe = Recipe.model_validate({"model": {"backbone": BACKBONE, **SIZES, **VARIANTS[name], **more}})
    network = build_learner(recipe, CATEGORIES).network
    draw = torch.Generator().manual_seed(0)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=draw)
            gain = 1.2 / max(value[0].numel(), 1) ** 0.5 if value.ndim > 1 else 0.1
            value.copy_((value if value.ndim == 1 else 0) + gain * (noise.abs() if "running_var" in key else noise))
    made = Checkpoint(recipe, CATEGORIES, network.state_dict())
    save(made, folder / "own.pt")
    return folder / "own.pt", made


def ours(made: Checkpoint) -> tuple[Tensor, Tensor]:
    pixels, is_padding = images()
    batch = ImageBatch(pixels, is_padding, torch.tensor([[64, 96], [45, 70]]), (0, 1))
    with torch.no_grad():
        final = learner_from(made).eval().network(batch).final
    return final.logits, final.boxes


def refusal(*arguments: Any, **more: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        convert_weights(*arguments, **more)
    return str(caught.value)


def same(found: Checkpoint, made: Checkpoint) -> bool:
    return found.weights.keys() == made.weights.keys() and all(
        torch.equal(value, made.weights[name]) for name, value in found.weights.items()
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_official_files_read_back_as_the_same_model_with_its_class_names(tmp_path: Path, name: str) -> None:
    path, made = checkpoint(tmp_path, name)
    opened = open_weights(convert_weights(path, "official"))
    assert same(opened.checkpoint, made)
    assert opened.checkpoint.categories == CATEGORIES
    assert opened.published is not None
    assert (opened.published.unused, opened.notes) == ({}, ())
    again = open_weights(convert_weights(opened.path, "detrctl"))
    assert again.published is None
    assert same(again.checkpoint, made)


@pytest.mark.parametrize("name", VARIANTS)
def test_official_files_have_the_names_and_shapes_that_the_official_code_gives(tmp_path: Path, name: str) -> None:
    opened = open_weights(convert_weights(checkpoint(tmp_path, name)[0], "official")).published
    assert opened is not None
    arguments = {**opened.identity.arguments, "num_classes": len(CATEGORIES)}
    found = {name: tuple(value.shape) for name, value in opened.file.tensors.items()}
    assert found == published(opened.identity.project, **arguments)


@pytest.mark.parametrize("name", HUGGING)
def test_transformers_reads_what_is_written_and_answers_the_same(tmp_path: Path, name: str) -> None:
    path, made = checkpoint(tmp_path, name)
    folder = convert_weights(path, "hf")
    assert folder == tmp_path / "own-hf"
    assert same(open_weights(folder).checkpoint, made)
    assert open_weights(folder).checkpoint.categories == CATEGORIES
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "bird"}
    for found, expected in zip(outputs(model.eval()), ours(made), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("activation", ["relu", "gelu", "prelu"])
def test_dab_detr_keeps_its_activation_in_both_formats(tmp_path: Path, activation: str) -> None:
    path, made = checkpoint(tmp_path, "dab", activation=activation)
    for form in ("hf", "official"):
        opened = open_weights(convert_weights(path, form))
        assert opened.checkpoint.recipe.model.activation == activation
        assert same(opened.checkpoint, made)


@pytest.mark.parametrize("form", ["hf", "official"])
def test_a_disk_that_does_not_take_it_is_one_line_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path, _ = checkpoint(tmp_path, "detr")

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export.torch, "save", full)
    monkeypatch.setattr(export.json, "dumps", full)  # after the tensors
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / f"own-{form}{'.pth' if form == 'official' else ''}"
    assert refusal(path, form) == f"{out}: could not be written: No space left on device"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_point_in_a_files_name_is_kept(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "detr")
    first, second = (path.with_name(f"detr-r50-1.{version}.pth") for version in (2, 3))
    for one in (first, second):
        one.write_bytes(path.read_bytes())
    assert convert_weights(first, "official").name == "detr-r50-1.2-official.pth"
    assert convert_weights(second, "official").name == "detr-r50-1.3-official.pth"
    assert convert_weights(first, "hf").name == "detr-r50-1.2-hf"
    assert convert_weights(first, "detrctl").name == "detr-r50-1.2-detrctl.pt"


def test_what_a_format_cannot_say_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "dn")
    assert refusal(path, "hf") == f"{path}: DN-DAB-DETR has no Hugging Face format: transformers has no such model"
    path, _ = checkpoint(tmp_path, "dino")
    assert refusal(path, "hf") == (
        f"{path}: a model of family dino has no Hugging Face format: transformers has no such model"
    )
    path, _ = checkpoint(tmp_path, "dn-deformable")
    assert refusal(path, "hf") == (
        f"{path}: a model of family dab_deformable has no Hugging Face format: transformers has no such model"
    )
    path, _ = checkpoint(tmp_path, "dab-deformable", prediction_heads="class_per_layer")
    assert refusal(path, "official") == (
        f"{path}: the official format cannot say this model (a part of its weights is missing: class_embed.0.weight): "
        "convert it --to detrctl only"
    )
    path, _ = checkpoint(tmp_path, "detr", query_content="learned")
    assert refusal(path, "official") == f"{path}: queries.content.weight has no name in the official format"
    path, _ = checkpoint(tmp_path, "detr", position={"added_to": "values"})
    assert refusal(path, "official") == (
        f"{path}: the official format cannot say this model (model.position.added_to: values, not attention): "
        "convert it --to detrctl only"
    )
    path, _ = checkpoint(tmp_path, "dab", position={"temperature": 20.5})
    assert refusal(path, "hf") == f"{path}: transformers wants a whole number, not model.position.temperature 20.5"
    assert [file.name for file in tmp_path.iterdir()] == ["own.pt"]


def test_a_file_that_is_there_and_a_strange_format_are_one_line(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "detr")
    assert refusal(path, "detrctl", out=path) == f"{path}: is there already; name another with --out"
    assert refusal(path, "onnx") == "--to onnx: no such format; there are detrctl, official, hf"
