"""`detrctl inspect-matching`: which query meets which object, at what price, and how steadily."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrctl.cli import options
from detrctl.cli.sources import counted, filled, free_folder, say_files
from detrctl.errors import DetrctlError

if TYPE_CHECKING:
    from detrctl.inspection.matching import MatchRow
    from detrctl.inspection.matching_report import MatchingReport, RunMatching

HARD_SHOWN, NAME_WIDTH, STEP_WIDTH = 5, 30, 16
LAYERS_ABREAST = 6
"""So many layers' queries and margins fit 80 columns."""


def inspect_matching(
    ckpt: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE_OR_RUN",
            help="Checkpoint, or run folder, which stands for all its epochs' checkpoints (train.keep_every). "
            "Repeat it for a curve or to compare two runs. Default: the newest run's best.",
        ),
    ] = None,
    data: options.Data = None,
    split: options.Split = "val",
    image_id: Annotated[int | None, typer.Option(metavar="ID", help="Only the image with this COCO id.")] = None,
    limit: options.Limit = None,
    show: Annotated[int, typer.Option(min=0, help="How many images to tell in detail and draw.")] = 8,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder for the results; default: matching, matching-2, ...")
    ] = None,
    picture_format: options.PictureFormat = "png",
    pictures: Annotated[bool, typer.Option(help="Draw pictures beside the page and the numbers.")] = True,
    batch: options.Batch = None,
    device: options.Device = "auto",
    trust: options.Trust = False,
    recipe: options.RecipeOrRandom = None,
) -> None:
    """Costs, chosen pairs, runners-up and margins per decoder layer, and how stable the matching is."""
    if image_id is not None and limit is not None:
        raise DetrctlError("--image-id takes one image, --limit the first ones: give one of them")
    folder = free_folder(out, name="matching")
    report = _look(
        ckpt or [], recipe, data, split, image_id, limit=limit, show=show, batch=batch, device=device, trust=trust
    )
    tell(report)
    with filled(folder) as part:
        files = write(report, part, picture_format=picture_format if pictures else None)
    say_files(folder, files)


def _look(
    ckpts: Sequence[Path],
    recipe: str | None,
    data: str | None,
    split: str,
    image_id: int | None,
    *,
    limit: int | None,
    show: int,
    batch: int | None,
    device: str,
    trust: bool,
) -> "MatchingReport":
    from detrctl.cli import render
    from detrctl.cli.checkpoints import chosen_checkpoint
    from detrctl.engine.inspect_matching import inspect_matching
    from detrctl.engine.inspected import Wish

    paths: list[Path | None] = [*ckpts]
    if not paths and recipe is None:
        paths = [chosen_checkpoint(None)]
    wish = Wish(data=data, split=split, limit=limit, image_id=image_id, batch_size=batch, device=device, trust=trust)
    with render.progress("matching", "images") as heard:
        report = inspect_matching(paths or (None,), recipe=recipe, wish=wish, shown=show, on_progress=heard)
    for note in report.notes:
        render.warn(note)
    return report


def write(report: "MatchingReport", folder: Path, *, picture_format: str | None) -> list[Path]:
    """The numbers as JSON and CSV, the page, which is made of them, and the pictures."""
    from detrctl.cli import render
    from detrctl.inspection.matching_report import CHEAPEST, as_json, write_costs_csv, write_csv, write_instability_csv
    from detrctl.inspection.report import LARGEST, compact, fitting_page

    json_file, csv_file, page_file = (folder / name for name in ("matching.json", "matching.csv", "report.html"))
    content = as_json(report)
    json_file.write_text(compact(content) + "\n", encoding="utf-8")
    write_csv(report.rows, csv_file)
    page = fitting_page(content, report.shown)
    size = page_file.write_bytes(page.text.encode())
    if size >= LARGEST:
        render.warn(f"report.html has {size / 1e6:.1f} MB: --show takes fewer images")
    elif (cheapest := page.plan.cheapest) < CHEAPEST:
        render.warn(
            f"report.html lists the {cheapest} cheapest queries of each truth, not {CHEAPEST}, to stay under 5 MB: "
            "--show takes fewer images"
        )
    files = [json_file, csv_file, page_file]
    if report.main.images == 1 and report.shown:
        files.append(folder / "costs.csv")
        write_costs_csv(report.shown[0].matching, files[-1])
    if any(run.steps for run in report.runs):
        files.append(folder / "instability.csv")
        write_instability_csv(report.runs, files[-1])
    if picture_format is not None:
        from detrctl.inspection.matching_pictures import draw_report

        files += draw_report(report, folder, picture_format)
    return files


# ---- the terminal: nothing wider than 80 columns ----


def tell(report: "MatchingReport") -> None:
    """What was found, in tables and a few sentences."""
    from detrctl.cli import render

    main = report.main
    weights = report.weights
    render.say(
        f"{report.data}, split {report.split}: {counted(main.images, 'image')}, {counted(main.truths, 'truth')}, "
        f"{main.use.queries} queries"
    )
    render.say(f"cost = {weights.class_cost:g} class + {weights.l1:g} L1 + {weights.giou:g} GIoU; lower is better")
    if main.images == 1:
        _tell_image(report)
    _tell_layers(report)
    _tell_runs(report)
    for run in report.runs:
        _tell_steps(run)
    _tell_denoising(report)
    _tell_sentences(report)


def _tell_image(report: "MatchingReport") -> None:
    """One image: its truths in the last layer."""
    from detrctl.cli import render

    rows = [row for row in report.rows[report.shown_of] if row.layer == len(report.main.layers) - 1]
    if not rows:
        render.say("This image has no object, so no query is matched: every one should answer nothing.")
        return
    render.say("")
    render.say(f"{report.shown_of}, image {rows[0].image_id}, last decoder layer:")
    columns = ("truth", "object", "query", "cost", "class", "L1", "GIoU", "IoU", "next", "margin")
    render.table(columns, [_truth_cells(row) for row in rows])
    render.say("next: the query that answers if the pair is forbidden;")
    render.say("margin: what the whole matching costs more then")
    _tell_queries_by_layer(report.rows[report.shown_of])


def _tell_queries_by_layer(rows: Sequence["MatchRow"]) -> None:
    """Which query each truth has in every layer, and with what margin."""
    from detrctl.cli import render

    depth = 1 + max(row.layer for row in rows)
    if depth == 1:
        return
    by_truth = [[row for row in rows if row.truth == truth] for truth in sorted({row.truth for row in rows})]
    render.say("")
    render.say("query, and margin in brackets, by decoder layer:")
    for first in range(0, depth, LAYERS_ABREAST):
        some = range(first, min(first + LAYERS_ABREAST, depth))
        render.table(
            ("truth", *(str(layer + 1) for layer in some)),
            [
                (
                    str(found[0].truth),
                    *(f"{query_name(row.query)} ({short(row.margin)})" for row in found if row.layer in some),
                )
                for found in by_truth
            ],
        )


def _truth_cells(row: "MatchRow") -> tuple[str, ...]:
    return (
        str(row.truth),
        row.label[:14],
        query_name(row.query),
        number(row.cost_total),
        number(row.cost_class),
        number(row.cost_l1),
        number(row.cost_giou),
        number(row.iou),
        query_name(row.runner_up),
        number(row.margin),
    )


def _tell_layers(report: "MatchingReport") -> None:
    from detrctl.cli import render

    if not report.main.layers:
        return
    changes = [share.all.value for share in report.main.between_layers] + [None]
    render.say("")
    render.say(f"{report.main.name}: matched pairs by decoder layer (means; margin: median)")
    rows = [
        (
            str(layer.layer + 1),
            number(layer.all.cost_total),
            number(layer.all.cost_class),
            number(layer.all.cost_l1),
            number(layer.all.cost_giou),
            number(layer.all.iou),
            number(layer.all.margin),
            per_cent(layer.all.found),
            per_cent(change),
        )
        for layer, change in zip(report.main.layers, changes, strict=False)
    ]
    render.table(("layer", "cost", "class", "L1", "GIoU", "IoU", "margin", "found", "changes"), rows)
    render.say("found: some query has the class and an IoU of 0.5; changes: truths that the next")
    render.say("layer gives to another query")


def _tell_runs(report: "MatchingReport") -> None:
    """Several runs, each by the last layer of its last checkpoint."""
    from detrctl.cli import render

    if len(report.runs) == 1 or not report.main.layers:  # all runs see the same images, so that none has layers then
        return
    render.say("")
    render.say("last layer of each run's last checkpoint (means):")
    last = [run.checkpoints[-1] for run in report.runs]
    rows = [
        (
            found.name[:NAME_WIDTH],
            number(found.layers[-1].all.cost_total),
            number(found.layers[-1].all.iou),
            per_cent(found.layers[-1].all.found),
            str(len(found.hard)),
            per_cent(found.between_layers[-1].all.value) if found.between_layers else "-",
        )
        for found in last
    ]
    render.table(("run", "cost", "IoU", "found", "not found", "changes"), rows)


def shortened(name: str) -> str:
    """With its end, which tells checkpoints of one run apart."""
    return name if len(name) <= STEP_WIDTH else f"...{name[3 - STEP_WIDTH :]}"


def _tell_steps(run: "RunMatching") -> None:
    from detrctl.cli import render

    if not run.steps:
        return
    render.say("")
    render.say(f"{run.title}: instability (Li et al. 2022, 3.1)")
    rows = [
        (
            shortened(step.after.removeprefix(f"{run.name} ")),
            f"{step.instability:.2f}",
            *([f"{step.by_token:.2f}"] if run.two_stage else []),
            f"{step.most:.2f}",
            *(per_cent(share.value) for share in (step.moved.all, *step.moved.by_size.values())),
        )
        for step in run.steps
    ]
    render.table(
        (
            "up to",
            "instability",
            *(["by token"] if run.two_stage else []),
            "at most",
            "moved",
            "small",
            "medium",
            "large",
        ),
        rows,
    )
    apart = {step.epochs for step in run.steps}
    if apart != {1}:
        render.say("The checkpoints are not one epoch apart, for which the paper defines it.")


def _tell_denoising(report: "MatchingReport") -> None:
    from detrctl.cli import render

    if report.denoising is None:
        return
    summary = report.denoising.summary
    render.say("")
    render.say(
        f"denoising: {counted(summary.rebuilt, 'noised truth')} to rebuild"
        + (f", {summary.refused} to refuse" if summary.refused else "")
        + f", on {counted(summary.images, 'image')}"
    )
    rows = [
        (
            "given" if layer.layer < 0 else str(layer.layer + 1),
            number(layer.iou),
            per_cent(layer.class_right),
            number(layer.score_rebuilt),
            number(layer.score_refused),
        )
        for layer in (summary.given, *summary.layers)
    ]
    render.table(("layer", "IoU", "class right", "score", "score of refused"), rows)


def _tell_sentences(report: "MatchingReport") -> None:
    from detrctl.cli import render

    main = report.main
    render.say("")
    if len(curves := [run for run in report.runs if run.steps]) > 1:
        render.say("Mean instability over these checkpoints, queries known by token:")
        for run in curves:
            render.say(f"  {run.mean_instability:.2f}  {run.title}, {counted(len(run.steps), 'step')}")
    if main.unmatched:
        render.say(f"{counted(main.unmatched, 'truth')} got no query: the image holds more than there are queries.")
    never = len(main.use.never)
    render.say(
        f"Queries never chosen: {never} of {main.use.queries}" + (" (slots are ranks)." if report.two_stage else ".")
    )
    if main.truths:
        different = ", ".join(f"{size} {len(times)}" for size, times in main.use.by_size.items())
        render.say(f"Different queries that answer, by size of object: {different}.")
        render.say(f"Truths that no query finds: {len(main.hard)} of {main.truths}.")
    for row in main.hard[:HARD_SHOWN]:
        render.say(f"  image {row.image_id}, truth {row.truth}: {row.label}, {row.size}, best IoU {row.best_iou:.2f}")
    if len(main.hard) > HARD_SHOWN:
        render.say(f"  ... and {len(main.hard) - HARD_SHOWN} more, in matching.json and report.html")


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def short(value: float | None) -> str:
    """Four characters at most, below ten thousand."""
    digits = 0 if value is None or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return "-" if value is None else f"{value:.{digits}f}"


def per_cent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def query_name(query: int) -> str:
    return "none" if query < 0 else str(query)
