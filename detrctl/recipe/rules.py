"""Fields that are each valid and contradict one another.

Each rule names the fields that it reads and turns their values into a message, or into nothing. A rule is asked only
when all that it reads is valid, so its message stands beside the report on other fields. Rules about fields that a
family does not have are not asked.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from detrctl.recipe.locate import closest
from detrctl.recipe.schema import FAMILIES


class Level(Enum):
    """What a broken rule means."""

    ERROR = "the recipe cannot be meant"
    START = "training from scratch cannot be meant; a checkpoint to start from mends it"
    NOTE = "worth a line before training starts"


@dataclass(frozen=True)
class Rule:
    """`check` gets the values of `reads`, in order, and gives "found ...; ... would do", or None.

    The message names the fields, since it may be reported at any of them.
    """

    reads: tuple[str, ...]
    check: Callable[..., str | None]
    level: Level = Level.ERROR


BACKBONE = "model.backbone"
AUGMENT = "data.augment"
SCHEDULE = "train.schedule"
PYRAMID_LEVELS = 5
LARGEST_ANCHOR = 0.99
"""Preset boxes with a side from here on are not used (Zhu et al. 2021's code)."""
FEWEST_SPREAD_COPIES = 50
"""From here on DINO's copies are shared out among groups (Zhang et al. 2023's code)."""
LAYER_NORM_NETWORKS = ("swin_", "convnext_")
"""What their names begin with."""
UNPUBLISHED_NETWORKS = ("slim_32", "slim_48", "slim_64", "resnet10")
BASIC_BLOCK_NETWORKS = ("slim_32", "slim_48", "slim_64", "resnet10", "resnet18", "resnet34")
COORDINATE_FAMILIES = ("conditional", "dab", "dab_deformable", "dino")
"""Whose queries are told their places by sines of coordinates, whatever tells features theirs."""
WIDEST = 2048
INITIALISED = "weights imagenet, or starting from a checkpoint (--init-from) would do"


def _heads_divide_width(heads: int, width: int) -> str | None:
    if width % heads == 0:
        return None
    fitting = max(count for count in range(1, heads + 1) if width % count == 0)
    return (
        f"found heads {heads} with width {width}, a remainder stays; "
        f"heads {fitting} or width {_fitting_width(width, heads)} would do"
    )


def _fitting_width(width: int, heads: int) -> int:
    """The next one that no rule refuses with these heads, or the widest."""
    step = math.lcm(heads, 4)
    return min(width // step + 1, WIDEST // step) * step


def _sine_width(width: int, kind: str, heads: int) -> str | None:
    if kind != "sine" or width % 4 == 0:
        return None
    return (
        f"found width {width} with position.kind sine; a multiple of 4 such as {_fitting_width(width, heads)} would do"
    )


def _learned_width(width: int, kind: str, heads: int) -> str | None:
    if kind != "learned" or width % 2 == 0:
        return None
    return (
        f"found width {width} with position.kind learned; an even width such as {_fitting_width(width, heads)} would do"
    )


def _family_width(width: int, kind: str, heads: int, family: str) -> str | None:
    if kind == "sine" or family not in COORDINATE_FAMILIES:
        return None
    return _coordinates_width(width, heads, f"family {family}")


def _proposals_width(width: int, kind: str, heads: int, query_source: str) -> str | None:
    if kind == "sine" or query_source != "proposals":
        return None
    return _coordinates_width(width, heads, "query_source proposals")


def _coordinates_width(width: int, heads: int, found: str) -> str | None:
    if width % 4 == 0:
        return None
    return (
        f"found width {width} with {found}, whose queries are told their places by sines of coordinates; "
        f"a multiple of 4 such as {_fitting_width(width, heads)} would do"
    )


def _weights_spelt(weights: str) -> str | None:
    near = closest(weights, ("imagenet", "none"))
    if near is None or near == weights or "/" in weights or "." in weights:
        return None
    return f"found '{weights}', which would be read as a file; '{near}' would do, or './{weights}' if it is a file"


def _weights_published(weights: str, name: str) -> str | None:
    if weights != "imagenet" or name not in UNPUBLISHED_NETWORKS:
        return None
    return f"found weights imagenet with {name}, for which none are published; weights none or resnet18 would do"


def _dilation_network(dilation: bool, name: str) -> str | None:
    if not dilation or not (name in BASIC_BLOCK_NETWORKS or name.startswith(LAYER_NORM_NETWORKS)):
        return None
    return f"found dilation true with {name}, whose blocks cannot be dilated; resnet50 or resnet101 would do"


def _norm_network(norm: str, name: str) -> str | None:
    if norm != "batch" or not name.startswith(LAYER_NORM_NETWORKS):
        return None
    return (
        f"found norm batch with {name}, which has layer norms and no batch norm; "
        "norm frozen, which says nothing there, or resnet50 would do"
    )


def _drop_path_network(drop_path: float, name: str) -> str | None:
    if drop_path == 0 or name.startswith(LAYER_NORM_NETWORKS):
        return None
    return f"found drop_path {drop_path:g} with {name}, which has no stochastic depth; drop_path 0 or swin_t would do"


def _stages_ascend(stages: list[int]) -> str | None:
    in_order = sorted(set(stages))
    if stages == in_order:
        return None
    return f"found {stages}, expected each stage once and the finest first; {in_order} would do"


def _dilation_stage(dilation: bool, stage: int) -> str | None:
    if not dilation or stage == 5:
        return None
    return f"found dilation true with stage {stage}, but only the last stage is dilated; stage 5 would do"


def _dilation_stages(dilation: bool, stages: list[int]) -> str | None:
    if not dilation or 5 in stages:
        return None
    return (
        f"found dilation true with stages {', '.join(map(str, stages))}, but only the last stage is dilated; "
        "stage 5 among them would do"
    )


def _proposals_share(proposal_heads: str, prediction_heads: str) -> str | None:
    if proposal_heads == "own" or prediction_heads == "shared":
        return None
    return (
        f"found proposal_heads {proposal_heads} with prediction_heads {prediction_heads}, so whose is not said; "
        "proposal_heads own or prediction_heads shared would do"
    )


def _groups_are_learned(query_groups: int, query_source: str) -> str | None:
    if query_groups == 1 or query_source == "learned":
        return None
    return (
        f"found query_groups {query_groups} with query_source {query_source}, whose queries are the encoder's; "
        "query_groups 1 would do"
    )


def _groups_have_places(query_groups: int, family: str) -> str | None:
    if query_groups == 1 or family != "dino":
        return None
    return (
        f"found query_groups {query_groups} with family dino, whose queries are the encoder's proposals; "
        "query_groups 1 would do"
    )


def _anchors_fit(smallest_anchor: float, stages: list[int], extra_levels: int, source: str) -> str | None:
    """`source` is what the queries or, where they always come from proposals, what the proposals' heads are."""
    levels = len(stages) + extra_levels
    largest = smallest_anchor * 2.0 ** (levels - 1)
    if source == "learned" or largest < LARGEST_ANCHOR:
        return None
    return (
        f"found smallest_anchor {smallest_anchor:g} with {levels} levels, so that the coarsest level's would be "
        f"{largest:g} of the image and unusable; {LARGEST_ANCHOR / 2**levels:.2g} would do"
    )


def _distinct_are_proposed(proposal_nms: float | None, query_source: str) -> str | None:
    if proposal_nms is None or query_source == "proposals":
        return None
    return (
        f"found proposal_nms {proposal_nms:g} with query_source {query_source}, where no proposal becomes a query; "
        "query_source proposals or proposal_nms null would do"
    )


def _choice_learns(encoder: str, source: str) -> str | None:
    """`source` as for `_anchors_fit`; heads that are the decoder's too learn there."""
    if encoder != "none" or source not in ("proposals", "own"):
        return None
    return (
        "encoder none: what proposes boxes and ranks them is never trained, so queries start from random choices; "
        "all_proposals or selected_proposals would train it"
    )


def _few_copies_are_groups(copies: int) -> str | None:
    if copies == 0 or copies >= FEWEST_SPREAD_COPIES:
        return None
    groups = 2 * copies
    return (
        f"copies {copies}: below {FEWEST_SPREAD_COPIES} the published rule makes {groups} groups of all truths, so "
        f"8 truths become {groups * 16} noised queries; copies {FEWEST_SPREAD_COPIES} would make them 96, and 0 none"
    )


def _options_need_own_backbone(options: dict[str, Any], name: str) -> str | None:
    if not options or ":" in name:
        return None
    return f"found {', '.join(options)} with {name}, which takes no options; a backbone of your own does"


def _own_backbone_loads_its_own(weights: str, name: str) -> str | None:
    if weights == "none" or ":" not in name:
        return None
    return f"found weights {weights} with {name}, whose weights are its own business; weights none would do"


def _frozen_norm(norm: str, weights: str, name: str) -> str | None:
    if norm != "frozen" or weights != "none" or ":" in name or name.startswith(LAYER_NORM_NETWORKS):
        return None
    return f"found norm frozen with weights none: random statistics cripple training; norm batch, {INITIALISED}"


def _frozen_stages(frozen_stages: int, weights: str, name: str) -> str | None:
    if frozen_stages == 0 or weights != "none" or ":" in name:
        return None
    return (
        f"found frozen_stages {frozen_stages} with weights none: random stages would never train; "
        f"frozen_stages 0, {INITIALISED}"
    )


def _frozen_backbone(backbone_lr: float, weights: str, name: str) -> str | None:
    if backbone_lr > 0 or weights != "none" or ":" in name:
        return None
    return f"found backbone_lr 0 with weights none: a random backbone would never train; a rate above 0, {INITIALISED}"


def _ordered(noun: str) -> Callable[[tuple[float, float]], str | None]:
    def check(pair: tuple[float, float]) -> str | None:
        low, high = pair
        if low <= high:
            return None
        return f"found [{low}, {high}], expected the smallest {noun} first; [{high}, {low}] would do"

    return check


def _sizes_fit(sizes: list[int], max_size: int, policy: str) -> str | None:
    if policy != "detr" or max(sizes) <= max_size:
        return None
    return f"found max_size {max_size} below a shortest side of {max(sizes)} in sizes; {max(sizes)} or more would do"


def _crop_fits(crop_size: tuple[int, int], crop_first: list[int], policy: str) -> str | None:
    if policy != "detr" or not crop_first or crop_size[0] <= min(crop_first):
        return None
    return (
        f"found crop_size from {crop_size[0]}, larger than the smallest image to crop (crop_first {min(crop_first)}); "
        f"{min(crop_first)} or less would do"
    )


def _eval_sizes(eval_size: int, eval_max_size: int, eval_square: bool) -> str | None:
    if eval_square or eval_size <= eval_max_size:
        return None
    return f"found eval_size {eval_size} above eval_max_size {eval_max_size}; eval_max_size {eval_size} would do"


def _one_source(root: str | None, train: object, val: object) -> str | None:
    if root is None or train is None or val is None:
        return None
    return f"found root '{root}' beside both train and val, so that nothing is read from it; leave one of the three out"


def _one_dataset(dataset: str | None, train: object, val: object) -> str | None:
    beside = [name for name, split in (("train", train), ("val", val)) if split is not None]
    if dataset is None or not beside:
        return None
    return (
        f"found dataset {dataset} beside {' and '.join(beside)}, which would not be read; "
        f"leave dataset or {' and '.join(beside)} out"
    )


def _drops_come(drop_epochs: list[int], epochs: int, kind: str) -> str | None:
    late = [epoch for epoch in drop_epochs if epoch >= epochs]
    if kind != "step" or not late:
        return None
    return (
        f"found drop_epochs {', '.join(map(str, late))} with epochs {epochs}: that drop never comes; "
        "earlier epochs, [] or schedule.kind constant would do"
    )


def _drops_ascend(drop_epochs: list[int]) -> str | None:
    in_order = sorted(set(drop_epochs))
    if drop_epochs == in_order:
        return None
    return f"found {drop_epochs}, expected each epoch once and in order; {in_order} would do"


def _accumulate_divides(batch_size: int, accumulate: int) -> str | None:
    if batch_size % accumulate == 0:
        return None
    wider = (batch_size // accumulate + 1) * accumulate
    return f"found batch_size {batch_size} with accumulate {accumulate}, a remainder stays; batch_size {wider} would do"


def _processes_divide(batch_size: int, processes: int) -> str | None:
    if batch_size % processes == 0:
        return None
    wider = (batch_size // processes + 1) * processes
    return f"found batch_size {batch_size} with processes {processes}, a remainder stays; batch_size {wider} would do"


def _micro_batches_divide(batch_size: int, accumulate: int, processes: int) -> str | None:
    parts = accumulate * processes
    if batch_size % accumulate or batch_size % processes or batch_size % parts == 0:
        return None
    wider = (batch_size // parts + 1) * parts
    return (
        f"found batch_size {batch_size} with accumulate {accumulate} and processes {processes}, which deal it out to "
        f"{parts} micro-batches, a remainder stays; batch_size {wider} would do"
    )


def _some_weight(class_weight: float, l1: float, giou: float) -> str | None:
    if class_weight or l1 or giou:
        return None
    return "found class_weight, l1 and giou all 0, so that nothing counts; one above 0 would do"


def _objective_fits(kind: str, family: str) -> str | None:
    meant = FAMILIES[family].implied_objective["kind"]
    if kind == meant:
        return None
    return f"found kind {kind} with family {family}, which is trained with another objective; kind {meant} would do"


def _groups_or_denoising(query_groups: int, kind: str) -> str | None:
    if query_groups == 1 or kind == "none":
        return None
    return (
        f"found query_groups {query_groups} with denoising.kind {kind}, which does without; "
        "query_groups 1 or denoising.kind none would do"
    )


def _anchor_levels(anchor_sizes: list[int]) -> str | None:
    if len(anchor_sizes) == PYRAMID_LEVELS:
        return None
    return (
        f"found {len(anchor_sizes)} anchor_sizes for a pyramid of {PYRAMID_LEVELS} levels; one size for each would do"
    )


def _patience_can_act(patience: int, eval_every: int, epochs: int) -> str | None:
    evaluations = -(-epochs // eval_every)
    if patience == 0 or patience < evaluations:
        return None
    return f"patience {patience} never acts: epochs {epochs} and eval_every {eval_every} give {evaluations} evaluations"


def _rates_follow(batch_size: int, reference: int, scale_lr: str) -> str | None:
    if scale_lr != "none" or batch_size == reference:
        return None
    return (
        f"batch_size {batch_size}, but the learning rates are stated for {reference} and stay as they are; "
        "train.scale_lr sqrt or linear would scale them"
    )


def _shapes_agree(eval_square: bool, policy: str) -> str | None:
    if eval_square == (policy == "square") or policy in ("large_scale_jitter", "none"):
        return None
    return f"eval_square {str(eval_square).lower()} with augment.policy {policy}: trained and evaluated on other shapes"


def _scales_agree(eval_size: int, sizes: list[int], policy: str) -> str | None:
    if policy not in ("detr", "square") or min(sizes) / 1.5 <= eval_size <= max(sizes) * 1.5:
        return None
    return f"eval_size {eval_size} is far from the sizes of training, {min(sizes)} to {max(sizes)}"


RULES = (
    Rule(("model.heads", "model.width"), _heads_divide_width),
    Rule(("model.width", "model.position.kind", "model.heads"), _sine_width),
    Rule(("model.width", "model.position.kind", "model.heads"), _learned_width),
    Rule(("model.width", "model.position.kind", "model.heads", "model.family"), _family_width),
    Rule(("model.width", "model.position.kind", "model.heads", "model.query_source"), _proposals_width),
    Rule((f"{BACKBONE}.weights",), _weights_spelt),
    Rule((f"{BACKBONE}.weights", f"{BACKBONE}.name"), _weights_published),
    Rule((f"{BACKBONE}.dilation", f"{BACKBONE}.name"), _dilation_network),
    Rule((f"{BACKBONE}.dilation", f"{BACKBONE}.stage"), _dilation_stage),
    Rule((f"{BACKBONE}.dilation", f"{BACKBONE}.stages"), _dilation_stages),
    Rule((f"{BACKBONE}.stages",), _stages_ascend),
    Rule((f"{BACKBONE}.norm", f"{BACKBONE}.name"), _norm_network),
    Rule((f"{BACKBONE}.drop_path", f"{BACKBONE}.name"), _drop_path_network),
    Rule(("model.proposal_heads", "model.prediction_heads"), _proposals_share),
    Rule(("model.query_groups", "model.query_source"), _groups_are_learned),
    Rule(("model.query_groups", "model.family"), _groups_have_places),
    *(
        Rule(("model.smallest_anchor", f"{BACKBONE}.stages", "model.extra_levels", source), _anchors_fit)
        for source in ("model.query_source", "model.proposal_heads")
    ),
    Rule(("model.proposal_nms", "model.query_source"), _distinct_are_proposed),
    Rule((f"{BACKBONE}.options", f"{BACKBONE}.name"), _options_need_own_backbone),
    Rule((f"{BACKBONE}.weights", f"{BACKBONE}.name"), _own_backbone_loads_its_own),
    Rule((f"{BACKBONE}.norm", f"{BACKBONE}.weights", f"{BACKBONE}.name"), _frozen_norm, Level.START),
    Rule((f"{BACKBONE}.frozen_stages", f"{BACKBONE}.weights", f"{BACKBONE}.name"), _frozen_stages, Level.START),
    Rule(("train.backbone_lr", f"{BACKBONE}.weights", f"{BACKBONE}.name"), _frozen_backbone, Level.START),
    Rule(("model.query_groups", "model.denoising.kind"), _groups_or_denoising),
    Rule(("model.anchor_sizes",), _anchor_levels),
    Rule(("objective.kind", "model.family"), _objective_fits),
    Rule(tuple(f"objective.match.{name}" for name in ("class_weight", "l1", "giou")), _some_weight),
    Rule(tuple(f"objective.{name}" for name in ("class_weight", "l1", "giou")), _some_weight),
    Rule(("data.root", "data.train", "data.val"), _one_source),
    Rule(("data.dataset", "data.train", "data.val"), _one_dataset),
    Rule((f"{AUGMENT}.crop_size",), _ordered("side")),
    Rule((f"{AUGMENT}.scale",), _ordered("scale")),
    Rule((f"{AUGMENT}.sizes", f"{AUGMENT}.max_size", f"{AUGMENT}.policy"), _sizes_fit),
    Rule((f"{AUGMENT}.crop_size", f"{AUGMENT}.crop_first", f"{AUGMENT}.policy"), _crop_fits),
    Rule(("data.eval_size", "data.eval_max_size", "data.eval_square"), _eval_sizes),
    Rule((f"{SCHEDULE}.drop_epochs", "train.epochs", f"{SCHEDULE}.kind"), _drops_come),
    Rule((f"{SCHEDULE}.drop_epochs",), _drops_ascend),
    Rule(("train.batch_size", "train.accumulate"), _accumulate_divides),
    Rule(("train.batch_size", "train.processes"), _processes_divide),
    Rule(("train.batch_size", "train.accumulate", "train.processes"), _micro_batches_divide),
    Rule(("model.denoising.copies",), _few_copies_are_groups, Level.NOTE),
    Rule(("train.patience", "train.eval_every", "train.epochs"), _patience_can_act, Level.NOTE),
    Rule(("train.batch_size", "train.reference_batch_size", "train.scale_lr"), _rates_follow, Level.NOTE),
    *(
        Rule(("objective.encoder", source), _choice_learns, Level.NOTE)
        for source in ("model.query_source", "model.proposal_heads")
    ),
    Rule(("data.eval_square", f"{AUGMENT}.policy"), _shapes_agree, Level.NOTE),
    Rule(("data.eval_size", f"{AUGMENT}.sizes", f"{AUGMENT}.policy"), _scales_agree, Level.NOTE),
)
