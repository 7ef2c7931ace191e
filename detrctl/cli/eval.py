"""`detrctl eval`: COCO scores of a checkpoint, or of a result file without a model."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from detrctl.cli import examination, options, render
from detrctl.cli.sources import counted, filled, free_folder, say_files
from detrctl.errors import DataError, DetrctlError
from detrctl.evaluation.questions import Questions

if TYPE_CHECKING:
    from detrctl.evaluation.coco_metrics import CocoScores
    from detrctl.evaluation.examination import Examination
    from detrctl.evaluation.ground_truth import GroundTruth

Told: TypeAlias = "tuple[dict[str, Any], CocoScores, Examination | None, Callable[[int], Any] | None]"
"""What was scored, the scores, and, if something was asked, what was found, and images by their id."""


MEANINGS = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small: area up to 32 x 32 pixels",
    "APm": "medium: between small and large",
    "APl": "large: area from 96 x 96 pixels",
    "ARs": "recall, small",
    "ARm": "recall, medium",
    "ARl": "recall, large",
}
NO_TRUTH = "no ground truth"


def evaluate(
    ckpt: options.Checkpoint = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Dataset folder, or `shapes`; default: the one it was trained on. With --predictions and --worst: "
            "where the images are.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which split of the dataset; default: val.")] = None,
    max_dets: Annotated[
        int | None,
        typer.Option(min=1, help="Most detections that count per image and class; default: the recipe's (COCO: 100)."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all numbers to this JSON file.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the model's detections, a COCO result file.")
    ] = None,
    batch: options.Batch = None,
    limit: options.Limit = None,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute; default: auto.")
    ] = None,
    trust: options.Trust = False,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Score this COCO result file instead of a checkpoint; no model is loaded."),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(metavar="FILE", help="COCO annotations to score --predictions against.")
    ] = None,
    recipe: options.RecipeOrRandom = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Which kinds of mistakes cost how much AP50, and why (TIDE; seconds more).")
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="AP of every decoder layer, with and without NMS (up to a minute a layer).")
    ] = False,
    nms: Annotated[
        bool,
        typer.Option(
            "--nms",
            help="Why no NMS: --layers, NMS at several thresholds, duplicates, false positives by score, calibration, "
            "best thresholds (on COCO some minutes more).",
        ),
    ] = False,
    confusion: Annotated[bool, typer.Option("--confusion", help="The confusion matrix, at IoU 0.5.")] = False,
    worst: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The N images that cost the most AP50, with pictures.")
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(help="From which score up answers count in the options above; default: that of the best F1."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder for what is asked; default: evaluation, evaluation-2, ..."),
    ] = None,
    picture_format: options.PictureFormat = "png",
    pictures: Annotated[bool, typer.Option(help="Draw pictures beside the numbers of the options above.")] = True,
) -> None:
    """The twelve COCO numbers and AP per class, of a checkpoint or of a COCO result file.

    What --errors, --layers, --nms, --confusion and --worst ask is told here, and as JSON, CSV and pictures in a folder.
    """
    for file in (json_file, results):
        if file is not None:
            check_writable(file)
    questions = Questions(errors, layers, nms, confusion, worst or 0, score)
    _check_asked(questions, {"--score": score, "--out": out})
    folder = free_folder(out, name="evaluation") if questions else None
    if predictions is None and annotations is None:
        about, scores, found, pixels = _of_checkpoint(
            questions,
            ckpt,
            data,
            split or "val",
            max_dets=max_dets,
            batch=batch,
            limit=limit,
            device=device or "auto",
            trust=trust,
            recipe=recipe,
            results=results,
        )
    elif predictions is None or annotations is None:
        raise DetrctlError(
            "--predictions and --annotations belong together: give a result file and its COCO annotations"
        )
    else:
        for_a_model = {
            "--ckpt": ckpt,
            "--data": data if not worst else None,  # then it says where the images are
            "--split": split,
            "--batch": batch,
            "--limit": limit,
            "--device": device,
            "--trust": trust or None,
            "--recipe": recipe,
            "--results": results,
        }
        if given := [name for name, value in for_a_model.items() if value is not None]:
            raise DetrctlError(f"--predictions scores a result file as it is: leave out {', '.join(given)}")
        if layers:
            raise DetrctlError("--layers: a result file does not hold the decoder layers' answers; it takes --ckpt")
        about, scores, found, pixels = _of_file(predictions, annotations, questions, data, max_dets=max_dets)
    show(scores)
    if found is not None:
        examination.tell(found)
        about |= found.as_dict()
    content = {**scores.as_dict(), **about}
    if json_file is not None:
        write_json(json_file, content)
    if found is not None and folder is not None:
        with filled(folder) as part:
            files = _write(found, content, part, picture_format if pictures else None, pixels)
        say_files(folder, files)
        if pictures and worst and pixels is None:
            render.say("no pictures of the worst images: say with --data DIR where the images are")


def _write(
    found: "Examination",
    content: dict[str, Any],
    folder: Path,
    picture_format: str | None,
    pixels: Callable[[int], Any] | None,
) -> list[Path]:
    """The numbers first."""
    from detrctl.evaluation.examination_tables import write_tables

    files = [folder / "evaluation.json"]
    write_json(files[0], content)
    files += write_tables(found, folder)
    if picture_format is not None:
        files += examination.draw(found, folder, picture_format=picture_format, pixels=pixels)
    return files


def _check_asked(questions: Questions, options: dict[str, object]) -> None:
    """Options that say how to answer need a question."""
    given = [name for name, value in options.items() if value is not None]
    if (score := questions.score) is not None and not math.isfinite(score):
        raise DetrctlError(f"--score {score}: a number is needed")
    if given and not questions:
        raise DetrctlError(f"{', '.join(given)}: to what? Add --errors, --layers, --nms, --confusion or --worst N")


def _of_checkpoint(
    questions: Questions,
    ckpt: Path | None,
    data: str | None,
    split: str,
    *,
    max_dets: int | None,
    batch: int | None,
    limit: int | None,
    device: str,
    trust: bool,
    recipe: str | None,
    results: Path | None,
) -> Told:
    from detrctl.cli.checkpoints import chosen_checkpoint
    from detrctl.engine.evaluate import evaluate_checkpoint
    from detrctl.engine.examine import examine_checkpoint

    random = ckpt is None and recipe is not None
    path = None if random else chosen_checkpoint(ckpt)
    if random:
        render.say(f"recipe {recipe} with random weights")
    with render.progress("evaluating", "images") as heard:
        options: dict[str, Any] = {
            "data": data,
            "split": split,
            "limit": limit,
            "batch_size": batch,
            "max_dets": max_dets,
            "device": device,
            "trust": trust,
            "recipe": recipe,
            "on_oddities": _say_indented,
            "on_progress": heard,
        }
        looked = examine_checkpoint(path, questions, **options) if questions else None
        done = looked.evaluation if looked else evaluate_checkpoint(path, **options)
    for note in done.notes:
        render.warn(note)
    counts = f"{counted(done.scores.images, 'image')}, {counted(done.scores.truths, 'truth')}"
    render.say(f"{done.data}, split {split}: {counts}, {done.seconds:.1f} s")
    if results is not None:
        write_json(results, done.results, indent=None)
    about = {"checkpoint": None if random else str(path), "recipe": recipe, "data": done.data, "split": split}
    return about, done.scores, looked.examination if looked else None, looked.pixels if looked else None


def _say_indented(lines: Iterable[str]) -> None:
    for line in lines:
        render.say(f"  {line}")


def _of_file(
    predictions: Path, annotations: Path, questions: Questions, data: str | None, *, max_dets: int | None
) -> Told:
    from detrctl.evaluation.answers import Answers
    from detrctl.evaluation.coco_metrics import score
    from detrctl.evaluation.examination import Seen, examine
    from detrctl.evaluation.ground_truth import GroundTruth
    from detrctl.evaluation.results import matched_by_file_name, read_results

    truths = GroundTruth.from_file(annotations)
    results = matched_by_file_name(read_results(predictions), truths, source=str(predictions))
    scores = score(truths, results, max_dets=max_dets or 100, source=str(predictions))
    if truths.left_out:
        why = "no usable box, unknown image or category"
        render.warn(f"{annotations}: {counted(truths.left_out, 'annotation')} left out ({why})")
    counts = f"{counted(scores.images, 'image')}, {counted(scores.truths, 'truth')}"
    render.say(f"{predictions}: {counted(len(results), 'detection')}; {annotations}: {counts}")
    about = {"predictions": str(predictions), "annotations": str(annotations)}
    if not questions:
        return about, scores, None, None
    pixels = _pixels_in(data, annotations, truths) if data is not None else None
    return (
        about,
        scores,
        examine(Seen(truths, Answers.from_results(results)), questions, max_dets=max_dets or 100),
        pixels,
    )


def _pixels_in(data: str, annotations: Path, truths: "GroundTruth") -> Callable[[int], Any]:
    """Images of a dataset folder by their ids; None for one that is not there or cannot be read, which is told."""
    from detrctl.data.images import read_image
    from detrctl.data.layouts import ImageFinder
    from detrctl.data.shapes import ensure_shapes
    from detrctl.recipe.locate import expanded

    folder = ensure_shapes() if data == "shapes" else expanded(data)
    finder = ImageFinder(folder, annotations)
    names = dict(zip(truths.image_ids.tolist(), truths.file_names, strict=True))

    def pixels(image_id: int) -> Any:
        file = finder.find(names[image_id])
        if file is None:
            render.warn(f"{folder}: holds no image {names[image_id] or image_id}; it gets no picture")
            return None
        try:
            return read_image(file)
        except DataError as error:
            render.warn(str(error))
            return None

    return pixels


def show(scores: "CocoScores") -> None:
    """The numbers, the classes, and what size does to them."""
    render.say("")
    render.table(
        ("score", "", "meaning"),
        [(name, number(value), meaning(name, scores.max_dets)) for name, value in scores.numbers.items()],
    )
    if scores.max_dets != 100:
        render.say(f"Counting at most {scores.max_dets} detections per image and class, where COCO counts 100.")
    render.say("")
    rows = [(row.name, number(row.AP), number(row.AP50), str(row.truths), str(row.images)) for row in scores.per_class]
    render.table(("class", "AP", "AP50", "truths", "images with it"), rows)
    render.say("")
    for sentence in small_against_large(scores):
        render.say(sentence)


def meaning(name: str, max_dets: int) -> str:
    """In a few words; AR1, AR10 and so on are named after the detections that they count."""
    if name in MEANINGS:
        return MEANINGS[name]
    return f"recall with {min(int(name.removeprefix('AR')), max_dets)} per image and class"


def number(value: float | None) -> str:
    return NO_TRUTH if value is None else f"{value:.3f}"


def small_against_large(scores: "CocoScores") -> Iterator[str]:
    """One or two sentences on how much the size of an object matters here."""
    small, large = scores["APs"], scores["APl"]
    if small is None or large is None:
        missing = " and ".join(name for name, value in (("small", small), ("large", large)) if value is None)
        yield f"Sizes: there are no {missing} objects here, so small and large cannot be compared."
        return
    n_small, n_large = (scores.truths_by_size[size] for size in ("small", "large"))
    yield f"Sizes: AP {small:.3f} on small objects ({n_small} truths), {large:.3f} on large ones ({n_large} truths)."
    if small < 0.7 * large:
        yield "Small ones suffer; more pixels help most: raise data.eval_size, and data.augment.sizes in training."
    elif large < 0.7 * small:
        yield "Large ones suffer, which more pixels do not mend; look at some pictures with `detrctl predict`."
    elif large > 0:
        yield "Size makes little difference."


def check_writable(path: Path) -> None:
    """Before the work, not after it."""
    if path.is_dir():
        raise DetrctlError(f"{path}: is a folder, a file name is needed")
    if not path.parent.is_dir():
        raise DetrctlError(f"{path}: its folder does not exist; make it first")


def write_json(path: Path, content: object, *, indent: int | None = 2) -> None:
    try:
        path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
    except OSError as error:
        raise DetrctlError(f"{path}: cannot be written ({error.strerror})") from None
