"""`detrctl visualize-queries`: what each object query predicts over a split, and what one looks at on an image."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from detrctl.cli import options
from detrctl.cli.sources import counted, filled, free_folder, say_files
from detrctl.errors import DetrctlError

if TYPE_CHECKING:
    from detrctl.inspection.look_report import LookReport
    from detrctl.inspection.queries import BoxSummary, QuerySummary
    from detrctl.inspection.query_report import QueryReport

Report = TypeVar("Report", "QueryReport", "LookReport")
ROWS = 20
"""Queries in the terminal's table; all of them are in queries.csv."""

WIDTH = 80
MOST_QUERIES = 1_000_000


def visualize_queries(
    ckpt: options.Checkpoint = None,
    data: options.Data = None,
    split: options.Split = "val",
    limit: options.Limit = None,
    queries: Annotated[
        str | None, typer.Option(metavar="0,5,7", help="Draw these queries, counted from 0; 3-6 is 3,4,5,6.")
    ] = None,
    all_queries: Annotated[bool, typer.Option("--all", help="Draw all queries in one grid.")] = False,
    most_used: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Draw the N most used queries; default: 20.")
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least score of a detection that is kept; default: the recipe's."),
    ] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="Look at one query on this image instead.")] = None,
    query: Annotated[int | None, typer.Option(min=0, help="With --image: this query.")] = None,
    detection: Annotated[
        int | None, typer.Option(min=1, help="With --image: the query of the N-th best detection; default: the best.")
    ] = None,
    point: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y",
            help="With --image: where the encoder looks from, in pixels or, both at most 1, in fractions of the image; "
            "default: the middle of the query's box.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder for the results; default: queries, queries-2, ...")
    ] = None,
    picture_format: options.PictureFormat = "png",
    pictures: options.Pictures = True,
    batch: options.Batch = None,
    device: options.Device = "auto",
    trust: options.Trust = False,
    recipe: options.RecipeOrRandom = None,
) -> None:
    """What each object query predicts over a split: places, sizes, classes, use. With --image, what one looks at.

    Over a split: queries.json, queries.csv, and of the chosen queries boxes.csv and pictures. On an image: query.json,
    query.csv and pictures of the query's attention, its box in every decoder layer, the encoder's attention from a
    point, and where queries start.
    """
    split_only: dict[str, Any] = {
        "--queries": queries,
        "--all": all_queries or None,
        "--most-used": most_used,
        "--limit": limit,
    }
    split_only |= {"--score": score, "--batch": batch}
    image_only = {"--query": query, "--detection": detection, "--point": point}
    chosen_queries, at = _numbers(queries), _point(point)
    _require_one_way(image, split_only, image_only)
    folder = free_folder(out, name="queries")
    from detrctl.cli import render
    from detrctl.engine.inspect_queries import MOST_USED, Asked, Choice, inspect_image, inspect_queries
    from detrctl.engine.inspected import Wish

    path = _checkpoint(ckpt, recipe)
    wish = Wish(data=data, split=split, limit=limit, batch_size=batch, device=device, trust=trust)
    drawn = picture_format if pictures else None
    if image is not None:
        look = inspect_image(image, path, recipe=recipe, wish=wish, asked=Asked(query, detection, at))
        _deliver(look, folder, drawn, tell=tell_look, write=write_look)
        return
    choice = Choice(chosen_queries, all_queries, most_used or MOST_USED)
    with render.progress("looking", "images") as heard:
        report = inspect_queries(path, recipe=recipe, wish=wish, choice=choice, least=score, on_progress=heard)
    _deliver(report, folder, drawn, tell=tell, write=write)


def _require_one_way(image: Path | None, split_only: dict[str, Any], image_only: dict[str, Any]) -> None:
    given = [name for name in ("--queries", "--all", "--most-used") if split_only[name] is not None]
    if len(given) > 1:
        raise DetrctlError(f"{given[0]} and {given[1]}: give one of them")
    if image_only["--query"] is not None and image_only["--detection"] is not None:
        raise DetrctlError("--query and --detection: give one of them")
    for name, value in (image_only if image is None else split_only).items():
        if value is not None:
            what = "needs --image FILE" if image is None else "is for a split; leave it or --image away"
            raise DetrctlError(f"{name}: {what}")


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """Each once, in the order given: "3-5,0" -> (3, 4, 5, 0)"""
    if text is None:
        return None
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise DetrctlError(f"--queries {text}: numbers such as 0,5,7 or 3-6 are needed")
        if int(last or first) > MOST_QUERIES:
            raise DetrctlError(f"--queries {text}: no model has so many queries")
        found.update(dict.fromkeys(range(int(first), int(last or first) + 1)))
    if not found:
        raise DetrctlError(f"--queries {text}: numbers such as 0,5,7 or 3-6 are needed")
    return tuple(found)


def _point(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise DetrctlError(f"--point {text}: two numbers such as 320,240 or 0.5,0.5 are needed") from None
    return x, y


def _checkpoint(ckpt: Path | None, recipe: str | None) -> Path | None:
    from detrctl.cli import render
    from detrctl.cli.checkpoints import chosen_checkpoint

    if ckpt is None and recipe is not None:
        render.say(f"recipe {recipe} with random weights")
        return None
    return chosen_checkpoint(ckpt)


def per_cent(mean: float, spread: float | None = None) -> str:
    """A fraction as whole per cent, and its spread."""
    return f"{100 * mean:.0f}" + ("" if spread is None else f"±{100 * spread:.0f}")


def _deliver(
    report: Report,
    folder: Path,
    picture_format: str | None,
    *,
    tell: Callable[[Report], None],
    write: Callable[[Report, Path, str | None], list[Path]],
) -> None:
    """To the terminal, then into the folder."""
    from detrctl.cli import render

    for note in report.notes:
        render.warn(note)
    tell(report)
    with filled(folder) as part:
        files = write(report, part, picture_format)
    say_files(folder, files)


# ---- over a split ----


def write(report: "QueryReport", folder: Path, picture_format: str | None) -> list[Path]:
    """The numbers as JSON and CSV, and the pictures."""
    from detrctl.inspection.plain import write_json
    from detrctl.inspection.query_report import as_json, write_boxes_csv, write_csv

    files = [folder / "queries.json", folder / "queries.csv", folder / "boxes.csv"]
    write_json(as_json(report), files[0])
    write_csv(report, files[1])
    write_boxes_csv(report, files[2])
    if picture_format is not None:
        from detrctl.inspection.query_pictures import draw_report

        files += draw_report(report, folder, picture_format)
    return files


def tell(report: "QueryReport") -> None:
    """The most used of the chosen queries in a table of at most 80 columns, and what holds for all."""
    import textwrap

    from detrctl.cli import render

    render.say(f"{report.data}, split {report.split}: {counted(report.images, 'image')}")
    render.say(
        f"{counted(report.detections, 'detection')} with a score of at least {report.least:g}, from "
        f"{counted(len(report.summaries), 'query').replace('querys', 'queries')}"
    )
    render.say("")
    shown = report.chosen[:ROWS]
    columns = ("query", "kept", "match", "x", "y", "w", "h", "place", "class", "mostly")
    render.table(columns, [_row(report, report.summaries[query]) for query in shown])
    if len(report.chosen) > len(shown):
        render.say(f"... and {len(report.chosen) - len(shown)} more, in queries.csv")
    for line in _legend(report) + _sentences(report):
        render.say("\n".join(textwrap.wrap(line, WIDTH)))


def _row(report: "QueryReport", summary: "QuerySummary") -> tuple[str, ...]:
    """Of kept boxes, or of all where none is kept."""
    boxes = summary.kept if summary.kept.boxes else summary.all
    counts = (str(summary.query), str(summary.detections), str(summary.matched))
    mostly = (report.top_class(boxes) or "-")[:11]
    return (*counts, *_places(boxes), _bits(boxes.place_entropy), _bits(boxes.class_entropy), mostly)


def _places(boxes: "BoxSummary") -> tuple[str, ...]:
    assert boxes.centre is not None
    assert boxes.centre_spread is not None
    assert boxes.size is not None
    assert boxes.size_spread is not None
    means, spreads = (*boxes.centre, *boxes.size), (*boxes.centre_spread, *boxes.size_spread)
    return tuple(per_cent(mean, spread) for mean, spread in zip(means, spreads, strict=True))


def _bits(entropy: float | None) -> str:
    return "-" if entropy is None else f"{entropy:.1f}"


def _legend(report: "QueryReport") -> list[str]:
    idle = any(not report.summaries[query].kept.boxes for query in report.chosen[:ROWS])
    return [
        "kept: detections; match: images with a truth matched",
        "x, y, w, h: centre and size, in % of the image, with their spread",
        "place, class: their entropy in bits (place: 64 cells of the image, at most 6)",
        *(["where none is kept, these are of all boxes, whatever their score"] if idle else []),
    ]


def _sentences(report: "QueryReport") -> list[str]:
    dead = report.dead
    some = ", ".join(map(str, dead[:ROWS])) + (", ..." if len(dead) > ROWS else "")
    lines = [
        "",
        f"Dead queries, with no detection kept and never matched: {len(dead)}" + (f" ({some})." if dead else "."),
    ]
    if report.half:
        lines.append(f"Half of the detections come from {report.half} of {len(report.summaries)} queries.")
    return [*lines, report.caption]


# ---- on an image ----


def write_look(report: "LookReport", folder: Path, picture_format: str | None) -> list[Path]:
    """The numbers as JSON and CSV, and the pictures."""
    from detrctl.inspection.look_report import as_json, write_csv
    from detrctl.inspection.plain import write_json

    files = [folder / "query.json", folder / "query.csv"]
    write_json(as_json(report), files[0])
    write_csv(report, files[1])
    if picture_format is not None:
        from detrctl.inspection.look_pictures import draw_report

        files += draw_report(report, folder, picture_format)
    return files


def tell_look(report: "LookReport") -> None:
    """The image's detections, with their queries, and the chosen query layer by layer."""
    from detrctl.cli import render

    names = report.categories.names
    render.say(f"{report.file}: {report.size_hw[1]} x {report.size_hw[0]} pixels")
    render.say("")
    render.table(
        ("detection", "query", "class", "score", "x", "y", "width", "height"),
        [
            (str(one.rank), str(one.query), names[one.label][:24], f"{one.score:.2f}", *map(per_cent, one.box))
            for one in report.found
        ],
    )
    render.say("")
    render.say(f"query {report.look.query}, by decoder layer:")
    render.table(
        ("layer", "class", "score", "x", "y", "width", "height", "IoU", "inside"),
        [
            (
                str(number),
                names[layer.label][:24],
                f"{layer.score:.2f}",
                *map(per_cent, layer.box.tolist()),
                f"{layer.overlap:.2f}",
                f"{layer.inside:.0%}",
            )
            for number, layer in enumerate(report.look.layers, 1)
        ],
    )
    render.say("x, y: centre, in % of the image; IoU: with the last layer's box;")
    render.say("inside: the part of the layer's cross-attention that falls into its box")
