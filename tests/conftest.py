"""Loaded before any test module, most of which import torch first."""

import os

import detrctl  # noqa: F401 - sets how OpenMP's threads wait, which torch reads once, when it is loaded

if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core
    import torch

    torch.set_num_threads(1)
