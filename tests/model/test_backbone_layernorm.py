"""Swin Transformers and ConvNeXts: torchvision's networks as bodies, and what is inside against plain loops."""

import math
from collections.abc import Iterator
from functools import cache

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock
from torchvision.models.swin_transformer import PatchMerging, SwinTransformerBlock, SwinTransformerBlockV2
from torchvision.ops import StochasticDepth

from detrctl.model.backbone import Backbone
from detrctl.model.backbone_layernorm import LAYER_NORM_NETWORKS, ConvNeXt, LayerNormNetwork, Swin
from detrctl.structures import ImageBatch

SMALL = {
    "small_swin": Swin(32, (2, 2, 2, 1)),
    "small_swin_v2": Swin(32, (2, 2, 2, 1), version=2),
    "small_convnext": ConvNeXt(16, (1, 2, 1, 1)),
}


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in SMALL.items():
        monkeypatch.setitem(LAYER_NORM_NETWORKS, name, kind)


def stirred(name: str, stages: list[int], **arguments: float) -> LayerNormNetwork:
    """Every parameter is a random number, biases and norms as well."""
    torch.manual_seed(0)
    body = LayerNormNetwork(name=name, stages=stages, **arguments)  # type: ignore[arg-type]
    for parameter in body.parameters():
        nn.init.normal_(parameter, std=0.3)
    return body.eval()


def picture(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


# ---- as torchvision's ----


@pytest.mark.parametrize("name", list(LAYER_NORM_NETWORKS))
def test_each_has_the_tensors_of_torchvisions_but_for_its_classifier(name: str) -> None:
    with torch.device("meta"):
        ours = {name: value.shape for name, value in LayerNormNetwork(name=name).features.state_dict().items()}
        theirs = {
            name: value.shape for name, value in getattr(torchvision.models, name)().features.state_dict().items()
        }
    assert ours == theirs


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny"])
def test_published_weights_give_torchvisions_answers(name: str) -> None:
    torch.manual_seed(0)
    published = getattr(torchvision.models, name)().eval()
    for parameter in published.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    middle = []
    published.features[3].register_forward_hook(lambda _module, _inputs, output: middle.append(output))
    body = LayerNormNetwork(name=name, stages=[3, 5]).eval()
    body.load_published(published.state_dict())
    norm, classifier = (
        (published.norm, published.head) if "swin" in name else (published.classifier[0], published.classifier[2])
    )
    body.output_norms["5"].load_state_dict(norm.state_dict())
    with torch.no_grad():
        pixels = picture(64, 96)
        expected = published(pixels)
        ours = body(pixels)
        c3 = middle[0] if "swin" in name else middle[0].permute(0, 2, 3, 1)
        c3 = F.layer_norm(c3, (c3.shape[-1],), eps=norm.eps)
        # ConvNeXt's classifier pools before its norm, so that only Swin's can be put behind ours.
        if "swin" in name:
            torch.testing.assert_close(classifier(ours[1].mean((2, 3))), expected, rtol=1e-5, atol=1e-5)
        else:
            torch.testing.assert_close(ours[1], norm(published.features(pixels)), rtol=0, atol=0)
    torch.testing.assert_close(ours[0], c3.permute(0, 3, 1, 2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", list(SMALL))
def test_a_norm_per_stage_stays_fresh_when_weights_are_loaded(name: str) -> None:
    body = LayerNormNetwork(name=name, stages=[2, 4])
    source = stirred(name, [5])
    body.load_published(source.state_dict())
    assert set(body.state_dict()) - set(source.state_dict()) == {
        f"output_norms.{stage}.{kind}" for stage in (2, 4) for kind in ("weight", "bias")
    }
    torch.testing.assert_close(body.features[1].state_dict(), source.features[1].state_dict(), rtol=0, atol=0)
    with torch.no_grad():
        for values in body.eval()(picture(64, 64)):
            torch.testing.assert_close(values.mean(1), torch.zeros_like(values[:, 0]), rtol=0, atol=1e-5)
            torch.testing.assert_close(values.var(1, unbiased=False), torch.ones_like(values[:, 0]), rtol=0, atol=1e-2)


def test_an_early_stage_builds_nothing_behind_it() -> None:
    with torch.device("meta"):
        body = LayerNormNetwork(name="swin_t", stages=[3])
    assert len(body.features) == 4
    assert (body.channels, body.strides) == ((192,), (8,))


# ---- sizes ----


@pytest.mark.parametrize("name", list(LAYER_NORM_NETWORKS))
def test_maps_and_masks_of_odd_sized_input_have_their_strides_sizes(name: str) -> None:
    height, width = 65, 97
    with torch.device("meta"):
        body = LayerNormNetwork(name=name, stages=[2, 3, 4, 5])
        pixels, mask = torch.empty(2, 3, height, width), torch.zeros(2, height, width, dtype=torch.bool)
        levels = Backbone(body)(ImageBatch(pixels, mask, torch.ones(2, 2), (0, 1)))
    assert body.strides == (4, 8, 16, 32)
    for level, channels, stride in zip(levels, body.channels, body.strides, strict=True):
        assert level.values.shape == (2, channels, -(-height // stride), -(-width // stride))
        assert level.is_padding.shape == (2, *level.values.shape[-2:])


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("size_hw", [(65, 97), (31, 39), (1, 1)])
def test_no_pixel_of_odd_sized_input_is_lost(name: str, size_hw: tuple[int, int]) -> None:
    pixels = picture(*size_hw).requires_grad_()
    (coarsest,) = stirred(name, [5])(pixels)
    assert coarsest.shape[-2:] == (math.ceil(size_hw[0] / 32), math.ceil(size_hw[1] / 32))
    coarsest.square().sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", list(SMALL))
def test_odd_pixels_count_as_if_the_picture_had_a_border_of_zeros(name: str) -> None:
    body, pixels = stirred(name, [2]), picture(61, 75)
    with torch.no_grad():
        torch.testing.assert_close(body(pixels)[0], body(F.pad(pixels, (0, 1, 0, 3)))[0], rtol=0, atol=0)


# ---- freezing, stochastic depth ----


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize(("frozen_stages", "first_trained"), [(0, 0), (1, 1), (2, 2), (3, 4), (5, 8)])
def test_frozen_stages_get_no_gradient_and_drop_nothing(name: str, frozen_stages: int, first_trained: int) -> None:
    body = LayerNormNetwork(name=name, stages=[2, 5], frozen_stages=frozen_stages, drop_path=0.9).train()
    sum(values.square().sum() for values in body(picture(64, 64, batch=8))).backward()
    trained = {name for name, parameter in body.named_parameters() if parameter.requires_grad}
    assert trained == {
        name
        for name, _ in body.named_parameters()
        if name.startswith("output_norms.") or int(name.split(".")[1]) >= first_trained
    }
    assert all(body.get_parameter(name).grad is None for name, _ in body.named_parameters() if name not in trained)
    depths = {
        int(name.split(".")[1]): part.training
        for name, part in body.features.named_modules(prefix="features")
        if isinstance(part, StochasticDepth)
    }
    assert depths == {index: index >= first_trained for index in (1, 3, 5, 7)}


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny"])
def test_drop_path_grows_from_block_to_block_as_published(name: str) -> None:
    published = {"swin_t": 0.2, "convnext_tiny": 0.1}[name]
    with torch.device("meta"):
        ours = LayerNormNetwork(name=name, drop_path=published)
        theirs = getattr(torchvision.models, name)()
        none = LayerNormNetwork(name=name)
    rates = [[part.p for part in net.modules() if isinstance(part, StochasticDepth)] for net in (ours, theirs, none)]
    assert rates[0] == rates[1]
    assert rates[0][-1] == pytest.approx(published)
    assert set(rates[2]) == {0.0}


@pytest.mark.parametrize("name", list(SMALL))
def test_stochastic_depth_is_a_matter_of_training_alone(name: str) -> None:
    body, pixels = stirred(name, [5], drop_path=0.5), picture(32, 32, batch=4)
    with torch.no_grad():
        assert torch.equal(body(pixels)[0], body(pixels)[0])
        body.train()
        assert not torch.equal(body(pixels)[0], body(pixels)[0])


@pytest.mark.parametrize("name", list(SMALL))
def test_bf16_stays_near_fp32(name: str) -> None:
    torch.manual_seed(0)
    body, pixels = LayerNormNetwork(name=name, stages=[2, 3, 4, 5]).eval(), picture(65, 97)
    with torch.no_grad():
        exact = body(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            rough = body(pixels)
    for one, other in zip(exact, rough, strict=True):
        assert (one - other.float()).square().mean().sqrt() < 0.05  # layer-normed: values are about 1


# ---- against plain loops ----


def cells(values: Tensor) -> Iterator[tuple[int, int]]:
    """Of a grid (h, w, C), row by row."""
    yield from ((y, x) for y in range(values.shape[0]) for x in range(values.shape[1]))


@cache
def slow_position_bias(attention: nn.Module, dy: int, dx: int, side: int) -> Tensor:
    """(H,) for a key that stands `dy` rows below and `dx` columns right of its query; the tables count backwards."""
    if hasattr(attention, "cpb_mlp"):
        far = torch.tensor([-dy, -dx]) * 8 / (side - 1)
        return 16 * attention.cpb_mlp(far.sign() * (far.abs() + 1).log2() / 3).sigmoid()
    return attention.relative_position_bias_table[(side - 1 - dy) * (2 * side - 1) + side - 1 - dx]


def slow_attention(values: Tensor, attention: nn.Module) -> Tensor:
    """(h, w, C) -> (h, w, C): a token looks at those that share its window, of which there are none beyond the grid."""
    side, heads = attention.window_size[0], attention.num_heads
    height, width, channels = values.shape
    full_hw = (-(-height // side) * side, -(-width // side) * side)
    shift_y, shift_x = (shift if full > side else 0 for shift, full in zip(attention.shift_size, full_hw, strict=True))
    is_v2 = hasattr(attention, "logit_scale")
    bias = attention.qkv.bias.clone()
    if is_v2:
        bias[channels : 2 * channels] = 0
    padded = F.pad(values, (0, 0, 0, full_hw[1] - width, 0, full_hw[0] - height))
    q, k, v = F.linear(padded, attention.qkv.weight, bias).unflatten(-1, (3, heads, -1)).unbind(2)
    if is_v2:
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        scale = attention.logit_scale.flatten().clamp(max=math.log(100)).exp()
    else:
        scale = torch.full((heads,), (channels // heads) ** -0.5)
    mixed = torch.empty_like(values)
    for y, x in cells(values):
        window = ((y - shift_y) // side, (x - shift_x) // side)
        seen = [(j, i) for j, i in cells(padded) if ((j - shift_y) // side, (i - shift_x) // side) == window]
        scores = [
            scale * (q[y, x] * k[j, i]).sum(-1) + slow_position_bias(attention, j - y, i - x, side) for j, i in seen
        ]
        weights = torch.stack(scores).softmax(0)
        mixed[y, x] = sum(w[:, None] * v[j, i] for w, (j, i) in zip(weights, seen, strict=True)).flatten()
    return attention.proj(mixed)


def slow_swin_block(values: Tensor, block: SwinTransformerBlock) -> Tensor:
    if isinstance(block, SwinTransformerBlockV2):
        values = values + block.norm1(slow_attention(values, block.attn))
        return values + block.norm2(block.mlp(values))
    values = values + slow_attention(block.norm1(values), block.attn)
    return values + block.mlp(block.norm2(values))


def slow_merging(values: Tensor, merging: nn.Module) -> Tensor:
    height, width, channels = values.shape
    merged = torch.empty(-(-height // 2), -(-width // 2), 4 * channels)
    for y, x in cells(merged):
        corners = [(2 * y, 2 * x), (2 * y + 1, 2 * x), (2 * y, 2 * x + 1), (2 * y + 1, 2 * x + 1)]
        blank = torch.zeros(channels)
        merged[y, x] = torch.cat([values[j, i] if j < height and i < width else blank for j, i in corners])
    if isinstance(merging, PatchMerging):
        return merging.reduction(merging.norm(merged))
    return merging.norm(merging.reduction(merged))


def slow_stem(pixels: Tensor, convolution: nn.Module, norm: nn.Module) -> Tensor:
    """(3, H, W) -> (h, w, C): patches of 4 x 4 pixels"""
    pixels = F.pad(pixels, (0, -pixels.shape[2] % 4, 0, -pixels.shape[1] % 4))
    made = torch.empty(pixels.shape[1] // 4, pixels.shape[2] // 4, len(convolution.weight))
    for y, x in cells(made):
        patch = pixels[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        made[y, x] = (convolution.weight * patch).sum((1, 2, 3)) + convolution.bias
    return F.layer_norm(made, made.shape[-1:], norm.weight, norm.bias, norm.eps)


@pytest.mark.parametrize("name", ["small_swin", "small_swin_v2"])
@pytest.mark.parametrize("size_hw", [(37, 65), (56, 26)], ids=str)
def test_swin_is_what_plain_loops_say(name: str, size_hw: tuple[int, int]) -> None:
    """Windows over the edge, shifted and not, one axis with a single window, odd grids to merge."""
    body, pixels = stirred(name, [2, 3]), picture(*size_hw)
    with torch.no_grad():
        stem, first, merging, second = body.features
        values = slow_stem(pixels[0], stem[0], stem[2])
        expected = []
        for blocks, stage in ((first, "2"), (second, "3")):
            for block in blocks:
                values = slow_swin_block(values, block)
            expected.append(body.output_norms[stage](values).permute(2, 0, 1))
            values = slow_merging(values, merging) if stage == "2" else values
        for ours, slow in zip(body(pixels), expected, strict=True):
            torch.testing.assert_close(ours[0], slow, rtol=1e-4, atol=1e-4)


def slow_convnext_block(values: Tensor, block: CNBlock) -> Tensor:
    """(h, w, C) -> (h, w, C)"""
    depthwise, _, norm, widen, gelu, narrow, _ = block.block
    padded = F.pad(values, (0, 0, 3, 3, 3, 3))
    mixed = torch.empty_like(values)
    for y, x in cells(values):
        near = padded[y : y + 7, x : x + 7].permute(2, 0, 1)
        mixed[y, x] = (depthwise.weight[:, 0] * near).sum((1, 2)) + depthwise.bias
    return values + block.layer_scale.flatten() * narrow(gelu(widen(norm(mixed))))


def slow_downsampling(values: Tensor, layer: nn.Sequential) -> Tensor:
    norm, _, convolution = layer
    values = F.layer_norm(values, values.shape[-1:], norm.weight, norm.bias, norm.eps)
    height, width, _ = values.shape
    made = torch.empty(-(-height // 2), -(-width // 2), len(convolution.weight))
    for y, x in cells(made):
        total = convolution.bias
        for j, i in ((0, 0), (0, 1), (1, 0), (1, 1)):
            if 2 * y + j < height and 2 * x + i < width:
                total = total + convolution.weight[:, :, j, i] @ values[2 * y + j, 2 * x + i]
        made[y, x] = total
    return made


def test_convnext_is_what_plain_loops_say() -> None:
    body, pixels = stirred("small_convnext", [2, 3]), picture(37, 65)
    with torch.no_grad():
        stem, first, downsampling, second = body.features
        values = slow_stem(pixels[0], stem[0], stem[1])
        expected = []
        for blocks, stage in ((first, "2"), (second, "3")):
            for block in blocks:
                values = slow_convnext_block(values, block)
            expected.append(body.output_norms[stage](values).permute(2, 0, 1))
            values = slow_downsampling(values, downsampling) if stage == "2" else values
        for ours, slow in zip(body(pixels), expected, strict=True):
            torch.testing.assert_close(ours[0], slow, rtol=1e-4, atol=1e-4)


def test_padding_of_the_canvas_reaches_only_the_windows_that_hold_it() -> None:
    """14 x 14 tokens of image beside as many of padding: shifted windows begin at column 3, so one spans both."""
    body, pixels = stirred("small_swin", [2]), picture(56, 56)
    with torch.no_grad():
        alone, padded = body(pixels)[0], body(F.pad(pixels, (0, 56)))[0][..., :14]
    torch.testing.assert_close(padded[..., :10], alone[..., :10], rtol=1e-5, atol=1e-5)
    assert ((padded - alone)[..., 10:].abs().amax((1, 2)) > 1e-3).all()
