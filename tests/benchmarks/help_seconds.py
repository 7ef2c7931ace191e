"""How long `detrctl COMMAND --help` takes: the median of several, and the share that an empty Typer program takes.

python tests/benchmarks/help_seconds.py [--times 7]
"""

import argparse
import statistics
import subprocess
import sys
import time

from detrctl.cli.app import command_words

LIMIT = 0.4
"""Seconds that a help may take, as the median on a quiet machine."""
EMPTY = "import typer; app = typer.Typer(rich_markup_mode=None); app.command()(lambda: None); app(['--help'])"


def seconds(arguments: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=7, help="runs per command")
    times = parser.parse_args().times
    medians = []
    for command in command_words():
        empty = statistics.median(seconds(["-c", EMPTY]) for _ in range(times))
        ours = statistics.median(seconds(["-m", "detrctl", *command, "--help"]) for _ in range(times))
        medians.append(ours)
        print(f"{' '.join(command) or '(none)':20} {ours:.3f} s, {ours / empty:.2f} of an empty program's", flush=True)
    print(f"slowest median {max(medians):.3f} s; the limit is {LIMIT}")
    return int(max(medians) > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
