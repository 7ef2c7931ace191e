"""Compare two result files on the same images: AP difference with a 95 % interval from a paired bootstrap.

    python tests/benchmarks/bootstrap.py OURS.json THEIRS.json --annotations instances_val.json

Result files are lists in COCO's result format (`predictions.json` of `detrctl predict`, `*.detections.json` of
`yardsticks.py`). The interval covers the choice of images, not the luck of a training run: use several seeds for that.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from detrctl.errors import DetrctlError
from detrctl.evaluation.bootstrap import Interval, match_images, paired_bootstrap
from detrctl.evaluation.ground_truth import GroundTruth
from detrctl.evaluation.results import read_results


def _line(name: str, interval: Interval, level: float) -> str:
    return (
        f"{name:5s} first {interval.first:.4f}  second {interval.second:.4f}  difference {interval.difference:+.4f}  "
        f"{level:.0%} interval [{interval.low:+.4f}, {interval.high:+.4f}]  "
        f"first ahead in {interval.share_above_zero:.1%} of draws"
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="COCO result list of the first detector")
    parser.add_argument("second", type=Path, help="COCO result list of the second detector")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO annotations of the images")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--level", type=float, default=0.95)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = _arguments(argv)
    truth = GroundTruth.from_file(args.annotations)
    pair = [match_images(truth, read_results(path), source=str(path))["all"] for path in (args.first, args.second)]
    found = paired_bootstrap(*pair, resamples=args.resamples, seed=args.seed, level=args.level)
    print(_line("AP", found.ap, args.level))
    print(_line("AP50", found.ap50, args.level))
    if args.json:
        named = {"first_file": args.first.name, "second_file": args.second.name, **asdict(found)}
        args.json.write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except DetrctlError as error:
        sys.exit(f"bootstrap: {error}")
