"""What NMS adds to trained models: to their answers as they are, and when no query sees another.

    PYTHONPATH=. python tests/benchmarks/why_no_nms.py RUN [RUN ...] [--data DIR] [--epochs]

One row for each run and each of the two; `--epochs` has one for each checkpoint that `train.keep_every` kept. The
second is the trained model with its decoder's self-attention narrowed to the query itself: if that is where one of two
queries on the same object gives way, duplicates must come back.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detrctl.engine.checkpoint import find_checkpoint
from detrctl.engine.evaluate import Opened, evaluate_checkpoint
from detrctl.engine.examine import Watch
from detrctl.evaluation.examination import Examination, examine
from detrctl.evaluation.questions import Questions
from detrctl.model.decoder import Decoder
from detrctl.model.places import Place
from detrctl.structures import Queries

HEAD = (
    "model", "queries see", "AP", "with NMS", "at", "gain", "sure duplicates per truth", "false per image", "precision",
    "recall",
)  # fmt: skip


def see_nobody(network: nn.Module) -> None:
    """From now on each query of the decoder attends to itself alone."""
    decoders = [module for module in network.modules() if isinstance(module, Decoder)]
    assert decoders, "no decoder whose queries could see each other"
    for decoder in decoders:
        for layer in decoder.layers:
            layer.get_submodule("self_attention").register_forward_pre_hook(_only_itself)


def _only_itself(module: nn.Module, args: tuple[Tensor, Place, Queries]) -> tuple[Tensor, Place, Queries]:
    content, place, queries = args
    others = ~torch.eye(content.shape[1], dtype=torch.bool, device=content.device)
    return content, place, replace(queries, blocked=others)


def examined(ckpt: Path, data: str | None, *, alone: bool, **options: Any) -> Examination:
    """What `detrctl eval --nms` tells; with `alone` of queries that see nobody. `options` are evaluation's."""
    questions = Questions(nms=True)
    watch = Watch(questions)

    def start(opened: Opened) -> None:
        if alone:
            see_nobody(opened.learner.network)
        watch.start(opened)

    evaluation = evaluate_checkpoint(ckpt, data=data, on_learner=start, **options)
    return examine(watch.seen(evaluation), questions, max_dets=evaluation.scores.max_dets)


def row(examination: Examination) -> Iterator[str]:
    """Cells from AP on. NMS is taken at the IoU that suits it best on these very images, which flatters it."""
    assert examination.suppression is not None
    plain = examination.suppression.plain
    best = max(examination.suppression.last, key=lambda each: (each.ap or 0, each.threshold or 1))
    point = examination.scores.curve.best
    gain = (best.ap or 0) - (plain.ap or 0)
    yield f"{plain.ap or 0:.3f}"
    yield f"{best.ap or 0:.3f}"
    yield "none" if best.threshold is None else f"{best.threshold:g}"
    yield f"{gain:+.3f}"
    yield f"{plain.sure_duplicates or 0:.2f}"
    yield f"{plain.sure_false:.2f}"
    yield "" if point is None else f"{point.precision:.3f}"
    yield "" if point is None else f"{point.recall:.3f}"


def checkpoints(run: Path, *, epochs: bool) -> list[tuple[str, Path]]:
    """(name, file): of each kept epoch, or of the best one."""
    name = run.name if run.is_dir() else run.stem
    if not epochs:
        return [(name, find_checkpoint(run))]
    return [(f"{name}, {file.stem}", file) for file in sorted(run.glob("checkpoints/epoch-*.pt"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders or checkpoint files")
    parser.add_argument("--data", help="dataset folder or shapes; default: the one that each was trained on")
    parser.add_argument("--epochs", action="store_true", help="every kept epoch, as it is, instead of the best one")
    arguments = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for run in arguments.runs:
        for name, file in checkpoints(run, epochs=arguments.epochs):
            for alone in (False,) if arguments.epochs else (False, True):
                cells = row(examined(file, arguments.data, alone=alone))
                print(f"| {name} | {'nobody' if alone else 'each other'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
