"""What a file of others holds becomes a model that can be built, or one plain line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detrctl.engine.build import build_learner
from detrctl.errors import CheckpointError
from detrctl.recipe.schema import Recipe
from detrctl.weights.classes import published_categories
from detrctl.weights.files import WeightFile
from detrctl.weights.interpret import LABELS, Published, interpret
from tests.weights.published import tensors

PATH = Path("x.pth")
VARIANTS = ("detr", "conditional", "dab", "dn_dab", "deformable", "dab_deformable", "dn_dab_deformable", "dino")
UNSAID = ", built in a way that no recipe says: "


def opened(held: dict[str, Tensor], *, model: Any = None, **arguments: Any) -> Published:
    return interpret(WeightFile(PATH, "PyTorch", held, arguments=arguments), model=model)


def refusal(held: dict[str, Tensor], **arguments: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(held, **arguments)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("x.pth: ")
    return said.removeprefix("x.pth: ")


def loads(found: Published) -> bool:
    """Whether the weights are exactly those of the model, which is then built."""
    recipe = Recipe(model=found.model, objective=found.objective)
    build_learner(recipe, found.categories).network.load_state_dict(found.weights)
    return True


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_file_holds_is_what_the_model_wants(variant: str):
    found = opened(tensors(variant))
    assert loads(found)
    assert (found.unused, found.notes) == ({}, ())


# ---- label vectors ----


@pytest.mark.parametrize("book", [90, 6])
def test_of_a_larger_book_of_labels_the_first_rows_are_kept_and_it_is_said(book: int):
    held = tensors("dino", dn_labelbook_size=book)
    found = opened(held)
    assert loads(found)
    assert torch.equal(found.weights[LABELS], held["label_enc.weight"][:6])
    assert found.notes == (f"label_enc.weight has {book + 1} rows for 5 classes and one more: the first 6 are used",)


def test_of_a_larger_book_the_vector_that_queries_start_from_is_the_one_after_the_classes():
    held = tensors("dn_dab")
    held["label_enc.weight"] = torch.randn(92, 15)
    assert torch.equal(opened(held).weights[LABELS][-1], held["label_enc.weight"][5])


def test_a_smaller_book_is_filled_with_its_mean_where_only_training_reads_it():
    held = tensors("dino", dn_labelbook_size=2)
    found = opened(held)
    assert loads(found)
    assert torch.equal(found.weights[LABELS][:3], held["label_enc.weight"])
    mean = held["label_enc.weight"].mean(0)
    torch.testing.assert_close(found.weights[LABELS][3:], mean.expand(3, -1))
    assert found.notes == ("label_enc.weight has 3 rows for 5 classes and one more: 3 more are the mean of these",)
    held = tensors("dn_dab")
    held["label_enc.weight"] = torch.randn(5, 15)
    assert refusal(held) == "label_enc.weight has 5 rows, where 5 classes need 6"


def test_labels_of_a_model_that_is_not_denoised_are_left_aside():
    held = tensors("dino")
    found = opened(held, use_dn=False)
    assert loads(found)
    assert list(found.unused) == ["label_enc.weight"]
    model = opened(held).model
    without = model.model_copy(update={"denoising": model.denoising.model_copy(update={"copies": 0})})
    assert LABELS not in opened(held, model=without).weights


# ---- what no model here is ----


@pytest.mark.parametrize(
    ("variant", "arguments", "said"),
    [
        (
            "detr",
            {"nheads": 7},
            "model.heads: found heads 7 with width 16, a remainder stays; heads 4 or width 28 would do",
        ),
        ("detr", {"dilation": True}, None),
    ],
)
def test_a_command_line_that_no_model_can_be_built_by_is_one_line(
    variant: str, arguments: dict[str, Any], said: str | None
):
    found = refusal(tensors(variant), **arguments)
    assert UNSAID in found
    assert said is None or found.endswith(UNSAID + said)


@pytest.mark.parametrize(
    ("variant", "arguments", "said"),
    [
        (
            "detr",
            {"position_embedding": "foo"},
            "position_embedding foo; detrctl has position_embedding sine, v2, learned, v3 only",
        ),
        ("conditional", {"pre_norm": True}, "pre_norm True; detrctl has pre_norm False only"),
        ("dab", {"pre_norm": True}, "pre_norm True; detrctl has pre_norm False only"),
        ("dino", {"embed_init_tgt": False}, "embed_init_tgt False; detrctl has embed_init_tgt True only"),
        ("dino", {"decoder_sa_type": "ca_label"}, "decoder_sa_type ca_label; detrctl has decoder_sa_type sa only"),
        ("dino", {"batch_norm_type": "GroupNorm"}, None),
    ],
)
def test_arguments_that_change_what_weights_mean_are_refused(variant: str, arguments: dict[str, Any], said: str | None):
    found = refusal(tensors(variant), **arguments)
    assert found.startswith("built with ")
    assert said is None or found == f"built with {said}"


def test_temperatures_of_height_and_width_have_to_agree():
    for variant in ("dab", "dn_dab", "dino"):
        assert refusal(tensors(variant), pe_temperatureW=10) == (
            "pe_temperatureH and pe_temperatureW differ: detrctl has one temperature for both"
        )


def test_on_deformable_attention_the_temperature_is_the_published_one_whatever_the_arguments_say():
    for variant in ("dab_deformable", "dn_dab_deformable"):
        position = opened(tensors(variant), pe_temperatureH=20, pe_temperatureW=10).model.position
        assert (position.temperature, position.offset) == (10_000, -0.5)


def test_arguments_that_only_training_knows_do_not_keep_a_file_from_being_used():
    assert loads(opened(tensors("dino"), interm_loss_coef=0.5, no_interm_box_loss=True, batch_norm_type="BatchNorm2d"))
    assert loads(opened(tensors("dn_dab"), use_dn=False, contrastive=True, random_refpoints_xy=True))
    # A ReLU there, whatever the command line says.
    assert loads(opened(tensors("dn_dab_deformable"), transformer_activation="prelu", num_select=300))


def test_traces_of_choices_that_there_are_none_of_here_are_refused():
    for name, said in (
        (
            "transformer.two_stage_wh_embedding.weight",
            "two_stage_learn_wh True; detrctl has two_stage_learn_wh False only",
        ),
        ("refpoint_embed.weight", "two_stage_add_query_num above 0; detrctl has two_stage_add_query_num 0 only"),
        ("label_embedding.weight", "decoder_sa_type ca_label; detrctl has decoder_sa_type sa only"),
    ):
        assert refusal({**tensors("dino"), name: torch.zeros(1, 2)}) == f"built with {said}"
    assert refusal({**tensors("dab"), "transformer.encoder.norm.weight": torch.zeros(16)}) == (
        "built with pre_norm True; detrctl has pre_norm False only"
    )


# ---- damaged and hostile files ----


def test_only_a_model_that_is_built_has_to_be_one_that_can_be():
    """A recipe's heads, where only tensors are taken over, may divide another width than the file's."""
    found = interpret(WeightFile(PATH, "PyTorch", tensors("detr")), hints={"nheads": 3})
    assert found.model.heads == 3


def test_a_missing_first_head_is_named():
    held = {name: value for name, value in tensors("dino").items() if not name.startswith("bbox_embed.0.")}
    assert refusal(held) == "a part of its weights is missing: bbox_embed.0.layers.0.weight"


def test_a_head_for_no_classes_is_one_line():
    held = tensors("detr")
    held["class_embed.weight"] = torch.zeros(1, 16)
    assert refusal(held) == "weights of DETR for 0 classes"


def said_of(held: dict[str, Tensor]) -> str | None:
    """None where it is a model."""
    try:
        opened(held)
    except CheckpointError as error:
        return str(error)
    return None


@pytest.mark.parametrize("variant", VARIANTS)
def test_whatever_is_missing_or_of_another_shape_is_a_model_or_one_line(variant: str):
    """Whether the weights then fit the model is for its loading to say."""
    whole = tensors(variant)
    names = [name for name in whole if not name.startswith("backbone.0.body.layer")][::3]
    said = []
    for name in names:
        value = whole[name]
        said.append(said_of({other: kept for other, kept in whole.items() if other != name}))
        said += [said_of({**whole, name: other}) for other in (torch.zeros(()), value[:-1], value[None])]
    lines = [text for text in said if text is not None]
    assert len(lines) >= 4
    assert all(text.startswith("x.pth: ") and "\n" not in text for text in lines)


def test_cocos_80_classes_have_its_ids_whether_their_file_names_them_or_not():
    by_number = published_categories(80)
    assert by_number.ids[:2] == (1, 2)
    assert by_number.ids[-1] == 90
    assert published_categories(80, [name.title() for name in by_number.names]) == by_number
    others = published_categories(80, [f"part {n}" for n in range(80)])
    assert (others.names[3], others.ids) == ("part 3", tuple(range(80)))
    assert published_categories(2, ["a", "b"], [7, 3]).ids == (7, 3)
