import random
import subprocess
import sys

import pytest
import yaml

from detrctl.errors import DetrctlError, RecipeError
from detrctl.recipe.fields import all_fields
from detrctl.recipe.load import load_recipe
from detrctl.recipe.schema import FAMILIES


def test_all_mistakes_come_in_one_report_in_the_order_of_the_file(report):
    text = """\
model:
  heads: 7
  querys: 100
  backbone:
    name: resnet5
    stage: 2
  class_head: abc
  heads: 8
objective: {no_object: 2}
train:
  lr: '1e-4'
  batch_size: 3
  accumulate: 2
  epochs: 1.5
data:
  root: 2017
  train: {annotation: x}
  augment:
    sizes:
      - 480
      - 5
    crop_size: [600, 384]
    flip: .inf
    policy: squared
num_classes: 3
queries: 5
"""
    assert report(text) == [
        "my.yaml:3: model.querys: no such field. Did you mean 'queries'?",
        "my.yaml:5: model.backbone.name: found 'resnet5', expected one of slim_32, slim_48, slim_64, resnet10, "
        "resnet18, resnet34, resnet50, resnet101, swin_t, swin_s, swin_b, swin_v2_t, swin_v2_s, swin_v2_b, "
        "convnext_tiny, convnext_small, convnext_base or `package.module:Name`. Did you mean 'resnet50'?",
        "my.yaml:6: model.backbone.stage: found 2, expected one of 3, 4, 5",
        "my.yaml:7: model.class_head: found 'abc', expected `package.module:Name` or null",
        "my.yaml:8: model.heads: stands here twice, first at line 2; keep one",
        "my.yaml:9: objective.no_object: found 2, expected a number above 0 and at most 1",
        "my.yaml:11: train.lr: found '1e-4', expected a number above 0; take the quotes off",
        "my.yaml:12: train.batch_size: found batch_size 3 with accumulate 2, a remainder stays; batch_size 4 would do",
        "my.yaml:14: train.epochs: found 1.5, expected a whole number of at least 1",
        "my.yaml:16: data.root: found 2017, expected text or null; put it in quotes",
        "my.yaml:17: data.train.images: is missing, expected text",
        "my.yaml:17: data.train.annotation: no such field. Did you mean 'annotations'?",
        "my.yaml:21: data.augment.sizes[1]: found 5, expected a whole number from 16 to 4096",
        "my.yaml:22: data.augment.crop_size: found [600, 384], expected the smallest side first; [384, 600] would do",
        "my.yaml:23: data.augment.flip: found '.inf', expected a number from 0 to 1",
        "my.yaml:24: data.augment.policy: found 'squared', expected one of detr, square, large_scale_jitter, none. "
        "Did you mean 'square'?",
        "my.yaml:25: num_classes: no such field; leave it out, the classes are read from the annotations",
        "my.yaml:26: queries: no such field. Did you mean 'model.queries'?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: 3", "my.yaml:1: model: found 3, expected a section with family, backbone, position, width, heads, "),
        ("train:\n  schedule: fast", "my.yaml:2: train.schedule: found 'fast', expected a section with kind, "),
        ("train:\n  lr:", "my.yaml:2: train.lr: found nothing, expected a number above 0"),
        ("train: {lr: true}", "my.yaml:1: train.lr: found true, expected a number above 0"),
        (
            "train: {epochs: '3'}",
            "my.yaml:1: train.epochs: found '3', expected a whole number of at least 1; take the ",
        ),
        ("model: {norm_first: yes}", "my.yaml:1: model.norm_first: found 'yes', expected true or false"),
        ("model: {dropout: 1}", "my.yaml:1: model.dropout: found 1, expected a number of at least 0 and below 1"),
        (
            "model: {family: dter}",
            f"my.yaml:1: model.family: found 'dter', expected one of {', '.join(FAMILIES)}. Did you mean 'detr'?",
        ),
        (
            "data: {augment: {sizes: []}}",
            "my.yaml:1: data.augment.sizes: found [], expected a list of at least one, each",
        ),
        (
            "data: {augment: {scale: [1]}}",
            "my.yaml:1: data.augment.scale: found [1], expected a pair [a, b], each a num",
        ),
        ("data: {train: x}", "my.yaml:1: data.train: found 'x', expected a section with images, annotations or null"),
        ("train: {foo: 1}", "my.yaml:1: train.foo: no such field; train has epochs, max_minutes, batch_size, "),
        ("foo: 1", "my.yaml:1: foo: no such field; a recipe has model, objective, data, train, evaluate"),
        ("train: {lr_drop: 3}", "my.yaml:1: train.lr_drop: no such field. Did you mean 'train.schedule.drop_epochs'?"),
        ("model: {hidden_dim: 3}", "my.yaml:1: model.hidden_dim: no such field. Did you mean 'model.width'?"),
        ("train: {lr: 1e999}", "my.yaml:1: train.lr: found inf, expected a number above 0"),
        ("train: {seed: 99999999999999999999}", "my.yaml:1: train.seed: found 99999999999999999999, expected a whole "),
    ],
)
def test_a_wrong_value_is_named_with_what_would_do(report, text, message):
    [line] = report(text)
    assert line.startswith(message)


def test_numbers_may_be_written_as_people_write_them(write):
    recipe = load_recipe(write("train: {lr: 1e-4, backbone_lr: 0, weight_decay: 1E-4}\n")).recipe
    assert (recipe.train.lr, recipe.train.backbone_lr, recipe.train.weight_decay) == (1e-4, 0.0, 1e-4)


def test_a_misspelled_field_keeps_the_rules_about_the_field_that_was_meant_quiet(report):
    assert report("model: {widht: 100, heads: 10}") == ["my.yaml:1: model.widht: no such field. Did you mean 'width'?"]


def test_a_file_that_is_no_text_is_one_line(write, tmp_path):
    name = write("")
    (tmp_path / name).write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DetrctlError, match=r"^my\.yaml: is not a text file in UTF-8, so not a recipe$"):
        load_recipe(name)


# ---- extends ----


def test_a_child_changes_single_fields_of_its_parents(write):
    write("train: {epochs: 7, lr: 0.5, schedule: {kind: constant}}\ndata: {augment: {sizes: [64, 96]}}\n", "base.yml")
    write(
        "extends: base.yml\ntrain: {lr: 0.25}\ndata:\n  augment:\n    sizes: [128]\n  eval_size: 128\n",
        "sub/../mid.yaml",
    )
    write("extends: ../mid.yaml\ntrain:\n  seed: 3\n", "sub/leaf.yaml")
    loaded = load_recipe("sub/leaf.yaml")
    train = loaded.recipe.train
    assert (train.epochs, train.lr, train.seed, train.schedule.kind) == (7, 0.25, 3, "constant")
    assert loaded.recipe.data.augment.sizes == [128]
    assert loaded.name == "leaf"
    where = {path: loaded.where(path) for path in ("train.epochs", "train.lr", "train.seed", "train.batch_size")}
    assert where == {
        "train.epochs": "base.yml:1",
        "train.lr": "mid.yaml:2",
        "train.seed": "sub/leaf.yaml:3",
        "train.batch_size": "default",
    }


def test_a_recipe_extends_a_shipped_one_by_name(write):
    loaded = load_recipe(write("extends: detr_r50\ntrain: {seed: 1}\n"))
    assert loaded.recipe.train.epochs == 500
    assert loaded.recipe.train.seed == 1


def test_mistakes_in_a_parent_are_reported_at_the_parent(write, report):
    write("train:\n  lr: -1\n  epohcs: 3\n", "base.yaml")
    assert report("extends: base.yaml\nmodel:\n  heads: 0\n") == [
        "my.yaml:3: model.heads: found 0, expected a whole number from 1 to 64",
        "base.yaml:2: train.lr: found -1, expected a number above 0",
        "base.yaml:3: train.epohcs: no such field. Did you mean 'epochs'?",
    ]


def test_a_contradiction_between_parent_and_child_names_both_places(write, report):
    write("train:\n  epochs: 50\n  schedule: {drop_epochs: [40]}\n", "base.yaml")
    drop = (
        "found drop_epochs 40 with epochs 20: that drop never comes; "
        "earlier epochs, [] or schedule.kind constant would do"
    )
    assert report("extends: base.yaml\ntrain:\n  epochs: 20\n") == [
        f"my.yaml:3: train.epochs: {drop} (train.schedule.drop_epochs: base.yaml:3)"
    ]
    assert report("extends: base.yaml\n", "train.epochs=20") == [
        f"--set: train.epochs: {drop} (train.schedule.drop_epochs: base.yaml:3)"
    ]


def test_extending_in_a_circle_is_refused_with_the_circle(write, report):
    write("extends: b.yaml\n", "a.yaml")
    write("extends: my.yaml\n", "b.yaml")
    assert report("extends: a.yaml\ntrain: {lr: 0}\n") == [
        "my.yaml:2: train.lr: found 0, expected a number above 0",
        "b.yaml:1: extends: my.yaml -> a.yaml -> b.yaml -> my.yaml goes round in a circle; take one `extends` out",
    ]
    assert report("extends: my.yaml\n") == [
        "my.yaml:1: extends: my.yaml -> my.yaml goes round in a circle; take one `extends` out"
    ]


def test_a_parent_that_is_not_there_leaves_the_rest_of_the_report_whole(report):
    assert report("extends: detr_r5o\nmodel: {heads: 7}\ntrain: {lr: 0, batch_size: 3, accumulate: 2}\n") == [
        "my.yaml:1: extends: no recipe 'detr_r5o'. Did you mean 'detr_r50'?",
        "my.yaml:3: train.lr: found 0, expected a number above 0",
        "my.yaml:3: train.batch_size: found batch_size 3 with accumulate 2, a remainder stays; batch_size 4 would do",
    ]
    assert report("extends: [a, b]") == [
        "my.yaml:1: extends: found ['a', 'b'], expected the name of one shipped recipe or the path of one file"
    ]


# ---- starting points ----


def test_frozen_random_networks_are_refused_unless_a_checkpoint_fills_them(write):
    loaded = load_recipe(write("model: {backbone: {weights: none}}\n"))
    loaded.require_start(from_checkpoint=True)
    with pytest.raises(RecipeError) as caught:
        loaded.require_start(from_checkpoint=False)
    assert str(caught.value).splitlines() == [
        "my.yaml:1: model.backbone.weights: found norm frozen with weights none: random statistics cripple training; "
        "norm batch, weights imagenet, or starting from a checkpoint (--init-from) would do",
        "my.yaml:1: model.backbone.weights: found frozen_stages 2 with weights none: random stages would never train; "
        "frozen_stages 0, weights imagenet, or starting from a checkpoint (--init-from) would do",
    ]


def test_recipes_load_without_torch():
    code = (
        "import sys; from detrctl.recipe.load import load_recipe; from detrctl.recipe.dump import dump_recipe;"
        "dump_recipe(load_recipe('detr_dc5_r101', ['train.lr=1']).recipe);"
        "print(sorted({'torch', 'torchvision', 'numpy', 'scipy', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_recipe_ends_in_a_traceback(write):
    """Fields and odd values thrown together at random; a seed whose recipes all load would test nothing."""
    draw = random.Random(5)
    paths = [info.path for info in all_fields()]
    odd = [None, True, -1, 3, 0.5, 1e999, 10**30, "", "x", "1e-4", [], [3, 2], ["a"], {}, {"a": 1}, {"images": 1}]
    loaded, refused = 0, 0
    for _ in range(150):
        document = {"extends": draw.choice(["detr_r50", "my.yaml", 3, None])} if draw.random() < 0.3 else {}
        for _ in range(draw.randint(0, 4)):
            *sections, name = draw.choice(paths).split(".")
            section = document
            for part in sections:
                section[part] = section.get(part) if isinstance(section.get(part), dict) else {}
                section = section[part]
            section[name + ("x" if draw.random() < 0.1 else "")] = draw.choice(odd)
        try:
            load_recipe(
                write(yaml.safe_dump(document)), [f"{draw.choice(paths)}={draw.choice(['1', '[', 'x: y', '{}'])}"]
            )
            loaded += 1
        except DetrctlError as error:
            refused += bool(str(error))
    assert loaded >= 3
    assert refused >= 100
