"""The order of images is fixed by seed and epoch, and code of somebody else runs only when it is trusted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from detrctl.engine.build import (
    TrainingOrder,
    build_data,
    build_learner,
    evaluation_loader,
    learner_from,
    own_parts,
    training_loader,
    training_order,
    with_data,
)
from detrctl.engine.checkpoint import Checkpoint, save
from detrctl.engine.distributed import Alone, Group
from detrctl.engine.evaluate import evaluate_checkpoint
from detrctl.engine.predict import load
from detrctl.errors import CheckpointError, DataError, DetrctlError
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories
from tests.engine import tiny

CPU = torch.device("cpu")


class OwnImages(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Three images, the first without objects."""

    class_names = ("a", "b")

    def __init__(self, *, root: str | None, split: str):
        self.split = split

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        boxes = torch.tensor([[4.0, 6.0, 20.0, 30.0]]).repeat(int(i > 0), 1)
        return torch.full((3, 32, 40), 10 * i, dtype=torch.uint8), boxes, torch.full((len(boxes),), i - 1)


class OddBoxes(OwnImages):
    """Upright, beyond two edges, upside down, without width, wholly outside, not a number."""

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        nan = float("nan")
        boxes = [[4, 6, 20, 30], [-4, 6, 50, 30], [4, 30, 20, 6], [4, 6, 4, 30], [60, 6, 70, 30], [4, 6, nan, 30]]
        return torch.zeros(3, 32, 40, dtype=torch.uint8), torch.tensor(boxes), torch.tensor([0, 1, 0, 0, 0, 0])


class OnlyTraining(OwnImages):
    def __init__(self, *, root: str | None, split: str):
        raise KeyError(f"no {split}")


class Unnamed(OwnImages):
    def __init__(self, folder: str):
        self.folder = folder


class BadImages(OwnImages):
    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        image, boxes, labels = super().__getitem__(i)
        return image, boxes, labels + 5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"))


def steps_of(order: TrainingOrder) -> Iterator[list[int]]:
    parts = list(order)
    for start in range(0, len(parts), order.accumulate):
        yield sorted(i for part in parts[start : start + order.accumulate] for i in part)


def test_an_epoch_takes_each_image_at_most_once_in_an_order_of_its_own() -> None:
    order = TrainingOrder(images=11, batch_size=4, accumulate=1, seed=3, rank=0, world=1)
    first, again = list(order), list(order)
    order.epoch = 1
    second = list(order)
    assert first == again != second
    for epoch in (first, second):
        assert [len(part) for part in epoch] == [4, 4]
        assert len({i for part in epoch for i in part}) == 8


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_holds_the_same_images_however_many_processes_and_micro_batches(world: int, accumulate: int) -> None:
    whole = TrainingOrder(images=20, batch_size=7, accumulate=1, seed=3, rank=0, world=1)
    cut = [TrainingOrder(20, 7, accumulate, 3, rank, world) for rank in range(world)]
    together = [sorted(i for part in parts for i in part) for parts in zip(*map(steps_of, cut), strict=True)]
    assert together == list(steps_of(whole))


def test_an_order_goes_on_in_the_middle_of_an_epoch() -> None:
    order = TrainingOrder(images=20, batch_size=4, accumulate=2, seed=3, rank=0, world=1)
    whole = list(order)
    order.first_step = 3
    assert list(order) == whole[6:]
    assert len(order) == 4


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    assert [sorted(part) for part in TrainingOrder(3, 8, 1, 0, 0, 1)] == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "images", "said"),
    [
        (
            *(4, 4, 100),
            "train.batch_size: 4 image(s) cannot be dealt out to 2 process(es) x 4 micro-batch(es); "
            "make train.processes 1 or train.accumulate smaller or train.batch_size greater",
        ),
        (
            *(16, 1, 1),
            "the training split: 1 image(s) cannot be dealt out to 2 process(es) x 1 micro-batch(es); "
            "make train.processes 1",
        ),
        (
            *(8, 4, 3),
            "the training split: 3 image(s) cannot be dealt out to 2 process(es) x 4 micro-batch(es); "
            "make train.accumulate smaller",
        ),
        (
            *(8, 4, 1),
            "the training split: 1 image(s) cannot be dealt out to 2 process(es) x 4 micro-batch(es); "
            "make train.processes and train.accumulate 1",
        ),
    ],
)
def test_a_batch_that_cannot_be_dealt_out_is_an_error_before_training(
    batch_size: int, accumulate: int, images: int, said: str
) -> None:
    two = Group(rank=0, world=2, device=CPU)
    with pytest.raises(DataError) as caught:
        training_order(tiny.recipe(None, batch_size=batch_size, accumulate=accumulate), images, two)
    assert str(caught.value) == said
    cured = {
        "train.processes 1": (batch_size, accumulate, Alone()),
        "train.accumulate smaller": (batch_size, 1, two),
        "train.batch_size greater": (8 * batch_size, accumulate, two),
        "train.processes and train.accumulate 1": (batch_size, 1, Alone()),
    }
    for cure in said.partition("; make ")[2].split(" or "):
        size, parts, processes = cured[cure]
        training_order(tiny.recipe(None, batch_size=size, accumulate=parts), images, processes)


def test_workers_change_neither_the_images_nor_the_random_numbers(root: Path) -> None:
    setting = tiny.recipe(root, data={"augment": {"policy": "none", "flip": 0.5, "photometric": True}})
    split = build_data(setting, "train", augment=True)
    order = training_order(setting, split.images, Alone())
    torch.manual_seed(7)
    state = torch.get_rng_state()
    seen = []
    for workers in (0, 2):
        loader = training_loader(split.dataset, order, workers=workers, device=CPU)
        for epoch in (0, 1):
            order.epoch = epoch
            split.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
            seen.append([batch.images for batch in loader if batch is not None])
        assert torch.equal(torch.get_rng_state(), state)
    for alone, shared in zip(seen[:2], seen[2:], strict=True):
        assert [images.image_ids for images in alone] == [images.image_ids for images in shared]
        assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(alone, shared, strict=True))
    assert not torch.equal(seen[0][0].pixels, seen[1][0].pixels)


def test_evaluation_drops_nothing_and_deals_every_image_out_once(root: Path) -> None:
    split = build_data(tiny.recipe(root), "train")
    ids = []
    for rank in range(3):
        group = Group(rank=rank, world=3, device=CPU)
        loader = evaluation_loader(split.dataset, batch_size=2, workers=0, device=CPU, processes=group)
        ids += [image_id for batch in loader if batch is not None for image_id in batch.images.image_ids]
    assert sorted(ids) == list(range(10, 18))


def test_a_split_can_be_cut_to_its_first_images(root: Path) -> None:
    part = build_data(tiny.recipe(root), "train").first(3)
    assert (part.images, len(part.dataset)) == (3, 3)  # type: ignore[arg-type]
    assert build_data(tiny.recipe(root), "train").first(99).images == 8


def test_another_dataset_replaces_everything_that_was_said_about_data() -> None:
    named = {"train": {"images": "a", "annotations": "b"}, "dataset": "mine:Own"}
    data = with_data(tiny.recipe("old", data=named), "new").data
    assert (data.root, data.train, data.dataset) == ("new", None, None)


def test_missing_data_is_one_line_each(root: Path) -> None:
    empty = {"images": str(root / "images"), "annotations": None}
    for setting, split, expected in [
        (
            tiny.recipe(None),
            "train",
            "no dataset: give --data DIR (`--data shapes` for the built-in one), or data.root in the recipe",
        ),
        (tiny.recipe(root), "test", f"{root}: no split 'test'; there is train, val"),
        (
            tiny.recipe(None, data={"val": empty}),
            "val",
            f"{root}/images: split 'val' has no annotation file; it can only be predicted: "
            f"detrctl predict {root}/images",
        ),
    ]:
        with pytest.raises(DataError) as caught:
            build_data(setting, split)
        assert str(caught.value) == expected


def test_a_split_says_everything_about_its_files_before_anything_is_loaded(tmp_path: Path) -> None:
    root = tiny.dataset(tmp_path)
    folder = root / "images" / "train"
    Image.open(folder / "0.png").convert("L").save(folder / "0.png")
    (folder / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        build_data(tiny.recipe(root), "train", augment=True)
    assert str(caught.value) == f"{folder}: image files that cannot be opened: 1 (1.png)"
    (folder / "2.png").unlink()
    with pytest.raises(DataError) as caught:
        build_data(tiny.recipe(root), "train", augment=True)
    assert str(caught.value) == f"{folder}: of the 8 image files these are missing: 1 (2.png)"
    total, classes, *facts = build_data(tiny.recipe(root, data={"broken_images": "skip"}), "train").lines
    assert total.startswith("8 images, 10 boxes of 2 classes: 10 small, ")
    assert classes == "boxes by class: dark 7, light 3"
    assert facts == [
        "images without boxes, kept: 1",
        "grey images, read as RGB: 1",
        "image files that are missing, skipped: 1 (2.png)",
        "image files that cannot be opened, skipped: 1 (1.png)",
    ]


@pytest.mark.parametrize("name", ["val", "valid", "val2017", "validation"])
def test_a_split_answers_to_its_usual_names(root: Path, name: str) -> None:
    assert build_data(tiny.recipe(root), name).images == 4


def test_small_sets_are_decoded_once_in_training_and_in_evaluation(tmp_path: Path) -> None:
    root = tiny.dataset(tmp_path)
    splits = [build_data(tiny.recipe(root), "train", augment=True), build_data(tiny.recipe(root), "val")]
    first = [[part.dataset[i] for i in range(part.images)] for part in splits]
    for file in root.rglob("*.png"):
        file.unlink()
    for part, before in zip(splits, first, strict=True):
        for i, sample in enumerate(before):
            again = part.dataset[i]
            assert sample is not None
            assert again is not None
            assert torch.equal(sample.pixels, again.pixels)


def test_a_folder_named_by_hand_that_is_not_there_is_one_line(root: Path) -> None:
    named = {"images": str(root / "none"), "annotations": str(root / "annotations/instances_val.json")}
    with pytest.raises(DataError) as caught:
        build_data(tiny.recipe(root, data={"val": named}), "val")
    assert str(caught.value) == f"{root}/none: no such folder of images"


def test_a_dataset_of_ones_own_is_transformed_and_scored_like_any_other() -> None:
    setting = tiny.recipe(None, data={"dataset": "tests.engine.test_build:OwnImages"})
    split = build_data(setting, "val")
    sample = split.dataset[2]
    assert sample is not None
    assert sample.pixels.shape == (3, 32, 40)
    torch.testing.assert_close(sample.targets.boxes, torch.tensor([[12 / 40, 18 / 32, 16 / 40, 24 / 32]]))
    assert split.categories == Categories(("a", "b"), (0, 1))
    truths = split.ground_truth
    assert truths.boxes_xywh.tolist() == [[4, 6, 16, 24]] * 2
    assert truths.category_of.tolist() == [0, 1]
    assert truths.image_ids.tolist() == [0, 1, 2]


def test_the_last_epochs_of_ones_own_dataset_go_without_the_canvas_but_not_without_the_flip() -> None:
    augment = {"policy": "none", "flip": 1.0, "zoom_out": 1.0, "plain_end": 0.5}
    dataset: Any = build_data(
        tiny.recipe(None, data={"dataset": "tests.engine.test_build:OwnImages", "augment": augment}),
        "train",
        augment=True,
    ).dataset
    flipped = torch.tensor([[28 / 40, 18 / 32, 16 / 40, 24 / 32]])
    for is_plain in (True, False, True):
        dataset.set_epoch(0, plain=is_plain)
        assert torch.allclose(dataset[2].targets.boxes, flipped) == is_plain


def test_a_wrong_item_of_ones_own_dataset_is_named() -> None:
    setting = tiny.recipe(None, data={"dataset": "tests.engine.test_build:BadImages"})
    with pytest.raises(DataError, match=r"^data\.dataset: item 1: a label is outside 0 to 1$"):
        build_data(setting, "train").dataset[1]


def test_odd_boxes_of_ones_own_dataset_are_clipped_or_left_out_and_counted() -> None:
    split = build_data(tiny.recipe(None, data={"dataset": "tests.engine.test_build:OddBoxes"}), "train", augment=True)
    for sample in (split.dataset[0], split.dataset[2]):
        assert sample is not None
        assert sample.targets.labels.tolist() == [0, 1]
        torch.testing.assert_close(
            sample.targets.boxes, torch.tensor([[12 / 40, 18 / 32, 16 / 40, 24 / 32], [0.5, 18 / 32, 1, 24 / 32]])
        )
    assert split.first(1).found_on_reading() == (
        "boxes that are not finite or have no area inside the image, left out of training: 8",
        "boxes that leave their image, clipped in training: 2",
    )
    truths = split.first(1).ground_truth
    assert truths.boxes_xywh.tolist() == [[4, 6, 16, 24], [-4, 6, 54, 24], [60, 6, 10, 24]] * 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("OnlyTraining", "cannot be built as OnlyTraining(root=None, split=val): 'no val'"),
        (
            "Unnamed",
            "cannot be built as Unnamed(root=None, split=val): "
            "Unnamed.__init__() got an unexpected keyword argument 'root'",
        ),
        ("TrainingOrder", "is not a subclass of torch.utils.data.dataset.Dataset"),
    ],
)
def test_a_dataset_of_ones_own_that_cannot_be_built_is_one_line(name: str, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        build_data(tiny.recipe(None, data={"dataset": f"tests.engine.test_build:{name}"}), "val")
    assert str(caught.value) == f"data.dataset: tests.engine.test_build:{name}: {reason}"


def checkpoint(setting: Recipe) -> Checkpoint:
    categories = Categories(("a", "b"), (1, 2))
    return Checkpoint(setting, categories, build_learner(setting, categories).network.state_dict())


def test_parts_named_by_a_checkpoint_are_imported_only_when_trusted() -> None:
    found = checkpoint(tiny.recipe(None, data={"dataset": "evil:Data"}))
    with pytest.raises(CheckpointError) as caught:
        learner_from(found)
    assert str(caught.value) == (
        "this checkpoint wants to import tests.engine.tiny:TinyBackbone, which can run any code: "
        "add --trust if you know it"
    )
    learner = learner_from(found, trust=True)
    assert all(torch.equal(a, b) for a, b in zip(learner.network.state_dict().values(), found.weights.values()))


def test_evaluation_names_the_files_that_it_could_not_read(tmp_path: Path) -> None:
    cut = tiny.dataset(tmp_path) / "images" / "val" / "2.png"
    cut.write_bytes(cut.read_bytes()[:1000])  # its header is whole, so that only reading it finds this
    setting, categories = tiny.recipe(tmp_path, data={"broken_images": "skip"}), Categories(("dark", "light"), (1, 6))
    save(Checkpoint(setting, categories, build_learner(setting, categories).network.state_dict()), tmp_path / "c.pt")
    for limit, notes in ((None, (f"image files that could not be read, left out of the scores: 1 ({cut})",)), (2, ())):
        assert evaluate_checkpoint(tmp_path / "c.pt", limit=limit, device="cpu", trust=True).notes == notes


def test_a_dataset_class_named_by_a_checkpoint_is_not_imported_by_evaluation_either(tmp_path: Path) -> None:
    save(checkpoint(tiny.recipe(None, data={"dataset": "evil:Data"})), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"^this checkpoint wants to import .*evil:Data, which can run any code"):
        evaluate_checkpoint(tmp_path / "c.pt", device="cpu")


def test_a_dataset_class_that_is_not_imported_needs_no_trust(root: Path) -> None:
    shipped = {"backbone": {"name": "resnet10"}}
    setting = tiny.recipe(None, model=shipped, data={"dataset": "evil:Data"})
    categories = Categories(("dark", "light"), (1, 6))
    save(Checkpoint(setting, categories, build_learner(setting, categories).network.state_dict()), root / "c.pt")
    load(root / "c.pt", device="cpu")
    assert evaluate_checkpoint(root / "c.pt", data=str(root), device="cpu").scores.images == 4


def test_a_recipe_of_shipped_parts_needs_no_trust() -> None:
    assert own_parts(tiny.recipe("data:set", model={"backbone": {"name": "resnet10", "options": {"a": "b:c"}}})) == []


def test_weights_that_do_not_fit_their_recipe_are_one_line() -> None:
    found = checkpoint(tiny.recipe(None))
    other = Checkpoint(tiny.recipe(None, model={"queries": 6}), found.categories, found.weights)
    with pytest.raises(CheckpointError) as caught:
        learner_from(other, trust=True)
    assert str(caught.value).startswith("this checkpoint's weights do not fit its recipe: size mismatch for queries")
    assert "\n" not in str(caught.value)


def test_a_part_that_is_not_there_is_a_plain_error() -> None:
    with pytest.raises(DetrctlError, match=r"^no_such_module:Net: cannot import"):
        build_learner(tiny.recipe(None, model={"backbone": {"name": "no_such_module:Net"}}), Categories(("a",), (1,)))
