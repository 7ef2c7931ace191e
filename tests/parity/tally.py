"""How many numbers were compared, and how many of them needed more than the stated rule, told after the tests."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PROPERTY = "parity"
"""Under which a test's report carries its tally, also from another process."""


@dataclass
class Tally:
    """`arrays` of fp32 within the stated tolerance but for those `in_double`, which are so in fp64 only.

    Of the gradients' `entries`, some are within it `by_draws`, in another of up to `draws` draws than the first, and
    some `by_spread` in none of them, but within ten times what these differ by.
    """

    arrays: int = 0
    in_double: list[str] = field(default_factory=list)
    entries: int = 0
    by_draws: int = 0
    by_spread: int = 0
    draws: int = 0

    def count(self, entries: int, *, by_draws: int, by_spread: int) -> None:
        self.entries += entries
        self.by_draws += by_draws
        self.by_spread += by_spread


def lines(tallies: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """By the names of their tests: a line for each that needed more than the stated rule, and one for all together."""
    found = {name: Tally(**tally) for name, tally in tallies.items()}
    for name, tally in found.items():
        if tally.in_double:
            yield f"{name}: within the stated tolerance in fp64 only: {', '.join(tally.in_double)}"
        if tally.by_draws or tally.by_spread:
            yield (
                f"{name}: of {tally.entries} entries of gradients {tally.by_draws} in another than the first of "
                f"{tally.draws} draws, {tally.by_spread} within ten times what these differ by"
            )
    arrays, entries = (sum(getattr(tally, kind) for tally in found.values()) for kind in ("arrays", "entries"))
    double = sum(len(tally.in_double) for tally in found.values())
    drawn, spread = (sum(getattr(tally, kind) for tally in found.values()) for kind in ("by_draws", "by_spread"))
    yield (
        f"files: {len(found)}; arrays and losses: {arrays}, of them in fp64 only: {double}; entries of gradients: "
        f"{entries}, of them in another draw: {drawn}, by what draws differ by: {spread}"
    )
