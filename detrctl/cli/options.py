"""Options that several commands take alike."""

from pathlib import Path
from typing import Annotated

import typer

from detrctl.errors import DetrctlError

FORMATS = ("png", "svg", "pdf")


def _known(name: str) -> str:
    if name not in FORMATS:
        raise DetrctlError(f"--format {name}: there are {', '.join(FORMATS)}")
    return name


Checkpoint = Annotated[
    Path | None,
    typer.Option(metavar="FILE_OR_RUN", help="Checkpoint file or run folder; default: the newest run's best."),
]
Data = Annotated[
    str | None, typer.Option(metavar="DIR", help="Dataset folder, or `shapes`; default: the one it was trained on.")
]
Split = Annotated[str, typer.Option(help="Which split of the dataset.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N images of the split.")]
Batch = Annotated[
    int | None, typer.Option(min=1, max=65536, help="Images at a time; default: the recipe's evaluate.batch_size.")
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")]
Trust = Annotated[bool, typer.Option("--trust", help="Import model parts of others that a checkpoint names.")]
RecipeOrRandom = Annotated[
    str | None,
    typer.Option(
        metavar="RECIPE", help="Alone: its model with random weights. With --ckpt: which recipe a published file is of."
    ),
]
PictureFormat = Annotated[
    str, typer.Option("--format", metavar="png|svg|pdf", help="Of the pictures.", callback=_known)
]
Pictures = Annotated[bool, typer.Option(help="Draw pictures beside the numbers.")]
