"""Loaded before any test module, most of which import torch first."""

import detrctl  # noqa: F401 - sets how OpenMP's threads wait, which torch reads once, when it is loaded
