"""What padding does to a trained model's scores: the same images alone and in padded batches.

    python tests/benchmarks/padding_residual.py RUN --data DIR

In DETR padding changes nothing from the features on (tests/families/test_detr.py); the convolutions before see it, as
in the published model, and where there are several levels so do the norms and convolutions that make them. Images are
resized with their aspect kept, so that batches of several do have padding.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from detrctl import evaluate
from detrctl.engine.checkpoint import find_checkpoint, load, save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="checkpoint file or run folder")
    parser.add_argument("--data", required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    checkpoint = load(find_checkpoint(arguments.run))
    data = checkpoint.recipe.data
    keeping = data.model_copy(update={"eval_square": False, "eval_max_size": max(data.eval_max_size, data.eval_size)})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keeping.pt"
        save(replace(checkpoint, recipe=checkpoint.recipe.model_copy(update={"data": keeping})), file)
        for size in arguments.batches:
            scores = evaluate(file, data=arguments.data, batch_size=size).scores
            print(f"batch {size}: AP {scores['AP']:.4f}  AP50 {scores['AP50']:.4f}")


if __name__ == "__main__":
    main()
