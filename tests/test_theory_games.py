"""Games small enough to be followed exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import fastgan
from fastgan import theory

CELLS = np.array([2, 2, 10, 2, 10, 10, 2, 2, 5, 2, 1, 2]) / 50  # the table of counts


def random_distributions(n: int, outcomes: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(outcomes, 0.5), n)


# ---------------------------------------------------------------- function space


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("step_size", [0.01, 0.1, 1.0])
def test_M06_convergence_in_function_space(step_size: float, seed: int) -> None:
    (start,) = random_distributions(1, seed=seed)
    game = theory.functional_game(CELLS, start, 5000, step_size=step_size)
    np.testing.assert_allclose(game.p_g[0], start, rtol=1e-12)
    np.testing.assert_allclose(game.p_g.sum(1), 1, atol=1e-12)
    assert game.js[0] == pytest.approx(theory.js_divergence(CELLS, start), abs=1e-14)
    assert game.js[0] > 0.05 and (np.diff(game.js) <= 1e-15).all()
    assert game.js[-1] <= 1e-6
    np.testing.assert_allclose(game.p_g[-1], CELLS, atol=0.01 if step_size < 0.1 else 1e-9)


def test_M06_at_step_size_1_each_update_goes_half_the_way() -> None:
    (start,) = random_distributions(1)
    game = theory.functional_game(CELLS, torch.from_numpy(start), 3, step_size=1.0)
    for t in range(4):
        expected = CELLS + (start - CELLS) / 2**t
        np.testing.assert_allclose(game.p_g[t].numpy(), expected, atol=1e-15)


def test_M06_the_update_descends_the_gradient_at_the_optimal_discriminator() -> None:
    """For a small step p_g moves as mirror descent on V(G, D*) does, written out through D*."""
    (start,) = random_distributions(1, seed=4)
    moved = theory.functional_game(CELLS, start, 1, step_size=1e-3).p_g[1]
    d = theory.optimal_discriminator(CELLS, start)
    written_out = start * np.exp(-1e-3 * np.log(1 - d))
    np.testing.assert_allclose(moved, written_out / written_out.sum(), rtol=1e-13)


def test_M06_the_criterion_is_convex_in_p_g() -> None:
    """U(p_g, D) is linear in p_g for each D, and its supremum over D convex."""
    a, b = random_distributions(1000, seed=1), random_distributions(1000, seed=2)
    middle = (a + b) / 2
    d = np.random.default_rng(3).uniform(0.05, 0.95, a.shape)
    ends = theory.value(CELLS, a, d) + theory.value(CELLS, b, d)
    np.testing.assert_allclose(theory.value(CELLS, middle, d), ends / 2, atol=1e-12, rtol=0)
    ends = theory.training_criterion(CELLS, a) + theory.training_criterion(CELLS, b)
    gap = ends / 2 - theory.training_criterion(CELLS, middle)
    assert (gap >= -1e-12).all() and gap.max() > 0.01


# ---------------------------------------------------------------- two Gaussians


@pytest.mark.parametrize("kind", ["minimax", "non_saturating"])
def test_M07_the_outer_loop_with_the_discriminator_at_its_optimum(kind: str) -> None:
    game = theory.gaussian_game(3.0, steps=200, kind=kind)
    assert game.mean[0] == 3.0 and len(game.mean) == len(game.value) == 201
    assert abs(game.mean[-1]) <= 0.05
    falling = np.diff(game.value) < 0
    assert falling[game.mean[:-1] > 1e-6].mean() >= 0.95  # beyond, V is constant to rounding
    assert game.value[-1] == pytest.approx(-math.log(4), abs=1e-3)


def test_M07_the_outer_loop_with_a_discriminator_learned_each_time() -> None:
    """D* of two Gaussians of one variance is a line in its logit: Newton's method learns it from samples to the end."""
    noise, real = (torch.randn(20_000, 1, dtype=torch.float64) for _ in range(2))
    mean = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    w = torch.zeros(2, dtype=torch.float64)
    trajectory, values = [mean.item()], []
    for _ in range(120):
        fake = mean + noise
        inputs = [torch.cat([x.detach(), torch.ones_like(x)], 1) for x in (real, fake)]
        for _ in range(8):
            d = [torch.sigmoid(x @ w) for x in inputs]
            grad = inputs[1].T @ d[1] - inputs[0].T @ (1 - d[0])
            second_derivative = sum(x.T @ (x * (p * (1 - p))[:, None]) for x, p in zip(inputs, d, strict=True))
            w = w - torch.linalg.solve(second_derivative, grad)
        values.append(theory.sample_value(*(x @ w for x in inputs)).item())
        (grad,) = torch.autograd.grad(fastgan.generator_loss(fake @ w[:1] + w[1], kind="minimax"), mean)
        with torch.no_grad():
            mean -= 0.12 * grad
        trajectory.append(mean.item())
    assert abs(trajectory[-1]) <= 0.05
    falling = np.diff(values) < 0
    assert falling[np.abs(trajectory[1:-1]) > 0.05].mean() >= 0.95


# ---------------------------------------------------------------- V = x y


def test_M13_simultaneous_steps_leave_the_equilibrium() -> None:
    points = theory.bilinear_game(0.1, "simultaneous", steps=100)
    radius = np.hypot(*points.T)
    np.testing.assert_allclose(radius, math.sqrt(1.01) ** np.arange(101), rtol=1e-12)
    assert radius[-1] == pytest.approx(1.6446318218, abs=5e-11)


@pytest.mark.parametrize("eta", [0.01, 0.1, 0.5])
def test_M13_alternating_steps_stay_near_their_circle(eta: float) -> None:
    points = theory.bilinear_game(eta, "alternating", steps=100_000)
    radius = np.hypot(*points.T)
    assert 1 - eta <= radius.min() < 1 < radius.max() <= 1 + eta
    x, y = points.T
    np.testing.assert_allclose(x**2 + y**2 - eta * x * y, 1, atol=1e-9)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.functional_game([0.5, 0.4], CELLS[:2], 5), "p_data must sum to one"),
        (lambda: theory.functional_game([0.5, 0.5], [1, 0], 5), "p_g0 must be positive wherever p_data is, got 0"),
        (lambda: theory.functional_game(CELLS, CELLS, 5, step_size=2), "step_size must lie in (0, 1], got 2"),
        (lambda: theory.functional_game(CELLS, CELLS, 0), "steps must be at least 1, got 0"),
        (lambda: theory.functional_game(CELLS[None], CELLS[None], 1), "must be (outcomes,), got"),
        (lambda: theory.gaussian_game(math.nan), "mean must stay within 20 of the data's, got nan"),
        (lambda: theory.gaussian_game(19, learning_rate=50, kind="non_saturating"), "must stay within 20"),
        (lambda: theory.gaussian_game(kind="hinge"), "kind must be one of minimax"),
        (lambda: theory.bilinear_game(0.1, "both"), "mode must be one of alternating, simultaneous, got 'both'"),
        (lambda: theory.bilinear_game(0.0, "alternating"), "eta must be above 0 and finite, got 0"),
    ],
)
def test_bad_games_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)
