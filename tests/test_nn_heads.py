"""nn.Heads: groups of outputs with functions of their own, against torch's functions group by group."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastgan
from fastgan import GAN, random
from fastgan.nn import Heads

GROUPS = [("tanh", 2), ("gumbel_softmax", 3), ("none", 1), ("softmax", 4), ("gumbel_softmax", 1)]
QUIET = [("tanh", 2), ("softmax", 3), ("none", 1), ("softmax", 4)]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_each_group_is_torchs_function() -> None:
    x = normal(5, 10)
    expected = [torch.tanh(x[:, :2]), F.softmax(x[:, 2:5], 1), x[:, 5:6], F.softmax(x[:, 6:], 1)]
    torch.testing.assert_close(Heads(QUIET)(x), torch.cat(expected, 1), rtol=1e-14, atol=0)
    torch.testing.assert_close(Heads(QUIET)(x.float()), torch.cat(expected, 1).float(), rtol=1e-6, atol=0)
    assert Heads(QUIET)(x.view(5, 1, 10)).shape == (5, 1, 10)
    assert Heads(QUIET)(x[0]).shape == (10,)


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_the_noise_is_that_of_its_seed(impl: Any) -> None:
    if impl == "native" and fastgan._backend.native is None:
        pytest.skip("the core is not built")
    x, heads = normal(6, 11), Heads(GROUPS, tau=0.3, impl=impl)
    with random.dropout_seeds(3, 7):
        found = heads(x)
    with random.dropout_seeds(3, 7):
        seed = int(random.next_dropout_seed())
    u = random.uniform((6, 12), seed=seed, purpose=random.Purpose.GUMBEL, dtype=torch.float64)
    noisy = x - torch.log(-torch.log(u[:, :11]))
    parts = [torch.tanh(x[:, :2]), F.softmax(noisy[:, 2:5] / 0.3, 1), x[:, 5:6], F.softmax(x[:, 6:10], 1)]
    torch.testing.assert_close(found, torch.cat([*parts, torch.ones(6, 1).double()], 1), rtol=1e-13, atol=0)
    with random.dropout_seeds(3, 8):
        assert (heads(x)[:, 2:5] - found[:, 2:5]).abs().max() > 0.1
    assert (heads.eval()(x)[:, 2:5] - heads(x)[:, 2:5]).abs().max() > 1e-3  # noise in eval mode, too


def test_the_largest_of_a_group_has_the_probability_of_the_softmax() -> None:
    """4 standard errors of 40,000 draws; without the noise the largest would always be the same."""
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    probability = F.softmax(logits, 0)
    torch.manual_seed(0)
    drawn = Heads([("gumbel_softmax", 4)])(logits.expand(40_000, 4)).argmax(1)
    error = 4 * (probability * (1 - probability) / 40_000).sqrt()
    assert ((torch.bincount(drawn, minlength=4) / 40_000 - probability).abs() < error).all()


def test_it_is_twice_differentiable() -> None:
    def fixed(x: Tensor) -> Tensor:
        with random.dropout_seeds(0, 0):
            return Heads(GROUPS, tau=0.8)(x)

    x = normal(3, 11).requires_grad_()
    assert torch.autograd.gradcheck(fixed, x)
    assert torch.autograd.gradgradcheck(fixed, x)


def test_what_is_not_finite() -> None:
    """NaN spreads over its group alone; infinities give their limits, and no gradient."""
    inf, nan = math.inf, math.nan
    x = torch.tensor([[nan, 0.0, 1.0], [inf, 0.0, inf], [inf, 0.0, 1.0], [-inf, 0.0, 0.0], [-inf, -inf, -inf]])
    x = torch.cat([x, torch.zeros(5, 1), torch.tensor([[inf], [-inf], [nan], [0.0], [1.0]])], 1).requires_grad_()
    found = Heads([("softmax", 3), ("softmax", 1), ("tanh", 1)])(x)
    third = 1 / 3
    want = torch.tensor([[nan] * 3, [0.5, 0.0, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [third] * 3])
    torch.testing.assert_close(found[:, :3], want, equal_nan=True)
    assert torch.equal(found[:, 3], torch.ones(5))
    torch.testing.assert_close(found[:, 4], torch.tensor([1.0, -1.0, nan, 0.0, math.tanh(1.0)]), equal_nan=True)
    (grad,) = torch.autograd.grad(found[1:, :3].square().sum(), x)
    assert torch.isfinite(grad[1:, :3]).all()


def test_large_logits_do_not_overflow() -> None:
    x = torch.tensor([[3e38, -3e38, 0.0], [-3e38, -3e38, -3e38]])
    assert torch.equal(Heads([("softmax", 3)])(x)[0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(Heads([("softmax", 3)])(x)[1], torch.full((3,), 1 / 3))


def test_a_line_has_one_noise() -> None:
    gan = GAN(Heads([("gumbel_softmax", 4)]), nn.Linear(4, 1), latent_dim=4)
    start, end = torch.randn(2, 3, 4)
    line = gan.interpolate(start, start, 3)
    assert torch.equal(line[:, 0], line[:, 1]) and torch.equal(line[:, 0], line[:, 2])
    assert torch.equal(gan.interpolate(start, end, 2)[:, 0], line[:, 0])


def test_samples_have_the_same_bits_however_they_are_requested() -> None:
    gan = GAN(nn.Sequential(nn.Linear(2, 11), Heads(GROUPS)), nn.Linear(11, 1), latent_dim=2)
    whole = gan.sample(11, seed=1, batch_size=4)
    torch.rand(3)  # another state of torch's generator
    parts = [gan.sample(3, seed=1, batch_size=4), gan.sample(8, seed=1, batch_size=4, offset=3)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(gan.sample(11, seed=2, batch_size=4), whole)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Heads([]), ValueError, "groups must have at least one group, got none"),
        (lambda: Heads([("sigmoid", 1)]), ValueError, "a group's kind must be one of none, tanh, softmax, gumbel"),
        (lambda: Heads([("tanh", 0)]), ValueError, "a group's width must be at least 1, got 0"),
        (lambda: Heads([("tanh", 1.0)]), TypeError, "a group's width must be an int, got float"),
        (lambda: Heads([("tanh", 1)], tau=0.0), ValueError, "tau must be positive and finite, got 0.0"),
        (lambda: Heads([("tanh", 1)], tau=math.nan), ValueError, "tau must be positive and finite, got nan"),
        (lambda: Heads(QUIET)(torch.zeros(2, 9)), ValueError, r"input must have 10 features, got shape \(2, 9\)"),
        (lambda: Heads(QUIET)(torch.tensor(0.0)), ValueError, r"input must have 10 features, got shape \(\)"),
    ],
)
def test_a_mistake_is_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^Heads: {message}"):
        make()


def test_it_says_what_it_is() -> None:
    assert repr(Heads(GROUPS)) == ("Heads(tanh 2, gumbel_softmax 3, none 1, softmax 4, gumbel_softmax 1, tau=0.2)")
    assert list(Heads(GROUPS).state_dict()) == []
