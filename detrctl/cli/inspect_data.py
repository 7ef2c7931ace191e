"""`detrctl inspect-data`: what a split holds, as a recipe's model will see it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrctl.cli import options
from detrctl.cli.sources import counted, filled, free_folder, say_files

if TYPE_CHECKING:
    from detrctl.inspection.data_facts import DataFacts, SizeCounts
    from detrctl.inspection.data_report import DataReport
    from detrctl.structures import Categories

CLASSES_SHOWN = 20
NAME_WIDTH = 24


def inspect_data(
    recipe: Annotated[
        str, typer.Option(metavar="RECIPE", help="Whose sizes, augmentation and queries count: a name or a file.")
    ] = "small_data",
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Dataset folder, or `shapes`; default: the recipe's.")
    ] = None,
    split: options.Split = "train",
    limit: options.Limit = None,
    sample: Annotated[
        int, typer.Option(min=0, help="How many images of the training split to augment for the sizes in training.")
    ] = 200,
    show: Annotated[int, typer.Option(min=0, help="How many images to show before and after augmentation.")] = 6,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, e.g. data.eval_size=512.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder for the results; default: data, data-2, ...")
    ] = None,
    picture_format: options.PictureFormat = "png",
    pictures: options.Pictures = True,
) -> None:
    """Class balance, box sizes before and after resizing, boxes per image against the model's queries, samples."""
    folder = free_folder(out, name="data")
    from detrctl.cli import render
    from detrctl.engine.inspect_data import Wish, inspect_data

    wish = Wish(data, split, limit, sample, show if pictures else 0)
    with render.progress("reading", "images") as heard:
        report, categories = inspect_data(recipe, overrides=overrides or (), wish=wish, on_progress=heard)
    for note in report.notes:
        render.warn(note)
    tell(report.facts)
    with filled(folder) as part:
        files = write(report, categories, part, picture_format=picture_format if pictures else None)
    say_files(folder, files)


def write(report: "DataReport", categories: "Categories", folder: Path, *, picture_format: str | None) -> list[Path]:
    """The numbers as JSON and CSV, and the pictures."""
    from detrctl.inspection.data_report import as_json, write_classes, write_images
    from detrctl.inspection.plain import write_json

    files = [folder / name for name in ("data.json", "classes.csv", "images.csv")]
    write_json(as_json(report), files[0])
    write_classes(report.facts, files[1])
    write_images(report.boxes, files[2])
    if picture_format is not None:
        from detrctl.inspection.data_pictures import draw_report

        files += draw_report(report, categories, folder, picture_format)
    return files


# ---- the terminal: nothing wider than 80 columns ----


def tell(facts: "DataFacts") -> None:
    """What was found, in tables and a few sentences, warnings last."""
    from detrctl.cli import render

    render.say(
        f"{facts.data}, split {facts.split}, recipe {facts.recipe}: {counted(facts.images, 'image')}, "
        f"{facts.boxes} boxes"
    )
    for line in facts.odd:
        render.say(f"  {line}")
    _tell_classes(facts)
    _tell_sizes(facts)
    _tell_crowds(facts)
    for line in facts.warnings:
        render.warn(line)


def _tell_classes(facts: "DataFacts") -> None:
    from detrctl.cli import render

    render.say("")
    rows = [
        (
            _cut(counted.name),
            str(counted.boxes),
            f"{100 * counted.boxes / max(facts.boxes, 1):.1f}%",
            str(counted.images),
            *(str(number) for number in (counted.small, counted.medium, counted.large)),
        )
        for counted in facts.classes[:CLASSES_SHOWN]
    ]
    render.table(("class", "boxes", "share", "images", "small", "medium", "large"), rows)
    if len(facts.classes) > CLASSES_SHOWN:
        render.say(f"... and {len(facts.classes) - CLASSES_SHOWN} more classes, in classes.csv")


def _cut(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."


def _tell_sizes(facts: "DataFacts") -> None:
    from detrctl.cli import render

    stages = [("in the files", facts.file), ("evaluation", facts.evaluated)]
    if facts.trained is not None:
        stages.append((f"training, {counted(facts.trained.sizes.images, 'image')}", facts.trained.sizes))
    render.say("")
    render.table(
        ("size of the boxes", "tiny", "small", "medium", "large", "median", "image"),
        [(name, *_size_cells(found)) for name, found in stages],
    )
    render.say(f"size: square root of the area in pixels; evaluation: {facts.limits.size}")
    render.say("tiny: below 8, and small as well; small: below 32; large: above 96")
    render.say("median: of these sizes; image: the median of the images' shorter sides")
    if facts.trained is not None and facts.trained.lost_share:
        render.say(f"cut away by the augmentation: {facts.trained.lost_share:.1%} of the boxes")


def _size_cells(found: "SizeCounts") -> tuple[str, ...]:
    shares = (100 * count / max(found.boxes, 1) for count in (found.tiny, found.small, found.medium, found.large))
    median = "-" if found.median_size is None else f"{found.median_size:.0f}"
    return (*(f"{share:.1f}%" for share in shares), median, f"{found.median_side:.0f}")


def _tell_crowds(facts: "DataFacts") -> None:
    from detrctl.cli import render

    per, limits = facts.per_image, facts.limits
    render.say("")
    render.say(
        f"boxes in an image: mean {per.mean:.1f}, median {per.median:g}, at most {per.most} (image {per.most_image})"
    )
    render.say(f"images without boxes: {per.empty} ({per.empty / facts.images:.1%})")
    for name, limit, over in (
        ("queries", limits.queries, per.over_queries),
        ("detections", limits.detections, per.over_detections),
    ):
        if limit is not None:
            render.say(f"images with more boxes than the model's {limit} {name}: {over}")
    found = facts.aspects
    render.say(f"long boxes: {found.tall} taller than 1:4, {found.wide} wider than 4:1")
