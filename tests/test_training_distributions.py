"""What short trainings reach on distributions whose truth is known."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from fastgan import data, evaluation, models, nn
from fastgan.data import Dataset
from fastgan.models import GAN
from fastgan.training import Adam, TrainConfig, train, train_population


def modes(gan: GAN, dataset: Dataset) -> int:
    assert dataset.centres is not None and dataset.std is not None
    return evaluation.mode_coverage(gan.sample(2500, seed=9), dataset.centres, dataset.std).covered


@pytest.mark.timeout(900)  # 50,000 steps: without the compiled core half a minute, and minutes on a busy machine
def test_M14_a_generator_trained_far_ahead_of_d_captures_fewer_modes() -> None:
    """Ring of 8, median over 5 seeds: the default schedule, and 20 steps of G a step of D, of which it warns."""
    ring = data.ring(20_000)

    def median(config: TrainConfig) -> float:
        make = lambda: models.mlp_gan(2, latent_dim=2, hidden=(32, 32))  # noqa: E731
        found = train_population(make, ring, config, seeds=range(5)).members
        return statistics.median(modes(member.gan, ring) for member in found)

    with pytest.warns(UserWarning, match="generator_steps=20 with k=1 trains G far ahead of D, which collapses"):
        ahead = TrainConfig(steps=300, batch_size=64, generator_steps=20, optimizer=Adam(2e-3))
        with_ahead = median(ahead)
    default = median(TrainConfig(steps=2000, batch_size=64, optimizer=Adam(2e-3)))
    assert with_ahead < default
    assert default >= 6


def test_M31_a_network_learns_the_ring_map() -> None:
    """f(x) = x/10 + x/|x| of a Gaussian: mean radius within 0.02 of the truth, angles within a KS distance of 0.05."""
    torch.manual_seed(0)
    gan = models.mlp_gan(2, latent_dim=2, hidden=(64, 64))
    config = TrainConfig(
        steps=1500, batch_size=128, k=2, optimizer=Adam(1e-3), generator_optimizer=Adam(3e-4), ema_decay=0.995
    )
    train(gan, data.ring_map(100_000), config)
    samples = gan.sample(10_000, seed=1).double()
    radius = samples.norm(dim=1)
    assert abs(radius.mean().item() - (1 + math.sqrt(math.pi / 2) / 10)) <= 0.02
    assert kolmogorov_smirnov(torch.atan2(samples[:, 1], samples[:, 0]) / (2 * math.pi) + 0.5) <= 0.05
    assert 0.02 < radius.std().item() < 0.1  # of a ring with a width: the truth is 0.0655


def kolmogorov_smirnov(u: Tensor) -> float:
    """The greatest distance of the empirical distribution of u from the uniform one on [0, 1]."""
    n = len(u)
    u, steps = u.sort().values, torch.arange(n + 1) / n
    return torch.maximum((steps[1:] - u).max(), (u - steps[:-1]).max()).item()


def test_M78_a_generator_learns_three_point_masses() -> None:
    """A degenerate distribution, without a density: at least 99% of the samples within 0.05 of a point, all three met.

    G is continuous, so what is between the points is what its gradient takes to cross from one to the next: a deep G
    and a z of one dimension make the crossings few and steep; R1 keeps D's gradient, and so G's updates, finite at the
    points.
    """
    masses = data.gaussians(3000, [[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]], std=0.0)
    assert masses.centres is not None
    torch.manual_seed(1)
    generator = nn.MLP([1, 48, 48, 48, 48, 2], activation="relu")
    discriminator = nn.MLP([2, 64, 64, 1], activation="leaky_relu")
    gan = GAN(generator, discriminator, latent_dim=1)
    config = TrainConfig(
        steps=6000,
        batch_size=128,
        optimizer=Adam(3e-3),
        gradient_penalty="r1",
        penalty_weight=0.02,
        ema_decay=0.995,
        seed=1,
    )
    train(gan, masses, config)
    distance, nearest = torch.cdist(gan.sample(20_000, seed=9), masses.centres).min(1)
    assert (distance < 0.05).double().mean().item() >= 0.99
    assert torch.bincount(nearest, minlength=3).min().item() >= 0.2 * 20_000
