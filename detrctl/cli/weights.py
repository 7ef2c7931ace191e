"""`detrctl weights`: tell, convert, list and fetch files of weights."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrctl.cli import render
from detrctl.cli.checkpoints import RECIPE_HELP

if TYPE_CHECKING:
    from detrctl.engine.inspect_weights import Inspection

weights = typer.Typer(
    help="Tell, convert, list and fetch files of weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A checkpoint, an official .pth, or a Hugging Face file or folder.")
]
RecipeName = Annotated[str | None, typer.Option("--recipe", metavar="RECIPE", help=RECIPE_HELP)]
SHOWN = 5


@weights.command()
def inspect(
    file: File,
    recipe: RecipeName = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="Name every tensor and what becomes of it.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write everything to this JSON file.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Import model parts of others that a checkpoint names.")
    ] = False,
) -> None:
    """What a file is, which recipe fits, its classes, and what does not fit."""
    from detrctl.cli.eval import check_writable, write_json
    from detrctl.engine.checkpoint import find_checkpoint
    from detrctl.engine.inspect_weights import inspect_weights

    if json_file is not None:
        check_writable(json_file)
    found = inspect_weights(find_checkpoint(file), recipe=recipe, trust=trust)
    _show(found, every=tensors)
    if json_file is not None:
        write_json(json_file, {**asdict(found), "path": str(found.path), "counts": found.counts})


def _show(found: "Inspection", *, every: bool) -> None:
    render.say(f"file      {found.path}: {found.container}")
    render.say(f"model     {found.what}")
    render.say(f"recipe    {_recipe(found)}")
    for difference in found.differences[:SHOWN]:
        render.say(f"            {difference}")
    render.say(f"classes   {found.classes}")
    render.say(f"weights   {len(found.rows) - found.counts['fresh']} tensors, {found.numbers / 1e6:.1f} M numbers")
    if found.assumed:
        assumed = ", ".join(f"{name} {json.dumps(value)}" for name, value in found.assumed.items())
        render.say(f"assumed   {assumed}: weights do not tell")
    render.say(f"fit       {', '.join(f'{count} {kind}' for kind, count in found.counts.items())}")
    rows = [row for row in found.rows if every or row.kind != "loaded"]
    if rows:
        render.say("")
        shown = rows if every else rows[:SHOWN]
        render.table(("tensor", "becomes", "why"), [(row.name, row.kind, row.detail) for row in shown])
        if len(shown) < len(rows):
            render.say(f"and {len(rows) - len(shown)} more: --tensors shows all")
    for note in found.notes:
        render.warn(note)


def _recipe(found: "Inspection") -> str:
    if found.recipe is None:
        return "none ships for this family; the file brings what is needed"
    if not found.differences:
        return f"{found.recipe} fits in every field that weights depend on"
    more = f", the first {SHOWN}" if len(found.differences) > SHOWN else ""
    return f"none fits in every field; {found.recipe} is nearest, which differs in {len(found.differences)}{more}:"


@weights.command()
def convert(
    file: File,
    to: Annotated[str, typer.Option("--to", metavar="detrctl|hf|official", help="The format to write.")],
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="New file (hf: folder); default: beside the old one.")
    ] = None,
    recipe: RecipeName = None,
) -> None:
    """Write a file of weights in another format; what that format cannot say is an error."""
    from detrctl.engine.checkpoint import find_checkpoint
    from detrctl.engine.convert_weights import convert_weights

    render.say(str(convert_weights(find_checkpoint(file), to, out=out, recipe=recipe)))


@weights.command("list")
def list_files() -> None:
    """Published files by name, with their hash where it is known here."""
    from detrctl.weights.published_files import PUBLISHED

    rows = [
        (
            file.name,
            file.recipe,
            f"{file.sha256}..." if file.sha256 else "not known",
            "yes" if file.url else "no",
            file.page,
        )
        for file in PUBLISHED
    ]
    render.table(("name", "recipe", "SHA-256", "download", "where"), rows)
    render.say("")
    render.say(
        "detrctl weights download NAME fetches one; those with `no` lie behind a page that only a person can follow."
    )


@weights.command()
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `detrctl weights list` shows it.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the file.")] = Path("weights"),
) -> None:
    """Fetch a published file and check its hash where it is known. Nothing else ever downloads one."""
    from detrctl.weights.download import download as fetch
    from detrctl.weights.published_files import published_file

    file = published_file(name)
    with render.progress("downloading", "bytes") as heard:
        found = fetch(file, out, heard)
    if file.sha256 is not None:
        checked = f"SHA-256 {file.sha256}... as published"
    elif found.is_stated:
        checked = f"SHA-256 {found.sha256[:8]}... as its server says"
    else:
        render.warn(f"which hash {found.path.name} should have is not known here; this one's SHA-256 is {found.sha256}")
        checked = "hash not checked"
    render.say(f"{found.path}: {'was there already' if found.was_there else 'downloaded'}, {checked}")
    render.say(f"recipe {file.recipe}: detrctl eval --ckpt {found.path} --recipe {file.recipe} --data COCO")
