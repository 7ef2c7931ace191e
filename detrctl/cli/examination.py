"""What `detrctl eval --errors`, `--layers`, `--nms`, `--confusion` and `--worst` say: nothing wider than 80 columns."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrctl.cli import render
from detrctl.cli.sources import counted

if TYPE_CHECKING:
    from detrctl.evaluation.causes import Causes
    from detrctl.evaluation.confusion import Confusion
    from detrctl.evaluation.errors import ErrorReport
    from detrctl.evaluation.examination import Examination
    from detrctl.evaluation.score_curves import Point, ScoreReport
    from detrctl.evaluation.suppression import Suppressed, Suppression
    from detrctl.evaluation.worst import WorstImage

PAIRS_TOLD = 5
NAME = 18


def tell(found: "Examination") -> None:
    """Everything that was asked, in the order of the options."""
    if found.errors is not None and found.causes is not None:
        _tell_errors(found.errors)
        _tell_causes(found.causes)
    if found.suppression is not None:
        _tell_suppression(found.suppression)
    if found.questions.nms:
        _tell_scores(found.scores)
    if found.confusion is not None:
        _tell_confusion(found.confusion)
    if found.worst is not None:
        _tell_worst(found.worst, found.score)


def draw(found: "Examination", folder: Path, *, picture_format: str, pixels: Callable[[int], Any] | None) -> list[Path]:
    """Figures, and, where images are at hand, pictures of the worst ones."""
    from detrctl.inspection.evaluation_pictures import draw_examination

    files = draw_examination(found, folder, picture_format)
    if found.worst and pixels is not None:
        from detrctl.inspection.worst_pictures import draw_worst

        with render.progress("drawing", "images") as heard:
            files += draw_worst(found.worst, _counting(pixels, heard, len(found.worst)), folder, picture_format)
    return files


def _counting(pixels: Callable[[int], Any], heard: Callable[[int, int], None], total: int) -> Callable[[int], Any]:
    done = 0

    def heard_pixels(image_id: int) -> Any:
        nonlocal done
        heard(done, total)
        done += 1
        tensor = pixels(image_id)
        return None if tensor is None else tensor.permute(1, 2, 0).numpy()

    return heard_pixels


# ---- errors ----


def _tell_errors(report: "ErrorReport") -> None:
    from detrctl.evaluation.errors import MEANINGS

    render.say("")
    render.say(f"errors by TIDE's definitions: what AP50 {number(report.ap50)} would gain")
    rows = [
        (
            row.kind,
            str(row.all.count),
            f"{row.all.lost_ap:.3f}",
            *(f"{impact.lost_ap:.3f}" for impact in row.by_size.values()),
            *([""] * 3 if not row.by_size else []),
        )
        for row in (*report.rows, report.false_positives, report.false_negatives)
    ]
    render.table(
        ("kind", "count", "all", "small", "medium", "large"), [(*row[:3], *(c or "-" for c in row[3:])) for row in rows]
    )
    for kind, meaning in MEANINGS.items():
        render.say(f"  {kind}: {meaning}")
    render.say("  small, medium, large: only where the object is; each line is mended by itself")


def _tell_causes(causes: "Causes") -> None:
    from detrctl.evaluation.causes import MEANINGS

    render.say("")
    render.say(
        f"why: from score {causes.score:.3f} up {causes.lost} of {counted(causes.truths, 'truth')} are lost; "
        "several may apply"
    )
    rows = [
        (
            row.name,
            str(row.count),
            f"{row.lost_ap:.3f}",
            *(str(row.by_size[size]) for size in ("small", "medium", "large")),
        )
        for row in causes.rows
    ]
    render.table(("cause", "count", "AP50", "small", "medium", "large"), rows)
    for row in causes.rows:
        render.say(f"  {row.name}: {MEANINGS[row.name]}")
    if causes.forgotten_at:
        told = ", ".join(f"layer {layer}: {count}" for layer, count in causes.forgotten_at.items())
        _say_wrapped(f"forgotten ones were last found at {told}")
    if causes.rank_needed is not None:
        render.say(f"half of those cut off rank {causes.rank_needed} or better among all answers of their image")
    if causes.pairs:
        queries = "queries (ranks of proposals)" if causes.ranked else "queries"
        told = ", ".join(f"{kept} + {other}: {times}" for kept, other, times in causes.pairs[:PAIRS_TOLD])
        _say_wrapped(f"{queries} that repeat another one (kept + repeats, how often): {told}")
    if causes.since:
        told = ", ".join(f"layer {layer}: {count}" for layer, count in causes.since.items())
        _say_wrapped(f"both answer about the object from {told}")


# ---- NMS ----


def _tell_suppression(study: "Suppression") -> None:
    from detrctl.evaluation.suppression import sentences

    render.say("")
    render.say("with and without NMS (by class; duplicates per truth: of any score, and sure")
    render.say("ones, from the score of the best F1 up)")
    told = [*(study.layers[:-2] if study.last else study.layers), *study.last]
    columns = ("answers of", "NMS at", "AP", "AP50", "per image", "duplicates", "sure")
    render.table(columns, [_suppressed(row) for row in told])
    for sentence in sentences(study):
        _say_wrapped(sentence)


def _suppressed(row: "Suppressed") -> tuple[str, ...]:
    return (
        "the model" if row.layer is None else f"layer {row.layer}",
        "none" if row.threshold is None else f"{row.threshold:.1f}",
        number(row.ap),
        number(row.ap50),
        f"{row.per_image:.1f}",
        number(row.duplicates, places=2),
        number(row.sure_duplicates, places=2),
    )


def _tell_scores(scores: "ScoreReport") -> None:
    render.say("")
    best = scores.curve.best
    if best is not None:
        render.say(
            f"best F1, all classes: {best.f1:.3f} at score {best.score:.3f} (precision {best.precision:.3f}, "
            f"recall {best.recall:.3f})"
        )
        render.say(f"false positives there: {best.false_per_image:.2f} per image")
    if scores.calibration is not None:
        render.say(f"expected calibration error: {scores.calibration.error:.3f} (0: a score is the chance to be right)")
    rows = [(row.name[:NAME], str(row.truths), *_point(row.best)) for row in scores.by_class]
    render.table(("class", "truths", "best F1", "at score", "precision", "recall", "false/image"), rows)


def _point(best: "Point | None") -> tuple[str, ...]:
    if best is None:
        return ("-",) * 5
    return (
        f"{best.f1:.3f}",
        f"{best.score:.3f}",
        f"{best.precision:.3f}",
        f"{best.recall:.3f}",
        f"{best.false_per_image:.2f}",
    )


# ---- confusion and the worst images ----


def _tell_confusion(confusion: "Confusion") -> None:
    counts, background = confusion.counts, len(confusion.names)
    render.say("")
    render.say(f"confusion from score {confusion.score:.3f} up, at IoU 0.5:")
    rows = []
    for place, name in enumerate(confusion.names):
        truths, right, missed = (int(n) for n in (counts[place].sum(), counts[place, place], counts[place, background]))
        rows.append(
            (name[:NAME], *map(str, (truths, right, truths - right - missed, missed, int(counts[background, place]))))
        )
    render.table(("class", "truths", "right", "as another class", "missed", "false alarms"), rows)
    for mixup in confusion.mixups(PAIRS_TOLD):
        render.say(f"  {mixup.truth} taken for {mixup.answer}: {mixup.count} ({100 * mixup.share:.0f}% of its truths)")


def _tell_worst(images: Sequence["WorstImage"], score: float) -> None:
    render.say("")
    if not images:
        render.say("worst images: none has a mistake")
        return
    render.say("worst images, by the AP50 gained if the image were answered perfectly")
    render.say(f"(found, missed, false: from score {score:.3f} up):")
    rows = [
        (
            image.file_name.rsplit("/", 1)[-1][:24] or "-",
            str(image.image_id),
            f"{image.cost:.4f}",
            *map(str, (image.truths, image.found, image.missed, image.false)),
        )
        for image in images
    ]
    render.table(("file", "image", "AP50", "truths", "found", "missed", "false"), rows)


def number(value: float | None, *, places: int = 3) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _say_wrapped(text: str) -> None:
    for line in wrapped(text):
        render.say(line)


def wrapped(text: str, width: int = 80) -> list[str]:
    """Lines of at most so many letters, broken at spaces."""
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
