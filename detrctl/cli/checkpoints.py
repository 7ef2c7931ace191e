"""Which checkpoint a command uses, said on its first line."""

from pathlib import Path

RECIPE_HELP = "Which recipe a published file is of, where it cannot tell (DC5)."


def chosen_checkpoint(ckpt: Path | None) -> Path:
    """The file meant by `--ckpt FILE_OR_RUN`; without it the newest run's best. Raises CheckpointError if none."""
    from detrctl.cli import render
    from detrctl.engine.checkpoint import BEST, find_checkpoint

    path = find_checkpoint(ckpt)
    which = "best" if path.name == BEST else "last"
    render.say(f"checkpoint {path}" + (f" (the newest run's {which}; --ckpt takes another)" if ckpt is None else ""))
    return path
