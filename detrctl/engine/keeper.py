"""What a run keeps: checkpoints while it goes on, curves and a summary when it ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detrctl.engine.checkpoint import Checkpoint, save
from detrctl.engine.distributed import Processes
from detrctl.engine.ema import Average
from detrctl.engine.plots import draw_run
from detrctl.engine.runs import RunFolder
from detrctl.engine.state import Standing, pack, random_state
from detrctl.families.learner import Learner
from detrctl.recipe.schema import Recipe
from detrctl.structures import Categories


@dataclass(frozen=True)
class Keeper:
    """Writes on the first process only."""

    run: RunFolder
    recipe: Recipe
    categories: Categories
    learner: Learner
    optimizer: torch.optim.Optimizer
    average: Average | None
    device: torch.device
    processes: Processes

    def _checkpoint(self, training: dict[str, Any] | None) -> Checkpoint:
        average = self.average.weights if self.average else None
        return Checkpoint(self.recipe, self.categories, self.learner.network.state_dict(), average, training)

    def save_weights(self, path: Path) -> None:
        """A checkpoint to evaluate, predict and start from, without what resuming needs."""
        if self.processes.first:
            save(self._checkpoint(None), path)

    def save_last(self, standing: Standing, data: dict[str, int]) -> None:
        """`checkpoints/last.pt`. Called on every process: the random numbers of each belong into it."""
        states: Sequence[dict[str, Any]] = self.processes.gather(random_state(self.device))
        if self.processes.first:
            updates = self.average.updates if self.average else 0
            training = pack(standing, optimizer=self.optimizer, ema_updates=updates, random_states=states, data=data)
            save(self._checkpoint(training), self.run.last)

    def write_outcome(self, standing: Standing, *, ended_by: str, epochs: float) -> None:
        """Curves and `summary.json`."""
        if not self.processes.first:
            return
        draw_run(self.run.rows(), self.run.plots, self.run.path.name)
        content = {
            "ended_by": ended_by,
            "epochs": epochs,
            "steps": standing.step,
            "images_seen": standing.images,
            "minutes": standing.seconds / 60,
            "final": standing.scores or None,
            "best": standing.best_scores or None,
            "best_epoch": standing.best_epoch,
            "skipped_steps": standing.skipped,
            "images_with_more_objects_than_queries": standing.crowded_images,
            "device": str(self.device),
            "processes": self.processes.world,
            "threads": torch.get_num_threads(),
            "precision": self.recipe.train.precision,
            "parameters": sum(parameter.numel() for parameter in self.learner.network.parameters()),
            "seed": self.recipe.train.seed,
        }
        self.run.write_json("summary.json", content)
