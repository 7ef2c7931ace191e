"""A file's names and shapes say which published model it is, and how it was built."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from detrctl.errors import CheckpointError
from detrctl.weights.formats import FORMATS
from detrctl.weights.identify import identify
from tests.weights.published import published

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
    "DINO, 4-scale": ("dino", {"return_interm_indices": [1, 2, 3], "backbone": "resnet50"}),
    "DINO, 5-scale": ("dino", {"num_feature_levels": 5, "return_interm_indices": [0, 1, 2, 3]}),
}


def fixtures() -> list[Path]:
    folders = [STORED, *([Path(os.environ["DETRCTL_PARITY"])] if os.environ.get("DETRCTL_PARITY") else [])]
    return [path for folder in folders for path in sorted(folder.glob("*.json")) if not path.name.startswith("unit_")]


def refusal(shapes: dict[str, tuple[int, ...]], **known: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        identify(shapes, known=known)
    return str(caught.value)


def test_there_is_a_file_to_compare_with():
    assert len(fixtures()) >= 1


@pytest.mark.parametrize("path", fixtures(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_names_and_shapes_of_the_official_code_give_back_what_it_was_built_with(path: Path):
    content = json.loads(path.read_text())
    held, arguments = content["state_dict"], content["build_arguments"]
    shapes = {name: tuple(held[entry.get("tied_to", name)]["shape"]) for name, entry in held.items()}
    project = PROJECTS[content["official_repository"]]
    unseen = ("nheads", "dilation")
    found = identify(shapes, known={name: arguments[name] for name in unseen})
    assert (found.project, found.classes, found.assumed, found.twins) == (
        project,
        content["num_classes"],
        ("num_queries",) if arguments.get("two_stage") else (),
        (),
    )
    free = ("lr_backbone", "dropout")  # another value of these changes no name and no shape
    both = {name: value for name, value in found.arguments.items() if name in arguments and name not in free}
    assert both == {name: arguments[name] for name in both}
    assert len(both) >= 14
    assert published(project, **{**arguments, "num_classes": content["num_classes"]}) == shapes


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
