"""Each rule is broken once and mended by what its own message offers."""

import re

import pytest

from detrctl.errors import RecipeError
from detrctl.recipe.load import load_recipe
from detrctl.recipe.rules import RULES, Level

PRETRAINED = "model.backbone.weights=imagenet"

ERRORS = [
    (
        ["model.family=dino", "model.prediction_heads=per_layer", "model.proposal_heads=decoder"],
        "model.proposal_heads: found proposal_heads decoder with prediction_heads per_layer, so whose is not said; "
        "proposal_heads own or prediction_heads shared would do",
        ["model.proposal_heads=own"],
    ),
    (
        ["model.heads=7"],
        "model.heads: found heads 7 with width 256, a remainder stays; heads 4 or width 280 would do",
        ["model.heads=4"],
    ),
    (
        ["model.width=18", "model.heads=2"],
        "model.width: found width 18 with position.kind sine; a multiple of 4 such as 20 would do",
        ["model.width=20"],
    ),
    (
        ["model.width=9", "model.heads=3", "model.position.kind=learned"],
        "model.width: found width 9 with position.kind learned; an even width such as 12 would do",
        ["model.width=12"],
    ),
    (
        ["model.family=dab", "model.width=90", "model.heads=9", "model.position.kind=learned"],
        "model.width: found width 90 with family dab, whose queries are told their places by sines of coordinates; "
        "a multiple of 4 such as 108 would do",
        ["model.width=108"],
    ),
    (
        [
            "model.family=deformable",
            *("model.query_source=proposals", "model.reference=refined"),
            *("model.width=18", "model.heads=2", "model.position.kind=learned"),
        ],
        "model.width: found width 18 with query_source proposals, whose queries are told their places by sines of "
        "coordinates; a multiple of 4 such as 20 would do",
        ["model.query_source=learned"],
    ),
    (
        ["model.backbone.weights=ImageNet"],
        "model.backbone.weights: found 'ImageNet', which would be read as a file; 'imagenet' would do, "
        "or './ImageNet' if it is a file",
        ["model.backbone.weights=./ImageNet"],
    ),
    (
        ["model.backbone.name=slim_48", "model.backbone.frozen_stages=0"],
        "model.backbone.weights: found weights imagenet with slim_48, for which none are published; "
        "weights none or resnet18 would do",
        ["model.backbone.weights=none", "model.backbone.norm=batch"],
    ),
    (
        ["model.backbone.dilation=true", "model.backbone.name=resnet34"],
        "model.backbone.dilation: found dilation true with resnet34, whose blocks cannot be dilated; "
        "resnet50 or resnet101 would do",
        ["model.backbone.name=resnet101"],
    ),
    (
        ["model.backbone.dilation=true", "model.backbone.stage=4"],
        "model.backbone.dilation: found dilation true with stage 4, but only the last stage is dilated; "
        "stage 5 would do",
        ["model.backbone.stage=5"],
    ),
    (
        ["model.family=deformable", "model.backbone.dilation=true", "model.backbone.stages=[3, 4]"],
        "model.backbone.dilation: found dilation true with stages 3, 4, but only the last stage is dilated; "
        "stage 5 among them would do",
        ["model.backbone.stages=[4, 5]"],
    ),
    (
        ["model.family=dino", "model.smallest_anchor=0.15"],
        "model.smallest_anchor: found smallest_anchor 0.15 with 4 levels, so that the coarsest level's would be 1.2 of "
        "the image and unusable; 0.062 would do",
        ["model.smallest_anchor=0.062"],
    ),
    (
        ["model.family=deformable", "model.query_source=proposals", "model.extra_levels=3"],
        "model.extra_levels: found smallest_anchor 0.05 with 6 levels, so that the coarsest level's would be 1.6 of "
        "the image and unusable; 0.015 would do",
        ["model.query_source=learned"],
    ),
    (
        ["model.family=deformable", "model.proposal_nms=0.8"],
        "model.proposal_nms: found proposal_nms 0.8 with query_source learned, where no proposal becomes a query; "
        "query_source proposals or proposal_nms null would do",
        ["model.query_source=proposals", "model.reference=refined"],
    ),
    (
        ["model.family=deformable", "model.backbone.stages=[5, 3, 5]"],
        "model.backbone.stages: found [5, 3, 5], expected each stage once and the finest first; [3, 5] would do",
        ["model.backbone.stages=[3, 5]"],
    ),
    (
        ["model.backbone.norm=batch", "model.backbone.name=convnext_tiny"],
        "model.backbone.norm: found norm batch with convnext_tiny, which has layer norms and no batch norm; "
        "norm frozen, which says nothing there, or resnet50 would do",
        ["model.backbone.norm=frozen"],
    ),
    (
        ["model.backbone.drop_path=0.2"],
        "model.backbone.drop_path: found drop_path 0.2 with resnet50, which has no stochastic depth; "
        "drop_path 0 or swin_t would do",
        ["model.backbone.name=swin_t"],
    ),
    (
        ["model.backbone.weights=imagenet", "model.backbone.name=mine:Net"],
        "model.backbone.weights: found weights imagenet with mine:Net, whose weights are its own business; "
        "weights none would do",
        ["model.backbone.weights=none"],
    ),
    (
        ["model.backbone.options={depth: 3}"],
        "model.backbone.options: found depth with resnet50, which takes no options; a backbone of your own does",
        ["model.backbone.name=mine:Net", "model.backbone.weights=none"],
    ),
    (
        ["model.family=dab", "objective.kind=focal", "model.query_groups=3", "model.denoising.kind=grouped"],
        "model.query_groups: found query_groups 3 with denoising.kind grouped, which does without; "
        "query_groups 1 or denoising.kind none would do",
        ["model.query_groups=1"],
    ),
    (
        ["model.family=deformable", "model.query_source=proposals", "model.query_groups=2"],
        "model.query_groups: found query_groups 2 with query_source proposals, whose queries are the encoder's; "
        "query_groups 1 would do",
        ["model.query_groups=1"],
    ),
    (
        ["model.family=dino", "model.query_groups=4"],
        "model.query_groups: found query_groups 4 with family dino, whose queries are the encoder's proposals; "
        "query_groups 1 would do",
        ["model.query_groups=1"],
    ),
    (
        ["model.family=faster_rcnn", "model.anchor_sizes=[32, 64]"],
        "model.anchor_sizes: found 2 anchor_sizes for a pyramid of 5 levels; one size for each would do",
        ["model.anchor_sizes=[8, 16, 32, 64, 128]"],
    ),
    (
        ["objective.kind=rcnn"],
        "objective.kind: found kind rcnn with family detr, which is trained with another objective; "
        "kind softmax would do",
        ["objective.kind=softmax"],
    ),
    (
        ["objective.match={class_weight: 0, l1: 0, giou: 0}"],
        "objective.match.class_weight: found class_weight, l1 and giou all 0, so that nothing counts; "
        "one above 0 would do",
        ["objective.match.l1=1"],
    ),
    (
        ["objective.class_weight=0", "objective.l1=0", "objective.giou=0"],
        "objective.class_weight: found class_weight, l1 and giou all 0, so that nothing counts; one above 0 would do",
        ["objective.giou=1"],
    ),
    (
        ["data.root=coco", "data.train={images: a, annotations: b}", "data.val={images: a, annotations: b}"],
        "data.root: found root 'coco' beside both train and val, so that nothing is read from it; "
        "leave one of the three out",
        ["data.root=null"],
    ),
    (
        ["data.dataset=mine:Data", "data.val={images: a, annotations: b}"],
        "data.dataset: found dataset mine:Data beside val, which would not be read; leave dataset or val out",
        ["data.val=null"],
    ),
    (
        ["data.augment.scale=[2, 0.5]"],
        "data.augment.scale: found [2.0, 0.5], expected the smallest scale first; [0.5, 2.0] would do",
        ["data.augment.scale=[0.5, 2.0]"],
    ),
    (
        ["data.augment.crop_size=[380, 300]"],
        "data.augment.crop_size: found [380, 300], expected the smallest side first; [300, 380] would do",
        ["data.augment.crop_size=[300, 380]"],
    ),
    (
        ["data.augment.max_size=640"],
        "data.augment.max_size: found max_size 640 below a shortest side of 800 in sizes; 800 or more would do",
        ["data.augment.max_size=800"],
    ),
    (
        ["data.augment.crop_size=[500, 600]"],
        "data.augment.crop_size: found crop_size from 500, larger than the smallest image to crop (crop_first 400); "
        "400 or less would do",
        ["data.augment.crop_size=[400, 600]"],
    ),
    (
        ["data.eval_max_size=700"],
        "data.eval_max_size: found eval_size 800 above eval_max_size 700; eval_max_size 800 would do",
        ["data.eval_max_size=800"],
    ),
    (
        ["train.epochs=200"],
        "train.epochs: found drop_epochs 200 with epochs 200: that drop never comes; "
        "earlier epochs, [] or schedule.kind constant would do",
        ["train.schedule.kind=constant"],
    ),
    (
        ["train.schedule.drop_epochs=[9, 5, 9]"],
        "train.schedule.drop_epochs: found [9, 5, 9], expected each epoch once and in order; [5, 9] would do",
        ["train.schedule.drop_epochs=[5, 9]"],
    ),
    (
        ["train.accumulate=5"],
        "train.accumulate: found batch_size 16 with accumulate 5, a remainder stays; batch_size 20 would do",
        ["train.batch_size=20", "train.reference_batch_size=20"],
    ),
    (
        ["train.processes=3"],
        "train.processes: found batch_size 16 with processes 3, a remainder stays; batch_size 18 would do",
        ["train.batch_size=18", "train.reference_batch_size=18"],
    ),
    (
        ["train.batch_size=8", "train.reference_batch_size=8", "train.accumulate=4", "train.processes=4"],
        "train.batch_size: found batch_size 8 with accumulate 4 and processes 4, which deal it out to 16 "
        "micro-batches, a remainder stays; batch_size 16 would do",
        ["train.accumulate=2"],
    ),
]

NOTES = [
    (
        ["model.family=dino", "model.denoising.copies=30"],
        "model.denoising.copies: copies 30: below 50 the published rule makes 60 groups of all truths, so 8 truths "
        "become 960 noised queries; copies 50 would make them 96, and 0 none",
        ["model.denoising.copies=50"],
    ),
    (
        ["train.patience=50", "train.eval_every=10"],
        "train.patience: patience 50 never acts: epochs 300 and eval_every 10 give 30 evaluations",
        ["train.patience=29"],
    ),
    (
        ["train.batch_size=4"],
        "train.batch_size: batch_size 4, but the learning rates are stated for 16 and stay as they are; "
        "train.scale_lr sqrt or linear would scale them",
        ["train.scale_lr=sqrt"],
    ),
    (
        ["model.family=deformable", "model.query_source=proposals", "objective.encoder=none"],
        "objective.encoder: encoder none: what proposes boxes and ranks them is never trained, so queries start from "
        "random choices; all_proposals or selected_proposals would train it",
        ["objective.encoder=selected_proposals"],
    ),
    (
        ["model.family=dino", "objective.encoder=none"],
        "objective.encoder: encoder none: what proposes boxes and ranks them is never trained, so queries start from "
        "random choices; all_proposals or selected_proposals would train it",
        ["objective.encoder=all_proposals"],
    ),
    (
        ["data.augment.policy=square"],
        "data.augment.policy: eval_square false with augment.policy square: trained and evaluated on other shapes",
        ["data.eval_square=true"],
    ),
    (
        ["data.augment.sizes=[256, 288]", "data.augment.crop_first=[]"],
        "data.augment.sizes: eval_size 800 is far from the sizes of training, 256 to 288",
        ["data.eval_size=288"],
    ),
]

STARTS = [
    (
        ["model.backbone.weights=none", "model.backbone.frozen_stages=0"],
        "model.backbone.weights: found norm frozen with weights none: random statistics cripple training; norm batch, "
        "weights imagenet, or starting from a checkpoint (--init-from) would do",
        ["model.backbone.norm=batch"],
    ),
    (
        ["model.backbone.weights=none", "model.backbone.norm=batch"],
        "model.backbone.weights: found frozen_stages 2 with weights none: random stages would never train; "
        "frozen_stages 0, weights imagenet, or starting from a checkpoint (--init-from) would do",
        ["model.backbone.frozen_stages=0"],
    ),
    (
        ["train.backbone_lr=0", "model.backbone={weights: none, norm: batch, frozen_stages: 0}"],
        "train.backbone_lr: found backbone_lr 0 with weights none: a random backbone would never train; "
        "a rate above 0, weights imagenet, or starting from a checkpoint (--init-from) would do",
        ["train.backbone_lr=1"],
    ),
]


@pytest.fixture
def report_of(report):
    return lambda overrides: report("evaluate: {score: 0.5}", PRETRAINED, *overrides)


@pytest.mark.parametrize(("broken", "message", "mended"), ERRORS, ids=[case[1].split(":")[0] for case in ERRORS])
def test_a_contradiction_is_named_and_its_cure_works(report_of, write, broken, message, mended):
    assert report_of(broken) == [f"--set: {message}"]
    loaded = load_recipe(write("evaluate: {score: 0.5}"), [PRETRAINED, *broken, *mended])
    assert loaded.notes == ()


@pytest.mark.parametrize(("odd", "message", "mended"), NOTES, ids=[case[1].split(":")[0] for case in NOTES])
def test_a_doubtful_choice_is_noted_and_its_cure_works(write, odd, message, mended):
    name = write("evaluate: {score: 0.5}")
    assert [str(note) for note in load_recipe(name, [PRETRAINED, *odd]).notes] == [f"--set: {message}"]
    assert load_recipe(name, [PRETRAINED, *odd, *mended]).notes == ()


@pytest.mark.parametrize(("broken", "message", "mended"), STARTS, ids=[case[1].split(":")[0] for case in STARTS])
def test_a_start_that_never_trains_its_random_parts_is_named_and_its_cure_works(write, broken, message, mended):
    name = write("evaluate: {score: 0.5}")
    assert [str(problem) for problem in load_recipe(name, broken).start_problems] == [f"--set: {message}"]
    assert load_recipe(name, [*broken, *mended]).start_problems == ()


def test_every_rule_is_broken_above():
    assert len(RULES) == len(ERRORS) + len(NOTES) + len(STARTS)
    assert sum(rule.level is Level.NOTE for rule in RULES) == len(NOTES)
    assert sum(rule.level is Level.START for rule in RULES) == len(STARTS)


@pytest.mark.parametrize("kind", ["sine", "learned"])
@pytest.mark.parametrize("family", ["detr", "dab"])
@pytest.mark.parametrize(("width", "heads"), [(256, 7), (90, 4), (90, 7), (99, 3), (2048, 61)])
def test_a_width_that_is_offered_is_accepted(write, family, kind, width, heads):
    name = write("evaluate: {score: 0.5}")
    chosen = [PRETRAINED, f"model.family={family}", f"model.position.kind={kind}", f"model.heads={heads}"]
    with pytest.raises(RecipeError) as refused:
        load_recipe(name, [*chosen, f"model.width={width}"])
    offered = set(re.findall(r"(?:or width|such as) (\d+) would do", str(refused.value)))
    assert len(offered) == 1
    assert load_recipe(name, [*chosen, f"model.width={offered.pop()}"]).notes == ()


def test_published_defaults_break_no_rule(write):
    loaded = load_recipe(write("model: {backbone: {weights: imagenet}}"))
    assert (loaded.notes, loaded.start_problems) == ((), ())


def test_own_backbones_are_asked_for_no_weights(write):
    assert load_recipe(write("model: {backbone: {name: 'mine:Net'}}")).start_problems == ()


def test_layer_norms_need_no_statistics_from_weights(write):
    recipe = write("model: {backbone: {name: swin_v2_t, frozen_stages: 0}}")
    assert load_recipe(recipe).start_problems == ()


def test_layer_norm_networks_cannot_be_dilated(report_of):
    found = "found dilation true with swin_t, whose blocks cannot be dilated; resnet50 or resnet101 would do"
    assert report_of(["model.backbone.dilation=true", "model.backbone.name=swin_t"]) == [
        f"--set: model.backbone.dilation: {found}"
    ]
