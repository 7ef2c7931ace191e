"""Which published model a file of weights is of, and how it was built: read off names and shapes, in official names."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from detrctl.errors import CheckpointError
from detrctl.weights.arguments import DEFAULTS, ONLY, alike

Shapes = Mapping[str, tuple[int, ...]]

HEADS = 8
"""Attention heads of every published model; weights do not tell them."""

RESNET_DEPTHS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (1, 1, 1, 1)): "resnet10",
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
}
"""(bottlenecks, blocks of each stage) -> name"""

STRANGERS = {
    r"^(layer4\.\d|fc\.weight)": "a ResNet classifier, not a detector; a recipe takes it as model.backbone.weights",
    r"^roi_heads\.": "a Faster R-CNN of torchvision",
    r"^decoder\.dec_score_head|^model\.decoder\.class_embed\.\d+\.weight.*aifi|^encoder\.pan_blocks": "an RT-DETR or a "
    "relative of it, which detrctl does not have",
    r"^bbox_head\.(fc_cls|cls_branches)": "a model of mmdetection, whose names detrctl does not know",
    r"^transformer\.(en|de)coder\.layers\.\d+\.attentions\.": "a model of detrex, whose names detrctl does not know",
}
"""What is often taken for one of the files that can be used: a name in it, and what to say."""


@dataclass(frozen=True)
class Identity:
    """`variant` as its authors call it, `project` the key of `weights.formats.FORMATS`.

    `arguments` are the official build arguments, those of `assumed` by convention, since no weight tells them. `twins`
    are variants whose weights have the same names and shapes. `classes` counts columns, but no-object.
    """

    variant: str
    project: str
    arguments: dict[str, Any]
    classes: int
    assumed: tuple[str, ...] = ("nheads",)
    twins: tuple[str, ...] = ()


# ---- reading names and shapes ----


@dataclass(frozen=True)
class Reader:
    """Questions to names and shapes."""

    shapes: Shapes

    def has(self, pattern: str) -> bool:
        return any(re.match(pattern, name) for name in self.shapes)

    def rows(self, name: str) -> int:
        if not self.shapes.get(name):
            raise CheckpointError(f"a part of its weights is missing: {name}")
        return self.shapes[name][0]

    def columns(self, name: str) -> int:
        if len(self.shapes.get(name, ())) < 2:
            raise CheckpointError(f"a part of its weights is missing, or no matrix: {name}")
        return self.shapes[name][1]

    def count(self, stem: str) -> int:
        """How many of `stem`.0, `stem`.1, ... there are. CheckpointError where one of them is missing."""
        pattern = rf"{re.escape(stem)}\.(\d{{1,6}})\."  # a hostile name can hold a number too long to be read
        found = {int(match[1]) for name in self.shapes if (match := re.match(pattern, name))}
        missing = next((number for number in range(len(found)) if number not in found), None)
        if missing is not None:
            raise CheckpointError(f"a part of its weights is missing: {stem}.{missing}")
        return len(found)


def identify(shapes: Shapes, *, known: Mapping[str, Any] | None = None) -> Identity:
    """The variant, and its build arguments: from shapes what shapes say, else from `known`, else as published.

    CheckpointError, without the file's name, for weights of anything else.
    """
    read = Reader(shapes)
    for is_meant, build in _VARIANTS:
        if is_meant(read):
            return build(read, known or {})
    raise CheckpointError(_strange(shapes))


def _strange(names: Iterable[str]) -> str:
    for pattern, what in STRANGERS.items():
        if any(re.search(pattern, name) for name in names):
            return f"these are weights of {what}"
    return (
        "not weights that detrctl knows: it reads DETR, Conditional DETR, DAB-DETR, DN-DETR, Deformable DETR and DINO, "
        "in the names of their authors or of Hugging Face"
    )


def _arguments(read: Reader, project: str, known: Mapping[str, Any], **found: Any) -> dict[str, Any]:
    """Published, then `known` where the type agrees, then what was found, and what all variants tell alike."""
    published = DEFAULTS[project]
    taken = {name: known[name] for name in published if name in known and alike(known[name], published[name])}
    taken |= {name: known[name] for name in ONLY.get(project, {}) if name in known}
    common = {
        "backbone": backbone_name(read.shapes),
        "nheads": _number(known, "nheads", HEADS),
        "enc_layers": read.count("transformer.encoder.layers"),
        "dec_layers": read.count("transformer.decoder.layers"),
        "dim_feedforward": read.rows("transformer.decoder.layers.0.linear1.weight"),
        "hidden_dim": read.rows("transformer.decoder.layers.0.norm1.weight"),
    }
    if read.has(r"backbone\.1\.row_embed"):
        common["position_embedding"] = "v3" if known.get("position_embedding") == "v3" else "learned"
    if read.has(r"transformer\.encoder\.norm\."):
        common["pre_norm"] = True
    return {**published, **taken, **common, **found}


def _assumed(known: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    return tuple(name for name in ("nheads", *names) if name not in known)


def backbone_name(shapes: Shapes) -> str:
    """A ResNet by its blocks; CheckpointError, saying what it is, for any other backbone."""
    blocks = {
        tuple(map(int, match.groups()))
        for name in shapes
        if (match := re.match(r"backbone\.0\.body\.layer(\d)\.(\d{1,6})\.conv1\.weight", name))
    }
    depths = tuple(sum(stage == number for stage, _ in blocks) for number in (1, 2, 3, 4))
    bottlenecks = "backbone.0.body.layer1.0.conv3.weight" in shapes
    name = RESNET_DEPTHS.get((bottlenecks, depths))
    if name is None:
        raise CheckpointError(_other_backbone(shapes, depths))
    return name


def _other_backbone(shapes: Shapes, depths: tuple[int, ...]) -> str:
    if "backbone.0.patch_embed.proj.weight" in shapes:
        width = shapes["backbone.0.patch_embed.proj.weight"][0]
        return f"its backbone is a Swin transformer of width {width}; detrctl reads published detectors on ResNets"
    if any(depths):
        return f"its backbone is a ResNet of {', '.join(map(str, depths))} blocks, which detrctl does not have"
    return "its backbone is not a ResNet, or is missing; detrctl reads published detectors on ResNets"


# ---- DETR, Conditional DETR, DAB-DETR, DN-DETR ----


def _is_detr(read: Reader) -> bool:
    return read.has(r"transformer\.decoder\.layers\.\d+\.multihead_attn\.")


def _detr(read: Reader, known: Mapping[str, Any]) -> Identity:
    arguments = _arguments(
        read,
        "detr",
        known,
        num_queries=read.rows("query_embed.weight"),
        pre_norm=read.has(r"transformer\.encoder\.norm\."),  # whatever the command line says
    )
    variant, twins = _dilated("DETR", arguments, known)
    return Identity(variant, "detr", arguments, read.rows("class_embed.weight") - 1, _assumed(known, "dilation"), twins)


def _is_conditional(read: Reader) -> bool:
    return read.has(r"transformer\.decoder\.layers\.\d+\.ca_qcontent_proj\.")


def _conditional(read: Reader, known: Mapping[str, Any]) -> Identity:
    if "refpoint_embed.weight" in read.shapes:
        return _dab(read, known)
    arguments = _arguments(read, "conditional", known, num_queries=read.rows("query_embed.weight"))
    variant, twins = _dilated("Conditional DETR", arguments, known)
    return Identity(
        variant, "conditional", arguments, read.rows("class_embed.weight"), _assumed(known, "dilation"), twins
    )


PATTERNS = "transformer.patterns.weight"


def _dab(read: Reader, known: Mapping[str, Any]) -> Identity:
    denoised = "label_enc.weight" in read.shapes
    project = "dn_dab" if denoised else "dab"
    arguments = _arguments(
        read,
        project,
        known,
        num_queries=read.rows("refpoint_embed.weight"),
        num_patterns=read.rows(PATTERNS) if PATTERNS in read.shapes else 0,
        transformer_activation=_activation(read, known),
    )
    variant, twins = _dilated("DN-DAB-DETR" if denoised else "DAB-DETR", arguments, known)
    return Identity(variant, project, arguments, read.rows("class_embed.weight"), _assumed(known, "dilation"), twins)


def _activation(read: Reader, known: Mapping[str, Any]) -> str:
    """A PReLU has a weight; of the others none tells."""
    if read.has(r"transformer\..*\.activation\.weight"):
        return "prelu"
    told = known.get("transformer_activation")
    return told if isinstance(told, str) and told != "prelu" else "relu"


def _dilated(variant: str, arguments: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The variant's name, and its twin where nobody said which of the two it is."""
    names = (variant, f"{variant} DC5" if "," in variant else f"{variant}-DC5")
    return names[arguments["dilation"]], () if "dilation" in known else (names[not arguments["dilation"]],)


# ---- Deformable DETR, DAB-Deformable-DETR, DN-Deformable-DETR, DINO ----


def _is_deformable(read: Reader) -> bool:
    return read.has(r"transformer\.decoder\.layers\.\d+\.cross_attn\.sampling_offsets\.")


def _deformable(read: Reader, known: Mapping[str, Any]) -> Identity:
    if read.has(r"transformer\.decoder\.query_scale\."):
        return _dab_deformable(read, known)
    if read.has(r"transformer\.(tgt_embed|enc_out_class_embed)\."):
        return _dino(read, known)
    levels, two_stage = _levels(read), read.has(r"transformer\.pos_trans\.")
    refined = two_stage or read.has(r"transformer\.decoder\.bbox_embed\.")
    arguments = _arguments(
        read,
        "deformable",
        known,
        num_feature_levels=levels,
        with_box_refine=refined,
        two_stage=two_stage,
        num_queries=_number(known, "num_queries", 300) if two_stage else read.rows("query_embed.weight"),
        **_points(read, known, levels),
    )
    variant = "Deformable DETR"
    if two_stage:
        variant += ", refined, in two stages"
    elif refined:
        variant += ", refined"
    if levels > 1:
        assumed = _assumed(known, *(["num_queries"] if two_stage else []))
        return Identity(variant, "deformable", arguments, read.rows("class_embed.0.weight"), assumed)
    variant, twins = _dilated(f"{variant}, single-scale", arguments, known)
    return Identity(
        variant, "deformable", arguments, read.rows("class_embed.0.weight"), _assumed(known, "dilation"), twins
    )


DAB_DEFORMABLE_ONLY = {
    r"transformer\.enc_output\.": "in two stages",
    r"patterns_embed\.": "with patterns",
    r"transformer\.decoder\.high_dim_query_proj\.": "with a second projection of positions",
    r"transformer\.decoder\.ref_point_head\.layers\.2\.": "without sines of its boxes",
}
"""What the official code can build of this family and detrctl cannot, by a name that gives it away."""


def _dab_deformable(read: Reader, known: Mapping[str, Any]) -> Identity:
    denoised = "label_enc.weight" in read.shapes
    variant = "DN-Deformable-DETR" if denoised else "DAB-Deformable-DETR"
    for sign, what in DAB_DEFORMABLE_ONLY.items():
        if read.has(sign):
            raise CheckpointError(f"these are weights of {variant} {what}, which detrctl does not have")
    project, levels = "dn_dab_deformable" if denoised else "dab_deformable", _levels(read)
    arguments = _arguments(
        read,
        project,
        known,
        num_feature_levels=levels,
        with_box_refine=read.has(r"transformer\.decoder\.bbox_embed\."),
        num_queries=read.rows("refpoint_embed.weight"),
        **_points(read, known, levels),
    )
    classes = read.rows("class_embed.0.weight")
    if levels > 1:
        return Identity(variant, project, arguments, classes, _assumed(known))
    variant, twins = _dilated(f"{variant}, single-scale", arguments, known)
    return Identity(variant, project, arguments, classes, _assumed(known, "dilation"), twins)


def _dino(read: Reader, known: Mapping[str, Any]) -> Identity:
    if "transformer.tgt_embed.weight" not in read.shapes:
        raise CheckpointError("these are weights of DINO without learned contents, which detrctl does not have")
    levels = _levels(read)
    arguments = _arguments(
        read,
        "dino",
        known,
        num_feature_levels=levels,
        return_interm_indices=_stages(read, levels),
        num_queries=read.rows("transformer.tgt_embed.weight"),
        # The official code keeps the label vectors of a model that it does not denoise.
        use_dn="label_enc.weight" in read.shapes and known.get("use_dn") is not False,
        **_points(read, known, levels),
        **_seen(read),
    )
    variant = f"DINO, {levels}-scale"
    return Identity(variant, "dino", arguments, read.rows("class_embed.0.weight"), _assumed(known))


def _seen(read: Reader) -> dict[str, Any]:
    """Choices of DINO's authors that leave a trace, where they are not the published ones."""
    signs: dict[str, tuple[str, Any]] = {
        r"transformer\.two_stage_wh_embedding\.": ("two_stage_learn_wh", True),
        r"transformer\.pat_embed_for_2stage$": ("two_stage_pat_embed", "above 0"),
        r"refpoint_embed\.": ("two_stage_add_query_num", "above 0"),
        r"label_embedding\.": ("decoder_sa_type", "ca_label"),
        r"transformer\..*\.activation\.weight$": ("transformer_activation", "prelu"),
    }
    return dict(found for sign, found in signs.items() if read.has(sign))


def _levels(read: Reader) -> int:
    levels = read.count("input_proj")
    if levels == 0:
        raise CheckpointError("a part of its weights is missing: input_proj.0")
    return levels


def _points(read: Reader, known: Mapping[str, Any], levels: int) -> dict[str, int]:
    """Points per head and level: rows of the attention weights are heads x levels x points."""
    heads = _number(known, "nheads", HEADS)
    points = {}
    for name, place in (
        ("enc_n_points", "encoder.layers.0.self_attn"),
        ("dec_n_points", "decoder.layers.0.cross_attn"),
    ):
        key = f"transformer.{place}.attention_weights.weight"
        if key not in read.shapes:  # no encoder layers
            points[name] = _number(known, name, 4)
            continue
        points[name], rest = divmod(read.rows(key), heads * levels)
        if rest:
            raise CheckpointError(
                f"its attention of {read.rows(key)} weights per query over {levels} levels is not of {heads} heads; "
                "name a recipe with --recipe"
            )
    return points


def _number(known: Mapping[str, Any], name: str, otherwise: int) -> int:
    value = known.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise


def _stages(read: Reader, levels: int) -> list[int]:
    """Which stages of the backbone are used, 0 for layer1 and so on, by the channels of their projections."""
    names = [f"input_proj.{level}.0.weight" for level in range(levels)]
    channels = {name: read.columns(name) for name in names}
    last = 3 if "backbone.0.body.layer1.0.conv3.weight" in read.shapes else 2
    widths = {read.rows(f"backbone.0.body.layer{stage + 1}.0.conv{last}.weight"): stage for stage in range(4)}
    pointwise = [name for name in names if read.shapes[name][2:] == (1, 1)]
    return [widths[channels[name]] for name in pointwise if channels[name] in widths]


_VARIANTS: tuple[tuple[Callable[[Reader], bool], Callable[[Reader, Mapping[str, Any]], Identity]], ...] = (
    (_is_detr, _detr),
    (_is_conditional, _conditional),
    (_is_deformable, _deformable),
)
