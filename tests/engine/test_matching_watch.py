"""While a learner is evaluated its matching is noted: the one that inspecting finds, and without another pass."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detrctl.engine.build import DataSplit, build_data, build_learner, evaluation_loader
from detrctl.engine.distributed import Alone
from detrctl.engine.evaluate import detect_all
from detrctl.engine.matching_watch import MatchingWatch, to_classes
from detrctl.families.learner import Learner
from detrctl.inspection.matching import NOBODY, match_batch
from detrctl.losses.criterion import Criterion
from detrctl.recipe.schema import Recipe
from detrctl.structures import Batch, Categories
from tests.engine import tiny
from tests.families.test_every_family import build, truths, two_images
from tests.families.test_faster_rcnn import build as faster_rcnn_learner

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"), val=5)


def parts(setting: Recipe) -> tuple[Learner, DataSplit]:
    torch.manual_seed(0)
    split = build_data(setting, "val")
    return build_learner(setting, split.categories), split


def loader(split: DataSplit):
    return evaluation_loader(split.dataset, batch_size=2, workers=0, device=CPU, processes=Alone())


@pytest.mark.parametrize("queries", [5, 1])
def test_it_is_the_last_layers_matching_of_every_image(root: Path, queries: int) -> None:
    learner, split = parts(tiny.recipe(root, model={"queries": queries}))
    watch = MatchingWatch(learner, torch.arange(2))
    with watch.on(loader(split)) as watched:
        seen = [found.image_id for _, detections in detect_all(learner, watched, device=CPU) for found in detections]
    noted = watch.read(Alone())
    assert noted is not None
    assert noted.tokens is None
    assert noted.image_ids.tolist() == sorted(seen) == [10, 11, 12, 13, 14]
    assert isinstance(learner.criterion, Criterion)
    expected = []
    with torch.no_grad():
        for batch in loader(split):
            found = match_batch(
                learner.eval().network(batch.images),
                batch.targets,
                batch.images.original_sizes_hw,
                learner.criterion.matcher,
                num_classes=2,
            )
            expected += [query for image in found for query in image.layers[-1].matched.tolist()]
    assert noted.queries.tolist() == expected
    assert noted.truths.tolist() == [1, 2, 1, 2, 1]


def test_the_network_is_asked_once_for_each_batch_and_left_as_it_was(root: Path) -> None:
    learner, split = parts(tiny.recipe(root))
    asked: list[int] = []
    learner.network.register_forward_hook(lambda network, images, output: asked.append(1))
    watch = MatchingWatch(learner, torch.arange(2))
    with watch.on(loader(split)) as watched:
        for _ in detect_all(learner, watched, device=CPU):
            pass
    assert len(asked) == 3
    assert len(learner.network._forward_hooks) == 1


def test_batches_that_could_not_be_read_are_passed_on(root: Path) -> None:
    learner, split = parts(tiny.recipe(root))
    watch = MatchingWatch(learner, torch.arange(2))
    with watch.on([None, next(iter(loader(split))), None]) as watched:
        assert len(list(detect_all(learner, watched, device=CPU))) == 1
    noted = watch.read(Alone())
    assert noted is not None
    assert noted.image_ids.tolist() == [10, 11]


def test_several_processes_put_together_what_each_has_seen(root: Path) -> None:
    class Two(Alone):
        def gather(self, value):
            return [value, {3: (torch.tensor([4]), None)}]

    learner, split = parts(tiny.recipe(root))
    watch = MatchingWatch(learner, torch.arange(2))
    with watch.on(loader(split)) as watched:
        list(detect_all(learner, watched, device=CPU))
    noted = watch.read(Two())
    assert noted is not None
    assert noted.image_ids.tolist() == [3, 10, 11, 12, 13, 14]
    assert int(noted.queries[0]) == 4


def test_in_two_stages_the_tokens_behind_the_queries_are_noted(root: Path) -> None:
    learner = build("deformable two-stage").eval()
    targets = truths(2, 9)  # more than its seven queries
    watch = MatchingWatch(learner, torch.arange(5))
    with watch.on([Batch(two_images(), targets)]) as watched:
        list(detect_all(learner, watched, device=CPU))
    noted = watch.read(Alone())
    assert noted is not None
    assert noted.tokens is not None
    with torch.no_grad():
        proposals = learner.network(two_images()).proposals
    assert proposals is not None
    owners = [0] * 2 + [1] * 9
    for owner, query, token in zip(owners, noted.queries.tolist(), noted.tokens.tolist(), strict=True):
        assert token == (NOBODY if query == NOBODY else int(proposals.selected[owner, query]))
    assert (noted.queries == NOBODY).sum() == 2


def test_faster_rcnn_matches_nothing_and_gives_none() -> None:
    learner = faster_rcnn_learner()
    watch = MatchingWatch(learner, torch.arange(3))
    with watch.on([Batch(two_images(), truths(1, 2))]) as watched:
        assert len(list(detect_all(learner, watched, device=CPU))) == 1
    assert watch.read(Alone()) is None
    assert not learner.network._forward_hooks


def test_labels_of_the_dataset_become_the_learners_classes_by_name() -> None:
    ours = Categories(("light", "dark"), (6, 1))
    assert to_classes(ours, ours).tolist() == [0, 1]
    assert to_classes(ours, Categories(("dark", "odd", "light"), (1, 2, 3))).tolist() == [1, -1, 0]
    alike = Categories(("a", "a"), (1, 2))
    assert to_classes(alike, replace(alike, ids=(3, 4))).tolist() == [0, 1]


def test_classes_in_another_order_are_matched_as_what_they_are(root: Path) -> None:
    """Swapping the classifier's columns together with the labels changes no pair."""
    learner, split = parts(tiny.recipe(root))
    pairs = []
    for classes in (torch.tensor([0, 1]), torch.tensor([1, 0])):
        watch = MatchingWatch(learner, classes)
        with watch.on(loader(split)) as watched:
            list(detect_all(learner, watched, device=CPU))
        noted = watch.read(Alone())
        assert noted is not None
        pairs.append(noted.queries)
        for name, parameter in learner.network.named_parameters():
            if name in learner.class_rows():
                parameter.data[:2] = parameter.data[:2].flip(0)
    assert torch.equal(*pairs)
    # Without telling the watch so, they would be other pairs.
    watch = MatchingWatch(learner, torch.tensor([1, 0]))
    with watch.on(loader(split)) as watched:
        list(detect_all(learner, watched, device=CPU))
    wrong = watch.read(Alone())
    assert wrong is not None
    assert not torch.equal(wrong.queries, pairs[0])
