"""What the schema says of each field, for messages and help: what would do, the default, the sentence.

Read from pydantic's JSON schema, so that a union of families (told apart by `family`) needs nothing here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from detrctl.recipe.document import FieldPath
from detrctl.recipe.dump import leaves
from detrctl.recipe.locate import closest
from detrctl.recipe.schema import FAMILIES, Recipe

Node = Mapping[str, Any]
"""One node of the JSON schema, its reference followed."""

PART_NAME = r"^[\w.]+:[\w.]+$"

ELSEWHERE = {
    "aux_loss": "objective.auxiliary",
    "batch": "train.batch_size",
    "box_batch_size_per_image": "objective.rois_per_image",
    "box_detections_per_img": "model.detections",
    "box_nms_thresh": "model.nms",
    "box_score_thresh": "model.score_threshold",
    "bbox_loss_coef": "objective.l1",
    "clip_max_norm": "train.clip_norm",
    "dec_layers": "model.decoder_layers",
    "dim_feedforward": "model.feedforward",
    "enc_layers": "model.encoder_layers",
    "eos_coef": "objective.no_object",
    "giou_loss_coef": "objective.giou",
    "hidden_dim": "model.width",
    "learning_rate": "train.lr",
    "lr_backbone": "train.backbone_lr",
    "lr_drop": "train.schedule.drop_epochs",
    "nheads": "model.heads",
    "num_queries": "model.queries",
    "num_workers": "data.workers",
    "pre_norm": "model.norm_first",
    "rpn_batch_size_per_image": "objective.anchors_per_image",
    "rpn_nms_thresh": "model.proposals.nms",
    "rpn_post_nms_top_n_test": "model.proposals.after_nms",
    "rpn_post_nms_top_n_train": "model.proposals.train_after_nms",
    "rpn_pre_nms_top_n_test": "model.proposals.before_nms",
    "rpn_pre_nms_top_n_train": "model.proposals.train_before_nms",
    "set_cost_bbox": "objective.match.l1",
    "set_cost_class": "objective.match.class_weight",
    "set_cost_giou": "objective.match.giou",
    "warmup": "train.schedule.warmup_steps",
}
"""Names that the published codes use, and where the same thing stands here."""

NOT_NEEDED = {
    "masks": "detectors here predict boxes only",
    "num_classes": "leave it out, the classes are read from the annotations",
}


@dataclass(frozen=True)
class FieldInfo:
    """One field or section of the recipe.

    `default` is that of a recipe that names no family. Where families differ, `by_family` has each default once, with
    the families that have it; it is empty otherwise.
    """

    path: str
    expected: str
    description: str
    is_section: bool
    default: Any
    required: bool
    by_family: tuple[tuple[Any, tuple[str, ...]], ...] = ()

    @property
    def name(self) -> str:
        return self.path.rsplit(".", 1)[-1]


@cache
def schema_root() -> Node:
    return Recipe.model_json_schema()


def follow(node: Node) -> Node:
    """The node that a reference stands for, with what is said beside the reference on top."""
    while "$ref" in node or len(node.get("allOf", ())) == 1:
        beside = {key: value for key, value in node.items() if key not in ("$ref", "allOf")}
        target = schema_root()["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node["allOf"][0]
        node = {**target, **beside}
    return node


def families(node: Node) -> dict[str, Node]:
    """The variants of a union told apart by a field, by that field's value; empty where there is one kind only."""
    mapping = node.get("discriminator", {}).get("mapping", {})
    order = [option.get("$ref") for option in node.get("oneOf", ())]  # as declared; the mapping is in alphabetic order
    by_place = sorted(mapping.items(), key=lambda item: order.index(item[1]))
    return {name: follow({"$ref": reference}) for name, reference in by_place}


def tag_field(node: Node) -> str:
    """The field that tells a union's variants apart."""
    return str(node["discriminator"]["propertyName"])


def section_of(node: Node, values: Any = None) -> Node | None:
    """The node with `properties` that stands behind a section, an optional section or a union; None for a leaf."""
    node = follow(node)
    variants = families(node)
    if variants:
        tag = values.get(tag_field(node)) if isinstance(values, dict) else None
        chosen = tag if isinstance(tag, str) and tag in variants else default_tag(node)
        return variants[chosen]
    for option in node.get("anyOf", ()):
        if "properties" in follow(option):
            return follow(option)
    return node if "properties" in node else None


def default_tag(node: Node) -> str:
    """The variant that a union takes when the recipe names none."""
    default = node.get("default") or {}
    return str(default.get(tag_field(node), next(iter(families(node)))))


def find_node(path: Sequence[str | int], values: Any = None) -> Node | None:
    """The schema node of a field, or None. `values` choose between the variants of a union."""
    node: Node | None = schema_root()
    for part in path:
        if node is None:
            return None
        section = section_of(node, values)
        if section is not None:
            node = section["properties"].get(part)
        elif isinstance(part, int):
            node = _item(follow(node), part)
        else:
            return None
        values = values.get(part) if isinstance(values, dict) else None
    return node and follow(node)


def _item(node: Node, index: int) -> Node | None:
    prefix = node.get("prefixItems", [])
    return prefix[index] if index < len(prefix) else node.get("items")


def all_fields() -> list[FieldInfo]:
    """Every section and field, in the schema's order. Of a union's variants the first that has a field speaks."""
    return list(_walk([schema_root()], ""))


TELLS_FAMILY = "model.family"


@cache
def _defaults_by_family() -> dict[str, tuple[tuple[Any, tuple[str, ...]], ...]]:
    """By path: what a recipe has there that names its family and nothing else, if that is not alike for all."""
    by_path: dict[str, list[tuple[Any, str]]] = {}
    for name in FAMILIES:
        for path, value in leaves(Recipe.model_validate({"model": {"family": name}})).items():
            by_path.setdefault(path, []).append((value, name))
    found = {path: _grouped(pairs) for path, pairs in by_path.items() if path != TELLS_FAMILY}
    return {path: groups for path, groups in found.items() if len(groups) > 1}


def _grouped(pairs: Sequence[tuple[Any, str]]) -> tuple[tuple[Any, tuple[str, ...]], ...]:
    values: list[Any] = []
    for value, _ in pairs:
        if value not in values:
            values.append(value)
    return tuple((value, tuple(name for other, name in pairs if other == value)) for value in values)


def _walk(nodes: Sequence[Node], path: str) -> Iterator[FieldInfo]:
    """What stands at one path: `nodes` are the section there in each variant of the unions above it."""
    children: dict[str, list[Node]] = {}
    required: dict[str, bool] = {}
    for node in nodes:
        for section in list(families(follow(node)).values()) or [section_of(node) or {}]:
            for name, child in section.get("properties", {}).items():
                children.setdefault(name, []).append(child)
                required.setdefault(name, name in section.get("required", ()))
    for name, variants in children.items():
        here = f"{path}.{name}".removeprefix(".")
        yield _info(here, _together(variants), required=required[name])
        yield from _walk(variants, here)


def _together(variants: Sequence[Node]) -> Node:
    """The first of one field's nodes; of the field that tells them apart, with the words of all."""
    tags = dict.fromkeys(tag for node in variants for tag in [follow(node).get("const")] if tag)
    return {**follow(variants[0]), "enum": list(tags)} if len(tags) > 1 else variants[0]


def _info(path: str, node: Node, *, required: bool) -> FieldInfo:
    node = follow(node)
    is_section = section_of(node) is not None
    said, default = node.get("description", ""), node.get("default")
    return FieldInfo(path, expected(node), said, is_section, default, required, _defaults_by_family().get(path, ()))


# ---- what would do, in words ----


def expected(node: Node) -> str:
    """The values that a field takes, as words that follow "expected"."""
    node = follow(node)
    if "anyOf" in node:
        return " or ".join(expected(option) for option in node["anyOf"])
    if families(node) or "properties" in node:
        section = section_of(node) or {}
        return f"a section with {_listing(list(section['properties']))}"
    if "const" in node or "enum" in node:
        return _listing([str(choice) for choice in node.get("enum", [node.get("const")])], of="one of ")
    return _BY_TYPE[node["type"]](node)


def choices(node: Node) -> list[str]:
    """The words that a field can be chosen from, if it has any."""
    node = follow(node)
    found = [choice for option in node.get("anyOf", ()) for choice in choices(option)]
    return found + [str(choice) for choice in node.get("enum", [node["const"]] if "const" in node else [])]


def takes_text(node: Node) -> bool:
    """Whether a field takes any text, so that `--set` needs no quotes."""
    types = [follow(option).get("type") for option in node.get("anyOf", [node])]
    return "string" in types and set(types) <= {"string", "null"} and not choices(node)


def _listing(words: list[str], *, of: str = "") -> str:
    return f"{of}{', '.join(words)}" if len(words) > 1 else words[0]


def _text(node: Node) -> str:
    if "pattern" not in node:
        return "text"
    return "`package.module:Name`" if node["pattern"] == PART_NAME else f"text like {node['pattern']}"


def _number(noun: str) -> Callable[[Node], str]:
    def words(node: Node) -> str:
        if "minimum" in node and "maximum" in node:
            return f"{noun} from {_bound(node['minimum'])} to {_bound(node['maximum'])}"
        said = " and ".join(f"{word} {_bound(node[key])}" for key, word in _BOUNDS if key in node)
        return f"{noun}{' of' if said.startswith('at') else ''} {said}".strip()

    return words


def _bound(bound: float) -> str:
    """0.0 and 0 are the same bound; pydantic's versions differ in what they state."""
    return str(int(bound) if bound == int(bound) else bound)


_BOUNDS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "below"),
)


def _list(node: Node) -> str:
    if "prefixItems" in node:
        each = expected(node["prefixItems"][0])
        return f"a pair [a, b], each {each}" if len(node["prefixItems"]) == 2 else f"a list, each {each}"
    size = "a list of at least one" if node.get("minItems") else "a list"
    return f"{size}, each {expected(node['items'])}"


_BY_TYPE: dict[str, Callable[[Node], str]] = {
    "array": _list,
    "boolean": lambda node: "true or false",
    "integer": _number("a whole number"),
    "null": lambda node: "null",
    "number": _number("a number"),
    "object": lambda node: "a mapping such as {key: value}",
    "string": _text,
}


# ---- names that are not there ----


def unknown_field(path: FieldPath, values: Any) -> tuple[str, str]:
    """For a field that does not exist: what to say, and the path that was probably meant ("" if none)."""
    name, section_path = str(path[-1]), ".".join(str(part) for part in path[:-1])
    if name in NOT_NEEDED:
        return f"no such field; {NOT_NEEDED[name]}", ""
    section = section_of(find_node(path[:-1], values) or {}, _at(values, path[:-1]))
    siblings = list(section["properties"]) if section else []
    if ".".join(map(str, path)) in {info.path for info in all_fields()}:
        return f"no such field{_where(path[0], values)}; {section_path} has {', '.join(siblings)}", ""
    near = closest(name, siblings)
    if near and name not in ELSEWHERE:
        return f"no such field. Did you mean '{near}'?", f"{section_path}.{near}".removeprefix(".")
    meant = find_elsewhere(name, but_not_in=section_path if siblings else None)
    if meant and find_node(meant.split("."), values):  # another family can have it
        return f"no such field. Did you mean '{meant}'?", meant
    return f"no such field; {section_path or 'a recipe'} has {', '.join(siblings)}", ""


def _where(section: str | int, values: Any) -> str:
    """Says which variant of a union a recipe has chosen, for a field that another variant has."""
    union, chosen = find_node([section], values), _at(values, (section,))
    if union is None or not families(union):
        return ""
    tag = tag_field(union)
    said = chosen.get(tag, default_tag(union)) if isinstance(chosen, dict) else default_tag(union)
    return f" where {section}.{tag} is {said}"


def find_elsewhere(name: str, *, but_not_in: str | None = None) -> str | None:
    """The full path of the field that a short, foreign or misspelled name probably means."""
    last = name.rsplit(".", 1)[-1]
    if last in ELSEWHERE:
        return ELSEWHERE[last]
    by_end: dict[str, str] = {}
    sections = set()
    for info in sorted(all_fields(), key=lambda info: info.path.count(".")):
        section, _, end = info.path.rpartition(".")
        if section != but_not_in:
            by_end.setdefault(end, info.path)
            sections |= {end} if info.is_section else set()
    near = last if last in by_end else closest(last, [end for end in by_end if end not in sections])
    return by_end[near] if near else None


def _at(values: Any, path: FieldPath) -> Any:
    for part in path:
        values = values.get(part) if isinstance(values, dict) else None
    return values
