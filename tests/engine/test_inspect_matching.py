import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from detrctl.data.batch import collate
from detrctl.engine import inspect_data
from detrctl.engine.build import build_data, build_learner, learner_from
from detrctl.engine.checkpoint import Checkpoint, load, save
from detrctl.engine.inspect_matching import find_sources, inspect_matching
from detrctl.engine.inspect_queries import inspect_queries
from detrctl.engine.inspected import Wish
from detrctl.errors import DataError, DetrctlError
from detrctl.inspection.matching_report import as_json
from detrctl.losses.plan import decoder_meetings
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories
from tests.engine.tiny import CLASSES, write_split

CATEGORIES = Categories(CLASSES, (1, 6))
SIZES = {
    "backbone": {"name": "resnet10", "norm": "batch", "frozen_stages": 0},
    "width": 16,
    "heads": 2,
    "feedforward": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "queries": 5,
}
VARIANTS = {
    "detr": {"family": "detr"},
    "detr in groups": {"family": "detr", "query_groups": 2},
    "conditional": {"family": "conditional"},
    "dab": {"family": "dab"},
    "dn": {"family": "dab", "denoising": {"kind": "grouped"}},
    "deformable": {"family": "deformable"},
    "two-stage": {"family": "deformable", "reference": "refined", "query_source": "proposals"},
    "dab-deformable": {"family": "dab_deformable", "denoising": {"kind": "grouped"}},
    "dino": {"family": "dino"},
    "dino, distinct": {"family": "dino", "proposal_nms": 0.8},
    "dab with patterns": {"family": "dab", "patterns": 2},
}
IN_TWO_STAGES = ("two-stage", "dino", "dino, distinct")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_split(root, "val", 4, empty=(2,))
    return root


def recipe(data, variant, **more):
    about = {"root": str(data), "eval_size": 64, "eval_max_size": 96, "workers": 0, **more}
    parts = {"model": SIZES | VARIANTS[variant], "data": about, "evaluate": {"batch_size": 3}}
    return Recipe.model_validate(parts)


def save_run(folder, data, variant, files=("best.pt",), categories=CATEGORIES, **more):
    """Each file with other random weights; `more` fields of the recipe's data."""
    setting = recipe(data, variant, **more)
    for seed, name in enumerate(files):
        torch.manual_seed(seed)
        weights = build_learner(setting, categories).network.state_dict()
        save(Checkpoint(setting, categories, weights), folder / "checkpoints" / name)
    return folder


def look(*folders, **wish):
    return inspect_matching(folders, wish=Wish(device="cpu", **wish))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_told_whole(tmp_path, data, variant):
    report = look(save_run(tmp_path / "run", data, variant))
    truths = 5  # four images of one, two, none and two rectangles
    assert (report.main.images, report.main.truths, len(report.shown)) == (4, truths, 4)
    assert len(report.rows["run"]) == 2 * truths
    assert report.two_stage is (variant in IN_TWO_STAGES)
    assert (report.denoising is not None) is (variant in ("dn", "dab-deformable", "dino", "dino, distinct"))
    content = json.loads(json.dumps(as_json(report), allow_nan=False))
    for image in content["images"]:
        for layer in image["layers"]:
            for truth in layer["truths"]:
                totals = [row[4] for row in truth["table"][:5]]
                assert totals == sorted(totals)
                for query in (truth["query"], truth["runner_up"]):
                    assert str(query) in layer["queries"]


def test_pairs_are_those_that_training_would_make(tmp_path, data):
    report = look(save_run(tmp_path / "run", data, "detr"), batch_size=1)
    checkpoint = load(tmp_path / "run" / "checkpoints" / "best.pt")
    learner = learner_from(checkpoint).eval()
    sample = build_data(checkpoint.recipe, "val").dataset[1]
    batch = collate([sample])
    with torch.no_grad():
        output = learner.network(batch.images)
    meetings = decoder_meetings(output, batch.targets, learner.criterion.matcher, auxiliary=True)
    for meeting in meetings:
        rows = [row for row in report.rows["run"] if row.image_id == 11 and row.layer == meeting.layer]
        pairs = zip(meeting.assignment.truth.tolist(), meeting.assignment.query.tolist(), strict=True)
        assert {(row.truth, row.query) for row in rows} == set(pairs)


def test_each_checkpoint_sees_the_images_at_its_own_size(tmp_path, data):
    first = save_run(tmp_path / "first", data, "detr")
    second = save_run(tmp_path / "second", data, "detr")
    file = second / "checkpoints" / "best.pt"
    checkpoint = load(file)
    view = {
        "eval_size": 2 * checkpoint.recipe.data.eval_size,
        "eval_max_size": 2 * checkpoint.recipe.data.eval_max_size,
    }
    larger = checkpoint.recipe.model_copy(update={"data": checkpoint.recipe.data.model_copy(update=view)})
    save(replace(checkpoint, recipe=larger), file)
    both = look(first, second)
    alone = look(second)
    assert both.runs[1].checkpoints[0].layers == alone.runs[0].checkpoints[0].layers
    assert both.runs[0].checkpoints[0].layers != alone.runs[0].checkpoints[0].layers


def test_files_that_lie_in_no_run_are_not_taken_for_one(tmp_path, data):
    run = save_run(tmp_path / "run", data, "detr")
    (tmp_path / "weights").mkdir()
    for name in ("a.pt", "b.pt"):
        (tmp_path / "weights" / name).write_bytes((run / "checkpoints" / "best.pt").read_bytes())
    found = find_sources([tmp_path / "weights" / "a.pt", tmp_path / "weights" / "b.pt"], None)
    assert [[source.name for source in one] for one in found] == [["a"], ["b"]]


def test_a_run_folder_stands_for_the_checkpoints_of_its_epochs_in_their_order(tmp_path, data):
    run = save_run(tmp_path / "run", data, "deformable", ("epoch-0010.pt", "epoch-0002.pt", "best.pt"))
    report = look(run)
    assert [(split.name, split.epoch) for split in report.runs[0].checkpoints] == [
        ("run epoch 2", 2),
        ("run epoch 10", 10),
    ]
    (step,) = report.runs[0].steps
    assert (step.before, step.after, step.epochs, step.images) == ("run epoch 2", "run epoch 10", 8, 4)
    before, after = (
        {(row.image_id, row.query): row.truth for row in report.rows[name] if row.layer == 1}
        for name in (step.before, step.after)
    )
    differ = sum(before.get(key, -1) != after.get(key, -1) for key in before.keys() | after.keys())
    assert step.instability == differ / 4
    assert step.by_token == step.instability  # no second stage
    assert report.shown_of == "run epoch 10"


def test_two_runs_are_put_side_by_side_and_the_same_checkpoint_twice_moves_nothing(tmp_path, data):
    with_denoising = save_run(tmp_path / "with", data, "dn", ("epoch-0001.pt",))
    (with_denoising / "checkpoints" / "epoch-0002.pt").write_bytes(
        (with_denoising / "checkpoints" / "epoch-0001.pt").read_bytes()
    )
    without = save_run(tmp_path / "without", data, "dab", ("epoch-0001.pt", "epoch-0002.pt"))
    report = look(with_denoising, without)
    assert [run.title for run in report.runs] == ["with, with denoising", "without, without denoising"]
    assert [run.mean_instability for run in report.runs] == [run.steps[0].instability for run in report.runs]
    still, moving = (run.steps[0] for run in report.runs)
    assert (still.instability, still.moved.all.changed, still.most) == (0, 0, 10 / 4)
    assert moving.instability > 0


def test_runs_of_one_checkpoint_each_are_said_to_give_no_curve(tmp_path, data):
    curved = save_run(tmp_path / "curved", data, "detr", ("epoch-0001.pt", "epoch-0002.pt"))
    single = save_run(tmp_path / "single", data, "dab")
    line = "single: one checkpoint, so nothing between epochs; train with train.keep_every=1 for instability"
    assert look(curved, single).notes == (line,)
    assert look(single).notes == ()


def test_a_recipe_alone_is_looked_at_with_random_weights(data):
    report = inspect_matching([None], recipe="quickstart", wish=Wish(data=str(data), limit=1, device="cpu"))
    assert report.main.name == "quickstart, random weights"
    assert report.main.images == 1


def test_a_split_without_annotations_is_refused_by_all_that_inspect_truths(tmp_path, data):
    root = shutil.copytree(data, tmp_path / "copy")
    file = root / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in content.items() if key != "annotations"}))
    run, line = save_run(tmp_path / "run", root, "detr"), f"{file}: has no `annotations`, so split 'val' can only be"
    wish = Wish(device="cpu")
    for ask in (
        lambda: look(run),
        lambda: inspect_queries(run, wish=wish),
        lambda: inspect_data.inspect_data("quickstart", wish=inspect_data.Wish(data=str(root), split="val")),
    ):
        with pytest.raises(DataError, match="^" + re.escape(line)):
            ask()


def test_one_image_is_found_by_its_id_and_a_wrong_id_is_one_line(tmp_path, data):
    run = save_run(tmp_path / "run", data, "detr")
    report = look(run, image_id=13)
    assert {row.image_id for row in report.rows["run"]} == {13}
    assert [shown.matching.image_id for shown in report.shown] == [13]
    assert report.shown[0].picture.shape == (64, 76, 3)
    with pytest.raises(
        DataError, match=r"^--image-id 7: no such image in split 'val' \(it has 10, 11, 12, 13, \.\.\.\)$"
    ):
        look(run, image_id=7)


def test_classes_go_by_name_where_checkpoint_and_dataset_number_them_differently(tmp_path, data):
    turned = Categories(tuple(reversed(CLASSES)), (6, 1))
    straight = look(save_run(tmp_path / "a", data, "detr"))
    other = look(save_run(tmp_path / "b", data, "detr", categories=turned))
    assert [row.label for row in straight.rows["a"]] == [row.label for row in other.rows["b"]]


def test_what_has_no_queries_or_other_classes_is_refused_in_one_line(tmp_path, data):
    setting = Recipe.model_validate(
        {"model": {"family": "faster_rcnn", "backbone": SIZES["backbone"]}, "data": {"root": str(data), "workers": 0}}
    )
    weights = build_learner(setting, CATEGORIES).network.state_dict()
    save(Checkpoint(setting, CATEGORIES, weights), tmp_path / "rcnn" / "checkpoints" / "best.pt")
    with pytest.raises(DetrctlError, match=r"^rcnn: faster_rcnn has no object queries and matches nothing one to one$"):
        look(tmp_path / "rcnn")
    one = save_run(tmp_path / "one", data, "detr")
    two = save_run(tmp_path / "two", data, "detr", categories=Categories(tuple(reversed(CLASSES)), (1, 6)))
    with pytest.raises(
        DetrctlError, match=r"^two: its classes are not those of the checkpoints before; compare runs on"
    ):
        look(one, two)


def test_files_of_one_folder_are_one_run_in_the_order_given(tmp_path, data):
    run = save_run(tmp_path / "run", data, "detr", ("best.pt", "last.pt"))
    ((first, second),) = find_sources([run / "checkpoints" / "last.pt", run / "checkpoints" / "best.pt"], None)
    assert (first.name, second.name) == ("run last", "run")
    assert (first.run, second.run) == ("run", "run")
