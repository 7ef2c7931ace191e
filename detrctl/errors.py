"""The errors that a user can mend. Each becomes one plain line and exit code 2; anything else is our bug."""

from dataclasses import dataclass


class DetrctlError(Exception):
    """Something the user can put right. The message says what is wrong, where, and what to do."""


class DataError(DetrctlError):
    """A dataset, an annotation file or an image that cannot be used."""


class CheckpointError(DetrctlError):
    """A checkpoint or run folder that cannot be used."""


class NonFiniteError(DetrctlError):
    """A NaN or an infinity in predictions, targets, losses or gradients; names the image and the layer."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe: where it stands, the field's path, what was found and what would do."""

    where: str
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.message}" if self.path else f"{self.where}: {self.message}"


class RecipeError(DetrctlError):
    """All the mistakes of a recipe at once, one line each."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))
