import pytest
import torch
from torch import nn

from detrctl.boxes import Cxcywh
from detrctl.families.catalog import FAMILIES
from detrctl.families.learner import Learner
from detrctl.losses.terms import focal_loss_sum, giou_sum, l1_sum
from detrctl.recipe.schema import DabModel, GroupedDenoising, OneStage, Recipe
from detrctl.structures import ImageBatch, Targets

CLASSES = 5
TINY = DabModel(
    backbone=OneStage(name="resnet10", norm="batch", frozen_stages=0),
    width=32,
    heads=4,
    feedforward=64,
    encoder_layers=2,
    decoder_layers=3,
    queries=7,
    dropout=0.0,
)
DENOISING = TINY.model_copy(update={"denoising": GroupedDenoising(kind="grouped", groups=3)})


def build(model: DabModel = TINY, num_classes: int = CLASSES) -> Learner:
    torch.manual_seed(0)
    return FAMILIES["dab"](model, Recipe(model=model).objective, num_classes)


def images() -> ImageBatch:
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    return ImageBatch(pixels, torch.zeros(2, 64, 96, dtype=torch.bool), torch.tensor([[64, 96]] * 2), (1, 2))


def truths(*counts: int) -> tuple[Targets, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(
        Targets(
            torch.randint(0, CLASSES, (count,), generator=generator),
            Cxcywh(torch.rand(count, 4, generator=generator) * 0.3 + 0.2),
        )
        for count in counts
    )


def test_dn_r50_has_exactly_the_official_models_parameters() -> None:
    """Counted on IDEA-Research/DN-DETR's DN-DAB-DETR with 91 classes: all of them, and those that are trained."""
    learner = build(DabModel(denoising=GroupedDenoising(kind="grouped")), num_classes=91)
    assert sum(p.numel() for p in learner.network.parameters()) == 43_694_977
    assert sum(p.numel() for group in learner.parameter_groups().values() for p in group) == 43_472_577


def test_a_recipe_implies_the_published_weights_of_losses() -> None:
    objective = Recipe(model=DabModel()).objective
    assert (objective.kind, objective.class_weight, objective.match.class_weight) == ("focal", 1.0, 2.0)


def test_before_training_boxes_stay_at_the_learned_ones() -> None:
    learner = build().eval()
    anchors = learner.network.queries.boxes.weight.sigmoid()
    for layer in learner.network(images()).layers:
        torch.testing.assert_close(layer.boxes[0], anchors, rtol=1e-4, atol=1e-4)


def test_each_layer_looks_at_the_box_of_the_one_before_read_off_contents_before_the_norm() -> None:
    network = build().network.eval()
    nn.init.normal_(network.decoder.heads.box_head.layers[-1].weight, std=0.5)
    nn.init.normal_(network.decoder.norm.weight)
    looked_at, contents = [], []
    network.decoder.places.register_forward_pre_hook(lambda _, given: looked_at.append(given[3]))
    for layer in network.decoder.layers:
        layer.register_forward_hook(lambda _, __, content: contents.append(content))
    with torch.no_grad():
        network(images())
        for index in (1, 2):
            moved = looked_at[index - 1].logit(eps=1e-3) + network.decoder.heads.box_head(contents[index - 1])
            torch.testing.assert_close(looked_at[index], moved.sigmoid())


@pytest.mark.parametrize(("reference", "reaches"), [("refined", False), ("refined_twice", True)])
def test_a_layers_box_teaches_the_layer_before_if_references_keep_their_gradient(reference: str, reaches: bool) -> None:
    network = build(TINY.model_copy(update={"reference": reference})).network.eval()
    output = network(images())
    moved = network.decoder.heads.box_head.layers[-1].weight
    network.decoder.layers[1].requires_grad_(False)
    first = network.decoder.layers[0].feedforward.linear2.weight
    nn.init.normal_(moved)
    contents = []
    network.decoder.layers[1].register_forward_hook(lambda _, __, content: content.detach())
    network.decoder.layers[0].register_forward_hook(lambda _, __, content: contents.append(content))
    output = network(images())
    (gradient,) = torch.autograd.grad(output.layers[1].boxes.sum(), first, allow_unused=True)
    assert (gradient is not None and bool(gradient.any())) == reaches


def test_encoder_positions_are_weighed_by_contents() -> None:
    encoder = build().network.encoder
    seen = []
    for layer in encoder.layers:
        layer.register_forward_pre_hook(lambda _, given: seen.append(given))
    network = build().network.eval()
    network.encoder = encoder
    tokens = network(images()).memory
    assert len(seen) == 2
    for values, given in seen:
        torch.testing.assert_close(given.position, tokens.position * encoder.scale(values))


@pytest.mark.parametrize(("activation", "slopes"), [("prelu", 2 + 3), ("relu", 0)])
def test_a_prelu_learns_a_slope_per_layer(activation: str, slopes: int) -> None:
    network = build(TINY.model_copy(update={"activation": activation})).network
    assert len([name for name, _ in network.named_parameters() if ".activation." in name]) == slopes


def test_patterns_make_a_query_of_every_box_and_content() -> None:
    model = DENOISING.model_copy(update={"patterns": 2})
    network = build(model).network.eval()
    output = network(images())
    queries, _ = network.denoising(network.queries(output.memory), None)
    anchors, own = network.queries.boxes.weight.sigmoid(), network.denoising.labels.weight[CLASSES]
    assert output.final.boxes.shape == (2, 14, 4)
    for query in range(14):
        torch.testing.assert_close(queries.reference[1, query], anchors[query % 7])
        content = network.queries.patterns.weight[query // 7] + torch.cat([own, torch.zeros(1)])
        torch.testing.assert_close(queries.content[1, query], content)


def test_patterns_go_with_groups_of_queries() -> None:
    network = build(TINY.model_copy(update={"patterns": 2, "query_groups": 3})).network
    memory = network(images()).memory
    many, one = network.train().queries(memory), network.eval().queries(memory)
    assert many.groups == 3
    torch.testing.assert_close(many.reference[:, :14], one.reference)
    assert torch.equal(many.content[:, 28:], one.content)
    torch.testing.assert_close(many.reference[0, 28:35], network.queries.boxes.weight[14:].sigmoid())


def test_reconstruction_counts_noised_truths_alone_and_divides_by_their_number() -> None:
    learner, targets = build(DENOISING).train(), truths(1, 3)
    torch.manual_seed(3)
    output = learner.network(images(), targets)
    losses = learner.criterion(output, targets, learner.counts(targets))
    known, last = output.denoised.known, output.denoised.layers[-1]
    sums = {"class": 0.0, "l1": 0.0, "giou": 0.0}
    copies = [
        (image, group * 3 + truth, truth) for image in (0, 1) for group in range(3) for truth in range((1, 3)[image])
    ]
    assert len(copies) == len(known.assignment) == 12
    for image, query, truth in copies:
        wanted = nn.functional.one_hot(targets[image].labels[truth], CLASSES).float()
        box, true_box = last.boxes[image, query, None], targets[image].boxes[truth, None]
        sums["class"] += focal_loss_sum(last.logits[image, query], wanted, alpha=0.25, gamma=2.0)
        sums["l1"] += l1_sum(box, true_box)
        sums["giou"] += giou_sum(box, true_box)
    ours = {term.name: term.value for term in losses.terms if term.stage == "denoising" and term.layer == 2}
    for name, total in sums.items():
        torch.testing.assert_close(ours[name], total / 12)


def test_a_batch_without_truths_has_no_reconstruction() -> None:
    learner, targets = build(DENOISING).train(), truths(0, 0)
    losses = learner(images(), targets, learner.counts(targets))
    assert {term.stage for term in losses.terms} == {"decoder"}
    losses.total.backward()
    assert learner.network.denoising.labels.weight.grad.any()


def test_label_vectors_belong_to_classes_with_one_more_at_the_end() -> None:
    learner = build(DENOISING)
    assert learner.class_rows()["denoising.labels.weight"] == 1
    assert len(learner.network.denoising.labels.weight) == CLASSES + 1
    assert "denoising.labels.weight" not in build().class_rows()
