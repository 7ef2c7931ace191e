"""`detrctl predict`: pictures with boxes, and the detections as JSON and CSV."""

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrctl.cli import options
from detrctl.cli.checkpoints import RECIPE_HELP
from detrctl.cli.sources import counted, find_images, fresh_folder, image_ids

if TYPE_CHECKING:
    from detrctl.engine.predict import ImageResult


def predict(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Image files, folders of images, or globs such as 'a/*.jpg'."),
    ],
    ckpt: options.Checkpoint = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder for the results; default: predictions, predictions-2, ..."),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least score of a detection; default: the recipe's evaluate.score."),
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="At most the N best detections of each image.")] = None,
    batch: options.Batch = None,
    ids: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="COCO JSON file whose image ids are taken, by file name."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Also write predictions.csv.")] = False,
    pictures: Annotated[bool, typer.Option(help="Draw the detections on copies of the images.")] = True,
    device: options.Device = "auto",
    trust: options.Trust = False,
    recipe: Annotated[str | None, typer.Option(metavar="RECIPE", help=RECIPE_HELP)] = None,
) -> None:
    """Find objects in images: pictures with boxes, and predictions.json in COCO's result format with file names.

    Images are numbered 1, 2, 3, ... in the order of the sources; only where every name is a number of twelve digits, as
    in COCO, it is the image_id. --ids takes those of a dataset's file, with or without annotations. file_name is always
    there, and `detrctl eval --predictions` goes by it.

    A file that is not an image is named and skipped; the exit code is then 1.
    """
    images = find_images(sources)
    numbers = image_ids(images, ids)
    from detrctl.cli import render
    from detrctl.cli.checkpoints import chosen_checkpoint
    from detrctl.engine.outputs import PredictionFolder
    from detrctl.engine.predict import load, predict_files

    predictor = load(chosen_checkpoint(ckpt), device=device, trust=trust, recipe=recipe)
    for note in predictor.notes:
        render.warn(note)
    least = predictor.recipe.evaluate.score if score is None else score
    output = PredictionFolder(fresh_folder(out), predictor.categories.ids, pictures=pictures)
    tally = Tally(least)
    with render.progress("predicting", "images") as heard:
        files = predict_files(predictor, images, batch_size=batch)
        for n, (file, image_id) in enumerate(zip(files, numbers, strict=True), start=1):
            if file.problem is not None:
                render.warn(file.problem)
            elif file.result is not None:
                tally.add(kept := file.result.best(score=least, top=top), file.result)
                output.add(file, kept, image_id)
            heard(n, len(images))
    for line in (*tally.lines(), output.finish(as_csv=as_csv)):
        render.say(line)
    if tally.images < len(images):
        render.warn(f"{len(images) - tally.images} of {len(images)} files could not be read")
        raise typer.Exit(1)


class Tally:
    """What was found, in all images."""

    def __init__(self, least: float):
        self._least = least
        self._best = 0.0
        self._classes: Counter[str] = Counter()
        self.images = 0

    def add(self, kept: "ImageResult", everything: "ImageResult") -> None:
        self.images += 1
        self._classes.update(kept.names)
        self._best = max([self._best, *everything.scores[:1].tolist()])

    def lines(self) -> list[str]:
        """Counts of each class, most frequent first; where nothing was found, what score would have shown something."""
        found = ", ".join(f"{count} {name}" for name, count in self._classes.most_common())
        line = (
            f"{counted(self.images, 'image')}, {counted(self._classes.total(), 'detection')} "
            f"with score {self._least:.2f} or more"
        )
        if found or not self.images:
            return [f"{line}: {found}" if found else line]
        return [
            line,
            f"the best score is {self._best:.2f}; --score {math.floor(50 * self._best) / 100:g} would show some",
        ]
