from typing import Annotated, Literal

import pytest
from pydantic import Field

from detrctl.recipe import fields, validate
from detrctl.recipe.document import read_document
from detrctl.recipe.schema import FAMILIES, Recipe, Section


def test_every_field_has_a_type_in_words_and_one_sentence():
    infos = fields.all_fields()
    assert len(infos) >= 75
    for info in infos:
        assert info.description.endswith("."), info.path
        assert info.expected, info.path
        assert "\n" not in info.description, info.path


def test_foreign_names_point_to_fields_that_exist():
    paths = {info.path for info in fields.all_fields()}
    assert set(fields.ELSEWHERE.values()) <= paths
    assert not {path.rsplit(".", 1)[-1] for path in paths} & set(fields.ELSEWHERE), "a name that is a field already"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("lr", "train.lr"),
        ("backbone", "model.backbone"),
        ("eos_coef", "objective.no_object"),
        ("batchsize", "train.batch_size"),
        ("giou", "objective.giou"),
        ("zzz", None),
    ],
)
def test_a_short_name_finds_the_outermost_field_of_that_name(name, path):
    assert fields.find_elsewhere(name) == path


class First(Section):
    family: Literal["first"] = "first"
    width: int = Field(8, ge=1, description="Width.")


class Second(Section):
    family: Literal["second"] = "second"
    levels: int = Field(4, ge=1, description="Levels.")


class TwoFamilies(Section):
    model: Annotated[First | Second, Field(discriminator="family", description="The detector.")] = First()


@pytest.fixture
def two_families(monkeypatch):
    """The loader over a schema whose model is a union, small enough to know by heart."""
    monkeypatch.setattr(fields, "schema_root", TwoFamilies.model_json_schema)
    monkeypatch.setattr(validate, "schema_root", TwoFamilies.model_json_schema)
    monkeypatch.setattr(validate, "Recipe", TwoFamilies)
    monkeypatch.setattr(validate, "implied_kinds", lambda values: values)

    def check(text):
        verdict = validate.check_fields(read_document(text, source="my.yaml"))
        return verdict.recipe, [f"{finding.place}: {finding.path}: {finding.message}" for finding in verdict.findings]

    return check


def test_families_are_told_apart_by_name(two_families):
    assert two_families("model: {family: second, levels: 3}") == (TwoFamilies(model=Second(levels=3)), [])
    assert two_families("model: {width: 3}") == (TwoFamilies(model=First(width=3)), [])
    assert two_families("model:\n  family: secnd\n  levels: x\n")[1] == [
        "my.yaml:2: model.family: found 'secnd', expected one of first, second. Did you mean 'second'?",
        "my.yaml:3: model.levels: found 'x', expected a whole number of at least 1",
    ]
    assert two_families("model:\n  family: [1]\n  levels: x\n")[1] == [
        "my.yaml:2: model.family: found [1], expected one of first, second",
    ]
    assert two_families("model:\n  family: second\n  levels: 0\n  widht: 1\n")[1] == [
        "my.yaml:3: model.levels: found 0, expected a whole number of at least 1",
        "my.yaml:4: model.widht: no such field; model has family, levels",
    ]


DETRS_FIELDS_IN_ANOTHER_FAMILY = """
model:
  family: faster_rcnn
  queries: 100
  box_score_thresh: 0.1
objective:
  match: {l1: 5}
  no_object: 0.1
  rois_per_imge: 3
"""


def test_fields_of_another_family_are_refused_and_never_offered(report):
    assert [line.partition("; model has")[0] for line in report(DETRS_FIELDS_IN_ANOTHER_FAMILY)] == [
        "my.yaml:4: model.queries: no such field where model.family is faster_rcnn",
        "my.yaml:5: model.box_score_thresh: no such field. Did you mean 'model.score_threshold'?",
        "my.yaml:7: objective.match: no such field where objective.kind is rcnn; "
        "objective has kind, anchors_per_image, rois_per_image",
        "my.yaml:8: objective.no_object: no such field where objective.kind is rcnn; "
        "objective has kind, anchors_per_image, rois_per_image",
        "my.yaml:9: objective.rois_per_imge: no such field. Did you mean 'rois_per_image'?",
    ]
    assert report("train: {epochs: 7}", "model.nms=0.5")[0].startswith(
        "--set: model.nms: no such field where model.family is detr; model has family, backbone, position, "
    )


def test_fields_below_a_section_that_families_share_are_all_there():
    paths = [info.path for info in fields.all_fields()]
    assert len(paths) == len(set(paths))
    assert {"model.backbone.stage", "model.backbone.stages", "model.proposals.nms", "objective.rois_per_image"} <= {
        *paths
    }
    assert {info.path: info.expected for info in fields.all_fields()}["model.family"].endswith("faster_rcnn")


def test_fields_of_all_families_can_be_explained(two_families):
    assert [info.path for info in fields.all_fields()] == ["model", "model.family", "model.width", "model.levels"]


def test_a_default_that_differs_between_families_is_told_for_each():
    by_path = {info.path: dict(info.by_family) for info in fields.all_fields() if info.by_family}
    everywhere = {name: Recipe.model_validate({"model": {"family": name}}) for name in FAMILIES}
    assert by_path["model.queries"][900] == ("dino",)
    assert by_path["objective.class_weight"][1.0] == ("detr", "dab", "dab_deformable", "dino")
    for path in ("model.dropout", "model.position.temperature", "model.feedforward", "model.detections"):
        told = {name: value for value, names in by_path[path].items() for name in names}
        for name, recipe in everywhere.items():
            at = recipe
            for part in path.split("."):
                at = getattr(at, part, None)
            assert told.get(name) == at, (path, name)
    assert not {"model.family", "model.width", "train.lr"} & by_path.keys()


def test_defaults_are_the_schemas_own():
    by_path = {info.path: info for info in fields.all_fields()}
    assert by_path["train.lr"].default == Recipe().train.lr
    assert by_path["data.augment.crop_size"].default == [384, 600]
    assert by_path["data.train.images"].required
    assert by_path["train"].is_section
