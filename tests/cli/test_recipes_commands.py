from pathlib import Path

import pytest

from detrctl.cli.app import run
from detrctl.recipe.locate import shipped

BASE = "# Mine\n#\n# published:     AP 12.3 on nothing\ntrain:\n  epochs: 7\n  schedule: {kind: constant}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    Path("child.yaml").write_text(
        "extends: base.yaml\ntrain:\n  epochs: 8\ndata: {augment: {sizes: [64]}, eval_size: 64}\n"
    )
    return tmp_path


def out(capsys, *arguments):
    assert run(["recipes", *arguments]) == 0
    text, errors = capsys.readouterr()
    assert errors == ""
    return text


def failed(capsys, *arguments):
    assert run(["recipes", *arguments]) == 2
    text, errors = capsys.readouterr()
    assert text == ""
    return errors


def test_list_names_every_recipe_with_its_published_score(capsys):
    lines = out(capsys, "list").splitlines()
    assert lines[0].split() == ["recipe", "published", "AP", "what"]
    assert [line.split()[0] for line in lines[1:-2]] == list(shipped())
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines[1:-2]}
    assert rows["detr_r50"] == ["42.0", "DETR, ResNet-50, 500 epochs"]
    assert rows["quickstart"][0] == "-"
    assert lines[-1] == "detrctl recipes show NAME prints one, detrctl train NAME --data DIR trains it."


def test_show_prints_the_file_as_it_is(capsys, folder):
    assert out(capsys, "show", "base.yaml") == BASE
    assert out(capsys, "show", "detr_r50") == shipped()["detr_r50"].read_text()


def test_show_resolved_says_where_each_value_was_written(capsys, folder):
    lines = out(capsys, "show", "child.yaml", "--resolved").splitlines()
    assert lines[0] == "# child.yaml, every field; a comment says where a value was written, the others are defaults"
    assert "  epochs: 8  # child.yaml:3" in lines
    assert "    kind: constant  # base.yaml:6" in lines
    assert "    sizes: [64]  # child.yaml:4" in lines
    assert "  lr: 0.0001" in lines
    assert sum("#" in line for line in lines) == 5


def test_show_with_a_change_shows_the_result(capsys, folder):
    text = out(capsys, "show", "child.yaml", "--set", "train.lr=1e-5", "--set", "train.epochs=9")
    assert "  lr: 1.0e-05  # --set\n" in text
    assert "  epochs: 9  # --set\n" in text


def test_what_show_resolved_prints_is_a_recipe(capsys, folder):
    Path("resolved.yaml").write_text(out(capsys, "show", "child.yaml", "--resolved"))
    assert out(capsys, "diff", "child.yaml", "resolved.yaml") == "child.yaml and resolved.yaml agree in every field.\n"


def test_diff_shows_both_values_of_the_fields_that_differ(capsys, folder):
    assert out(capsys, "diff", "base.yaml", "child.yaml") == (
        "field               base.yaml                                                child.yaml\n"
        "data.augment.sizes  [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]  [64]\n"
        "data.eval_size      800                                                      64\n"
        "train.epochs        7                                                        8\n"
    )


def test_explain_says_what_a_field_means_and_takes(capsys):
    assert out(capsys, "explain", "train.lr") == (
        "train.lr: Learning rate of all but the backbone, at `reference_batch_size`.\n"
        "  takes    a number above 0\n"
        "  default  0.0001\n"
        "  set it   --set train.lr=VALUE\n"
    )
    assert "  takes    one of fp32, bf16\n  default  fp32\n" in out(capsys, "explain", "precision")
    assert "  takes    text\n  default  (must be given)\n" in out(capsys, "explain", "data.val.images")


def test_explain_tells_the_default_of_each_family(capsys):
    line = "  default  100 (detr), 300 (conditional, dab, deformable, dab_deformable), 900 (dino)\n"
    assert line in out(capsys, "explain", "model.queries")
    rows = [line for line in out(capsys, "explain", "model").splitlines() if line.startswith("queries ")]
    assert "  100, 300 or 900  " in rows[0]


def test_explain_of_a_section_lists_its_fields(capsys):
    assert out(capsys, "explain", "objective.match") == (
        "objective.match: The cost by which predictions are assigned to truths.\n"
        "field         default     meaning\n"
        "class_weight  1.0 or 2.0  Weight of the class term in the matching cost.\n"
        "l1            5.0         Weight of the L1 distance in the matching cost.\n"
        "giou          2.0         Weight of the generalised IoU in the matching cost.\n"
        "alpha         0.25        What a positive weighs against a negative in the class term of the matching cost.\n"
    )
    assert out(capsys, "explain", "match") == out(capsys, "explain", "objective.match")


def test_explain_of_a_name_that_stands_twice_shows_both(capsys):
    lines = out(capsys, "explain", "giou").splitlines()
    assert [line.split()[0] for line in lines] == ["field", "objective.match.giou", "objective.giou"]
    assert len(out(capsys, "explain").splitlines()) >= 65


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "train.lrr"], "train.lrr: no such field. Did you mean 'train.lr'?"),
        (["explain", "eos_coef"], "eos_coef: no such field. Did you mean 'objective.no_object'?"),
        (["explain", "zzz"], "zzz: no such field. `detrctl recipes explain` shows them all."),
        (["show", "detr_r5o"], "no recipe 'detr_r5o'. Did you mean 'detr_r50'?"),
        (["diff", "detr_r50", "chidl.yaml"], "no file 'chidl.yaml'. Did you mean 'child.yaml'?"),
        (["show", "photo.jpg"], "photo.jpg: is not a text file in UTF-8, so not a recipe"),
        (["show", "photo.jpg", "--cost"], "photo.jpg: is not a text file in UTF-8, so not a recipe"),
        (
            ["show", "~nobody-here/a.yaml"],
            "~nobody-here/a.yaml: nobody's home is known as ~nobody-here; ./~nobody-here/a.yaml if a file is called so",
        ),
        (["show", "base.yaml", "--set", "lr=1"], "--set: lr: no such field. Did you mean 'train.lr'?"),
        (["show", "base.yaml", "--set", "train.lr=0"], "--set: train.lr: found 0, expected a number above 0"),
    ],
)
def test_mistakes_are_one_line(capsys, folder, arguments, message):
    Path("photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 a picture")
    assert failed(capsys, *arguments) == f"{message}\n"


def test_a_broken_recipe_is_one_report(capsys, folder):
    Path("bad.yaml").write_text("extends: base.yaml\ntrain:\n  epohcs: 3\n  lr: -1\n")
    report = "bad.yaml:3: train.epohcs: no such field. Did you mean 'epochs'?\n"
    report += "bad.yaml:4: train.lr: found -1, expected a number above 0\n"
    assert failed(capsys, "show", "bad.yaml", "--resolved") == report
    assert failed(capsys, "diff", "base.yaml", "bad.yaml") == report


@pytest.mark.parametrize("recipe", ["quickstart", "small_data"])
def test_show_cost_counts_every_part_and_the_sum(capsys, folder, recipe):
    lines = out(capsys, "show", recipe, "--cost", "--size", "96x128").splitlines()
    assert lines[0].split() == ["part", "million", "parameters", "trained", "billion", "multiply-adds"]
    rows = {line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in lines[1 : lines.index("")]}
    assert next(iter(rows)) == "backbone"
    assert list(rows)[-1] == "total"
    for column in range(3):
        parts = [row[column] for name, row in rows.items() if name != "total"]
        assert rows["total"][column] == pytest.approx(sum(parts), abs=0.03)
    assert lines[-2].startswith("Of one image of 96 x 128 pixels")


def test_a_recipe_that_borrows_its_model_says_so_and_has_no_cost(capsys, folder):
    assert failed(capsys, "show", "finetune", "--cost") == (
        "--cost: finetune trains the model of the checkpoint that it starts from; ask its recipe\n"
    )
    assert "are those of\n# the checkpoint that training starts from" in out(capsys, "show", "finetune", "--resolved")


def test_show_cost_refuses_a_size_that_is_none(capsys, folder):
    for size in ("800", "8x8", "0800x1066x3"):
        assert failed(capsys, "show", "quickstart", "--cost", "--size", size) == (
            f"--size {size}: height and width in pixels are needed, from 32 on, such as 800x1066\n"
        )
