"""A training leaves everything behind that it should, ends when it should, and goes on exactly where it stopped."""

import itertools
import json
import math
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detrctl.data.dataset import DetectionDataset
from detrctl.engine import events, loop
from detrctl.engine.build import TrainingOrder
from detrctl.engine.checkpoint import Checkpoint, load, save
from detrctl.engine.evaluate import evaluate, evaluate_checkpoint
from detrctl.engine.inspect_matching import inspect_matching
from detrctl.engine.inspected import Wish
from detrctl.engine.interrupt import Interrupted
from detrctl.engine.state import Standing
from detrctl.engine.train import TrainResult, train
from detrctl.errors import CheckpointError, DataError, DetrctlError, NonFiniteError
from detrctl.recipe.schema import Recipe
from tests.engine import tiny
from tests.engine.children import finish, start

RANDOM = {"dropout": 0.1, "backbone": {"name": "tests.engine.tiny:TinyBackbone", "options": {"norm": True}}}
AUGMENT = {"policy": "none", "flip": 0.5, "photometric": True, "iou_crop": 0.5, "plain_end": 0.4}
NOTHING_EVALUATED = "there is no validation split with boxes: nothing is evaluated, and only the last weights are kept"
SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"))


def everything(root: Path, epochs: int = 3, workers: int = 0, **train_fields: Any) -> Recipe:
    """Dropout, batch norm, augmentation and its end, accumulation, averaging, a drop of the rate: all with a state."""
    schedule = {"kind": "step", "drop_epochs": [2], "warmup_steps": 3} if epochs == 3 else {"kind": "constant"}
    return tiny.recipe(
        root,
        model=RANDOM,
        data={"augment": AUGMENT, "workers": workers},
        epochs=epochs,
        accumulate=2,
        ema=0.9,
        ema_warmup=5,
        schedule=schedule,
        **train_fields,
    )


@pytest.fixture(scope="module")
def straight(root: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(everything(root), out=tmp_path_factory.mktemp("runs") / "straight", device="cpu")


def same(a: Any, b: Any) -> bool:
    """Bit by bit, through nested tables and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def lasting(checkpoint: Checkpoint) -> dict[str, Any]:
    """What must be equal: all but the times."""
    assert checkpoint.training is not None
    standing = dict(checkpoint.training["standing"])
    for time in ("seconds", "evaluation_seconds"):
        del standing[time]
    return {
        "weights": checkpoint.weights,
        "ema": checkpoint.ema,
        "optimizer": checkpoint.training["optimizer"],
        "random": checkpoint.training["random"],
        "standing": standing,
    }


def logged(run: Path) -> list[dict[str, Any]]:
    times = ("minutes", "seconds", "images_per_second", "memory_mb")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in times} for row in rows]


def interrupt_at(when: Callable[[events.Event], bool], number: int = signal.SIGINT) -> events.OnEvent:
    """A listener that sends this process a real signal, once."""
    pending = [True]

    def listen(event: events.Event) -> None:
        if pending and when(event):
            pending.clear()
            os.kill(os.getpid(), number)

    return listen


# ---- what a run leaves behind ----


def test_the_run_folder_holds_all_it_should(straight: TrainResult, root: Path) -> None:
    run = straight.run
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert found == {
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "environment.json",
        "metrics.jsonl",
        "plots/ap.png",
        "plots/loss.png",
        "plots/matching.png",
        "plots/shares.png",
        "recipe.yaml",
        "summary.json",
    }
    for name in ("ap", "loss", "matching", "shares"):
        with Image.open(run / "plots" / f"{name}.png") as picture:
            picture.verify()
    assert straight.ended_by == "epochs"
    assert straight.checkpoint == run / "checkpoints" / "best.pt"
    assert load(straight.checkpoint).recipe == everything(root)


def test_metrics_have_stable_keys(straight: TrainResult) -> None:
    rows = [json.loads(line) for line in (straight.run / "metrics.jsonl").read_text().splitlines()]
    where = ["kind", "step", "epoch", "images", "minutes"]
    keys = {row["kind"]: list(row) for row in rows}
    assert keys["train"] == [
        *where,
        *("loss", "losses", "shares", "lr", "gradient_norm", "images_per_second", "memory_mb", "skipped_steps"),
    ]
    assert keys["eval"] == [*where, "scores", "best_AP", "seconds", "matching"]
    assert list(rows[-1]["matching"]) == ["images", "most", "instability", "by_token", "epochs", "gap"]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in rows if row["kind"] == "eval"] == [1.0, 2.0, 3.0]
    terms = ("class", "l1", "giou", "class_error", "cardinality_error", "matching_cost")
    assert list(rows[0]["losses"]) == [f"decoder.{layer}.{term}" for layer in (0, 1) for term in terms]
    assert list(rows[0]["shares"]) == [f"decoder.{layer}.{term}" for layer in (0, 1) for term in terms[:3]]
    assert tuple(rows[-1]["scores"]) == SCORES


def test_the_shares_of_the_losses_sum_to_one(straight: TrainResult) -> None:
    rows = [row for row in logged(straight.run) if row["kind"] == "train"]
    assert len(rows) == 6
    for row in rows:
        assert sum(row["shares"].values()) == pytest.approx(1.0, abs=1e-5)
        weighted = {name: share * row["loss"] for name, share in row["shares"].items()}
        assert weighted["decoder.1.l1"] == pytest.approx(5 * row["losses"]["decoder.1.l1"], rel=1e-5)


def test_each_evaluation_tells_how_much_the_matching_has_moved_since_the_one_before(root: Path, tmp_path: Path) -> None:
    """What inspecting the epochs' checkpoints finds, without a second look at the images."""
    result = train(tiny.recipe(root, epochs=4, eval_every=2, keep_every=2, lr=0.03), out=tmp_path / "run", device="cpu")
    told = [row["matching"] for row in logged(result.run) if row["kind"] == "eval"]
    assert [row["gap"] for row in told] == ["nothing was evaluated before", None]
    assert told[0]["instability"] is None
    [step] = inspect_matching([result.run], wish=Wish(trust=True, device="cpu")).runs[0].steps
    assert (told[1]["instability"], told[1]["most"], told[1]["images"]) == (step.instability, step.most, step.images)
    assert told[1]["epochs"] == step.epochs == 2
    assert 0 < told[1]["instability"] <= told[1]["most"]


def test_where_the_evaluation_before_is_not_known_the_gap_is_told(root: Path, tmp_path: Path) -> None:
    half = train(tiny.recipe(root, epochs=1), out=tmp_path / "run", device="cpu")
    found = load(half.run / "checkpoints" / "last.pt")
    assert found.training is not None
    standing = {name: value for name, value in found.training["standing"].items() if name != "matched"}
    save(replace(found, training=found.training | {"standing": standing}), half.run / "checkpoints" / "last.pt")
    heard: list[events.Event] = []
    train(trust=True, resume=half.run, overrides=["train.epochs=3"], device="cpu", on_event=heard.append)
    told = [row["matching"] for row in logged(half.run) if row["kind"] == "eval"]
    lost = "the checkpoint that the run went on from holds no matching of the evaluation before"
    assert [row["gap"] for row in told] == ["nothing was evaluated before", lost, None]
    assert told[1]["instability"] is None
    assert told[2]["instability"] is not None
    warned = [event.message for event in heard if isinstance(event, events.Warned)]
    assert f"no instability of the matching for this evaluation: {lost}" in warned


def test_other_validation_images_than_before_are_told_as_a_gap(root: Path, tmp_path: Path) -> None:
    half = train(tiny.recipe(root, epochs=1), out=tmp_path / "run", device="cpu")
    train(trust=True, resume=half.run, overrides=["train.epochs=2", "train.eval_limit=2"], device="cpu")
    told = [row["matching"] for row in logged(half.run) if row["kind"] == "eval"]
    assert told[1]["gap"] == "the evaluation before was of other images, truths or queries"
    assert (told[1]["images"], told[1]["instability"]) == (2, None)


def test_faster_rcnn_has_shares_and_neither_costs_nor_instability(root: Path, tmp_path: Path) -> None:
    model = {
        "family": "faster_rcnn",
        "backbone": {"name": "resnet10", "norm": "batch", "frozen_stages": 0},
        "pyramid_width": 16,
        "box_head_width": 16,
        "anchor_sizes": [4, 8, 16, 32, 64],
    }
    fields = tiny.fields(root, epochs=1)
    result = train(Recipe.model_validate(fields | {"model": model}), out=tmp_path / "run", device="cpu")
    rows = logged(result.run)
    names = ["roi.class", "roi.box", "rpn.class", "rpn.box"]
    assert [list(row["shares"]) for row in rows if row["kind"] == "train"] == [names] * 2
    assert not any("matching" in name for row in rows if row["kind"] == "train" for name in row["losses"])
    assert not any("matching" in row for row in rows)
    assert {path.name for path in (result.run / "plots").iterdir()} == {"ap.png", "loss.png", "shares.png"}


def test_the_rates_follow_warm_up_and_drop(straight: TrainResult) -> None:
    rates = [row["lr"]["transformer"] for row in logged(straight.run) if row["kind"] == "train"]
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-4, 1e-4])


def test_the_summary_says_what_was_done(straight: TrainResult) -> None:
    summary = json.loads((straight.run / "summary.json").read_text())
    assert (summary["ended_by"], summary["epochs"], summary["steps"], summary["images_seen"]) == ("epochs", 3.0, 6, 24)
    assert summary["final"].keys() == summary["best"].keys() == set(SCORES)
    assert summary["device"] == "cpu"
    assert summary["minutes"] > 0
    assert summary["threads"] >= 1


def test_best_is_the_average_with_the_best_ap_and_holds_no_training_state(straight: TrainResult) -> None:
    best, last = load(straight.run / "checkpoints" / "best.pt"), load(straight.run / "checkpoints" / "last.pt")
    assert best.training is None
    assert best.ema is not None
    assert last.ema is not None
    assert last.evaluated is last.ema
    assert not same(last.ema, last.weights)


def test_scores_in_training_are_those_of_the_saved_weights(straight: TrainResult) -> None:
    again = evaluate_checkpoint(straight.run / "checkpoints" / "last.pt", device="cpu", trust=True)
    assert dict(again.scores.numbers) == straight.scores


def test_the_same_seed_gives_the_same_run_and_another_another(
    straight: TrainResult, root: Path, tmp_path: Path
) -> None:
    again = train(everything(root), out=tmp_path / "again", device="cpu")
    assert logged(again.run) == logged(straight.run)
    other = train(everything(root, seed=1), out=tmp_path / "other", device="cpu")
    assert logged(other.run)[0]["loss"] != logged(straight.run)[0]["loss"]


def test_events_tell_the_run_in_order(root: Path, tmp_path: Path) -> None:
    heard: list[events.Event] = []
    result = train(tiny.recipe(root, epochs=1), out=tmp_path / "run", device="cpu", on_event=heard.append)
    kinds = [name for name, _ in itertools.groupby(type(event).__name__ for event in heard)]
    assert kinds == [
        *("RunStarted", "Warned", "StepDone", "StepsLogged", "StepDone", "StepsLogged"),
        *("EvaluationStarted", "EvaluationProgress", "EvaluationDone", "EpochDone", "CheckpointSaved", "RunEnded"),
    ]
    started, ended = heard[0], heard[-1]
    assert isinstance(started, events.RunStarted)
    assert isinstance(ended, events.RunEnded)
    assert [(split.name, split.images) for split in started.splits] == [("train", 8), ("val", 4)]
    assert started.classes == ("dark", "light")
    assert sum(started.parameters.values()) == started.parameters_total
    assert ended.best_scores == result.best_scores


def test_without_validation_labels_training_goes_on_and_says_so(tmp_path: Path) -> None:
    heard: list[events.Event] = []
    setting = tiny.recipe(tiny.dataset(tmp_path / "data", val=0), epochs=1)
    result = train(setting, out=tmp_path / "run", device="cpu", on_event=heard.append)
    assert result.scores is None
    assert result.checkpoint == tmp_path / "run" / "checkpoints" / "last.pt"
    said = [event.message for event in heard if isinstance(event, events.Warned)]
    assert said[-1] == NOTHING_EVALUATED


def test_a_validation_split_without_boxes_counts_as_none_and_no_patience_ends_the_run(tmp_path: Path) -> None:
    root = tiny.dataset(tmp_path / "data", val=0)
    tiny.write_split(root, "val", 2, empty=(0, 1))
    heard: list[events.Event] = []
    setting = tiny.recipe(root, epochs=3, patience=1)
    result = train(setting, out=tmp_path / "run", device="cpu", on_event=heard.append)
    assert (result.scores, result.ended_by) == (None, "epochs")
    said = [event.message for event in heard if isinstance(event, events.Warned)]
    assert said.count(NOTHING_EVALUATED) == 1


def test_an_evaluation_without_truths_is_not_one_without_improvement() -> None:
    standing = Standing()
    for ap, waited in [(0.2, 0), (None, 0), (0.1, 1), (None, 1), (0.3, 0)]:
        standing.note_scores({"AP": ap}, epoch=1.0, seconds=1.0)
        assert standing.evaluations_since_best == waited


def test_more_objects_than_queries_are_counted_and_said_once(root: Path, tmp_path: Path) -> None:
    heard: list[events.Event] = []
    train(tiny.recipe(root, model={"queries": 1}), out=tmp_path / "run", device="cpu", on_event=heard.append)
    said = [event.message for event in heard if isinstance(event, events.Warned) and "queries" in event.message]
    assert len(said) == 1
    assert said[0].endswith(
        "has 2 objects, but the model has 1 queries: those beyond are not learnt; raise model.queries"
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["images_with_more_objects_than_queries"] == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_off_is_named_after_the_first_epoch(tmp_path: Path, workers: int) -> None:
    root = tiny.dataset(tmp_path / "data")
    file = root / "images" / "train" / "2.png"
    file.write_bytes(file.read_bytes()[:-2000])  # the header, which is looked at before the run, stays whole
    heard: list[events.Event] = []
    recipe = tiny.recipe(root, data={"broken_images": "skip", "workers": workers})
    train(recipe, out=tmp_path / "run", device="cpu", on_event=heard.append)
    said = [event.message for event in heard if isinstance(event, events.Warned) and "2.png" in event.message]
    assert len(said) == 1
    assert said[0].startswith("train: image files that could not be read, skipped: ")


def left_over_in_epoch(images: int, batch_size: int, seed: int, epoch: int) -> list[int]:
    order = TrainingOrder(images, batch_size, 1, seed, 0, 1, epoch=epoch)
    return sorted(set(range(images)) - {i for part in order for i in part})


def break_off(file: Path) -> None:
    """Its header, which is looked at before the run, stays whole."""
    file.write_bytes(file.read_bytes()[:-2000])


def test_broken_files_are_named_again_whenever_there_are_more_and_for_both_splits(tmp_path: Path) -> None:
    root = tiny.dataset(tmp_path / "data", train=9)
    (late,) = left_over_in_epoch(9, 4, 42, 0)
    assert left_over_in_epoch(9, 4, 42, 1) != [late]
    early = next(i for i in range(9) if i != late)
    for file in (f"train/{early}.png", f"train/{late}.png", "val/1.png"):
        break_off(root / "images" / file)
    heard: list[events.Event] = []
    recipe = tiny.recipe(root, data={"broken_images": "skip"}, epochs=4)
    train(recipe, out=tmp_path / "run", device="cpu", on_event=heard.append)
    told = [event for event in heard if isinstance(event, events.EpochDone | events.Warned)]
    said = [event.message if isinstance(event, events.Warned) else event.epoch for event in told]
    said = said[next(n for n, line in enumerate(said) if "could not be read" in str(line)) :]
    skipped, images = "image files that could not be read, skipped", root / "images"
    both = ", ".join(sorted(f"{images}/train/{i}.png" for i in (early, late)))
    assert said == [
        f"train: {skipped}: 1 ({images}/train/{early}.png)",
        f"val: {skipped}: 1 ({images}/val/1.png)",
        1,
        f"train: {skipped}: 2 ({both})",
        *(2, 3, 4),
    ]


def test_each_epoch_has_an_augmentation_of_its_own(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_for: list[tuple[int, int]] = []
    plain = DetectionDataset.__getitem__

    def noted(self: DetectionDataset, i: int) -> Any:
        set_for.append((int(self._epoch), i))
        return plain(self, i)

    monkeypatch.setattr(DetectionDataset, "__getitem__", noted)
    train(tiny.recipe(tiny.dataset(tmp_path / "data", val=0), epochs=2), out=tmp_path / "run", device="cpu")
    assert sorted(set_for) == [(epoch, i) for epoch in (0, 1) for i in range(8)]


def test_the_last_epochs_are_plain_and_one_that_has_begun_stays_as_it_is(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    whole = DetectionDataset.set_epoch

    def noted(self: DetectionDataset, epoch: int, *, plain: bool = False) -> None:
        seen.append((epoch, plain))
        whole(self, epoch, plain=plain)

    monkeypatch.setattr(DetectionDataset, "set_epoch", noted)
    setting = tiny.recipe(root, data={"augment": {"policy": "none", "zoom_out": 1.0, "plain_end": 0.4}}, epochs=5)
    in_the_middle = interrupt_at(lambda event: isinstance(event, events.StepDone) and event.total_steps == 7)
    with pytest.raises(Interrupted):
        train(setting, out=tmp_path / "run", device="cpu", on_event=in_the_middle)
    assert seen == [(0, False), (1, False), (2, False), (3, True)]
    # Of ten epochs the fourth is not among the last; but it has begun as one of them.
    train(trust=True, resume=tmp_path / "run", overrides=["train.epochs=10"], device="cpu")
    assert seen[4:] == [(3, True), (4, False), (5, False), (6, True), (7, True), (8, True), (9, True)]


def test_what_an_evaluation_draws_does_not_change_training(
    straight: TrainResult, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawing(*arguments: Any, **options: Any) -> Any:
        torch.rand(7), random.random(), np.random.rand()
        return evaluate(*arguments, **options)

    monkeypatch.setattr(loop, "evaluate", drawing)
    again = train(everything(root), out=tmp_path / "run", device="cpu")
    assert logged(again.run) == logged(straight.run)


def test_a_backbone_whose_rate_is_0_keeps_its_statistics(root: Path, tmp_path: Path) -> None:
    kept = []
    for epochs in (1, 2):
        setting = tiny.recipe(root, model=RANDOM, epochs=epochs, backbone_lr=0)
        train(setting, out=tmp_path / str(epochs), device="cpu")
        weights = load(tmp_path / str(epochs) / "checkpoints" / "last.pt").weights
        kept.append({name: value for name, value in weights.items() if name.startswith("backbone.")})
    assert same(*kept)
    assert not kept[0]["backbone.body.layers.1.running_mean"].any()


# ---- going on ----


def test_n_and_n_epochs_are_2n_epochs_bit_by_bit(root: Path, tmp_path: Path) -> None:
    whole = train(everything(root, epochs=4), out=tmp_path / "whole", device="cpu")
    half = train(everything(root, epochs=2), out=tmp_path / "half", device="cpu")
    resumed = train(trust=True, resume=half.run, overrides=["train.epochs=4"], device="cpu")
    assert same(lasting(load(resumed.run / "checkpoints/last.pt")), lasting(load(whole.run / "checkpoints/last.pt")))
    assert logged(resumed.run) == logged(whole.run)
    assert resumed.scores == whole.scores


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("when", "step"),
    [
        (lambda event: isinstance(event, events.StepDone) and event.total_steps == 3, 3),
        (lambda event: isinstance(event, events.StepDone) and event.total_steps == 2, 2),
        (lambda event: isinstance(event, events.EvaluationProgress), 2),
    ],
    ids=["in the middle of an epoch", "at its end", "while evaluating"],
)
def test_an_interrupted_run_goes_on_bit_by_bit(
    straight: TrainResult, root: Path, tmp_path: Path, when: Callable[[events.Event], bool], step: int, workers: int
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted) as caught:
        train(everything(root, workers=workers), out=run, device="cpu", on_event=interrupt_at(when))
    assert str(caught.value) == (
        f"stopped after {step // 2} epochs and {step % 2} steps of the next; everything is saved. "
        f"Go on with: detrctl train --resume {run} --trust"
    )
    assert json.loads((run / "summary.json").read_text())["ended_by"] == "signal"
    resumed = train(trust=True, resume=run, device="cpu")
    assert same(lasting(load(run / "checkpoints/last.pt")), lasting(load(straight.run / "checkpoints/last.pt")))
    assert logged(run) == logged(straight.run)
    assert resumed.best_scores == straight.best_scores


def test_more_epochs_stretch_the_schedule_of_a_finished_run(root: Path, tmp_path: Path) -> None:
    cosine = {"kind": "cosine"}
    half = train(tiny.recipe(root, epochs=2, schedule=cosine), out=tmp_path / "half", device="cpu")
    train(trust=True, resume=half.run, overrides=["train.epochs=4"], device="cpu")
    rates = [row["lr"]["transformer"] for row in logged(half.run) if row["kind"] == "train"]
    as_if_whole = [0.5e-3 * (1 + math.cos(math.pi * step / 8)) for step in range(4, 8)]
    assert rates[4:] == pytest.approx(as_if_whole)
    assert load(half.run / "checkpoints/last.pt").training["standing"]["share"] == 1.0  # type: ignore[index]


def test_more_minutes_stretch_the_schedule_of_a_run_whose_time_was_used_up(root: Path, tmp_path: Path) -> None:
    setting = tiny.recipe(
        root, epochs=10_000, max_minutes=1 / 60, schedule={"kind": "cosine"}, eval_every=10_000, save_every=10_000
    )
    run = train(setting, out=tmp_path / "run", device="cpu").run
    steps = load(run / "checkpoints" / "last.pt").training["standing"]["step"]  # type: ignore[index]
    stop = interrupt_at(lambda event: isinstance(event, events.StepDone))
    with pytest.raises(Interrupted):
        train(trust=True, resume=run, overrides=["train.max_minutes=100"], device="cpu", on_event=stop)
    rates = {row["step"]: row["lr"]["transformer"] for row in logged(run) if row["kind"] == "train"}
    assert rates[steps] < 0.2e-3
    assert rates[steps + 1] > 0.98e-3  # next to nothing of the time is used up, even where the machine stood still


def killed_child(root: Path, run: Path) -> None:
    def kill(event: events.Event) -> None:
        if isinstance(event, events.StepsLogged) and event.total_steps == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    train(everything(root), out=run, device="cpu", on_event=kill)


def test_a_run_that_was_killed_goes_on_from_the_last_epoch_bit_by_bit(
    straight: TrainResult, root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    child = start(killed_child, root, run, output=tmp_path / "said.txt")
    assert finish(child) == -signal.SIGKILL
    assert [row["step"] for row in logged(run) if row["kind"] == "train"] == [1, 2, 3, 4, 5]
    train(trust=True, resume=run, device="cpu")
    assert same(load(run / "checkpoints/last.pt").weights, load(straight.run / "checkpoints/last.pt").weights)
    assert logged(run) == logged(straight.run)


def test_signals_are_the_callers_again_afterwards(root: Path, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(tiny.recipe(root, epochs=1), out=tmp_path / "run", device="cpu")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_resuming_what_cannot_be_resumed_is_one_line(straight: TrainResult, root: Path, tmp_path: Path) -> None:
    run = straight.run
    for arguments, expected in [
        ({}, f"--resume {run}: all 3 epochs are done; for more of them add --set train.epochs=6"),
        (
            {"overrides": ["train.epochs=5", "train.batch_size=2", "train.accumulate=1"]},
            f"--resume {run}: it was started on 8 images, 2 steps an epoch; now there are 8, 4 steps: "
            "start a new run with --init-from",
        ),
        (
            {"overrides": ["train.epochs=5", "model.queries=6"]},
            f"--resume {run}: the recipe's model is not the one that was saved",
        ),
        ({"out": tmp_path}, "--resume goes on with a run as it is: leave --out away"),
        ({"recipe": "detr_r50"}, "--resume goes on with a run as it is: leave the recipe away"),
    ]:
        with pytest.raises(DetrctlError) as caught:
            train(resume=run, device="cpu", trust=True, **arguments)  # type: ignore[arg-type]
        assert str(caught.value) == expected


def test_a_run_that_names_somebodys_parts_goes_on_only_when_trusted(straight: TrainResult) -> None:
    with pytest.raises(CheckpointError) as caught:
        train(resume=straight.run, overrides=["train.epochs=4"], device="cpu")
    assert str(caught.value) == (
        "this checkpoint wants to import tests.engine.tiny:TinyBackbone, which can run any code: "
        "add --trust if you know it"
    )


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        *(
            ({name: None}, f"damaged: '{name}' of its training state is missing or is something else")
            for name in ("standing", "optimizer", "ema_updates", "random", "data")
        ),
        ({"standing": {"steps": 1}}, "its training state is of another version of detrctl"),
        ({"standing": {"step": "many"}}, "damaged: 'step' of its training state is 'many'"),
    ],
    ids=str,
)
def test_a_damaged_training_state_is_one_line(
    straight: TrainResult, tmp_path: Path, damage: dict[str, Any], expected: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        train(trust=True, resume=spoilt(straight, tmp_path, damage), overrides=["train.epochs=4"], device="cpu")
    assert str(caught.value) == f"--resume {tmp_path}/run: its last checkpoint cannot be gone on with: {expected}"


def spoilt(straight: TrainResult, tmp_path: Path, damage: dict[str, Any]) -> Path:
    """A run folder with another training state in its last checkpoint."""
    found = load(straight.run / "checkpoints" / "last.pt")
    assert found.training is not None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text((straight.run / "recipe.yaml").read_text())
    save(replace(found, training=found.training | damage), tmp_path / "run" / "checkpoints" / "last.pt")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({"optimizer": {"state": {}}}, "the recipe's model is not the one that was saved"),
        ({"random": [{}]}, "damaged: the random numbers of its last checkpoint"),
        ({"random": [3]}, "damaged: the random numbers of its last checkpoint"),
    ],
    ids=str,
)
def test_damage_inside_the_training_state_is_one_line(
    straight: TrainResult, tmp_path: Path, damage: dict[str, Any], expected: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        train(trust=True, resume=spoilt(straight, tmp_path, damage), overrides=["train.epochs=4"], device="cpu")
    assert str(caught.value) == f"--resume {tmp_path}/run: {expected}"


def test_resuming_on_other_classes_is_refused(straight: TrainResult, tmp_path: Path) -> None:
    tiny.write_split(tmp_path, "train", 8, classes=("dark", "bright"))
    with pytest.raises(CheckpointError) as caught:
        train(trust=True, resume=straight.run, data=tmp_path, overrides=["train.epochs=4"], device="cpu")
    assert str(caught.value) == (
        f"--resume {straight.run}: the dataset's classes are not those that the run was started with"
    )


# ---- starting from other weights ----


def test_weights_from_another_run_are_taken_by_class_name(straight: TrainResult, tmp_path: Path) -> None:
    tiny.write_split(tmp_path / "data", "train", 8, classes=("light", "new", "dark"))
    heard: list[events.Event] = []
    setting = tiny.recipe(tmp_path / "data", model=RANDOM, epochs=1, lr=1e-30, backbone_lr=1e-30, weight_decay=0)
    result = train(setting, init_from=straight.run, out=tmp_path / "run", device="cpu", on_event=heard.append)
    taken = next(event for event in heard if isinstance(event, events.WeightsTaken))
    assert taken.source == straight.run / "checkpoints" / "best.pt"
    assert taken.summary.endswith("2 remapped, 0 fresh, 0 unused; 2 of 3 classes known by name")
    old, new = load(taken.source).evaluated, load(result.checkpoint).weights
    head = "decoder.heads.class_head.weight"
    assert torch.equal(new[head][[0, 2, 3]], old[head][[1, 0, 2]])
    assert torch.equal(new["queries.position.weight"], old["queries.position.weight"])


def test_weights_of_something_else_are_refused(straight: TrainResult, root: Path, tmp_path: Path) -> None:
    found = load(straight.checkpoint)
    save(Checkpoint(found.recipe, found.categories, {"x": torch.ones(1)}), tmp_path / "other.pt")
    with pytest.raises(CheckpointError) as caught:
        train(tiny.recipe(root), init_from=tmp_path / "other.pt", out=tmp_path / "run", device="cpu")
    assert str(caught.value) == (
        f"--init-from {tmp_path}/other.pt: none of its weights fits this model; "
        "the recipe finetune trains the checkpoint's own"
    )
    assert not (tmp_path / "run").exists()


# ---- ending early ----


def test_a_time_limit_ends_in_good_order_with_an_evaluation(root: Path, tmp_path: Path) -> None:
    schedule = {"kind": "cosine"}
    setting = tiny.recipe(root, epochs=10_000, max_minutes=2 / 60, schedule=schedule, eval_every=10_000)
    heard: list[events.Event] = []
    result = train(setting, out=tmp_path / "run", device="cpu", on_event=heard.append)
    assert result.ended_by == "time"
    assert result.scores is not None
    rates = [event.rates["transformer"] for event in heard if isinstance(event, events.StepsLogged)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.9e-3
    assert rates[-1] < 0.2e-3  # the whole cosine, although hardly any of the epochs
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["minutes"] < 2 / 60
    assert summary["epochs"] < 1000


def test_patience_ends_after_that_many_evaluations_without_a_better_one(root: Path, tmp_path: Path) -> None:
    frozen = tiny.recipe(root, epochs=50, patience=2, lr=1e-30, backbone_lr=1e-30, weight_decay=0)
    result = train(frozen, out=tmp_path / "run", device="cpu")
    assert result.ended_by == "patience"
    assert result.best_epoch == 1.0
    evaluated = [row["epoch"] for row in logged(tmp_path / "run") if row["kind"] == "eval"]
    assert evaluated == [1.0, 2.0, 3.0]


def test_evaluations_and_checkpoints_come_as_often_as_asked(root: Path, tmp_path: Path) -> None:
    setting = tiny.recipe(root, epochs=5, eval_every=2, eval_limit=2, save_every=3, keep_every=2)
    heard: list[events.Event] = []
    train(setting, out=tmp_path / "run", device="cpu", on_event=heard.append)
    assert [e.epoch for e in heard if isinstance(e, events.EvaluationDone)] == [2.0, 4.0, 5.0]
    assert {e.images for e in heard if isinstance(e, events.EvaluationStarted)} == {2}
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["best.pt", "epoch-0002.pt", "epoch-0004.pt", "last.pt"]
    assert sum(isinstance(e, events.CheckpointSaved) for e in heard) == 2


def test_steps_that_keep_failing_end_the_run_with_one_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MOST_SKIPPED_IN_A_ROW", 3)
    heard: list[events.Event] = []
    setting = tiny.recipe(root, lr=1e30, clip_norm=0, epochs=9, eval_every=9)
    with pytest.raises(NonFiniteError) as caught:
        train(setting, out=tmp_path / "run", device="cpu", on_event=heard.append)
    assert str(caught.value).startswith("3 steps in a row could not be made; the last: image ")
    assert str(caught.value).endswith(f"lower train.lr, or look at the images listed in {tmp_path}/run/skipped.jsonl")
    skipped = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert len(skipped) == 3
    assert all(len(row["image_ids"]) == 4 and row["reason"] for row in skipped)
    assert sum(isinstance(event, events.StepSkipped) for event in heard) == 3


# ---- mistakes ----


def test_mistakes_before_the_first_step_are_one_line_and_leave_no_folder(root: Path, tmp_path: Path) -> None:
    tiny.write_split(tmp_path / "bare", "train", 4, empty=(0, 1, 2, 3))
    for arguments, error, expected in [
        (
            {"recipe": None},
            DetrctlError,
            "which recipe? `detrctl recipes list` shows them; `--resume RUN` goes on with a run",
        ),
        ({"device": "tpu"}, DetrctlError, "--device tpu: no such device; choose auto, cpu, cuda or mps"),
        ({"data": tmp_path / "none"}, DataError, f"{tmp_path}/none: no such folder"),
        (
            {"data": tmp_path / "bare"},
            DataError,
            "the training split has no boxes: there is nothing to learn from it",
        ),
        (
            {"init_from": tmp_path / "no.pt"},
            CheckpointError,
            f"{tmp_path}/no.pt: no such checkpoint file or run folder",
        ),
    ]:
        call = {"recipe": tiny.recipe(root), "out": tmp_path / "run", "device": "cpu"} | arguments
        with pytest.raises(error) as caught:
            train(**call)  # type: ignore[arg-type]
        assert str(caught.value).startswith(expected)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_validation_classes_that_do_not_fit_are_found_before_training(tmp_path: Path) -> None:
    tiny.dataset(tmp_path / "data", val=0)
    tiny.write_split(tmp_path / "data", "val", 2, classes=("dark", "other"))
    with pytest.raises(DataError) as caught:
        train(tiny.recipe(tmp_path / "data"), out=tmp_path / "run", device="cpu")
    assert str(caught.value) == (
        "the validation split's categories do not match the training split's: "
        "validation split dark, other; training split dark, light"
    )
    assert not (tmp_path / "run").exists()


def test_few_images_are_doubted_unless_the_recipe_is_made_for_them(root: Path, tmp_path: Path) -> None:
    doubt = (
        "8 images are few to train a transformer from scratch: start from a checkpoint (--init-from), "
        "or take the recipe small_data"
    )
    backbone = {"name": "tests.engine.tiny:TinyBackbone", "norm": "batch"}
    for model, expected in [({}, [doubt]), ({"backbone": backbone}, [])]:
        heard: list[events.Event] = []
        setting = tiny.recipe(root, model=model, epochs=1)
        train(setting, out=tmp_path / f"run-{len(expected)}", device="cpu", on_event=heard.append)
        assert [event.message for event in heard if isinstance(event, events.Warned)] == expected
