"""Statistics of queries by hand on a few boxes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detrctl.boxes import Cxcywh, XyxyPx
from detrctl.inspection.queries import (
    AREA_EDGES,
    CAPTIONS,
    Collector,
    QueryRecords,
    ToldBy,
    area_counts,
    entropy,
    kinds_of,
    learned_contents,
    learned_starts,
    place_counts,
    principal_plane,
    summarise,
    told_by,
)
from detrctl.structures import Assignment, Detections, Predictions, Proposals
from tests.families.test_every_family import VARIANTS, build, two_images

CLASSES = 3


def collect() -> QueryRecords:
    """Two images, three queries. Query 0 has two detections in the first image, 1 none but a match, 2 nothing."""
    collector = Collector(num_classes=CLASSES, least=0.5)
    boxes = torch.tensor([[0.2, 0.4, 0.1, 0.3], [0.5, 0.5, 0.8, 0.2], [0.9, 0.9, 0.1, 0.1]])
    logits = torch.tensor([[3.0, 2.0, -5.0], [-3.0, -1.0, -2.0], [-4.0, -4.0, -3.0]])
    first = Detections(
        scores=torch.tensor([0.95, 0.88, 0.3]),
        labels=torch.tensor([0, 1, 1]),
        boxes=XyxyPx(torch.zeros(3, 4)),
        queries=torch.tensor([0, 0, 1]),
        image_id=7,
    )
    second = replace(first, scores=torch.tensor([0.7, 0.4, 0.3]), image_id=8)
    for found, moved, pairs in ((first, 0.0, ([0, 1], [0, 1])), (second, 0.2, ([0], [0]))):
        here = boxes + torch.tensor([moved, 0.0, 0.0, 0.0])
        queries, truths = (torch.tensor(numbers) for numbers in pairs)
        assignment = Assignment(torch.zeros_like(queries), queries, truths)
        collector.add(Predictions(logits[None], Cxcywh(here[None])), [found], assignment)
    return collector.records()


def test_what_is_kept_and_matched_is_counted_by_query() -> None:
    records = collect()
    assert records.image_ids == (7, 8)
    assert records.kept.tolist() == [[2, 0, 0], [1, 0, 0]]
    assert records.kept_labels.tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert records.matched.tolist() == [[True, True, False], [True, False, False]]
    assert records.labels.tolist() == [[0, 1, 2]] * 2
    np.testing.assert_allclose(records.scores[0], torch.tensor([3.0, -1.0, -3.0]).sigmoid(), rtol=1e-6)
    assert records.most_used == [0, 1, 2]


def test_a_summary_says_means_spreads_and_entropies() -> None:
    used, matched_only, dead = summarise(collect())
    assert (used.detections, used.matched, used.dead) == (3, 2, False)
    assert used.kept.boxes == 2
    assert used.kept.centre == pytest.approx((0.3, 0.4))
    assert used.kept.centre_spread == pytest.approx((0.1, 0.0), abs=1e-7)
    assert used.kept.size == pytest.approx((0.1, 0.3))
    assert used.kept.place_entropy == 1.0  # two cells, once each
    assert used.kept.class_entropy == pytest.approx(-(2 / 3) * np.log2(2 / 3) - (1 / 3) * np.log2(1 / 3))
    assert used.all.classes == (2, 0, 0)
    assert used.all.class_entropy == 0.0
    assert used.kept.kinds == {"small": 2, "wide": 0, "tall": 0, "large": 0}
    assert (matched_only.detections, matched_only.matched, matched_only.dead) == (0, 1, False)
    assert matched_only.kept.centre is None
    assert matched_only.kept.class_entropy is None
    assert matched_only.all.kinds == {"small": 0, "wide": 2, "tall": 0, "large": 0}
    assert dead.dead


def test_entropy_of_even_counts_is_the_logarithm_of_their_number() -> None:
    assert entropy(np.array([5, 5, 5, 5])) == 2.0
    assert entropy(np.array([0, 9])) == 0.0
    assert entropy(np.array([0, 0])) is None


def test_places_are_counted_in_cells_and_outside_ones_at_the_border() -> None:
    counts = place_counts(np.array([[0.0, 0.0], [0.99, 0.01], [1.3, 0.13], [-0.2, 1.0]]))
    assert counts.sum() == 4
    assert (counts[0, 0], counts[0, 7], counts[1, 7], counts[7, 0]) == (1, 1, 1, 1)


def test_kinds_go_by_area_first_and_by_shape_then() -> None:
    sides = np.array([[0.1, 0.3], [0.75, 0.5], [0.6, 0.401], [0.3, 0.9], [0.2, 0.2], [0.19, 0.2]])
    boxes = np.concatenate([np.full_like(sides, 0.5), sides], axis=1)
    assert kinds_of(boxes).tolist() == ["small", "wide", "large", "tall", "large", "small"]


@pytest.mark.parametrize("name", VARIANTS)
def test_it_is_told_what_a_query_is_and_where_it_starts(name: str) -> None:
    network = build(name).eval().network
    kind = told_by(network)
    proposed = "two-stage" in name or "dino" in name
    assert kind == ("slot" if not proposed else "rank" if "two-stage" in name else "rank and content")
    assert CAPTIONS[kind]
    assert (learned_contents(network) is not None) == ("dino" in name)
    starts = learned_starts(network)
    if proposed or name.startswith("detr"):
        assert starts is None
        return
    assert starts is not None
    with torch.no_grad():
        real = network.queries(network.encoder(network.neck(network.backbone(two_images()), two_images().is_padding)))
    np.testing.assert_allclose(starts, real.reference[1], atol=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("deformable two-stage", "rank"), ("dino", "rank and content")])
def test_distinct_proposals_are_said_to_come_before_repetitions(name: str, kind: ToldBy) -> None:
    distinct = told_by(build(name, proposal_nms=0.8).network)
    assert distinct == f"distinct {kind}"
    added = " Repetitions of better proposals (IoU above model.proposal_nms) rank after all others."
    assert CAPTIONS[distinct].replace(added, "") == CAPTIONS[kind] != CAPTIONS[distinct]


def test_the_principal_plane_holds_vectors_that_lie_in_a_plane() -> None:
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(2, 6))
    vectors = generator.normal(size=(9, 2)) @ plane + 5
    places, share = principal_plane(vectors)
    assert share == pytest.approx(1)
    distance = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)  # noqa: E731
    np.testing.assert_allclose(distance(places), distance(vectors), atol=1e-9)


def test_areas_are_counted_four_to_a_power_of_ten_and_beyond_the_ends_in_the_outer_ones() -> None:
    sides = np.array([[0.001, 0.001], [0.1, 0.1], [0.125, 0.1], [1.2, 1.2], [0.0, 0.5]])
    counts = area_counts(np.concatenate([np.full_like(sides, 0.5), sides], axis=1))
    assert len(counts) == len(AREA_EDGES) - 1 == 16
    assert (counts[0], counts[8], counts[-1], sum(counts)) == (2, 2, 1, 5)  # areas of 0.01 and 0.0125 share one


def test_images_with_fewer_queries_count_for_those_that_they_have() -> None:
    """As in two stages, where an image has no more queries than tokens."""
    collector = Collector(num_classes=2, least=0.5)
    nothing = torch.zeros(0, dtype=torch.int64)
    for image_id, queries in ((1, 2), (2, 3)):
        boxes = Cxcywh(torch.full((1, queries, 4), 0.1 * image_id))
        logits = torch.full((1, queries, 2), float(image_id))
        proposals = Proposals(Predictions(logits, boxes), torch.arange(queries)[None])
        found = Detections(
            torch.tensor([0.9]), torch.tensor([1]), XyxyPx(torch.zeros(1, 4)), torch.tensor([1]), image_id
        )
        added = collector.add(Predictions(logits, boxes), [found], Assignment(nothing, nothing, nothing), proposals)
        assert added == image_id
    records = collector.records()
    assert records.is_there.tolist() == [[True, True, False], [True, True, True]]
    one, two = (torch.tensor(number).sigmoid().item() for number in (1.0, 2.0))
    np.testing.assert_allclose(records.mean_scores, [(one + two) / 2, (one + two) / 2, two], rtol=1e-6)
    assert records.kept_labels.tolist() == [[0, 0], [0, 2], [0, 0]]
    summaries = summarise(records)
    assert [summary.all.boxes for summary in summaries] == [2, 2, 1]
    assert [sum(summary.all.classes) for summary in summaries] == [2, 2, 1]
    assert summaries[2].all.centre == pytest.approx((0.2, 0.2))
    proposed = records.proposals_of(2)
    assert proposed is not None
    np.testing.assert_allclose(proposed, np.full((1, 4), 0.2), rtol=1e-6)
    assert records.most_used == [1, 2, 0]


def test_the_most_used_have_most_detections_then_most_matches_then_the_best_scores() -> None:
    zeros = np.zeros((1, 4))
    records = QueryRecords(
        image_ids=(1,),
        boxes=np.zeros((1, 4, 4)),
        scores=np.array([[0.1, 0.2, 0.3, 0.4]]),
        labels=zeros.astype(int),
        kept=np.array([[0, 1, 0, 0]]),
        kept_labels=np.zeros((4, 1), dtype=int),
        matched=np.array([[True, False, False, False]]),
    )
    assert records.most_used == [1, 0, 3, 2]
