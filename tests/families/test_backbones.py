"""From a recipe's backbone section to a network with its weights."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from detrctl.errors import DetrctlError
from detrctl.families.backbones import build_backbone
from detrctl.model.backbone import ResNet
from detrctl.model.backbone_layernorm import LAYER_NORM_NETWORKS, LayerNormNetwork, Swin
from detrctl.recipe.schema import Backbone


class TwoMaps(nn.Module):
    channels = (4, 8)


class Silent(nn.Module):
    pass


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", (64, 128, 256, 512)),
        ("resnet50", (256, 512, 1024, 2048)),
        ("swin_s", (96, 192, 384, 768)),
        ("swin_v2_b", (128, 256, 512, 1024)),
        ("convnext_base", (128, 256, 512, 1024)),
    ],
)
def test_any_stages_of_any_network_can_be_had(name: str, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        backbone = build_backbone(Backbone(name=name), stages=[2, 3, 4, 5])  # type: ignore[arg-type]
        coarse = build_backbone(Backbone(name=name), stages=[4])  # type: ignore[arg-type]
    assert (backbone.channels, backbone.strides) == (channels, (4, 8, 16, 32))
    assert (coarse.channels, coarse.strides) == ((channels[2],), (16,))


def test_fields_reach_the_network() -> None:
    with torch.device("meta"):
        swin = build_backbone(Backbone(name="swin_t", frozen_stages=3, drop_path=0.2), stages=[5]).body
        resnet = build_backbone(Backbone(norm="batch", frozen_stages=1, dilation=True), stages=[4, 5])
    assert isinstance(swin, LayerNormNetwork)
    assert swin.features[-1][-1].stochastic_depth.p == pytest.approx(0.2)
    assert [any(p.requires_grad for p in part.parameters()) for part in swin.features] == [False] * 4 + [True] * 4
    assert resnet.strides == (16, 16)
    assert isinstance(resnet.body, ResNet)
    assert isinstance(resnet.body.bn1, nn.BatchNorm2d)
    assert not resnet.body.conv1.weight.requires_grad
    assert resnet.body.layers[0][0].conv1.weight.requires_grad


def test_a_local_file_gives_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYER_NORM_NETWORKS, "swin_t", Swin(32, (1, 1, 1, 1)))
    file = tmp_path / "swin.pth"
    published = {
        **{name: torch.randn_like(v) if v.is_floating_point() else v for name, v in _states("swin_t").items()},
        "head.weight": torch.zeros(1000, 256),
        "norm.weight": torch.zeros(256),
    }
    torch.save(published, file)
    body = build_backbone(Backbone(name="swin_t", weights=str(file)), stages=[3, 5]).body
    for name, value in body.state_dict().items():
        if not name.startswith("output_norms."):
            torch.testing.assert_close(value, published[name], rtol=0, atol=0)


def _states(name: str) -> dict[str, torch.Tensor]:
    states = build_backbone(Backbone(name=name), stages=[5]).state_dict()  # type: ignore[arg-type]
    return {key.removeprefix("body."): value for key, value in states.items() if "output_norms" not in key}


def test_a_file_for_another_network_is_named(tmp_path: Path) -> None:
    file = tmp_path / "r18.pth"
    torch.save(resnet18().state_dict(), file)
    with pytest.raises(DetrctlError) as caught, torch.device("meta"):
        build_backbone(Backbone(name="convnext_tiny", weights=str(file)), stages=[5])
    assert str(caught.value) == (
        f"{file} for convnext_tiny: the weights do not fit the backbone: 178 of 178 tensors, "
        "first features.0.0.weight (missing)"
    )


def test_a_network_of_ones_own_gives_as_many_maps_as_the_model_takes() -> None:
    two = Backbone(name=f"{__name__}:TwoMaps")
    assert build_backbone(two, stages=[3, 5]).channels == (4, 8)
    with pytest.raises(DetrctlError) as caught:
        build_backbone(two, stages=[3, 4, 5])
    assert str(caught.value) == (
        f"{__name__}:TwoMaps: its `channels` name 2 feature map(s), but this model takes 3: "
        "one per stage of model.backbone"
    )
    with pytest.raises(DetrctlError, match="has no `channels`, the number of channels of the features that it gives"):
        build_backbone(Backbone(name=f"{__name__}:Silent"), stages=[5])
