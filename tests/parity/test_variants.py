"""Whole models against the official implementations: outputs, detections, matches, losses and gradients."""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detrctl.families.catalog import FAMILIES
from detrctl.families.learner import Learner
from detrctl.losses.classification import FocalClassification
from detrctl.losses.criterion import Criterion
from detrctl.losses.plan import Meeting
from detrctl.model.denoising import GroupedDenoising
from detrctl.model.proposals import preset_boxes
from detrctl.structures import DetectorOutput, LossTerm, Tokens
from detrctl.weights.official import (
    conditional_sections,
    deformable_names,
    deformable_sections,
    detr_sections,
    dino_names,
    dino_sections,
    dn_dab_sections,
)
from detrctl.weights.tables import CONDITIONAL, DAB, DETR, Table, our_name

from .fixture import NO_PAIRS, STORED, Fixture, Ledger, StoredNoise, fitted, folders, sample, truths_in_order
from .gradients import compare_gradients
from .tally import PROPERTY


@dataclass(frozen=True)
class Project:
    """How one official repository's build arguments and parameter names become ours, and what it calls losses."""

    sections: Callable[[dict[str, Any]], tuple[Any, Any]]
    names: Callable[[Any], Table]
    encoder: str = "{}_enc"
    denoising: str = "{}_dn"


PROJECTS = {
    "facebookresearch/detr": Project(detr_sections, lambda _: DETR),
    "IDEA-Research/DN-DETR": Project(dn_dab_sections, lambda _: DAB, denoising="tgt_{}"),
    "Atten4Vis/ConditionalDETR": Project(conditional_sections, lambda _: CONDITIONAL),
    "fundamentalvision/Deformable-DETR": Project(deformable_sections, deformable_names),
    "IDEA-Research/DINO": Project(dino_sections, dino_names, encoder="{}_interm"),
}
LABELS = "denoising.labels.weight"
FP32_REACH = 10.0
"""How many tolerances fp32 may be off where fp64 is within one."""
LOSS_NAMES = {"class": "loss_ce", "l1": "loss_bbox", "giou": "loss_giou"}


def variants() -> list[Any]:
    found = []
    for folder in folders():
        for path in sorted(folder.glob("*.json")):
            if not path.name.startswith("unit_"):
                origin = "stored" if folder == STORED else "full"
                found.append(pytest.param(Fixture(path), id=f"{origin}-{path.stem}"))
    return found


def build(fixture: Fixture) -> tuple[Learner, dict[str, str]]:
    """The learner under the fixture's weights, and official names -> ours."""
    repository = fixture.json["official_repository"]
    assert repository in PROJECTS, f"{repository}: no such project is known here"
    project = PROJECTS[repository]
    model, objective = project.sections(fixture.json["build_arguments"])
    learner = FAMILIES[model.family](model, objective, fixture.json["num_classes"])
    table = project.names(model)
    names = {key: our_name(key, table) for key in fixture.json["state_dict"]}
    unknown = [key for key, name in names.items() if name is None]
    assert not unknown, f"no name for {unknown}"
    weights = {name: torch.from_numpy(fixture.weight(key)) for key, name in names.items()}
    learner.network.load_state_dict(with_labels_of(learner, weights))
    return learner, names


def with_labels_of(learner: Learner, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINO's book of labels cut or filled up to the rows that our model has, with NaN, which no comparison would pass.

    It has dn_labelbook_size + 1 rows, whatever the number of classes, and is there without denoising, too.
    """
    if LABELS not in weights or isinstance(learner.network.denoising, GroupedDenoising):
        return weights
    rest = {name: value for name, value in weights.items() if name != LABELS}
    ours = learner.network.state_dict().get(LABELS)
    return rest if ours is None else {**rest, LABELS: fitted(weights[LABELS], len(ours), math.nan)}


def held(fixture: Fixture) -> set[str]:
    names = set(fixture.arrays)
    for case, content in fixture.json["cases"].items():
        names |= {f"{case}.losses.{name}" for name in content["losses"]}
        names |= {f"{case}.{name}" for name in ("total", "total_grad_norm") if name in content}
    return names


@pytest.mark.parametrize("fixture", variants())
def test_what_there_is_and_what_is_trained_and_how_matching_weighs_are_the_official_ones(fixture: Fixture) -> None:
    learner, names = build(fixture)
    parameters, told = dict(learner.network.named_parameters()), fixture.json
    book = next((key for key, name in names.items() if name == LABELS), None)
    ours = parameters[LABELS].numel() if LABELS in parameters else 0
    more = 0 if book is None else ours - fixture.weight(book).size  # see `with_labels_of`
    trained = [value.numel() for value in parameters.values() if value.requires_grad]
    if "number_of_parameters" in told:
        assert sum(value.numel() for value in parameters.values()) == told["number_of_parameters"] + more
    if "number_of_trainable_parameters" in told:
        assert sum(trained) == told["number_of_trainable_parameters"] + more
    if "frozen_parameters" in told:
        still = {name for name, value in parameters.items() if not value.requires_grad}
        assert still == {names[key] for key in told["frozen_parameters"]}
    if "matcher_cost" in told:
        assert isinstance(learner.criterion, Criterion)
        matcher, cost = learner.criterion.plan.matcher, told["matcher_cost"]
        expected = (cost["cost_class"], cost["cost_bbox"], cost["cost_giou"])
        assert (matcher.class_weight, matcher.l1, matcher.giou) == expected


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fixture", variants())
def test_a_model_under_official_weights_gives_the_official_numbers(
    fixture: Fixture, record_property: Callable[[str, object], None]
) -> None:
    ledger = Ledger(held(fixture))
    compare(fixture, ledger)
    ledger.settle()
    record_property(PROPERTY, asdict(ledger.tally))


def compare(fixture: Fixture, ledger: Ledger) -> None:
    learner, names = build(fixture)
    settle_near_ties(fixture, learner)
    in_either_precision(fixture, learner, ledger, partial(compare_evaluation, learner=learner, ledger=ledger))
    for case in fixture.json["cases"]:
        training = partial(compare_training, learner=learner, case=case, ledger=ledger)
        in_either_precision(fixture, learner, ledger, training)
        compare_gradients(fixture, learner, names, case, ledger)


def settle_near_ties(fixture: Fixture, learner: Learner) -> None:
    """Proposals whose scores differ by less than rounding come in the official order; query k takes the k-th of them.

    No score moves by more than its tolerance, and none of those that the official code chose is exchanged for another.
    """
    if "eval.enc_topk_index" not in fixture.arrays:
        return
    official, proposals = torch.from_numpy(fixture.arrays["eval.enc_topk_index"]), learner.network.queries.proposals
    rank, noise = proposals.rank, fixture.noise("eval.enc_topk_score")

    def settled(logits: Tensor) -> Tensor:
        scores = rank(logits)
        chosen = scores.gather(1, official)
        ordered = chosen.sort(dim=1, descending=True).values
        assert (ordered - chosen).abs().max() <= max(10 * noise, 1e-5 * chosen.abs().max().item())
        return scores.scatter(1, official, ordered)

    proposals.rank = settled


def in_either_precision(
    fixture: Fixture, learner: torch.nn.Module, ledger: Ledger, compare: Callable[[Fixture], None]
) -> None:
    """In fp32; if some numbers are off there by more than one tolerance, but by no more than FP32_REACH, also in fp64.

    There every number has to be within one. The kernels of this processor round in another way than the official run's,
    and a query that divides by a width near zero magnifies that; what the files state as noise is a single draw of it.
    In fp64 ours have no such noise, on any processor, and the tolerance holds for the formulas alone.
    """
    with ledger.reaching(FP32_REACH) as missed:
        compare(fixture)
    if missed:
        learner.double()
        compare(replace(fixture, precision=torch.float64))
        learner.float()


def compare_evaluation(fixture: Fixture, learner: Learner, ledger: Ledger) -> None:
    """Outputs in evaluation mode, from the backbone to the detections."""
    arrays, network = fixture.arrays, learner.network.eval()
    images = fixture.images()
    with torch.no_grad():
        features = network.backbone(images)
        tokens = network.neck(features, images.is_padding)
        output = network(images)
        detections = learner.eval().detect(images)

    def close(name: str, actual: Tensor) -> None:
        if f"eval.{name}" in arrays:
            ledger.close(f"eval.{name}", actual, arrays[f"eval.{name}"], noise=fixture.noise(f"eval.{name}"))

    close("pred_logits", output.final.logits)
    close("pred_boxes", output.final.boxes)
    close("aux_logits", before_the_last([layer.logits for layer in output.layers]))
    close("aux_boxes", before_the_last([layer.boxes for layer in output.layers]))
    for index, feature in enumerate(features):
        close(f"feat{index}_sample", sample(feature.values))
    for index, projected in enumerate(per_level(tokens, tokens.values)):
        close(f"proj{index}_sample", sample(projected))
    for index, position in enumerate(per_level(tokens, without_level(network.neck, tokens))):
        close(f"pos{index}_sample", sample(position))
    compare_memory(fixture, output.memory, ledger)
    compare_proposals(fixture, output, ledger)
    if "eval.det_scores" in arrays:
        count = arrays["eval.det_scores"].shape[1]
        close("det_scores", torch.stack([found.scores[:count] for found in detections]))
        close("det_boxes", torch.stack([found.boxes[:count] for found in detections]))
        ledger.equal("eval.det_labels", torch.stack([d.labels[:count] for d in detections]), arrays["eval.det_labels"])
        ledger.equal("eval.det_count", np.array([len(found) for found in detections]), arrays["eval.det_count"])


def before_the_last(layers: Sequence[Tensor]) -> Tensor:
    """L x (B, Q, .) -> (L - 1, B, 10, .), the first ten queries; with one layer nothing, (0, B, 10, .)"""
    return torch.stack([layer[:, :10] for layer in layers])[:-1]


def compare_memory(fixture: Fixture, memory: Tokens, ledger: Ledger) -> None:
    arrays = fixture.arrays
    if "eval.memory" not in arrays:
        return
    tokens, is_padding = arrays["eval.memory_tokens"], arrays["eval.memory_is_padding"]
    ledger.take("eval.memory_tokens")
    ledger.equal("eval.level_shapes", np.array(memory.level_shapes), arrays["eval.level_shapes"])
    ledger.equal("eval.memory_is_padding", memory.is_padding[:, tokens], is_padding)
    ours, theirs = memory.values[:, tokens].numpy()[~is_padding], arrays["eval.memory"][~is_padding]
    ledger.close("eval.memory", ours, theirs, noise=fixture.noise("eval.memory"))


def without_level(neck: Any, tokens: Tokens) -> Tensor:
    """Positions before the level's embedding is added, as the files hold them."""
    if neck.level_embedding is None:
        return tokens.position
    sizes = torch.tensor([height * width for height, width in tokens.level_shapes])
    return tokens.position - neck.level_embedding.weight.repeat_interleave(sizes, dim=0)


def stored_noise(fixture: Fixture, case: str, ledger: Ledger) -> StoredNoise:
    names = [draw["array"] for draw in fixture.json["cases"][case]["draws"]]
    ledger.take(*names)
    return StoredNoise([fixture.arrays[name] for name in names])


def compare_denoising(fixture: Fixture, learner: Learner, output: DetectorOutput, case: str, ledger: Ledger) -> None:
    """The prepared queries and their mask, and what the decoder makes of them."""
    arrays, content = fixture.arrays, fixture.json["cases"][case]
    with torch.no_grad():
        network, images = learner.network, fixture.images()
        memory = network.encoder(network.neck(network.backbone(images), images.is_padding))
        queries, known = network.denoising(network.queries(memory), fixture.targets(case))
    assert (known.size if known else 0) == content.get("pad_size", 0)
    if known is not None:
        assert known.groups == content["num_dn_group"]

    def close(name: str, actual: Tensor) -> None:
        if f"{case}.{name}" in arrays:
            ledger.close(f"{case}.{name}", actual, arrays[f"{case}.{name}"], noise=fixture.noise(f"main.{name}"))

    size = content["pad_size"]
    close("dn_query_label", queries.content[:, :size])
    if f"{case}.dn_query_bbox" in arrays:  # stored as logits, which near 0 and 1 magnify what a fraction rounds away
        stored_boxes = torch.from_numpy(arrays[f"{case}.dn_query_bbox"]).sigmoid().numpy()
        ledger.close(f"{case}.dn_query_bbox", queries.reference[:, :size], stored_boxes, noise=0.0)
    if f"{case}.attn_mask_packbits" in arrays:
        shape = content["attn_mask_shape"]
        stored = np.unpackbits(arrays[f"{case}.attn_mask_packbits"])[: np.prod(shape)].reshape(shape).astype(bool)
        blocked = torch.zeros(shape, dtype=torch.bool) if queries.blocked is None else queries.blocked
        ledger.equal(f"{case}.attn_mask_packbits", blocked, stored)
    if f"{case}.dn_known_indice" in arrays:
        targets, pairs = fixture.targets(case), known.assignment if known else NO_PAIRS
        ledger.equal(f"{case}.dn_known_indice", truths_in_order(targets, pairs), arrays[f"{case}.dn_known_indice"])
        ledger.equal(f"{case}.dn_batch_idx", pairs.image[: sum(map(len, targets))], arrays[f"{case}.dn_batch_idx"])
        ledger.equal(f"{case}.dn_map_known_indice", pairs.query, arrays[f"{case}.dn_map_known_indice"])
    if output.denoised:
        close("dn_pred_logits", output.denoised.layers[-1].logits)
        close("dn_pred_boxes", output.denoised.layers[-1].boxes)
        close("dn_aux_boxes", before_the_last([layer.boxes for layer in output.denoised.layers]))


def compare_training_outputs(fixture: Fixture, output: DetectorOutput, case: str, ledger: Ledger) -> None:
    """What becomes of the model's own queries."""
    found = {"pred_logits_first20": output.final.logits[:, :20], "pred_boxes": output.final.boxes}
    for name, actual in found.items():
        if f"{case}.{name}" in fixture.arrays:
            stored, noise = fixture.arrays[f"{case}.{name}"], fixture.noise(f"main.{name}")
            ledger.close(f"{case}.{name}", actual, stored, noise=noise)
    if f"{case}.enc_topk_index" in fixture.arrays:
        assert output.proposals is not None
        ledger.equal(f"{case}.enc_topk_index", output.proposals.selected, fixture.arrays[f"{case}.enc_topk_index"])


def compare_proposals(fixture: Fixture, output: DetectorOutput, ledger: Ledger) -> None:
    """What a two-stage model's encoder proposes, and which proposals it takes."""
    arrays = fixture.arrays
    if "eval.enc_topk_index" not in arrays:
        return
    assert output.proposals is not None
    best, every = output.proposals.best(), output.proposals.all
    ledger.equal("eval.enc_topk_index", output.proposals.selected, arrays["eval.enc_topk_index"])
    scores = best.logits[..., 0] if "eval.enc_logits_sample" in arrays else best.logits.max(-1).values
    found = {"enc_topk_score": scores, "enc_topk_boxes": best.boxes}
    if "eval.enc_logits_sample" in arrays:
        at = arrays["eval.enc_logits_sample_tokens"]
        ledger.take("eval.enc_logits_sample_tokens")
        found |= {"enc_logits_sample": every.logits[:, at], "enc_boxes_sample": every.boxes[:, at]}
    if "eval.enc_topk_logits_first50" in arrays:
        anchors, is_usable = preset_boxes(output.memory)
        first = anchors.where(is_usable[..., None], 1.0).gather(
            1, output.proposals.selected[:, :50, None].expand(-1, -1, 4)
        )
        found |= {"enc_topk_logits_first50": best.logits[:, :50], "enc_topk_initial_proposals_first50": first}
    for name, actual in found.items():
        ledger.close(f"eval.{name}", actual, arrays[f"eval.{name}"], noise=fixture.noise(f"eval.{name}"))


def per_level(tokens: Tokens, values: Tensor) -> list[Tensor]:
    """(B, S, D) -> L x (B, D, h, w)"""
    sizes = [height * width for height, width in tokens.level_shapes]
    levels = values.split(sizes, dim=1)
    return [level.transpose(1, 2).unflatten(2, shape) for level, shape in zip(levels, tokens.level_shapes, strict=True)]


def compare_training(fixture: Fixture, learner: Learner, case: str, ledger: Ledger) -> None:
    """Matches, outputs and losses in training mode."""
    images, targets = fixture.images(), fixture.targets(case)
    ledger.take(*(name for name in fixture.arrays if re.match(rf"{case}\.target_(boxes|labels)\d+$", name)))
    if "draws" in fixture.json["cases"][case]:
        learner.network.denoising.noise = stored_noise(fixture, case, ledger)
    with torch.no_grad():
        output = learner.train().network(images, targets)
        losses = learner.criterion(output, targets, learner.counts(targets))
    meetings = list(learner.criterion.plan(output, targets))
    if f"{case}.match" in fixture.arrays:
        rows = [
            (meeting.layer, *pair)
            for meeting in meetings
            if meeting.stage != "denoising"
            for pair in zip(
                meeting.assignment.image.tolist(),
                meeting.assignment.query.tolist(),
                meeting.assignment.truth.tolist(),
                strict=True,
            )
        ]
        ours = np.array(sorted(rows), dtype=np.int32).reshape(-1, 4)
        theirs = fixture.arrays[f"{case}.match"]
        ledger.equal(f"{case}.match", ours, theirs[np.lexsort(theirs.T[::-1])])
    compare_losses(fixture, learner, meetings, losses.terms, case, ledger)
    compare_training_outputs(fixture, output, case, ledger)
    if "draws" in fixture.json["cases"][case]:
        compare_denoising(fixture, learner, output, case, ledger)
    if "total" in fixture.json["cases"][case]:
        expected, noise = fixture.json["cases"][case]["total"], fixture.noise("main.total")
        ledger.close(f"{case}.total", losses.total.detach(), expected, noise=noise)


def official_name(project: Project, name: str, stage: str, layer: int, last: int) -> str:
    pattern = {"decoder": "{}", "encoder": project.encoder, "denoising": project.denoising}[stage]
    return pattern.format(LOSS_NAMES.get(name, name)) + ("" if layer in (last, -1) else f"_{layer}")


def compare_losses(
    fixture: Fixture,
    learner: Learner,
    meetings: Sequence[Meeting],
    terms: Sequence[LossTerm],
    case: str,
    ledger: Ledger,
) -> None:
    content, noise = fixture.json["cases"][case], fixture.noise("main.losses.max_abs")
    project = PROJECTS[fixture.json["official_repository"]]
    last = max(meeting.layer for meeting in meetings)
    ours = {official_name(project, term.name, term.stage, term.layer, last): term.value for term in terms}
    for meeting in meetings:
        for name, value in logged_only(learner, meeting).items():
            ours[official_name(project, name, meeting.stage, meeting.layer, last)] = value
    for name, expected in content["losses"].items():
        if name not in ours:  # where nothing is denoised, official code logs zeros
            assert project.denoising.format("") in name, name
            assert not any(meeting.stage == "denoising" for meeting in meetings), name
            assert expected == 0, name
        ledger.close(f"{case}.losses.{name}", ours.get(name, torch.zeros(())).detach(), expected, noise=noise)
    weights = {
        official_name(project, term.name, term.stage, term.layer, last): term.weight for term in terms if term.weight
    }
    # Deformable DETR's list of weights has the encoder's even where there is no such loss.
    assert weights == {name: w for name, w in fixture.json["loss_weights"].items() if name in ours}


def logged_only(learner: Learner, meeting: Meeting) -> dict[str, Tensor]:
    """Numbers that the official code of sigmoid models logs and we do not, made here from our predictions.

    `cardinality_error` counts a query as an object unless its best class is the last one, which means nothing here;
    `loss_xy` and `loss_hw` are the two halves of the L1 loss.
    """
    if not isinstance(learner.criterion.classification, FocalClassification):
        return {}
    logits = meeting.predictions.logits
    objects = (logits.argmax(-1) != logits.shape[-1] - 1).sum(1)
    truths = torch.tensor([len(truth) for truth in meeting.targets])
    pairs = meeting.assignment
    boxes = torch.cat([truth.boxes for truth in meeting.targets])
    starts = torch.tensor([0, *(len(truth) for truth in meeting.targets)]).cumsum(0)
    off = (meeting.predictions.boxes[pairs.image, pairs.query] - boxes[starts[pairs.image] + pairs.truth]).abs()
    count = max(len(boxes), 1) * meeting.repeats
    return {
        "cardinality_error": (objects - truths).abs().float().mean(),
        "loss_xy": off[:, :2].sum() / count,
        "loss_hw": off[:, 2:].sum() / count,
    }


def test_the_full_folder_is_compared_where_it_is_named() -> None:
    named = os.environ.get("DETRCTL_PARITY")
    if not named:
        pytest.skip("DETRCTL_PARITY names no folder, so only the numbers kept in the project were compared")
    assert Path(named).is_dir(), f"DETRCTL_PARITY={named} is not a folder"
    assert any(param.id.startswith("full-") for param in variants()), f"{named} holds no variant"
