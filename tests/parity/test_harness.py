"""The comparisons themselves: folders of other sizes pass, nothing is skipped, and a wrong number is noticed.

The files are made here, of our own numbers: once the comparison runs to write them down, and once to compare them.
"""

import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.weights.published import published

from .fixture import Fixture, Ledger, normal
from .gradients import Part, Seen, backward, summarise
from .tally import Tally, lines
from .test_units import CHECKS, Unit
from .test_variants import FP32_REACH, LABELS, build, compare, held, in_either_precision, stored_noise

SEED = 7
IMAGES = 3


class Recorder(Ledger):
    """Writes down what it is given, in place of comparing it, as the files hold it."""

    def __init__(self) -> None:
        super().__init__(set())
        self.found: dict[str, np.ndarray] = {}

    def close(self, name: str, actual: Any, expected: Any, *, noise: Any) -> None:
        values = np.asarray(actual)
        if name.endswith("query_bbox"):  # logits in the files, where boxes are compared
            values = np.log(values / (1 - values))
        self.found[name] = values.swapaxes(0, 1) if name == "dn.made.input_query_bbox" else values

    def equal(self, name: str, actual: Any, expected: Any) -> None:
        values = np.asarray(actual)
        self.found[name] = np.packbits(values) if values.dtype == np.bool_ else values


def drawn(key: str, *shape: int) -> np.ndarray:
    return normal(key, SEED, shape)


def fraction(key: str, *shape: int) -> np.ndarray:
    return 1 / (1 + np.exp(-drawn(key, *shape)))


def recorded(path: Path, content: dict[str, Any], arrays: dict[str, Any]) -> tuple[Fixture, Recorder]:
    """A file of which only the inputs are known; of the others `arrays` has names and shapes, where these matter."""
    fixture = write(path, content, arrays)
    vars(fixture)["arrays"] = defaultdict(lambda: np.zeros(1), fixture.arrays)
    return fixture, Recorder()


def write(path: Path, content: dict[str, Any], arrays: dict[str, Any]) -> Fixture:
    path.write_text(json.dumps(content))
    np.savez(path.with_suffix(".npz"), **arrays)
    return Fixture(path)


def wrong(values: np.ndarray) -> np.ndarray:
    """The same with one number changed."""
    changed = np.array(values)
    flat = changed.reshape(-1)
    flat[np.isfinite(flat).argmax()] += 1
    return flat.reshape(changed.shape)


# ---- single functions ----

SHAPES = np.array([[4, 6], [2, 3]])
TOKENS = 30


def padded() -> dict[str, Any]:
    """Level shapes and a mask of three images, the second of which ends with padding in both directions."""
    levels = [np.zeros((IMAGES, *shape), dtype=bool) for shape in SHAPES]
    for level in levels:
        level[1, -1:], level[1, :, -1:] = True, True
    return {"level_shapes": SHAPES, "mask_flat": np.concatenate([level.reshape(IMAGES, -1) for level in levels], 1)}


def proposals(width: float, height: float) -> np.ndarray:
    """(B, S, 4): the logits of the boxes that proposals start from, infinite where there is none; cell by cell."""
    mask, rows = padded()["mask_flat"], []
    for image in range(IMAGES):
        start = 0
        for level, (down, across) in enumerate(SHAPES):
            padding = mask[image, start : start + down * across].reshape(down, across)
            start += down * across
            inside = (~padding[0]).sum(), (~padding[:, 0]).sum()
            for row, column in np.ndindex(down, across):
                centre = (column + 0.5) / inside[0], (row + 0.5) / inside[1]
                box = np.array([*centre, width * 2**level, height * 2**level])
                usable = not padding[row, column] and ((box > 0.01) & (box < 0.99)).all()
                rows.append(np.log(box / (1 - box)) if usable else np.full(4, np.inf))
    return np.array(rows, dtype=np.float32).reshape(IMAGES, -1, 4)


def truths() -> dict[str, Any]:
    counts = (2, 1, 3)
    boxes = {f"target_boxes{i}": fraction(f"boxes{i}", count, 4) * np.float32(0.5) for i, count in enumerate(counts)}
    return boxes | {f"target_labels{i}": np.arange(count, dtype=np.int64) % 4 for i, count in enumerate(counts)}


WIDTH, HEADS, POINTS = 24, 3, 2
SPOTS = HEADS * len(SHAPES) * POINTS
LINEAR = {"sampling_offsets": 2 * SPOTS, "attention_weights": SPOTS, "value_proj": WIDTH, "output_proj": WIDTH}
MSDA = {
    f"{name}.{kind}": {"key": f"unit.attn.{name}.{kind}", "shape": shape, "base": 0.0, "scale": 0.3}
    for name, rows in LINEAR.items()
    for kind, shape in (("weight", [rows, WIDTH]), ("bias", [rows]))
}
CALL = {"module": f"MSDeformAttn({WIDTH}, levels, {HEADS} heads, {POINTS} points)", "grad_norms_order": sorted(MSDA)}
DENOISING = {"num_queries": 3, "num_patterns": 0, "hidden_dim": 12, "num_classes": 4, "box_noise_scale": 0.3}
GROUPED = DENOISING | {"scalar": 2, "label_noise_scale": 0.2, "pad_size": 6, "attn_mask_shape": [9, 9]}
CONTRASTIVE = DENOISING | {"dn_number": 1, "label_noise_ratio": 0.5, "pad_size": 12, "attn_mask_shape": [15, 15]}
BITS = {"attn_mask_packbits": np.zeros(1, dtype=np.uint8)}

UNITS: dict[str, tuple[Any, dict[str, Any]]] = {
    "msda_ref2": ("", padded() | {"reference": fraction("reference2", IMAGES, 5, 2, 2)}),
    "msda_ref4": ("", padded() | {"reference": fraction("reference4", IMAGES, 5, 2, 4)}),
    "reference_points": ("", padded()),
    "encoder_proposals": (
        'enc_output.weight = normal("unit.prop.w", [24,24])/5',
        padded() | {"enc_output_bias": np.zeros(WIDTH), "output_proposals": proposals(0.05, 0.05)},
    ),
    "encoder_proposals_dino": (
        "uses learned wh logits (-1.5,-2.5)",
        padded()
        | {"memory": drawn("memory", IMAGES, TOKENS, 20), "output_proposals": proposals(0.05, 0.05)}
        | {"output_proposals_learned_wh": proposals(1 / (1 + np.exp(1.5)), 1 / (1 + np.exp(2.5)))},
    ),
    "proposal_pos_embed": ("", {"proposals_logit": drawn("logit", IMAGES, 5, 4), "out": np.zeros((IMAGES, 5, 48))}),
    "sineembed4": ("", {"pos": fraction("pos", 5, IMAGES, 4), "out": np.zeros((5, IMAGES, 40))}),
    "focal": (
        "official sigmoid_focal_loss with num_boxes=3",
        {"logits": drawn("logits", IMAGES, 5, 4), "targets": (drawn("targets", IMAGES, 5, 4) > 0).astype(np.float32)},
    ),
    "dn.made": (
        GROUPED | {"draws": [0, 1, 2]},
        truths()
        | BITS
        | {"input_query_bbox": np.zeros((6, IMAGES, 4))}
        | {"draw0": np.tile(np.float32([0.1, 0.9, 0.9]), 4), "draw1": np.arange(4), "draw2": fraction("noise", 12, 4)},
    ),
    "cdn.made": (
        CONTRASTIVE | {"draws": [0, 1, 2, 3], "num_dn_group": 2},
        truths()
        | BITS
        | {"input_query_bbox": np.zeros((IMAGES, 12, 4)), "input_query_label_first4": np.zeros((IMAGES, 12, 4))}
        | {"draw0": np.tile(np.float32([0.1, 0.9, 0.9]), 8), "draw1": np.arange(8) % 4}
        | {"draw2": np.arange(96).reshape(24, 4) % 2, "draw3": fraction("noise", 24, 4)},
    ),
}


def check(fixture: Fixture, name: str, ledger: Ledger) -> None:
    CHECKS.get(name, CHECKS[name.split(".")[0]])(Unit(fixture, name, ledger))


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_file_of_other_sizes_is_compared_number_by_number(name: str, tmp_path: Path) -> None:
    what, arrays = UNITS[name]
    content = {"seed": SEED, "what": {name: what, "msda": CALL, "msda_parameters": MSDA}}
    given = {f"{name}.{key}": value for key, value in arrays.items()}
    first, recorder = recorded(tmp_path / "unit_first.json", content, given)
    check(first, name, recorder)
    # What proposals start from is worked out above, not written down.
    numbers = given | {key: value for key, value in recorder.found.items() if ".output_proposals" not in key}
    ledger = Ledger(set(numbers))
    check(write(tmp_path / "unit_made.json", content, numbers), name, ledger)
    ledger.settle()
    for key in recorder.found:
        broken = write(tmp_path / "unit_broken.json", content, numbers | {key: wrong(numbers[key])})
        with pytest.raises(AssertionError):
            check(broken, name, Ledger(set(numbers)))


# ---- whole models ----

ARGUMENTS: dict[str, Any] = {
    "backbone": "resnet10",
    "dilation": False,
    "batch_norm_type": "FrozenBatchNorm2d",
    "lr_backbone": 1e-5,
    "position_embedding": "sine",
    "pe_temperatureH": 30,
    "pe_temperatureW": 30,
    "hidden_dim": 32,
    "nheads": 4,
    "dim_feedforward": 40,
    "enc_layers": 1,
    "dec_layers": 1,
    "dropout": 0.0,
    "num_queries": 6,
    "num_select": 12,
    "set_cost_class": 2,
    "set_cost_bbox": 5,
    "set_cost_giou": 2,
    "cls_loss_coef": 1,
    "bbox_loss_coef": 5,
    "giou_loss_coef": 2,
    "focal_alpha": 0.25,
    "aux_loss": True,
}
DETR = ARGUMENTS | {"set_cost_class": 1, "eos_coef": 0.1, "pre_norm": False}
DEFORMABLE = ARGUMENTS | {
    "num_feature_levels": 4,
    "enc_n_points": 2,
    "dec_n_points": 3,
    "with_box_refine": False,
    "two_stage": False,
}
DN_DAB = ARGUMENTS | {
    "num_patterns": 0,
    "transformer_activation": "prelu",
    "scalar": 3,
    "label_noise_scale": 0.2,
    "box_noise_scale": 0.4,
}
DINO = ARGUMENTS | {
    "return_interm_indices": [2, 3],
    "num_feature_levels": 3,
    "enc_n_points": 2,
    "dec_n_points": 3,
    "use_detached_boxes_dec_out": False,
    "dec_pred_class_embed_share": True,
    "dec_pred_bbox_embed_share": True,
    "use_dn": True,
    "dn_number": 2,
    "dn_label_noise_ratio": 0.5,
    "dn_box_noise_scale": 1.0,
}
CLASSES, COUNTS = 9, (3, 2)
WEIGHTS = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}


def draws(copies: int, *, with_signs: bool) -> dict[str, np.ndarray]:
    """Every third label is flipped."""
    known = copies * sum(COUNTS)
    found = [np.where(np.arange(known) % 3 == 0, 0.1, 0.9).astype(np.float32), np.arange((known + 2) // 3) % CLASSES]
    if with_signs:
        found.append(np.arange(4 * known).reshape(known, 4) % 2)
    return {f"main.draw{index}": values for index, values in enumerate([*found, fraction("noise", known, 4)])}


@dataclass(frozen=True)
class Model:
    """`stages`: how losses are called; `idle` ones are logged as zero. `draws` and `prepared`: of its denoising."""

    repository: str
    variant: str
    arguments: dict[str, Any]
    stages: tuple[str, ...] = ("{}",)
    draws: dict[str, np.ndarray] = field(default_factory=dict)
    prepared: dict[str, Any] = field(default_factory=dict)
    idle: tuple[str, ...] = ()


DINO_MODEL = Model(
    "IDEA-Research/DINO",
    "dino",
    DINO,
    ("{}", "{}_dn", "{}_interm"),
    draws(8, with_signs=True),
    {"pad_size": 24, "num_dn_group": 4, "attn_mask_shape": [30, 30]},
)
MODELS = {
    "DETR": Model("facebookresearch/detr", "detr", DETR),
    "Conditional DETR": Model("Atten4Vis/ConditionalDETR", "conditional", ARGUMENTS),
    "Deformable DETR": Model("fundamentalvision/Deformable-DETR", "deformable", DEFORMABLE),
    "Deformable DETR in two stages": Model(
        "fundamentalvision/Deformable-DETR",
        "deformable",
        DEFORMABLE | {"with_box_refine": True, "two_stage": True},
        ("{}", "{}_enc"),
    ),
    "DN-DAB-DETR": Model(
        "IDEA-Research/DN-DETR",
        "dn_dab",
        DN_DAB,
        ("{}", "tgt_{}"),
        draws(3, with_signs=False),
        {"pad_size": 9, "num_dn_group": 3, "attn_mask_shape": [15, 15]},
    ),
    "DINO": DINO_MODEL,
    "DINO with a large book of labels": replace(DINO_MODEL, arguments=DINO | {"dn_labelbook_size": CLASSES + 5}),
    "DINO with the smallest book of labels": replace(DINO_MODEL, arguments=DINO | {"dn_labelbook_size": CLASSES - 1}),
    "DINO without denoising": Model(
        "IDEA-Research/DINO",
        "dino",
        DINO | {"use_dn": False},
        ("{}", "{}_interm"),
        idle=("loss_ce_dn", "loss_xy_dn", "cardinality_error_dn"),
    ),
}
NAMES = (
    *("eval.pred_logits", "eval.pred_boxes", "eval.aux_logits", "eval.aux_boxes"),
    *("eval.feat0_sample", "eval.proj0_sample", "eval.pos0_sample"),
    *("eval.det_boxes", "eval.det_labels", "eval.det_count"),
    *("main.pred_logits_first20", "main.pred_boxes"),
)
DENOISED = ("dn_query_label", "dn_query_bbox", "dn_pred_logits", "dn_pred_boxes", "dn_aux_boxes")


def entry(key: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """How a weight is drawn, so that activations stay sane."""
    if len(shape) > 1:
        return {"shape": shape, "base": 0.0, "scale": 1 / math.sqrt(math.prod(shape[1:]))}
    is_scale = key.endswith((".weight", "running_var"))
    return {"shape": shape, "base": float(is_scale), "scale": 0.1} | ({"mode": "abs"} if "var" in key else {})


def description(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """JSON and arrays of a model with one decoder layer, its numbers still missing."""
    model = MODELS[name]
    keys = published(model.variant, **model.arguments, num_classes=CLASSES)
    losses = {stage.format(loss): weight for stage in model.stages for loss, weight in WEIGHTS.items()}
    case = model.prepared | {"losses": dict.fromkeys((*losses, *model.idle), 0.0), "total": 0.0}
    if model.draws:
        case["draws"] = [{"array": array} for array in model.draws]
    content = {
        "official_repository": model.repository,
        "build_arguments": model.arguments,
        "num_classes": CLASSES,
        "weight_seed": SEED,
        "input_seed": SEED,
        "image_sizes_hw": [[64, 96], [48, 64]],
        "padded_size_hw": [64, 96],
        "original_sizes_hw": [[128, 192], [96, 128]],
        "state_dict": {key: entry(key, shape) for key, shape in keys.items()},
        "numeric_noise": {},
        "loss_weights": losses,
        "cases": {"main": case},
    }
    arrays: dict[str, Any] = dict.fromkeys(NAMES, np.zeros(1)) | model.draws | {"main.match": np.zeros((0, 4))}
    arrays["eval.det_scores"] = np.zeros((2, 12))
    if model.draws:
        bits = math.prod(model.prepared["attn_mask_shape"])
        arrays |= dict.fromkeys((f"main.{name}" for name in DENOISED), np.zeros(1))
        arrays["main.attn_mask_packbits"] = np.zeros(-(-bits // 8), dtype=np.uint8)
    if model.stages[-1] in ("{}_interm", "{}_enc"):
        arrays["eval.enc_topk_index"] = np.zeros((2, 6), dtype=np.int64)
        arrays |= dict.fromkeys(("eval.enc_topk_score", "eval.enc_topk_boxes", "main.enc_topk_index"), np.zeros(1))
    for image, count in enumerate(COUNTS):
        arrays[f"main.target_boxes{image}"] = fraction(f"truth{image}", count, 4) * np.float32(0.5)
        arrays[f"main.target_labels{image}"] = np.arange(count, dtype=np.int64)
    return content, arrays


def gradients(fixture: Fixture, content: dict[str, Any]) -> dict[str, np.ndarray]:
    """What the file says of gradients; which keys it names is written into its JSON, too."""
    learner, names = build(fixture)
    trained = {name for name, value in learner.network.named_parameters(remove_duplicate=False) if value.requires_grad}
    idle = [] if LABELS in learner.network.state_dict() else ["label_enc.weight"]
    keys = [key for key in content["state_dict"] if names[key] in trained or key in idle]
    content |= {"grad_keys": keys, "grad_first8_keys": [keys[0]]}
    if "draws" in content["cases"]["main"]:
        learner.network.denoising.noise = stored_noise(fixture, "main", Recorder())
    vars(fixture)["json"] = content
    found = backward(fixture, learner, names, "main", rounding=None)
    draw, has = summarise(fixture, found), [gradient is not None for gradient in found.values()]
    content["cases"]["main"]["total_grad_norm"] = float(draw["total"])
    numbers = {"main.grad_norm": np.full(len(keys), -1.0), "main.grad_probe": np.zeros(len(keys))}
    for kind in ("norm", "probe"):
        numbers[f"main.grad_{kind}"][has] = draw[kind]
        numbers[f"main.grad_{kind}_noise"] = np.zeros(len(keys))
    return numbers | {"main.grad_first8": draw["first8"]}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_one_decoder_layer_is_compared_number_by_number(name: str, tmp_path: Path) -> None:
    content, arrays = description(name)
    first, recorder = recorded(tmp_path / "first.json", content, arrays)
    compare(first, recorder)
    case = content["cases"]["main"]
    case["total"] = float(recorder.found.pop("main.total"))
    case["losses"] = {loss: float(recorder.found.pop(f"main.losses.{loss}")) for loss in case["losses"]}
    assert {loss for loss, value in case["losses"].items() if value == 0} == set(MODELS[name].idle)
    assert recorder.found["eval.aux_logits"].shape[:3] == (0, 2, 6)
    numbers = arrays | recorder.found | {"eval.aux_boxes": np.zeros(0)}  # nothing, in whatever shape
    numbers |= gradients(first, content)
    made = write(tmp_path / "made.json", content, numbers)
    ledger = Ledger(held(made))
    compare(made, ledger)
    ledger.settle()
    assert (ledger.tally.in_double, ledger.tally.by_draws, ledger.tally.by_spread) == ([], 0, 0)
    assert ledger.tally.entries == 2 * (numbers["main.grad_norm"] >= 0).sum() + 8 + 1
    keys = ["eval.pred_boxes", "main.dn_pred_logits", "main.match", *["main.grad_probe"] * (name == "DETR")]
    for key in [key for key in keys if key in numbers]:
        broken = write(tmp_path / "broken.json", content, numbers | {key: wrong(numbers[key])})
        with pytest.raises(AssertionError):
            compare(broken, Ledger(held(broken)))


# ---- what is not within the stated rule at once ----


@pytest.mark.parametrize(("off", "in_double"), [(0.9, []), (0.9 * FP32_REACH, ["x"])])
def test_fp32_may_be_off_a_little_where_fp64_is_right_and_that_is_counted(off: float, in_double: list[str]) -> None:
    ledger = Ledger({"x", "y"})
    in_either_precision(ANY, torch.nn.Linear(1, 1), ledger, partial(compare_one, ledger, off, 0.0))
    assert ledger.tally == Tally(arrays=2, in_double=in_double)


@pytest.mark.parametrize(("off", "off_in_double"), [(1.1 * FP32_REACH, 0.0), (0.9 * FP32_REACH, 1.1), (math.nan, 0.0)])
def test_a_defect_of_fp32_alone_and_one_of_both_are_noticed(off: float, off_in_double: float) -> None:
    ledger = Ledger({"x", "y"})
    with pytest.raises(AssertionError, match="x: off by"):
        in_either_precision(ANY, torch.nn.Linear(1, 1), ledger, partial(compare_one, ledger, off, off_in_double))


ANY = Fixture(Path("any.json"))


def compare_one(ledger: Ledger, off: float, off_in_double: float, fixture: Fixture) -> None:
    """Two numbers, the first of them off by so many tolerances of 1e-5."""
    ledger.close("x", 1 + 1e-5 * (off if fixture.precision == torch.float32 else off_in_double), 1.0, noise=0.0)
    ledger.close("y", 1.0, 1.0, noise=0.0)


def test_an_entry_of_gradients_counts_in_its_nearest_draw_and_else_within_ten_times_what_draws_differ_by() -> None:
    part = Part("norm", np.ones(4), np.full(4, 0.01))
    seen = Seen(part, np.array([[1.0, 1.2, 1.3, 3.1], [1.2, 1.0, 1.2, 3.0]]))
    assert seen.nearest.tolist() == [1.0, 1.0, 1.2, 3.0]
    assert seen.by_draws.tolist() == [False, True, False, False]
    assert seen.outside.tolist() == [False, False, True, True]
    assert (abs(seen.nearest - 1) <= seen.allowed).tolist() == [True, True, True, False]
    assert not seen.is_explained


@pytest.mark.parametrize(("outside", "is_explained"), [(1, True), (2, False)])
def test_at_most_a_tenth_of_the_entries_may_need_what_draws_differ_by(outside: int, is_explained: bool) -> None:
    draws = np.ones((2, 10))
    draws[:, :outside] = [[1.3], [1.2]]
    assert Seen(Part("norm", np.ones(10), np.full(10, 0.01)), draws).is_explained == is_explained


def test_what_needed_more_than_the_stated_rule_is_told() -> None:
    strict, loose = Tally(arrays=3, entries=7), Tally(4, ["main.pred_boxes", "main.total"], 9, 2, 1, 5)
    assert list(lines({"a": asdict(strict), "b": asdict(loose)})) == [
        "b: within the stated tolerance in fp64 only: main.pred_boxes, main.total",
        "b: of 9 entries of gradients 2 in another than the first of 5 draws, 1 within ten times what these differ by",
        "files: 2; arrays and losses: 7, of them in fp64 only: 2; entries of gradients: 16, of them in another draw: "
        "2, by what draws differ by: 1",
    ]
