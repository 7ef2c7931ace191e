"""Train variants of the family alike on the built-in shapes, and compare them: a table and a picture.

    python tests/benchmarks/family_on_shapes.py --minutes 10 --seeds 0 1 --backbone runs/quickstart --out runs/family
    python tests/benchmarks/family_on_shapes.py dino dino_no_denoising --epochs 24 --out runs/dino

A variant is a file of tests/benchmarks/family by its bare name, or any recipe that `detrctl train` takes. All get the
same seeds, the same backbone to start from and the same budget, one run after the other, seed by seed. Runs that are
finished are not made again and runs that were stopped go on, so that the same command can be given until it is done.
In OUT: a run folder NAME-sSEED each, family.png, family.json, family.md.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detrctl as package
from detrctl.engine.run_records import read_run
from detrctl.errors import DetrctlError
from detrctl.recipe.dump import dump_recipe
from detrctl.recipe.load import load_recipe

RECIPES = Path(__file__).parent / "family"
VARIANTS = (
    *("detr", "dab", "dn", "deformable", "deformable_refine", "deformable_two_stage"),
    *("dino_no_denoising", "dino_no_encoder_loss", "dino_look_once", "dino"),
)
"""Enough that each part's gain is one of them against another."""
BACKBONE = "backbone.pth"
ENDLESS = 10_000
"""Epochs where minutes are the budget."""


@dataclass(frozen=True)
class Job:
    """One run: `words` are what stands behind `detrctl train`."""

    variant: str
    name: str
    folder: Path
    words: tuple[str, ...]
    recipe: str

    @property
    def state(self) -> str:
        """`new`, `finished`, or `stopped` (last.pt can be gone on from). DetrctlError: other settings, or no run."""
        if not self.folder.exists():
            return "new"
        written = self.folder / "recipe.yaml"
        if not written.is_file():
            if (self.folder / "checkpoints").is_dir() or not any(self.folder.iterdir()):
                return "new"
            raise DetrctlError(f"{self.folder}: is there already, but no run of this script; choose another --out")
        if written.read_text(encoding="utf-8") != self.recipe:
            raise DetrctlError(f"{self.folder}: was trained with other settings; choose another --out, or remove it")
        if not (self.folder / "checkpoints" / "last.pt").is_file():
            return "new"
        return "finished" if _is_finished(self.folder) else "stopped"

    def run(self) -> bool:
        """Train, or go on; whether it came to its end."""
        state = self.state
        if state == "finished":
            print(f"{self.name}: finished already", flush=True)
            return True
        print(f"{self.name}: {'goes on' if state == 'stopped' else 'starts'}", flush=True)
        if state == "new" and self.folder.exists():
            shutil.rmtree(self.folder)  # nothing was saved in it yet
        words = ("--resume", str(self.folder)) if state == "stopped" else (*self.words, "--out", str(self.folder))
        return detrctl("train", *words, *self.words[-2:] * (state == "stopped")) == 0


def _is_finished(folder: Path) -> bool:
    try:
        return read_run(folder).state == "finished"
    except DetrctlError:
        return False


def detrctl(*words: str) -> int:
    """Run a command of this installation; its exit code. KeyboardInterrupt once it has ended by a signal.

    A Ctrl-C reaches both; `subprocess.run` would kill the command while it saves.
    """
    paths = [str(Path(package.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen([sys.executable, "-m", "detrctl", *words], env=environment)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while (code := _wait(process)) is None:
        pass
    if code < 0 or code > 128:
        raise KeyboardInterrupt
    return code


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait()
    except KeyboardInterrupt:
        return None


def plan(args: argparse.Namespace) -> list[Job]:
    """All seeds of all variants, seed by seed, so that what is done first can be compared first."""
    return [_job(variant, seed, args) for seed in args.seeds for variant in args.variants]


def _job(variant: str, seed: int, args: argparse.Namespace) -> Job:
    file = RECIPES / f"{variant}.yaml"
    recipe = str(file) if file.is_file() else variant
    data = [] if args.data is None else [f"data.root={args.data.resolve()}"]
    start = [] if args.backbone is None else [f"model.backbone.weights={args.out.resolve() / BACKBONE}"]
    changes = [*_budget(args), *data, *start, *args.set, f"train.seed={seed}"]
    loaded = load_recipe(recipe, changes)
    name = f"{Path(variant).stem}-s{seed}"
    words = [recipe, *(word for change in changes for word in ("--set", change)), "--device", args.device]
    return Job(Path(variant).stem, name, args.out / name, tuple(words), dump_recipe(loaded.recipe))


def write_backbone(ckpt: Path, out: Path) -> None:
    """The backbone of a run's best model as a file for `model.backbone.weights`."""
    import torch

    from detrctl.engine.checkpoint import find_checkpoint, load

    checkpoint, prefix = load(find_checkpoint(ckpt)), "backbone.body."
    weights = checkpoint.evaluated
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}, out)


def _budget(args: argparse.Namespace) -> list[str]:
    """Epochs or minutes, the same for all."""
    if args.minutes is not None:
        return [f"train.max_minutes={args.minutes:g}", f"train.epochs={ENDLESS}"]
    return [] if args.epochs is None else [f"train.epochs={args.epochs}"]


def compare(jobs: Sequence[Job], args: argparse.Namespace) -> int:
    """`detrctl compare` of the runs that have an evaluation, variant by variant; its exit code."""
    variants = [Path(variant).stem for variant in args.variants]
    ordered = sorted(jobs, key=lambda job: variants.index(job.variant))
    done = [job for job in ordered if _is_finished(job.folder)]
    if not done:
        raise DetrctlError("no run is finished, so there is nothing to compare")
    words = ["--out", str(args.out / "family.png"), "--json", str(args.out / "family.json"), "--scores", "AP,APs"]
    words += ["--reach", args.reach] if args.reach else []
    several = len({job.variant for job in done}) > 1
    words += ["--bootstrap", str(args.bootstrap), "--device", args.device] if args.bootstrap and several else []
    code = detrctl("compare", *(str(job.folder) for job in done), *words)
    if code == 0:
        found = json.loads((args.out / "family.json").read_text(encoding="utf-8"))
        (args.out / "family.md").write_text("\n".join(markdown(found)) + "\n", encoding="utf-8")
        print(f"table: {args.out / 'family.md'}")
    return code


# ---- the table ----


def markdown(found: dict[str, Any]) -> Iterator[str]:
    """The comparison as a table for a README: a mean over the seeds, and in brackets their range."""
    thresholds, drawn = found["thresholds"], found["bootstrap"]
    parameters = {run["name"]: run["parameters"] for run in found["runs"]}
    head = ["variant", "AP", "AP50", "APs", "APm", "APl"]
    head += [f"AP {ap:g} after epochs / minutes" for ap in thresholds]
    head += ["images/s", "M parameters"] + ([f"AP to {drawn['against']}, {drawn['level']:.0%}"] if drawn else [])
    yield _line(head)
    yield _line(["---"] * len(head))
    speed = {run["name"]: run["images_per_second"] for run in found["runs"]}
    for group in found["groups"]:
        cells = [group["name"], *(_score(group["scores"][name]) for name in head[1:6])]
        cells += [_reached(one, len(group["runs"])) for one in group["reached"]]
        cells.append(f"{sum(speed[name] or 0 for name in group['runs']) / len(group['runs']):.0f}")
        cells.append(f"{(parameters[group['runs'][0]] or 0) / 1e6:.2f}")
        cells += [_difference(drawn, group["name"])] if drawn else []
        yield _line(cells)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _score(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "-"
    same = spread["low"] == spread["high"]
    return f"{spread['mean']:.3f}" + ("" if same else f" ({spread['low']:.3f} to {spread['high']:.3f})")


def _reached(one: dict[str, Any], runs: int) -> str:
    if one["epochs"] is None:
        return f"{one['reached']} of {runs} runs" if one["reached"] else "-"
    return f"{one['epochs']['mean']:.1f} / {one['minutes']['mean']:.1f}"


def _difference(drawn: dict[str, Any], name: str) -> str:
    if name not in drawn["differences"]:
        return "-"
    found = drawn["differences"][name]["AP"]
    return f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


# ---- the command ----


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help=f"default: {' '.join(VARIANTS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--epochs", type=int, help="the same passes over the images for all (default: the recipes')")
    budget.add_argument("--minutes", type=float, help="the same time for all, evaluations included")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="for all, such as train.lr=1e-3"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="a dataset folder instead of the built-in shapes")
    parser.add_argument("--backbone", type=Path, metavar="RUN", help="start from this run's backbone, not from scratch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--reach", help="APs for the table, such as 0.1,0.2")
    parser.add_argument("--bootstrap", type=int, default=1000, help="draws of images (0: no intervals)")
    parser.add_argument("--out", type=Path, default=Path("runs/family"))
    parser.add_argument("--compare-only", action="store_true", help="train nothing; compare what is finished")
    args = parser.parse_args(argv)
    args.variants = list(dict.fromkeys(args.variants or VARIANTS))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """0: all runs are finished; 1: some are not, those that are were compared."""
    args = _arguments(argv)
    jobs = plan(args)
    for job in jobs:
        _ = job.state  # what cannot go on is said before hours of training, not after
    if args.compare_only:
        return compare(jobs, args)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.backbone is not None:
        write_backbone(args.backbone, args.out / BACKBONE)
    unfinished = [job.name for job in jobs if not job.run()]
    code = compare(jobs, args)
    if unfinished:
        print(f"not finished: {', '.join(unfinished)}; the same command goes on with them", file=sys.stderr)
    return code or int(bool(unfinished))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DetrctlError as error:
        sys.exit(f"family_on_shapes: {error}")
    except KeyboardInterrupt:
        sys.exit("family_on_shapes: stopped; the same command goes on")
