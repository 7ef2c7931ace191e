"""What `detrctl eval` is asked beyond the scores. Light to import, as every `--help` imports it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Questions:
    """What is asked; `worst` is how many images. `score` is the operating score, None for that of the best F1."""

    errors: bool = False
    layers: bool = False
    nms: bool = False
    confusion: bool = False
    worst: int = 0
    score: float | None = None

    def __bool__(self) -> bool:
        return self.errors or self.layers or self.nms or self.confusion or self.worst > 0
