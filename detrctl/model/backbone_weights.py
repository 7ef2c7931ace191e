"""Published weights of a backbone: ImageNet's by name, or a local file, in torchvision's form."""

from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from detrctl.errors import DetrctlError


def read_weights(source: str, name: str) -> dict[str, Tensor]:
    """A torchvision state dict: `imagenet` downloads the one published for `name`, anything else is a file's path."""
    if source == "imagenet":
        return _download(name)
    path = Path(source).expanduser()
    if not path.is_file():
        raise DetrctlError(
            f"{source}: no such file of backbone weights (model.backbone.weights: imagenet, none or a path)"
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises nearly anything over bytes that are no pickle
        raise DetrctlError(f"{source}: not a file of weights that can be read safely") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise DetrctlError(f"{source}: holds no state dict (a mapping of names to tensors)")
    return weights


def _download(name: str) -> dict[str, Tensor]:
    if name == "resnet10" or name.startswith("slim_"):
        raise DetrctlError(
            f"model.backbone.weights: no ImageNet weights are published for {name}; choose none or resnet18"
        )
    try:
        # Version 1 of the weights, as in the published DETR: later recipes (V2) shift every statistic.
        return dict(get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError, HTTPException) as error:  # no network, a wrong hash, a broken transfer
        raise DetrctlError(
            f"ImageNet weights of {name} could not be downloaded ({error}); "
            "set model.backbone.weights to a local file or to none"
        ) from error


def take_weights(
    body: nn.Module, weights: Mapping[str, Tensor], *, source: str, is_own: Callable[[str], bool] = lambda name: False
) -> None:
    """Load what `body` has of `weights`; the classifier and further stages are left aside.

    Tensors that `is_own` are the body's alone and stay as they are. DetrctlError where another one is missing or has
    another shape; `source` is what the message calls the weights.
    """
    own = {name: value for name, value in body.state_dict().items() if not is_own(name)}
    wrong = [name for name in own if not _is_count(name) and _shape(weights, name) != own[name].shape]
    if wrong:
        raise DetrctlError(
            f"{source}: the weights do not fit the backbone: {len(wrong)} of {len(own)} tensors, first {wrong[0]} "
            f"({_difference(weights, wrong[0], own[wrong[0]])})"
        )
    body.load_state_dict({name: weights[name] for name in own if name in weights}, strict=False)


def _is_count(name: str) -> bool:
    """Old files lack the counts of batches, and nothing depends on them."""
    return name.endswith("num_batches_tracked")


def _shape(weights: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None


def _difference(weights: Mapping[str, Tensor], name: str, wanted: Tensor) -> str:
    found = _shape(weights, name)
    return "missing" if found is None else f"found {tuple(found)}, expected {tuple(wanted.shape)}"
