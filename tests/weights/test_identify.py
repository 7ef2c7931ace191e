"""A file's names and shapes say which published model it is, and how it was built."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from detrctl.errors import CheckpointError
from detrctl.weights.fitting import shipped_fits
from detrctl.weights.formats import FORMATS
from detrctl.weights.identify import identify
from tests.weights.published import covers, published

PROJECTS = {
    "facebookresearch/detr": "detr",
    "fundamentalvision/Deformable-DETR": "deformable",
    "IDEA-Research/DINO": "dino",
    "Atten4Vis/ConditionalDETR": "conditional",
    "IDEA-Research/DN-DETR": "dn_dab",
}
STORED = Path(__file__).parents[1] / "parity" / "stored"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "DETR": ("detr", {"backbone": "resnet50", "enc_layers": 2, "dec_layers": 3}),
    "Conditional DETR": ("conditional", {"hidden_dim": 24, "backbone": "resnet101"}),
    "DAB-DETR": ("dab", {"num_queries": 7}),
    "DN-DAB-DETR": ("dn_dab", {"num_classes": 3, "backbone": "resnet10"}),
    "Deformable DETR": ("deformable", {"enc_n_points": 2, "dec_n_points": 3}),
    "Deformable DETR, single-scale": ("deformable", {"num_feature_levels": 1}),
    "Deformable DETR, refined": ("deformable", {"with_box_refine": True, "num_feature_levels": 5}),
    "Deformable DETR, refined, in two stages": ("deformable", {"with_box_refine": True, "two_stage": True}),
    "DAB-Deformable-DETR": ("dab_deformable", {"with_box_refine": True, "enc_n_points": 2, "num_queries": 7}),
    "DAB-Deformable-DETR, single-scale": ("dab_deformable", {"num_feature_levels": 1}),
    "DN-Deformable-DETR": ("dn_dab_deformable", {"with_box_refine": True, "num_classes": 3}),
    "DINO, 4-scale": ("dino", {"return_interm_indices": [1, 2, 3], "backbone": "resnet50"}),
    "DINO, 5-scale": ("dino", {"num_feature_levels": 5, "return_interm_indices": [0, 1, 2, 3]}),
}


TOLD = (
    *("backbone", "enc_layers", "dec_layers", "dim_feedforward", "hidden_dim", "num_queries", "num_feature_levels"),
    *("enc_n_points", "dec_n_points", "with_box_refine", "two_stage", "return_interm_indices", "num_patterns"),
)
"""What names and shapes tell, where it plays a part."""


@dataclass(frozen=True)
class Fixture:
    """What the official code was built with, published or not, and what that gave."""

    path: Path
    project: str
    arguments: dict[str, Any]
    classes: int
    shapes: dict[str, tuple[int, ...]]

    @property
    def covered(self) -> bool:
        return covers(self.project, self.arguments)

    @property
    def untold(self) -> list[str]:
        """Arguments without a trace in its names and shapes that decide what shapes are taken for."""
        of_proposals = ["num_queries"] if self.project == "deformable" and self.arguments["two_stage"] else []
        without_encoder = ["enc_n_points"] if self.arguments["enc_layers"] == 0 else []
        names = ("nheads", "dilation", *of_proposals, *without_encoder)
        return [name for name in names if name in self.arguments]


def read(path: Path) -> Fixture:
    content = json.loads(path.read_text())
    held = content["state_dict"]
    return Fixture(
        path,
        PROJECTS[content["official_repository"]],
        content["build_arguments"],
        content["num_classes"],
        {name: tuple(held[entry.get("tied_to", name)]["shape"]) for name, entry in held.items()},
    )


def fixtures() -> list[Fixture]:
    folders = [STORED, *([Path(os.environ["DETRCTL_PARITY"])] if os.environ.get("DETRCTL_PARITY") else [])]
    paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    return [read(path) for path in paths if not path.name.startswith("unit_")]


def named(fixture: Fixture) -> str:
    return f"{fixture.path.parent.name}-{fixture.path.stem}"


def refusal(shapes: dict[str, tuple[int, ...]], **known: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        identify(shapes, known=known)
    return str(caught.value)


def test_there_is_a_file_to_compare_with():
    assert len(fixtures()) >= 1
    assert all(fixture.covered for fixture in fixtures() if fixture.path.parent == STORED)


@pytest.mark.parametrize("fixture", fixtures(), ids=named)
def test_names_and_shapes_of_the_official_code_give_back_what_it_was_built_with(fixture: Fixture):
    arguments = fixture.arguments
    found = identify(fixture.shapes, known={name: arguments[name] for name in fixture.untold})
    assert (found.project, found.classes, found.assumed, found.twins) == (fixture.project, fixture.classes, (), ())
    told = [name for name in TOLD if name in arguments and name in found.arguments]
    assert {name: found.arguments[name] for name in told} == {name: arguments[name] for name in told}
    assert len(told) >= 6


@pytest.mark.parametrize("fixture", fixtures(), ids=named)
def test_every_argument_of_a_files_command_line_is_believed(fixture: Fixture):
    found = identify(fixture.shapes, known=fixture.arguments).arguments
    both = [name for name in found if name in fixture.arguments]
    assert {name: found[name] for name in both} == {name: fixture.arguments[name] for name in both}
    assert len(both) >= 14


@pytest.mark.parametrize("fixture", [fixture for fixture in fixtures() if fixture.covered], ids=named)
def test_the_rules_that_these_tests_make_files_by_are_the_official_codes(fixture: Fixture):
    """Not of builds that the rules do not cover, such as other norms: nothing here makes files of these."""
    assert published(fixture.project, **{**fixture.arguments, "num_classes": fixture.classes}) == fixture.shapes


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_published_variant_is_told_by_its_names_and_shapes_at_any_size(variant: str):
    project, arguments = VARIANTS[variant]
    found = identify(published(project, **arguments))
    assert (found.variant, found.project) == (variant, project)
    assert found.classes == arguments.get("num_classes", 91)
    assert {name: found.arguments[name] for name in arguments if name != "num_classes"} == {
        name: value for name, value in arguments.items() if name != "num_classes"
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_found_is_enough_to_build_the_model(variant: str):
    project, arguments = VARIANTS[variant]
    form = FORMATS[project]
    model, objective = form.sections(identify(published(project, **arguments)).arguments)
    assert model.family == form.family
    assert model.backbone.name == arguments.get("backbone", "resnet18")
    assert objective.auxiliary


def test_dc5_cannot_be_told_by_weights_and_is_believed_when_it_is():
    for project, variant, twin in (
        ("detr", "DETR", "DETR-DC5"),
        ("conditional", "Conditional DETR", "Conditional DETR-DC5"),
        ("deformable", "Deformable DETR, single-scale", "Deformable DETR, single-scale DC5"),
    ):
        shapes = published(project, num_feature_levels=1)
        untold, told = identify(shapes), identify(shapes, known={"dilation": True})
        assert (untold.variant, untold.twins, untold.assumed) == (variant, (twin,), ("nheads", "dilation"))
        assert (told.variant, told.twins, told.assumed) == (twin, (), ("nheads",))


def test_what_no_weight_tells_is_taken_from_the_command_line_but_not_what_weights_contradict():
    known = {"nheads": 2, "dropout": 0.0, "focal_alpha": "x", "num_queries": 99, "aux_loss": 1}
    found = identify(published("deformable", nheads=2, enc_n_points=3, dec_n_points=1), known=known).arguments
    assert {name: found[name] for name in ("nheads", "dropout", "num_queries", "enc_n_points", "dec_n_points")} == {
        "nheads": 2,
        "dropout": 0.0,
        "num_queries": 5,
        "enc_n_points": 3,
        "dec_n_points": 1,
    }
    assert (found["focal_alpha"], found["aux_loss"]) == (0.25, True)


@pytest.mark.parametrize("project", ["dab", "dn_dab"])
def test_patterns_are_seen(project: str):
    arguments = identify(published(project, num_patterns=3)).arguments
    assert arguments["num_patterns"] == 3
    assert FORMATS[project].sections(arguments)[0].patterns == 3


@pytest.mark.parametrize(
    ("project", "recipe"), [("dab_deformable", "dab_deformable_r50"), ("dn_dab_deformable", "dn_deformable_r50")]
)
def test_a_shipped_recipe_fits_the_published_build_of_both_on_deformable_attention(project: str, recipe: str):
    sizes = {"hidden_dim": 256, "dim_feedforward": 2048, "enc_layers": 6, "dec_layers": 6, "num_queries": 300}
    shapes = published(project, backbone="resnet50", with_box_refine=True, **sizes)
    model, objective = FORMATS[project].sections(identify(shapes).arguments)
    best = shipped_fits(model)[0]
    assert (best.name, best.differences) == (recipe, ())
    assert objective == best.recipe.objective


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("transformer.enc_output.weight", "in two stages"),
        ("patterns_embed.weight", "with patterns"),
        ("transformer.decoder.high_dim_query_proj.layers.0.weight", "with a second projection of positions"),
        ("transformer.decoder.ref_point_head.layers.2.weight", "without sines of its boxes"),
    ],
)
def test_builds_of_dab_deformable_detr_that_there_are_none_of_here_are_one_line(name: str, what: str):
    said = f"these are weights of DAB-Deformable-DETR {what}, which detrctl does not have"
    assert refusal({**published("dab_deformable"), name: (1,)}) == said


def test_an_encoder_without_layers_and_learned_positions_are_seen():
    shapes = {**published("detr", enc_layers=0), "backbone.1.row_embed.weight": (50, 8)}
    found = identify(shapes).arguments
    assert (found["enc_layers"], found["dec_layers"], found["position_embedding"]) == (0, 2, "learned")
    normed = {**published("detr"), "transformer.encoder.norm.weight": (16,)}
    assert identify(normed).arguments["pre_norm"]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (
            {"layer4.0.conv1.weight": (1,), "fc.weight": (1000, 512)},
            "these are weights of a ResNet classifier, not a detector; a recipe takes it as model.backbone.weights",
        ),
        ({"roi_heads.box_head.fc6.weight": (1,)}, "these are weights of a Faster R-CNN of torchvision"),
        (
            {"decoder.dec_score_head.0.weight": (1,)},
            "these are weights of an RT-DETR or a relative of it, which detrctl does not have",
        ),
        (
            {"anything": (1,)},
            "not weights that detrctl knows: it reads DETR, Conditional DETR, DAB-DETR, DN-DETR, Deformable DETR and "
            "DINO, in the names of their authors or of Hugging Face",
        ),
    ],
)
def test_weights_of_something_else_are_one_line(shapes: dict[str, tuple[int, ...]], said: str):
    assert refusal(shapes) == said


def test_a_file_with_a_part_missing_or_another_backbone_is_one_line():
    shapes = published("detr")
    without = {name: shape for name, shape in shapes.items() if not name.startswith("query_embed")}
    assert refusal(without) == "a part of its weights is missing: query_embed.weight"
    deeper = {**shapes, "backbone.0.body.layer3.2.conv1.weight": (1, 1, 3, 3)}
    assert refusal(deeper) == "its backbone is a ResNet of 2, 2, 3, 2 blocks, which detrctl does not have"
    swin = {name: shape for name, shape in shapes.items() if not name.startswith("backbone")}
    assert refusal(swin) == "its backbone is not a ResNet, or is missing; detrctl reads published detectors on ResNets"
    swin["backbone.0.patch_embed.proj.weight"] = (192, 3, 4, 4)
    assert refusal(swin) == (
        "its backbone is a Swin transformer of width 192; detrctl reads published detectors on ResNets"
    )
    assert refusal(published("deformable"), nheads=3) == (
        "its attention of 128 weights per query over 4 levels is not of 3 heads; name a recipe with --recipe"
    )


@pytest.mark.parametrize("project", ["deformable", "dab_deformable", "dino"])
@pytest.mark.parametrize("missing", [0, 1, 2, 3, "all"])
def test_a_missing_level_is_named(project: str, missing: int | str):
    stem = "input_proj." if missing == "all" else f"input_proj.{missing}."
    shapes = {name: shape for name, shape in published(project).items() if not name.startswith(stem)}
    if missing == 3:  # the last one: weights of fewer levels, whose attention does not fit them
        assert refusal(shapes).startswith("its attention of 128 weights per query over 3 levels is not of 8 heads")
    else:
        assert refusal(shapes) == f"a part of its weights is missing: input_proj.{0 if missing == 'all' else missing}"


def test_hostile_names_and_shapes_are_one_line():
    shapes = published("dino")
    flat = {**shapes, "input_proj.0.0.weight": (16,)}
    assert refusal(flat) == "a part of its weights is missing, or no matrix: input_proj.0.0.weight"
    far = {**shapes, "transformer.encoder.layers.900000.norm1.weight": (16,)}
    assert refusal(far) == "a part of its weights is missing: transformer.encoder.layers.1"
    long = {**shapes, f"transformer.encoder.layers.{'9' * 5000}.norm1.weight": (16,)}
    assert identify(long).arguments["enc_layers"] == 1
    without = {name: shape for name, shape in shapes.items() if "tgt_embed" not in name}
    assert refusal(without) == "these are weights of DINO without learned contents, which detrctl does not have"
