"""Loaded before any test module, most of which import torch first."""

import os

import detrctl  # noqa: F401 - sets how OpenMP's threads wait, which torch reads once, when it is loaded
from tests.parity.tally import PROPERTY, lines

if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core
    import torch

    torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter):
    """How many comparisons with official numbers needed more than the stated rule."""
    tallies = {
        report.nodeid.partition("[")[2].rstrip("]"): value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == PROPERTY
    }
    if tallies:
        terminalreporter.section("parity with the official implementations")
        for line in lines(tallies):
            terminalreporter.write_line(line)
