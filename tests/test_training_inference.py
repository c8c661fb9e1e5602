"""A network that infers z from a sample, fitted to a G that is done."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import fastgan.nn
from fastgan import data, models
from fastgan.models import GAN
from fastgan.training import Adam, Momentum, TrainConfig, train, train_encoder
from fastgan.training.optimizers import Optimizer


def test_M58_z_is_read_off_the_samples_of_a_ring() -> None:
    """R^2(z, E(G(z))) >= 0.9 for z on the circle.

    Of z ~ N(0, I) a generator of this ring keeps the direction and forgets the length, and no network can bring back
    more than three quarters of its variance.
    """
    found = {}
    for prior in ("spherical", "normal"):
        torch.manual_seed(0)
        gan = models.mlp_gan(2, latent_dim=2, hidden=(64, 64), prior=prior)
        config = TrainConfig(steps=1500, batch_size=128, k=2, optimizer=Adam(1e-3), ema_decay=0.99)
        train(gan, data.ring(20_000), config)
        encoder = fastgan.nn.MLP([2, 64, 64, 2], activation="relu")
        before = copy.deepcopy(gan.state_dict())
        result = train_encoder(gan, encoder, steps=800, batch_size=256, optimizer=Adam(3e-3))
        torch.testing.assert_close(gan.state_dict(), before, rtol=0, atol=0)
        found[prior] = result.r_squared
        # what it says, measured anew from what a user has: samples of a seed and their noise
        z, x = gan.noise(1000, seed=7), gan.sample(1000, seed=7)
        with torch.no_grad():
            again = 1 - ((encoder(x) - z).square().sum() / (z - z.mean(0)).square().sum()).item()
        assert again == pytest.approx(result.r_squared, abs=0.03)
    assert found["spherical"] >= 0.9
    assert 0.6 < found["normal"] < 0.9


def linear_gan() -> GAN:
    """G is invertible, so a linear E can be right to the last."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    with torch.no_grad():
        generator[0].weight.copy_(torch.tensor([[2.0, 1.0], [-1.0, 1.0]]))
    return GAN(generator, nn.Linear(2, 1), latent_dim=2)


@pytest.mark.parametrize("optimizer", [Adam(0.03), Momentum(0.1, 0.9)])
def test_an_invertible_generator_is_inverted(optimizer: Optimizer) -> None:
    gan, encoder = linear_gan(), nn.Linear(2, 2)
    result = train_encoder(gan, encoder, steps=400, optimizer=optimizer)
    assert result.r_squared > 0.999
    assert len(result.loss) == 400 and result.loss[-1] < 1e-2 < result.loss[0]
    assert gan.generator.training and all(p.grad is None for p in encoder.parameters())


def test_the_same_seed_gives_the_same_bits_and_leaves_the_users_random_state() -> None:
    gan, losses = linear_gan(), []
    for seed, gradients in ((1, True), (1, False), (2, True)):
        torch.manual_seed(5)
        encoder = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
        state = torch.get_rng_state()
        with torch.set_grad_enabled(gradients):
            losses.append(train_encoder(gan, encoder, steps=5, seed=seed).loss)
        assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(losses[0], losses[1]) and not np.array_equal(losses[0], losses[2])


def test_bad_arguments_are_named() -> None:
    gan, encoder = linear_gan(), nn.Linear(2, 2)
    for arguments, error, message in (
        (dict(gan=nn.Linear(1, 1)), TypeError, "gan must be a GAN, got Linear"),
        (dict(encoder=None), TypeError, "encoder must be a Module, got NoneType"),
        (dict(steps=0), ValueError, "steps must be an integer of at least 1, got 0"),
        (dict(batch_size=0), ValueError, "batch_size must be an integer of at least 1, got 0"),
        (dict(gan=models.mlp_gan(2, classes=3)), ValueError, "gan must not be conditional, got one with 3 classes"),
        (dict(encoder=nn.Linear(2, 3)), ValueError, r"encoder must give z of shape \(2, 2\) for 2 .*, got \(2, 3\)"),
    ):
        with pytest.raises(error, match=f"^train_encoder: {message}"):
            train_encoder(**{"gan": gan, "encoder": encoder, "steps": 1, **arguments})
