"""Initialisers of the original code, exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import fastgan.nn as fnn
from fastgan.nn import init


def model() -> nn.Module:
    return fnn.Sequential(fnn.Maxout(50, 40, 3), fnn.Dropout(0.5), fnn.Linear(40, 30), nn.Linear(30, 1, bias=False))


def test_M54_uniform_fills_its_range_exactly() -> None:
    net = init.uniform_(model(), 0.05, bias=-2.0, generator=torch.Generator().manual_seed(0))
    weights = torch.cat([p.flatten() for p in net.parameters() if p.dim() == 2])
    assert weights.abs().max() <= 0.05 and weights.abs().max() > 0.0499
    assert abs(weights.std() - 0.05 / math.sqrt(3)) < 0.001
    assert all(torch.all(p == -2.0) for p in net.parameters() if p.dim() == 1)


def test_normal_has_its_deviation_for_convolutions_too() -> None:
    torch.manual_seed(0)
    net = init.normal_(nn.Sequential(nn.ConvTranspose2d(64, 32, 4), nn.BatchNorm2d(32), nn.Conv2d(32, 1, 3)))
    assert abs(net[0].weight.std() - 0.02) < 4 * 0.02 / math.sqrt(2 * net[0].weight.numel())
    assert not net[0].bias.any() and torch.all(net[1].weight == 1)


@pytest.mark.parametrize(
    "fill",
    [
        lambda m, g: init.uniform_(m, 0.1, generator=g),
        lambda m, g: init.normal_(m, generator=g),
        lambda m, g: init.sparse_(m[2].weight, 10, generator=g),
    ],
)
def test_seeds_reproduce_and_generators_stay_apart(fill) -> None:  # noqa: ANN001
    def weights(generator: torch.Generator | None) -> torch.Tensor:
        net = init.constant_bias_(model(), 0.0)
        fill(net, generator)
        return net[2].weight.detach()

    net = model()
    torch.manual_seed(1)
    fill(net, None)
    first = net[2].weight.detach().clone()
    torch.manual_seed(1)
    fill(net, None)
    assert torch.equal(net[2].weight, first)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(1)
    fill(net, generator)
    assert torch.equal(torch.get_rng_state(), state)
    again = weights(torch.Generator().manual_seed(1))
    assert torch.equal(net[2].weight, again) and not torch.equal(weights(generator), again)


def test_biases_can_stay() -> None:
    net = model()
    before = net[2].bias.detach().clone()
    init.normal_(init.uniform_(net, 0.1, bias=None), 0.1, bias=None)
    assert torch.equal(net[2].bias, before) and before.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("nonzeros", [0, 1, 100, 784])
def test_M54_sparse_has_exactly_that_many_nonzeros(nonzeros: int, dtype: torch.dtype) -> None:
    weight = fnn.Maxout(784, 24, 5, dtype=dtype).weight
    assert init.sparse_(weight, nonzeros, std=0.1) is weight
    assert torch.all((weight != 0).sum(1) == nonzeros)
    if nonzeros == 100:
        assert abs(weight[weight != 0].double().std() - 0.1) < 0.003
        hits = (weight != 0).sum(0).double()  # places are uniform: mean 120 * 100 / 784
        assert abs(hits.mean() - 120 * 100 / 784) < 1e-9 and hits.max() < 40 and hits.min() >= 1


def test_sparse_never_draws_a_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self, *args, **kwargs: self.zero_())
    assert torch.all((init.sparse_(torch.empty(9, 20), 7) != 0).sum(1) == 7)


@pytest.mark.parametrize("as_array", [torch.as_tensor, lambda x: x.numpy()])
def test_M53_output_bias_gives_the_marginals(as_array) -> None:  # noqa: ANN001
    torch.manual_seed(0)
    data = (torch.rand(500, 3, 4) < torch.linspace(0, 1, 12).view(3, 4)).float()
    data[:, 0, 0], data[:, 2, 3] = 0, 1
    net = fnn.MLP([5, 7, 12], activation="relu", output_activation="sigmoid")
    assert init.output_bias_from_data(net, as_array(data)) is net
    expected = data.double().mean(0).flatten().clamp(1e-7, 1 - 1e-7)
    bias = net[2].bias.detach()
    torch.testing.assert_close(torch.sigmoid(bias.double()), expected, rtol=0, atol=1e-6)
    assert bias.isfinite().all() and bias[0] < -16 and bias[-1] > 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_M54_max_col_norm_holds_the_limit_and_little_else(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(300, 784, dtype=torch.float64) * torch.logspace(-6, 1, 300)[:, None]).to(dtype)
    weight[7] = 0
    before = weight.clone()
    norms = before.double().norm(dim=1)
    assert init.max_col_norm_(weight, 1.9365) is weight
    assert weight.double().norm(dim=1).max() <= 1.9365 * (1 + 1e-6)
    inside = norms <= 1.9365
    assert 50 < inside.sum() < 250 and torch.equal(weight[inside], before[inside])
    expected = before.double() * (1.9365 / norms).clamp(max=1)[:, None]
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(weight.double(), expected, rtol=3 * eps, atol=1e-7 if dtype == torch.float16 else 0)


def test_max_col_norm_at_the_extremes() -> None:
    weight = torch.tensor([[1e30, 1e30], [3e38, 0.0], [math.nan, 1.0], [1e-30, 0.0]])
    init.max_col_norm_(weight, 2.0)
    torch.testing.assert_close(weight[0], torch.full((2,), math.sqrt(2.0)))
    torch.testing.assert_close(weight[1], torch.tensor([2.0, 0.0]))
    assert weight[2].isnan().any() and weight[3, 0] == torch.tensor(1e-30)


def test_M54_max_col_norm_of_a_whole_model_in_training() -> None:
    torch.manual_seed(0)
    net = model()
    optimiser = torch.optim.SGD(net.parameters(), lr=5.0)
    for _ in range(5):
        net(torch.randn(20, 50)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        assert init.max_col_norm_(net, 0.3) is net
        assert all(p.norm(dim=1).max() <= 0.3 * (1 + 1e-6) for p in net.parameters() if p.dim() == 2)
    conv = nn.Conv2d(3, 4, 3)
    init.max_col_norm_(conv.weight, 0.1)
    assert conv.weight.flatten(1).norm(dim=1).max() <= 0.1 * (1 + 1e-6)


BAD = {
    "uniform_: irange must be": lambda: init.uniform_(model(), -1.0),
    "uniform_: module must be a torch.nn.Module, got Tensor": lambda: init.uniform_(torch.zeros(2), 1.0),
    "normal_: std must be .* got nan": lambda: init.normal_(model(), math.nan),
    "normal_: module must know its shapes": lambda: init.normal_(nn.LazyLinear(3)),
    "sparse_: nonzeros must be between 0 and in_features=5, got 6": lambda: init.sparse_(torch.zeros(3, 5), 6),
    r"sparse_: weight must have shape .* got \(3,\)": lambda: init.sparse_(torch.zeros(3)),
    "sparse_: std must be positive": lambda: init.sparse_(torch.zeros(3, 5), 2, std=0.0),
    "output_bias_from_data: layer must end": lambda: init.output_bias_from_data(
        nn.Linear(2, 3, bias=False), torch.ones(4, 3)
    ),
    r"output_bias_from_data: data must have shape \(n, 3\)": lambda: init.output_bias_from_data(
        nn.Linear(2, 3), np.ones((4, 2))
    ),
    "output_bias_from_data: data must have shape": lambda: init.output_bias_from_data(
        nn.Linear(2, 3), torch.ones(0, 3)
    ),
    r"output_bias_from_data: data must lie in \[0, 1\]": lambda: init.output_bias_from_data(
        nn.Linear(2, 3), -torch.ones(4, 3)
    ),
    "output_bias_from_data: .* nan": lambda: init.output_bias_from_data(nn.Linear(2, 1), torch.full((4, 1), math.nan)),
    "max_col_norm_: limit must be positive": lambda: init.max_col_norm_(torch.zeros(2, 2), 0.0),
    "max_col_norm_: weight must have shape": lambda: init.max_col_norm_(torch.zeros(2)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_get_one_clear_sentence(message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        BAD[message]()
