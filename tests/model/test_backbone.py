import pytest
import torch
from torchvision.models import resnet18, resnet50

from detrctl.model.backbone import Backbone, ResNet, shrink_mask
from detrctl.structures import ImageBatch


def images(batch: int = 2, height: int = 70, width: int = 101) -> ImageBatch:
    generator = torch.Generator("cpu").manual_seed(0)
    pixels = torch.randn(batch, 3, height, width, generator=generator, device="cpu")
    pixels = pixels.to(torch.get_default_device())
    return ImageBatch(pixels, torch.zeros(batch, height, width, dtype=torch.bool), torch.ones(batch, 2), (0, 1))


@pytest.mark.parametrize(("name", "builder"), [("resnet18", resnet18), ("resnet50", resnet50)])
def test_published_weights_give_torchvisions_features(name: str, builder) -> None:
    published = builder().eval().double()  # double, since ours sums in another order
    body = ResNet(name=name, norm="batch", stages=[3, 5]).eval().double()
    body.load_published(published.state_dict())
    pixels = images().pixels.double()
    with torch.no_grad():
        x = published.maxpool(published.relu(published.bn1(published.conv1(pixels))))
        c3 = published.layer2(published.layer1(x))
        c5 = published.layer4(published.layer3(c3))
        ours = body(pixels)
    torch.testing.assert_close(ours[0], c3, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours[1], c5, rtol=1e-10, atol=1e-10)
    assert body.channels == (c3.shape[1], c5.shape[1])


def test_frozen_norm_uses_the_loaded_statistics_in_training() -> None:
    published = resnet18().eval()
    for name, value in published.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    body = ResNet(name="resnet18", norm="frozen")
    body.load_published(published.state_dict())
    pixels = images().pixels
    with torch.no_grad():
        trained, evaluated = body.train()(pixels)[0], body.eval()(pixels)[0]
        expected = published.layer4(published.layer3(published.layer2(published.layer1(
            published.maxpool(published.relu(published.bn1(published.conv1(pixels))))
        ))))  # fmt: skip
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=0)
    torch.testing.assert_close(evaluated, expected, rtol=1e-4, atol=1e-4)


def test_dc5_has_the_same_tensors_and_twice_the_resolution() -> None:
    plain, dilated = (ResNet(name="resnet50", norm="frozen", dilation=dilation) for dilation in (False, True))
    shapes = [{name: value.shape for name, value in body.state_dict().items()} for body in (plain, dilated)]
    assert shapes[0] == shapes[1]
    pixels = torch.zeros(1, 3, 96, 64)
    with torch.no_grad():
        assert plain(pixels)[0].shape == (1, 2048, 3, 2)
        assert dilated(pixels)[0].shape == (1, 2048, 6, 4)


def test_frozen_stages_get_no_gradient_and_their_statistics_stand_still() -> None:
    body = ResNet(name="resnet10", norm="batch", frozen_stages=2).train()
    before = {name: value.clone() for name, value in body.state_dict().items()}
    body(images().pixels)[0].sum().backward()
    trained = {name for name, parameter in body.named_parameters() if parameter.grad is not None}
    assert trained == {
        name for name, _ in body.named_parameters() if name.startswith(("layers.1", "layers.2", "layers.3"))
    }
    moved = {name for name, value in body.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not [name for name in moved if name.startswith(("bn1", "layers.0"))]


@pytest.mark.parametrize(("name", "dilation"), [("resnet18", False), ("resnet50", False), ("resnet50", True)])
def test_several_stages_come_with_their_channels_and_strides_finest_first(name: str, dilation: bool) -> None:
    with torch.device("meta"):
        body = ResNet(name=name, norm="frozen", stages=[2, 3, 4, 5], dilation=dilation)
        levels = Backbone(body)(images(height=65, width=97))
    assert body.strides == (4, 8, 16, 16 if dilation else 32)
    assert [level.values.shape[1] for level in levels] == list(body.channels)
    for level, stride in zip(levels, body.strides, strict=True):
        assert level.values.shape[-2:] == (-(-65 // stride), -(-97 // stride))
        assert level.is_padding.shape[-2:] == level.values.shape[-2:]


def test_an_early_stage_builds_nothing_behind_it() -> None:
    body = ResNet(name="resnet18", norm="batch", stages=[4])
    assert len(body.layers) == 3
    assert body.channels == (256,)


@pytest.mark.parametrize("size_hw", [(3, 5), (35, 51), (70, 101)])
def test_the_mask_follows_the_nearest_pixel(size_hw: tuple[int, int]) -> None:
    mask = torch.zeros(2, 70, 101, dtype=torch.bool)
    mask[1, 40:] = True
    mask[1, :, 77:] = True
    height, width = size_hw
    expected = torch.zeros(2, height, width, dtype=torch.bool)
    for b in range(2):
        for y in range(height):
            for x in range(width):
                expected[b, y, x] = mask[b, y * 70 // height, x * 101 // width]
    assert torch.equal(shrink_mask(mask, size_hw), expected)


def test_a_network_of_ones_own_may_give_one_tensor() -> None:
    class Own(torch.nn.Module):
        channels = 3

        def forward(self, pixels):
            return pixels[:, :, ::8, ::8]

    backbone = Backbone(Own())
    (level,) = backbone(images())
    assert (backbone.channels, backbone.strides) == ((3,), ())
    assert level.values.shape == (2, 3, 9, 13)
    assert level.is_padding.shape == (2, 9, 13)
