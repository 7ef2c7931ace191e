"""The average is the textbook's, buffers are copied, and the network gets its own weights back."""

import math

import torch
from torch import nn

from detrctl.engine.ema import Average


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_the_average_follows_the_formula_with_warm_up() -> None:
    net = network()
    average = Average(net, decay=0.9, warmup=2)
    expected = net[0].weight.detach().clone()
    for update in (1, 2, 3):
        with torch.no_grad():
            net[0].weight.add_(update)
        average.update(net)
        decay = 0.9 * (1 - math.exp(-update / 2))
        expected = decay * expected + (1 - decay) * net[0].weight.detach()
    torch.testing.assert_close(average.weights["0.weight"], expected)


def test_buffers_are_copied_not_averaged() -> None:
    net = network()
    average = Average(net, decay=0.999, warmup=1)
    net(torch.randn(8, 2))
    average.update(net)
    assert torch.equal(average.weights["1.running_mean"], net[1].running_mean)
    assert int(average.weights["1.num_batches_tracked"]) == 1


def test_the_weights_come_back_bit_by_bit_even_after_an_error() -> None:
    net = network()
    average = Average(net, decay=0.5, warmup=1)
    with torch.no_grad():
        net[0].weight.mul_(1.1)
    average.update(net)
    own, averaged = net[0].weight.detach().clone(), average.weights["0.weight"].clone()
    try:
        with average.applied(net):
            assert torch.equal(net[0].weight, averaged)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert torch.equal(net[0].weight, own)
    assert torch.equal(average.weights["0.weight"], averaged)
