"""Models of transformers with random weights give the same answers here, whichever generation of names they have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from detrctl.engine.build import learner_from
from detrctl.engine.open_weights import open_weights
from detrctl.errors import CheckpointError
from detrctl.structures import ImageBatch
from detrctl.weights import huggingface
from detrctl.weights.files import WeightFile
from detrctl.weights.interpret import Published, interpret
from tests.weights.hugging import KINDS, build, images, outputs, save
from tests.weights.published import tensors

CLOSE = 1e-4


def ours(folder: Path) -> tuple[Tensor, Tensor]:
    """Logits and boxes of the model that the folder holds."""
    pixels, is_padding = images()
    learner = learner_from(open_weights(folder).checkpoint).eval()
    batch = ImageBatch(pixels, is_padding, torch.tensor([[64, 96], [45, 70]]), (0, 1))
    with torch.no_grad():
        final = learner.network(batch).final
    return final.logits, final.boxes


def of_modules(model: Any) -> Published:
    """What the names of the modules say, which are those of the later generation."""
    return interpret(WeightFile(Path("m"), "", dict(model.state_dict()), config=model.config.to_dict()))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", params=KINDS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """A variant, its model, and the folder that it was saved to."""
    model = build(request.param)
    return request.param, model, save(model, tmp_path_factory.mktemp("saved"))


def test_a_model_gives_the_same_logits_and_boxes_under_both_generations_of_names(saved: tuple[str, Any, Path]):
    variant, model, folder = saved
    logits, boxes = outputs(model)
    assert logits.std() > 0.1
    assert boxes.std() > 0.05
    found, opened = ours(folder), open_weights(folder)
    torch.testing.assert_close(found[0], logits, atol=CLOSE, rtol=0)
    torch.testing.assert_close(found[1], boxes, atol=CLOSE, rtol=0)
    assert opened.published is not None
    assert (opened.published.identity.variant, opened.published.identity.assumed) == (variant, ())
    assert (opened.published.unused, opened.notes) == ({}, ())
    later = of_modules(model)
    assert same(later.weights, opened.checkpoint.weights)
    assert later.model == opened.checkpoint.recipe.model


def test_the_files_have_the_earlier_names_and_the_modules_the_later_ones():
    """Otherwise the test above compares one generation with itself."""
    later = {"DETR": r"o_proj|mlp\.fc1|backbone\.model", "Conditional DETR": r"encoder_attn\.q_content_proj"}
    for variant, sign in later.items():
        names = build(variant, random=False).state_dict()
        naming = huggingface.naming_of(names)
        assert naming is not None
        assert any(re.search(sign, name) for name in names)
        assert not any(re.search(sign, naming.earlier(name)) for name in names)


def test_heads_of_its_own_in_every_layer_are_read_as_the_library_reads_them(tmp_path: Path):
    """It ties the class heads of a refined model that it builds, official weights have one per layer."""
    model = build("Deformable DETR, refined")
    save(model, tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    held["class_embed.1.weight"] = held["class_embed.0.weight"].flip(0).clone()
    held["class_embed.1.bias"] = held["class_embed.0.bias"].flip(0).clone()
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    logits, boxes = outputs(type(model).from_pretrained(tmp_path).eval())
    found = ours(tmp_path)
    torch.testing.assert_close(found[0], logits, atol=CLOSE, rtol=0)
    torch.testing.assert_close(found[1], boxes, atol=CLOSE, rtol=0)


def test_patterns_of_dab_detr_are_read_as_the_library_reads_them(tmp_path: Path):
    model = build("DAB-DETR", num_patterns=3)
    save(model, tmp_path)
    logits, boxes = outputs(model)
    found, opened = ours(tmp_path), open_weights(tmp_path)
    assert logits.shape[1] == 3 * 7
    torch.testing.assert_close(found[0], logits, atol=CLOSE, rtol=0)
    torch.testing.assert_close(found[1], boxes, atol=CLOSE, rtol=0)
    assert opened.published is not None
    assert (opened.checkpoint.recipe.model.patterns, opened.published.unused) == (3, {})


def test_every_tensor_comes_back_under_its_name_of_the_earlier_generation(saved: tuple[str, Any, Path]):
    held = load_file(saved[2] / "model.safetensors")
    naming = huggingface.naming_of(held)
    assert naming is not None
    official, unknown = huggingface.to_official(held, naming)
    assert not unknown
    project = next(name for name, known in huggingface.NAMINGS.items() if known is naming)
    back = huggingface.from_official(official, project, native=True)
    assert held.keys() <= back.keys()
    assert all(torch.equal(back[name], value) for name, value in held.items())
    second = {name for name in back if name not in held}
    assert all(re.search(r"(class|bbox)_embed\.", name) for name in second)  # tied: written once, or twice


def test_timms_names_of_a_resnet_are_torchvisions():
    names = ("model.backbone.conv_encoder.model.layer1.0.bn1.weight", "model.decoder.layers.0.encoder_attn.q_proj.bias")
    official, unknown = huggingface.to_official(
        {names[0]: torch.ones(1), names[1]: torch.ones(1), "strange": torch.ones(1)}, huggingface.NAMINGS["detr"]
    )
    assert set(official) == {
        "backbone.0.body.layer1.0.bn1.weight",
        "transformer.decoder.layers.0.multihead_attn.q_proj.bias",  # alone: nothing to pack it with
    }
    assert set(unknown) == {"strange"}


def test_a_config_tells_dc5():
    held = huggingface.from_official(tensors("detr", backbone="resnet50"), "detr", native=True)
    for dilation in (True, False):
        found = interpret(WeightFile(Path("m"), "", held, config={"model_type": "detr", "dilation": dilation}))
        assert (found.model.backbone.dilation, found.notes, found.unused) == (dilation, (), {})


def test_a_config_tells_heads_and_names(tmp_path: Path):
    folder = save(build("DETR", classes=3), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"1": "dog", "0": "cat", "2": "bird"}, "dropout": 0.25}
    (folder / "config.json").write_text(json.dumps(config))
    opened = open_weights(folder)
    assert opened.checkpoint.categories.names == ("cat", "dog", "bird")
    model = opened.checkpoint.recipe.model
    assert (model.backbone.dilation, model.heads, model.dropout) == (False, 4, 0.25)
    (folder / "config.json").unlink()
    without = open_weights(folder)
    assert without.checkpoint.categories.names == ("(class 0)", "(class 1)", "(class 2)")
    assert without.checkpoint.recipe.model.heads == 8
    assert without.notes == (
        "taken for DETR: its weights could be those of DETR-DC5 as well; --recipe says which it is",
    )


def test_a_relative_and_a_config_that_nothing_builds_are_one_line():
    relative = {"model.decoder.layers.0.encoder_attn.sampling_offsets.bias": 1, "model.enc_score_head.weight": 1}
    with pytest.raises(CheckpointError) as caught:
        huggingface.naming_of(relative)
    assert str(caught.value) == "these are weights of an RT-DETR or a relative of it, which detrctl does not have"
    with pytest.raises(CheckpointError) as caught:
        huggingface.known_arguments({"encoder_attention_heads": 8, "decoder_attention_heads": 4})
    assert str(caught.value) == "its config.json has 8 heads in the encoder and 4 in the decoder"
    with pytest.raises(CheckpointError) as caught:
        huggingface.known_arguments({"model_type": "deformable_detr", "activation_function": "gelu"})
    assert str(caught.value) == "its config.json has activation_function gelu; this model has relu only"
