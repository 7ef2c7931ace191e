"""Evaluation with a learner that says what it is told to say."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detrctl.boxes import Cxcywh, XyxyPx
from detrctl.engine.build import build_learner
from detrctl.engine.checkpoint import Checkpoint, save
from detrctl.engine.evaluate import evaluate, evaluate_checkpoint, match_categories
from detrctl.errors import DataError, DetrctlError, NonFiniteError
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.structures import Batch, Categories, Detections, ImageBatch, Targets
from tests.engine import tiny

CPU = torch.device("cpu")
CATEGORIES = Categories(names=("cat", "dog"), ids=(3, 7))
BOX = [10.0, 20.0, 40.0, 80.0]  # xywh


class Oracle(nn.Module):
    """Finds BOX as class 0, score 0.9, in every image; a NaN score in image `spoilt`."""

    def __init__(self, spoilt: int | None = None):
        super().__init__()
        self.spoilt = spoilt
        self.was_training: list[bool] = []
        self.precisions: list[bool] = []

    def detect(self, images: ImageBatch) -> list[Detections]:
        self.was_training.append(self.training)
        self.precisions.append(torch.is_autocast_enabled("cpu"))
        return [self._found(image_id) for image_id in images.image_ids]

    def _found(self, image_id: int) -> Detections:
        score = float("nan") if image_id == self.spoilt else 0.9
        x, y, w, h = BOX
        box: Tensor = torch.tensor([[x, y, x + w, y + h]])
        return Detections(torch.tensor([score]), torch.tensor([0]), XyxyPx(box), torch.tensor([5]), image_id)


def batch(*image_ids: int) -> Batch:
    count = len(image_ids)
    images = ImageBatch(
        pixels=torch.zeros(count, 3, 8, 8),
        is_padding=torch.zeros(count, 8, 8, dtype=torch.bool),
        original_sizes_hw=torch.full((count, 2), 100),
        image_ids=image_ids,
    )
    nothing = Targets(torch.zeros(0, dtype=torch.int64), Cxcywh(torch.zeros(0, 4)))
    return Batch(images, (nothing,) * count)


def truths(images: int = 4, *, names: tuple[str, str] = ("cat", "dog"), ids: tuple[int, int] = (3, 7)) -> GroundTruth:
    """BOX as a cat in images 1, 2, ...; no dogs."""
    return GroundTruth.from_coco_dict(
        {
            "images": [{"id": i} for i in range(1, images + 1)],
            "categories": [{"id": number, "name": name} for number, name in zip(ids, names, strict=True)],
            "annotations": [{"image_id": i, "category_id": ids[0], "bbox": BOX} for i in range(1, images + 1)],
        }
    )


def test_a_perfect_detector_scores_1_and_progress_counts_images():
    heard: list[int] = []
    batches = [batch(1, 2), None, batch(3, 4)]
    done = evaluate(Oracle(), batches, truths(), CATEGORIES, device=CPU, on_progress=heard.append)
    assert done.scores["AP"] == pytest.approx(1.0)
    assert (done.scores.images, heard, done.notes) == (4, [2, 4], ())
    assert done.results[0] == {"image_id": 1, "category_id": 3, "bbox": BOX, "score": 0.9}


def test_only_the_images_that_came_are_scored():
    assert evaluate(Oracle(), [batch(2)], truths(), CATEGORIES, device=CPU).scores["AR1"] == 1.0


def test_too_large_a_batch_for_the_gpu_is_one_line():
    class Hungry(Oracle):
        def detect(self, images: ImageBatch) -> list[Detections]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DetrctlError) as caught:
        evaluate(Hungry(), [batch(1, 2)], truths(), CATEGORIES, device=CPU)
    assert str(caught.value) == (
        "out of GPU memory on 2 images of 8 x 8: detect fewer at once (--batch, evaluate.batch_size), "
        "or use --device cpu"
    )


def test_an_image_seen_twice_counts_once():
    once = evaluate(Oracle(), [batch(1, 2)], truths(), CATEGORIES, device=CPU)
    twice = evaluate(Oracle(), [batch(1, 2), batch(2, 1)], truths(), CATEGORIES, device=CPU)
    assert (twice.scores, twice.results) == (once.scores, once.results)
    assert len(twice.results) == 2


@pytest.mark.parametrize("training", [True, False])
def test_the_learner_detects_in_evaluation_mode_and_keeps_its_own(training):
    learner = Oracle()
    learner.train(training)
    evaluate(learner, [batch(1)], truths(), CATEGORIES, device=CPU)
    assert (learner.was_training, learner.training) == ([False], training)


@pytest.mark.parametrize(("precision", "autocast"), [("fp32", False), ("bf16", True)])
def test_bf16_runs_under_autocast(precision, autocast):
    learner = Oracle()
    evaluate(learner, [batch(1)], truths(), CATEGORIES, device=CPU, precision=precision)
    assert learner.precisions == [autocast]


def test_a_nan_names_the_image():
    with pytest.raises(NonFiniteError) as error:
        evaluate(Oracle(spoilt=2), [batch(1, 2)], truths(), CATEGORIES, device=CPU)
    expected = "image 2: the detector's answer holds NaN or infinity, so its weights are probably spoilt"
    assert str(error.value) == expected


def test_nothing_readable_is_one_line():
    with pytest.raises(DataError) as error:
        evaluate(Oracle(), [None, None], truths(), CATEGORIES, device=CPU)
    assert str(error.value) == "nothing to evaluate: the split has no image that can be read"


def test_categories_meet_by_name_where_the_ids_differ():
    other = truths(names=("dog", "cat"), ids=(1, 2))
    assert match_categories(CATEGORIES, other) == (2, 1)


def test_classes_that_the_dataset_does_not_have_are_left_out_and_told():
    dataset = truths(names=("cat", "supercategory"), ids=(1, 0))
    assert match_categories(CATEGORIES, dataset) == (1, None)
    done = evaluate(Oracle(), [batch(1)], dataset, CATEGORIES, device=CPU)
    assert done.notes == ("1 of the checkpoint's 2 classes are not in this dataset: dog",)


def test_equal_categories_fit_even_if_two_share_a_name():
    doubled = Categories(names=("x", "x"), ids=(3, 7))
    assert match_categories(doubled, truths(names=("x", "x"))) == (3, 7)


def test_of_two_categories_with_one_name_the_one_with_truths_is_meant_and_two_are_refused():
    """Exports have a category of the dataset's own name, unused, before those of the objects."""
    renamed = replace(truths(), category_names=("dog", "dog", "cat"), category_ids=(9, 0, 1))
    dogs = replace(renamed, category_of=np.zeros_like(renamed.category_of))
    known = Categories(names=("dog", "cat"), ids=(1, 2))
    assert match_categories(known, dogs) == (0, 1)
    both = replace(dogs, category_of=np.where(np.arange(len(dogs.category_of)) == 0, 9, 0))
    with pytest.raises(DataError) as error:
        match_categories(known, both)
    assert str(error.value) == (
        "the dataset has several categories named dog, which cannot be told apart by name as the checkpoint's table of "
        "categories, which is another, needs; give each a name of its own"
    )


def test_a_split_without_annotations_can_only_be_predicted(tmp_path: Path):
    recipe = tiny.recipe(root := tiny.dataset(tmp_path / "data"))
    file = root / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    del content["annotations"]
    file.write_text(json.dumps(content))
    categories = Categories(tiny.CLASSES, (1, 6))
    save(Checkpoint(recipe, categories, build_learner(recipe, categories).network.state_dict()), tmp_path / "last.pt")
    with pytest.raises(DataError) as error:
        evaluate_checkpoint(tmp_path / "last.pt", device="cpu", trust=True)
    assert str(error.value) == (
        f"{file}: has no `annotations`, so split 'val' can only be predicted: "
        f"detrctl predict {root}/images/val --ids {file}"
    )


def test_names_meet_whatever_their_case_unless_that_makes_two_alike():
    assert match_categories(CATEGORIES, truths(names=("Cat", " DOG"), ids=(1, 2))) == (1, 2)
    assert match_categories(Categories(("cat", "dog"), (1, 2)), truths(names=("Cat", "dog"), ids=(5, 6))) == (5, 6)
    assert match_categories(Categories(("CAT", "cat"), (1, 2)), truths(names=("cat", "dog"))) == (None, 3)
    alike = replace(truths(), category_names=("Cat", "CAT", "cat"), category_ids=(3, 4, 5))
    known = Categories(("cat", "dog"), (1, 2))
    assert match_categories(known, replace(alike, category_of=np.full_like(alike.category_of, 5))) == (5, None)
    with pytest.raises(DataError, match="do not match"):
        match_categories(known, alike)


def test_categories_that_do_not_match_are_both_listed():
    with pytest.raises(DataError) as error:
        match_categories(Categories(names=("circle", "square"), ids=(1, 2)), truths())
    assert str(error.value) == (
        "the dataset's categories do not match the checkpoint's: dataset cat, dog; checkpoint circle, square"
    )


def test_one_category_with_truths_that_the_checkpoint_lacks_is_an_error():
    many = tuple(f"c{i}" for i in range(80))
    with pytest.raises(DataError) as error:
        match_categories(Categories(names=("dog", *many), ids=tuple(range(81))), truths())
    assert str(error.value).endswith("dataset cat, dog; checkpoint dog, c0, c1, c2, c3, c4, c5, c6, ... (81 in all)")


TWO_PROCESSES = """
import sys
import torch
from detrctl.engine.distributed import connected
from detrctl.engine.evaluate import evaluate
sys.path.insert(0, {here!r})
from test_evaluate import CATEGORIES, CPU, Oracle, batch, truths

with connected(CPU) as processes:
    mine = [[batch(1, 2), batch(1)], [batch(3), batch(1)]][processes.rank]  # as a sampler repeats image 1
    done = evaluate(Oracle(), mine, truths(), CATEGORIES, device=CPU, processes=processes)
    print(processes.rank, len(done.results), done.scores["AP"], done.scores.images)
"""


def test_two_processes_agree_and_count_repeated_images_once(tmp_path: Path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES.format(here=str(Path(__file__).parent)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
            "WORLD_SIZE": "2",
        }
    both = [
        subprocess.Popen([sys.executable, str(script)], text=True, stdout=subprocess.PIPE, env={**shared, "RANK": rank})
        for rank in "01"
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    alone = evaluate(Oracle(), [batch(1, 2, 3)], truths(), CATEGORIES, device=CPU).scores["AP"]
    assert said == [f"0 3 {alone} 3\n", f"1 0 {alone} 3\n"]


def test_a_checkpoint_of_bf16_is_scored_in_fp32_where_bf16_is_emulated(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("detrctl.engine.distributed.emulates_bf16", lambda device: True)
    recipe = tiny.recipe(tiny.dataset(tmp_path / "data"), precision="bf16")
    categories = Categories(tiny.CLASSES, (1, 6))
    weights = build_learner(recipe, categories).network.state_dict()
    notes = []
    for precision in ("bf16", "fp32"):
        changed = recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": precision})})
        save(Checkpoint(changed, categories, weights), tmp_path / "last.pt")
        done = evaluate_checkpoint(tmp_path / "last.pt", device="cpu", trust=True)
        notes.append((done.notes, done.results))
    assert notes[0][0] == ("this CPU has no bf16 arithmetic, so that fp32 is used where training used bf16",)
    assert notes[1][0] == ()
    assert notes[0][1] == notes[1][1]
