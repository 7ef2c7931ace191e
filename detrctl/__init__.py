"""Train, evaluate, use and inspect the DETR family of object detectors.

The same work as the commands, from Python:

    import detrctl

    detector = detrctl.load("runs/quickstart-...")     # without an argument: the newest run
    for result in detector.predict(["a.jpg", "b.jpg"]):
        print(result.names, result.scores, result.boxes)

Everything is imported when it is first asked for, so `import detrctl` does not load torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Before torch loads OpenMP, whose threads otherwise wait for each other by spinning: as soon as anything else ran on
# the two cores (a loader worker will do), detection took 20 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from detrctl.engine.evaluate import Evaluation as Evaluation
    from detrctl.engine.evaluate import evaluate_checkpoint as evaluate
    from detrctl.engine.predict import ImageResult as ImageResult
    from detrctl.engine.predict import Predictor as Predictor
    from detrctl.engine.predict import load as load
    from detrctl.engine.train import train as train
    from detrctl.errors import CheckpointError as CheckpointError
    from detrctl.errors import DataError as DataError
    from detrctl.errors import DetrctlError as DetrctlError
    from detrctl.errors import NonFiniteError as NonFiniteError
    from detrctl.errors import RecipeError as RecipeError
    from detrctl.recipe.load import load_recipe as load_recipe
    from detrctl.recipe.schema import Recipe as Recipe

__version__ = "0.1.0"

_HOMES = {
    "CheckpointError": "detrctl.errors:CheckpointError",
    "DataError": "detrctl.errors:DataError",
    "DetrctlError": "detrctl.errors:DetrctlError",
    "Evaluation": "detrctl.engine.evaluate:Evaluation",
    "ImageResult": "detrctl.engine.predict:ImageResult",
    "NonFiniteError": "detrctl.errors:NonFiniteError",
    "Predictor": "detrctl.engine.predict:Predictor",
    "Recipe": "detrctl.recipe.schema:Recipe",
    "RecipeError": "detrctl.errors:RecipeError",
    "evaluate": "detrctl.engine.evaluate:evaluate_checkpoint",
    "load": "detrctl.engine.predict:load",
    "load_recipe": "detrctl.recipe.load:load_recipe",
    "train": "detrctl.engine.train:train",
}

__all__ = [
    "CheckpointError",
    "DataError",
    "DetrctlError",
    "Evaluation",
    "ImageResult",
    "NonFiniteError",
    "Predictor",
    "Recipe",
    "RecipeError",
    "__version__",
    "evaluate",
    "load",
    "load_recipe",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'detrctl' has no attribute '{name}'")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
