"""`detrctl recipes`: list, show, explain and compare recipes. No torch here."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrctl.cli import render
from detrctl.errors import DetrctlError
from detrctl.recipe.locate import find_recipe, shipped

if TYPE_CHECKING:
    from detrctl.recipe.fields import FieldInfo

recipes = typer.Typer(
    help="List, show, explain and compare recipes.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


def _names() -> list[str]:
    return list(shipped())


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A shipped recipe, a file or a run folder.", autocompletion=_names)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, such as train.lr=2e-4; repeatable."),
]


@recipes.command("list")
def list_recipes() -> None:
    """The recipes that ship with detrctl."""
    render.table(("recipe", "published AP", "what"), [(name, *_header(path)) for name, path in shipped().items()])
    render.say("")
    render.say("detrctl recipes show NAME prints one, detrctl train NAME --data DIR trains it.")


def _header(path: Path) -> tuple[str, str]:
    """The published AP and the title that a recipe's opening comment states."""
    comments = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    published = next((line for line in comments if line.startswith("published:")), "")
    score = re.search(r"\bAP (\d+\.\d)", published)
    return score.group(1) if score else "-", comments[0] if comments else ""


@recipes.command()
def show(
    name: Name,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every field with its value, and where it was written.")
    ] = False,
    changes: Set = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="Parameters and multiply-adds of its model instead, part by part.")
    ] = False,
    size: Annotated[str, typer.Option(metavar="HxW", help="Of an image of so many pixels, with --cost.")] = "800x1066",
) -> None:
    """Print a recipe as it was written, or with every field that it resolves to, or what its model costs."""
    if cost:
        _show_cost(name, changes or [], _size_hw(size))
        return
    if not resolved and not changes:
        from detrctl.recipe.load import read_text

        render.say(read_text(find_recipe(name)).rstrip("\n"))
        return
    from detrctl.recipe.dump import dump_recipe
    from detrctl.recipe.load import DEFAULT, load_recipe

    loaded = load_recipe(name, changes or [])

    def written(path: str) -> str:
        where = loaded.where(path)
        return "" if where == DEFAULT else where

    render.say(f"# {name}, every field; a comment says where a value was written, the others are defaults")
    if loaded.recipe.train.init_model == "checkpoint":
        render.say("# train.init_model is checkpoint: model, objective and image sizes that nobody wrote are those of")
        render.say("# the checkpoint that training starts from, not the defaults below")
    render.say(dump_recipe(loaded.recipe, written).rstrip("\n"))


def _size_hw(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if found is None or min(sides := (int(found[1]), int(found[2]))) < 32:
        raise DetrctlError(f"--size {text}: height and width in pixels are needed, from 32 on, such as 800x1066")
    return sides


def _show_cost(name: str, changes: list[str], size_hw: tuple[int, int]) -> None:
    from detrctl.recipe.load import load_recipe

    recipe = load_recipe(name, changes).recipe  # before torch, which the next line imports
    if recipe.train.init_model == "checkpoint":
        raise DetrctlError(f"--cost: {name} trains the model of the checkpoint that it starts from; ask its recipe")
    from detrctl.engine.cost import cost_of

    cost = cost_of(recipe, size_hw=size_hw)
    rows = [
        (part.name, f"{part.parameters / 1e6:.2f}", f"{part.trained / 1e6:.2f}", f"{part.multiply_adds / 1e9:.2f}")
        for part in (*cost.parts, cost.total)
    ]
    render.table(("part", "million parameters", "trained", "billion multiply-adds"), rows)
    render.say("")
    height, width = size_hw
    render.say(
        f"Of one image of {height} x {width} pixels, with 91 columns of classes as published. Convolutions, matrix"
    )
    render.say("products and what deformable attention samples are counted; norms, activations and softmax are not.")
    published = re.search(r"(\d+) GFLOPs", find_recipe(name).read_text(encoding="utf-8"))
    if published and not changes:
        off = cost.total.multiply_adds / 1e9 / float(published[1]) - 1
        render.say(f"Published: {published[1]} G, from which this is {off:+.0%}. {_OTHER_SIZES}")


_OTHER_SIZES = (
    "Images differ: DETR's authors average over\n"
    "some of COCO val, mostly larger ones than 800 x 1066; DINO's numbers are met at --size 800x1280."
)


@recipes.command()
def explain(
    field: Annotated[
        str | None, typer.Argument(metavar="FIELD", help="Such as train.lr, or a section; default: all fields.")
    ] = None,
) -> None:
    """Say what a field means, what it takes, and its default."""
    from detrctl.recipe.fields import all_fields, find_elsewhere

    infos = {info.path: info for info in all_fields()}
    named = [infos[field]] if field in infos else [info for info in infos.values() if info.name == field]
    if field is None:
        _table_of(list(infos.values()))
    elif len(named) == 1 and named[0].is_section:
        section = named[0].path
        render.say(f"{section}: {named[0].description}")
        _table_of([info for path, info in infos.items() if path.startswith(f"{section}.")], inside=section)
    elif len(named) == 1:
        _one_field(named[0])
    elif named:
        _table_of(named)
    else:
        meant = find_elsewhere(field)
        hint = f"Did you mean '{meant}'?" if meant else "`detrctl recipes explain` shows them all."
        raise DetrctlError(f"{field}: no such field. {hint}")


def _table_of(infos: list["FieldInfo"], *, inside: str = "") -> None:
    rows = [(info.path.removeprefix(f"{inside}."), _default(info), info.description) for info in infos]
    shown = [row for row, info in zip(rows, infos, strict=True) if not info.is_section]
    render.table(("field", "default", "meaning"), shown)


def _one_field(info: "FieldInfo") -> None:
    render.say(f"{info.path}: {info.description}")
    render.say(f"  takes    {info.expected}")
    render.say(f"  default  {_default_by_family(info) or _default(info)}")
    render.say(f"  set it   --set {info.path}=VALUE")


def _default(info: "FieldInfo") -> str:
    """`100, 300 or 900` where families differ."""
    from detrctl.recipe.dump import flow

    if info.by_family:
        *others, last = (flow(value) for value, _ in info.by_family)
        return f"{', '.join(others)} or {last}"
    return "(must be given)" if info.required else flow(info.default)


def _default_by_family(info: "FieldInfo") -> str:
    """`100 (detr), 300 (conditional, dab)`; empty where all families have the same."""
    from detrctl.recipe.dump import flow

    return ", ".join(f"{flow(value)} ({', '.join(names)})" for value, names in info.by_family)


@recipes.command()
def diff(first: Name, second: Name) -> None:
    """The fields in which two recipes differ, with both values."""
    from detrctl.recipe.dump import flow, leaves
    from detrctl.recipe.load import load_recipe

    left, right = (leaves(load_recipe(name).recipe) for name in (first, second))
    paths = [path for path in dict.fromkeys([*left, *right]) if left.get(path) != right.get(path)]
    if not paths:
        render.say(f"{first} and {second} agree in every field.")
        return
    render.table(
        ("field", first, second),
        [(path, *(flow(side[path]) if path in side else "-" for side in (left, right))) for path in paths],
    )
