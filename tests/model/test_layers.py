import math

import pytest
import torch
from torch import nn

from detrctl.model.attention import MultiHeadAttention, key_mask
from detrctl.model.layers import MLP, FeedForward, PostNorm, PreNorm, init_transformer


def test_attention_equals_pytorchs_with_padding() -> None:
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(width=32, heads=4), nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.in_proj.weight,
            "in_proj_bias": ours.in_proj.bias.data.normal_(),
            "out_proj.weight": ours.out_proj.weight,
            "out_proj.bias": ours.out_proj.bias.data.normal_(),
        }
    )
    q, k, v = torch.randn(2, 5, 32), torch.randn(2, 7, 32), torch.randn(2, 7, 32)
    is_padding = torch.zeros(2, 7, dtype=torch.bool)
    is_padding[1, 4:] = True
    expected, _ = theirs(q, k, v, key_padding_mask=is_padding)
    torch.testing.assert_close(ours(q, k, v, mask=key_mask(is_padding)), expected, rtol=1e-5, atol=1e-6)


def test_residual_steps_by_hand() -> None:
    x = torch.randn(3, 8)
    post, pre = PostNorm(width=8, dropout=0.0), PreNorm(width=8, dropout=0.0)
    norm = nn.functional.layer_norm
    torch.testing.assert_close(post(x, lambda y: 2 * y), norm(3 * x, (8,)))
    torch.testing.assert_close(pre(x, lambda y: 2 * y), x + 2 * norm(x, (8,)))


def test_the_mlp_has_relus_between_but_none_at_the_end() -> None:
    mlp = MLP(width=4, outputs=2, depth=3)
    x = torch.randn(5, 4)
    a, b, c = mlp.layers
    torch.testing.assert_close(mlp(x), c(b(a(x).clamp(min=0)).clamp(min=0)))
    assert (mlp(x) < 0).any()


@pytest.mark.parametrize("shape", [(96, 32), (32, 32)])
def test_matrices_start_xavier_uniform_and_norms_and_biases_as_they_are(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer, norm = nn.Linear(shape[1], shape[0]), nn.LayerNorm(shape[0])
    bias = layer.bias.clone()
    init_transformer(layer, norm)
    bound = math.sqrt(6 / sum(shape))
    assert layer.weight.abs().max() <= bound
    assert layer.weight.abs().max() > 0.98 * bound
    assert torch.equal(layer.bias, bias)
    assert torch.equal(norm.weight, torch.ones(shape[0]))


def test_feedforward_drops_only_in_training() -> None:
    torch.manual_seed(0)
    step, x = FeedForward(width=8, hidden=64, dropout=0.5), torch.randn(4, 8)
    assert torch.equal(step.eval()(x), step(x))
    assert not torch.equal(step.train()(x), step(x))
