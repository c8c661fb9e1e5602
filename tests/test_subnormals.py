"""Subnormal numbers: flushed while the compiled engine trains, left to the caller everywhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastgan import GAN, Adam, Momentum, TrainConfig, _backend, nn, train

pytestmark = pytest.mark.skipif(_backend.native is None, reason="the compiled core is what flushes")

TINY = 1e-40  # subnormal in float32


@pytest.fixture(autouse=True)
def computing_with_subnormals() -> Iterator[None]:
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


def flushes() -> bool:
    return float(torch.tensor([TINY]) * 1.0) == 0.0


def gan_with_dead_inputs() -> tuple[GAN, torch.Tensor]:
    """Columns that are always zero, and weights of theirs that have decayed into the subnormal range."""
    torch.manual_seed(0)
    gan = GAN(nn.MLP([3, 8, 6], activation="relu"), nn.MLP([6, 8, 1], activation="leaky_relu"), latent_dim=3)
    data = torch.randn(60, 6)
    data[:, 4:] = 0
    with torch.no_grad():
        gan.generator[-1].weight[4:] = 0
        gan.generator[-1].bias[4:] = 0
        gan.discriminator[0].weight[:, 4:] = TINY
    return gan, data


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimizer", [Adam(1e-3), Momentum(0.01, momentum=0.5)], ids=["adam", "momentum"])
def test_training_flushes_and_leaves_the_callers_mode_as_it_was(optimizer: Adam | Momentum, threads: int) -> None:
    torch.set_num_threads(threads)
    for before in (False, True):
        torch.set_flush_denormal(before)
        gan, data = gan_with_dead_inputs()
        config = TrainConfig(3, 20, optimizer=optimizer, loss="minimax", engine="fused")
        frozen = [gan.generator[-1].weight, gan.generator[-1].bias]
        for parameter in frozen:  # the dead columns stay exactly zero, and so do the gradients of D's weights for them
            parameter.requires_grad_(False)
        train(gan, data, config)
        assert flushes() is before
        assert not gan.discriminator[0].weight[:, 4:].any()


def test_an_error_leaves_the_callers_mode_as_it_was() -> None:
    gan, data = gan_with_dead_inputs()
    data[0, 0] = float("nan")
    with pytest.raises((FloatingPointError, ValueError)):
        train(gan, data, TrainConfig(8, 60, engine="fused"))
    assert not flushes()


def test_a_subnormal_loss_is_exact() -> None:
    """D(x) = 1 - 1e-43: the loss of the fakes is log(1 + exp(-100))."""
    gan, data = gan_with_dead_inputs()
    with torch.no_grad():
        for parameter in gan.discriminator.parameters():
            parameter.zero_()
        gan.discriminator[-1].bias.fill_(-100.0)
    config = TrainConfig(1, 20, loss="minimax", optimizer=Momentum(1e-9, momentum=0.0), engine="fused")
    loss_g = train(gan, data, config).history["loss_g"][0]
    assert loss_g == pytest.approx(-3.783505853677006e-44, rel=0.02, abs=0)  # half of the last bit of a subnormal float


@pytest.mark.parametrize("flush", [False, True])
def test_all_threads_of_an_operation_treat_them_as_the_caller_does(flush: bool) -> None:
    torch.set_num_threads(2)
    layer = nn.Linear(64, 64, bias=False, activation="relu")
    with torch.no_grad():
        layer.weight.copy_(torch.eye(64))
    x = torch.full((1 << 17, 64), TINY)  # milliseconds: a sleeping thread wakes in time to take its share
    layer(x)  # the threads exist before the mode changes, and new threads start with their creator's
    torch.set_flush_denormal(flush)
    y = layer(x).detach()
    assert bool((y == 0).all()) is flush and bool((y != 0).all()) is not flush


@pytest.mark.parametrize(("dtype", "small", "near"), [(torch.float32, 1e-18, 1e-4), (torch.float64, 1e-153, 1e-10)])
def test_engines_are_equal_where_the_caller_flushes(dtype: torch.dtype, small: float, near: float) -> None:
    """The squares of the gradients of weights of `small` inputs, Adam's second moments, are subnormal.

    With an epsilon of the gradients' size the updates tell whether the moments were flushed.
    """
    results = {}
    for engine, flush in (("eager", False), ("eager", True), ("fused", True)):
        gan, data = gan_with_dead_inputs()
        gan.generator[-1].weight.requires_grad_(False)
        gan.generator[-1].bias.requires_grad_(False)
        data = data.to(dtype)
        data[:, 4:] = small
        torch.set_num_threads(1)
        torch.set_flush_denormal(flush)
        train(gan.to(dtype), data, TrainConfig(30, 20, optimizer=Adam(1e-2, eps=small / 10), engine=engine))
        results[engine, flush] = gan.state_dict()
    eager, fused = results["eager", True], results["fused", True]
    unflushed = results["eager", False]["discriminator.0.weight"]
    assert float((unflushed - eager["discriminator.0.weight"]).abs().max()) > 0.01
    for name, value in eager.items():
        torch.testing.assert_close(fused[name], value, rtol=near, atol=near)
