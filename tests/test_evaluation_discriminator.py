"""A discriminator fitted alone: towards D* where data abound, from memory where they do not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastgan
from fastgan import evaluation, theory
from fastgan.apps import presets


def normal(n: int, dim: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    return mean + torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def test_M05_a_trained_discriminator_approaches_the_optimal_one() -> None:
    """N(0, 1) against N(1, 1), whose D* is sigmoid(1/2 - x) and JSD 0.11142."""
    real, fake = normal(100_000, 1, 0), normal(100_000, 1, 1, mean=1.0)
    d = fastgan.nn.MLP([1, 64, 64, 1], activation="leaky_relu")
    values = evaluation.fit_discriminator(d, real, fake, epochs=3, learning_rate=3e-3)
    assert len(values) == 3 and values[0] < values[-1]

    def error(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return (torch.sigmoid(d(x)) - torch.sigmoid(0.5 - x)).abs()

    new = torch.cat([normal(20_000, 1, 2), normal(20_000, 1, 3, mean=1.0)])
    assert error(new).mean() <= 0.01
    assert error(torch.linspace(-3, 4, 701)[:, None]).max() <= 0.03
    gap = evaluation.discriminator_gap(d, real, new[:20_000], fake, held_out_fake=new[20_000:])
    assert gap.js_train == pytest.approx(0.11142, abs=0.005)
    assert gap.js_held_out == pytest.approx(0.11142, abs=0.005)
    assert abs(gap.gap) < 0.01


def test_M05_the_same_seed_gives_the_same_discriminator() -> None:
    """Under `no_grad` too, as one evaluates."""
    real, fake = normal(500, 2, 0), normal(700, 2, 1, mean=1.0)
    found = []
    for seed, gradients in ((3, True), (3, False), (4, True)):
        torch.manual_seed(0)
        d = fastgan.nn.MLP([2, 8, 1], activation="tanh")
        with torch.set_grad_enabled(gradients):
            values = evaluation.fit_discriminator(d, real, fake, epochs=2, batch_size=50, seed=seed)
        found.append((values, [p.tolist() for p in d.parameters()]))
    assert found[0] == found[1] != found[2]


def test_M15_a_discriminator_optimised_to_completion_on_little_data_overfits() -> None:
    """256 rows of the very distribution that G has: D learns them from memory and knows nothing of new ones."""
    real, fake, new, new_fake = (normal(256, 20, seed) for seed in range(4))
    d = fastgan.nn.MLP([20, 128, 128, 1], activation="leaky_relu")
    before = evaluation.discriminator_gap(d, real, new, fake, held_out_fake=new_fake)
    assert abs(before.gap) < 0.1
    evaluation.fit_discriminator(d, real, fake, epochs=200, batch_size=64)
    gap = evaluation.discriminator_gap(d, real, new, fake, held_out_fake=new_fake)
    assert gap.accuracy_train >= 0.99 and gap.accuracy_held_out <= 0.8
    assert gap.gap > 1 and gap.js_train > 0.6 and gap.js_held_out < 0
    assert "accuracy 100.0% and" in str(gap)


def test_M15_the_gap_is_what_it_says() -> None:
    """For logits that are the rows themselves everything can be written out."""
    train, held_out, fake = np.array([2.0, -1.0]), np.array([-3.0]), np.array([1.0, -2, -2, 0.0])
    gap = evaluation.discriminator_gap(lambda x: x, train, held_out, fake)
    assert gap.accuracy_train == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert gap.accuracy_held_out == pytest.approx((0 + 2 / 4) / 2)
    expected = np.log(1 / (1 + np.exp(-train))).mean() + np.log(1 / (1 + np.exp(fake))).mean()
    assert gap.value_train == pytest.approx(expected, abs=1e-12)
    assert gap.js_train == pytest.approx((expected + math.log(4)) / 2, abs=1e-12)
    assert gap.gap == pytest.approx(gap.value_train - theory.sample_value(held_out, fake), abs=1e-12)


def test_M15_a_gan_is_asked_in_eval_mode_and_left_in_its_own() -> None:
    gan = fastgan.models.mlp_gan(3, hidden=(8,), discriminator_dropout=0.5)
    rows = [normal(50, 3, seed) for seed in range(3)]
    first, second = (evaluation.discriminator_gap(gan, *rows) for _ in range(2))
    assert first == second == evaluation.discriminator_gap(gan.discriminator, *rows)
    assert gan.discriminator.training
    logits = gan.logits(rows[0])
    assert first.value_train == pytest.approx(theory.sample_value(logits, gan.logits(rows[2])).item(), abs=1e-6)


@pytest.mark.parametrize(("steps", "known"), [(600, 15), pytest.param(3000, 500, marks=pytest.mark.slow)])
def test_M36_a_trained_generator_copies_no_training_row(steps: int, known: int) -> None:
    """Ten thousand samples of a GAN trained on the digits: near many of them, and none a copy."""
    pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    digits = fastgan.data.digits()
    preset = presets.for_source("digits", digits)
    gan = preset.networks.build()
    fastgan.train(gan, digits, dataclasses.replace(preset.train, steps=steps, checkpoint_every=0))
    found = evaluation.nearest_neighbours(gan.sample(10_000), digits)
    assert float(found.distance.min()) > 0.1
    assert len(found.index.unique()) > known


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, x: evaluation.fit_discriminator(d, x, x[:, :1]), "fake must have the 2 features of real, got 1"),
        (lambda d, x: evaluation.fit_discriminator(d, x, x, epochs=0), "epochs must be an integer of at least 1"),
        (lambda d, x: evaluation.fit_discriminator(d, x, x, learning_rate=0), "learning_rate must be above 0"),
        (lambda d, x: evaluation.discriminator_gap(d, x, x[:, :1], x), "held_out must have the 2 features of train"),
        (lambda d, x: evaluation.discriminator_gap(d, x, x, x / 0), "fake must be finite"),
    ],
)
def test_bad_input_is_refused(call: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        call(fastgan.nn.MLP([2, 4, 1], activation="relu"), torch.ones(10, 2))
    assert message in str(error.value)
