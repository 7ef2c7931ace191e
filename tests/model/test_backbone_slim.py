"""Small residual networks: their stages, channels and strides, and what is frozen."""

import pytest
import torch

from detrctl.model.backbone_slim import SLIM_NETWORKS, SlimResNet


@pytest.mark.parametrize("name", SLIM_NETWORKS)
def test_stages_come_with_their_channels_and_strides_finest_first(name: str) -> None:
    body = SlimResNet(name=name, norm="batch", stages=(2, 3, 4, 5)).eval()
    first = int(name.removeprefix("slim_"))
    assert body.channels == (first, 2 * first, 4 * first, 8 * first)
    assert body.strides == (4, 8, 16, 32)
    with torch.no_grad():
        features = body(torch.rand(1, 3, 96, 64))
    assert [tuple(f.shape[1:]) for f in features] == [
        (channels, 96 // stride, 64 // stride) for channels, stride in zip(body.channels, body.strides, strict=True)
    ]


def test_an_early_stage_builds_nothing_behind_it() -> None:
    whole, part = (SlimResNet(name="slim_32", norm="batch", stages=stages) for stages in ((5,), (3,)))
    assert set(part.state_dict()) < set(whole.state_dict())
    assert len(part.parts) == 3


def test_weights_of_more_stages_fit() -> None:
    whole, part = (SlimResNet(name="slim_32", norm="batch", stages=stages) for stages in ((5,), (3, 4)))
    part.load_published(whole.state_dict())
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(part.eval().parts[2](part.parts[1](part.parts[0](pixels))), part(pixels)[0])
        assert torch.equal(whole.eval().parts[0](pixels), part.parts[0](pixels))


def test_frozen_stages_get_no_gradient_and_their_statistics_stand_still() -> None:
    body = SlimResNet(name="slim_32", norm="batch", stages=(4,), frozen_stages=2).train()
    still, moving = body.parts[1].bn1.running_mean.clone(), body.parts[2].bn1.running_mean.clone()
    body(torch.rand(2, 3, 64, 64))[0].sum().backward()
    assert [any(p.grad is not None for p in part.parameters()) for part in body.parts] == [False, False, True, True]
    assert torch.equal(body.parts[1].bn1.running_mean, still)
    assert not torch.equal(body.parts[2].bn1.running_mean, moving)
