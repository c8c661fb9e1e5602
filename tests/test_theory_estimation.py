"""Estimation: NCE against maximum likelihood, one Gaussian fitted to two, likelihood as a divergence."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastgan
from fastgan import theory

X = np.linspace(-10.0, 10.0, 20001)
DX = float(X[1] - X[0])
TWO = theory.gaussian_density(X, [-2, 2], 0.5)


# ---------------------------------------------------------------- NCE


def softmax_model() -> tuple[torch.Tensor, torch.Tensor, Callable[[torch.Tensor], torch.Tensor], None]:
    p = torch.tensor([2, 2, 10, 2, 10, 10, 2, 2, 5, 2, 1, 2], dtype=torch.float64) / 50
    return p, torch.randn(12, dtype=torch.float64), lambda theta: torch.log_softmax(theta, -1), None


def gaussian_model() -> tuple[torch.Tensor, torch.Tensor, Callable[[torch.Tensor], torch.Tensor], float]:
    """Mean and log std against a density that is none of the family."""
    x = torch.from_numpy(X)

    def log_model(theta: torch.Tensor) -> torch.Tensor:
        return -(((x - theta[0]) / theta[1].exp()) ** 2) / 2 - theta[1] - 0.5 * math.log(2 * math.pi)

    return torch.from_numpy(TWO), torch.tensor([0.7, 0.4], dtype=torch.float64), log_model, DX


@pytest.mark.parametrize("model", [softmax_model, gaussian_model])
def test_M11_with_the_model_as_noise_nce_has_half_the_gradient_of_maximum_likelihood(model: Any) -> None:
    p, start, log_model, dx = model()
    theta = start.requires_grad_()
    log_q = log_model(theta)
    nce = theory.nce_objective(p, log_q, dx=dx)
    assert nce.item() == pytest.approx(math.log(4), abs=1e-9)
    likelihood = -(p * log_q * (dx or 1)).sum()
    (half,), (whole,) = torch.autograd.grad(nce, theta, retain_graph=True), torch.autograd.grad(likelihood, theta)
    torch.testing.assert_close(half, whole / 2, rtol=1e-6, atol=1e-9)
    assert half.abs().max() > 1e-3
    # Another noise, kept fixed, gives another gradient.
    noise = log_model(1.5 * start.detach()).detach().exp()
    (other,) = torch.autograd.grad(theory.nce_objective(p, log_model(theta), noise, dx=dx), theta)
    assert (other - whole / 2).abs().max() > 1e-3


def test_M11_nce_of_samples_is_a_discriminators_loss() -> None:
    """Samples that hold each outcome as often as p and noise say give the expectation itself."""
    real, fake = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 2, 2, 2, 2])
    p, noise = torch.bincount(real) / 4, torch.bincount(fake) / 6
    log_q = torch.log_softmax(torch.tensor([0.3, -1.0, 0.5]), -1)
    args = (log_q[real], noise.log()[real], log_q[fake], noise.log()[fake])
    loss = theory.nce_loss(*args)
    torch.testing.assert_close(loss, theory.nce_objective(p, log_q, noise))
    torch.testing.assert_close(loss, fastgan.discriminator_loss(args[0] - args[1], args[2] - args[3]))
    assert theory.nce_loss(*(x.numpy() for x in args)) == pytest.approx(loss.item(), rel=1e-6)


def test_M11_nce_is_lowest_where_the_model_is_the_data() -> None:
    p, theta, log_model, _ = softmax_model()
    noise = torch.full((12,), 1 / 12, dtype=torch.float64)
    at_data = theory.nce_objective(p, p.log(), noise)
    assert theory.nce_objective(p, log_model(theta), noise) > at_data
    assert -at_data.item() == pytest.approx(theory.training_criterion(p, noise).item(), abs=1e-12)


# ---------------------------------------------------------------- one Gaussian for two


def test_M12_kl_covers_both_modes() -> None:
    fit = theory.fit_gaussian(TWO, X, kind="kl")
    assert fit.mean == pytest.approx(0, abs=1e-9)
    assert fit.std == pytest.approx(math.sqrt(4.25), abs=1e-6)
    assert fit.divergence == pytest.approx(0.72355, abs=1e-5)
    assert theory.fit_gaussian(TWO, X, kind="kl", start=(3.0, 0.2)).std == pytest.approx(fit.std, abs=1e-6)


@pytest.mark.parametrize("side", [-1, 1])
def test_M12_reverse_kl_takes_one_mode(side: int) -> None:
    fit = theory.fit_gaussian(torch.from_numpy(TWO), X, kind="reverse_kl", start=(side * 1.0, 1.0))
    assert fit.mean == pytest.approx(side * 1.9998, abs=1e-4)
    assert fit.std == pytest.approx(0.5004, abs=1e-4)
    assert fit.divergence == pytest.approx(0.69305, abs=1e-5)
    best = theory.fit_gaussian(TWO, X, kind="reverse_kl")
    assert abs(best.mean) == pytest.approx(1.9998, abs=1e-4)


def test_M12_js_has_optima_of_both_sorts_and_the_broad_one_is_lower_here() -> None:
    narrow = theory.fit_gaussian(TWO, X, kind="js", start=(2.0, 0.5))
    broad = theory.fit_gaussian(TWO, X, kind="js", start=(0.5, 2.0))
    assert (narrow.mean, narrow.std) == pytest.approx((2.0, 0.5), abs=2e-3)
    assert narrow.divergence == pytest.approx(0.21573, abs=2e-5)
    assert broad.mean == pytest.approx(0, abs=1e-4) and broad.std > 2
    assert broad.divergence == pytest.approx(0.20096, abs=2e-5)
    assert theory.fit_gaussian(TWO, X, kind="js").divergence == pytest.approx(0.20096, abs=2e-5)
    # On a grid where the densities underflow the descent is the same.
    wide = np.linspace(-40, 40, 40001)
    again = theory.fit_gaussian(theory.gaussian_density(wide, [-2, 2], 0.5), wide, kind="js", start=(2.2, 0.4))
    assert (again.mean, again.std) == pytest.approx((narrow.mean, narrow.std), abs=1e-5)
    # Far enough apart, one mode is the better choice: the criterion is neither mode-seeking nor covering by nature.
    apart = theory.fit_gaussian(theory.gaussian_density(wide, [-8, 8], 0.5), wide, kind="js")
    assert abs(apart.mean) == pytest.approx(8, abs=0.01)


@pytest.mark.parametrize("kind", ["kl", "reverse_kl", "js"])
def test_M12_a_gaussian_is_found_exactly(kind: str) -> None:
    uneven = np.sort(np.concatenate([X, np.random.default_rng(0).uniform(-10, 10, 5000)]))
    p = theory.gaussian_density(uneven, 1.5, 0.7)
    fit = theory.fit_gaussian(p, uneven, kind=kind, start=(-1.0, 2.0))
    assert (fit.mean, fit.std) == pytest.approx((1.5, 0.7), abs=1e-5)
    assert fit.divergence == pytest.approx(0, abs=1e-9)


# ---------------------------------------------------------------- maximum likelihood


def test_M24_maximum_likelihood_is_the_argmin_of_kl() -> None:
    """On a grid of models, the likelihood of data and the divergence from them have one best model."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(1000, rng.dirichlet(np.ones(6)))
    models = rng.dirichlet(np.ones(6), 2000)
    empirical = counts / counts.sum()
    log_likelihood = (counts * np.log(models)).sum(1)
    kl = theory.kl_divergence(np.broadcast_to(empirical, models.shape), models)
    assert log_likelihood.argmax() == kl.argmin()
    rest = -theory.entropy(empirical) - kl  # mean log-likelihood = -H(p) - KL(p||q)
    np.testing.assert_allclose(log_likelihood / 1000, rest, rtol=1e-12)


def test_M24_gaussian_mixture_by_expectation_maximisation() -> None:
    """scikit-learn does the work; its likelihood is fastgan's and rises at every step; it finds the means."""
    mixture = pytest.importorskip("sklearn.mixture", reason="scikit-learn fits mixtures")
    means, stds, weights = np.array([-4.0, 0.0, 5.0]), np.array([0.5, 1.0, 0.8]), np.array([0.3, 0.3, 0.4])
    rng = np.random.default_rng(0)
    label = rng.choice(3, 10_000, p=weights)
    data = rng.normal(means[label], stds[label])
    model = mixture.GaussianMixture(3, max_iter=1, warm_start=True, tol=0.0, means_init=[[-1.0], [0.0], [1.0]])
    trajectory = []
    for _ in range(60):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one step at a time never converges
            model.fit(data[:, None])
        found = (model.means_[:, 0], np.sqrt(model.covariances_[:, 0, 0]), model.weights_)
        found = np.log(theory.gaussian_density(data, *found))
        trajectory.append(found.mean())
        np.testing.assert_allclose(trajectory[-1], model.score(data[:, None]), rtol=1e-6)
    assert (np.diff(trajectory) >= -1e-9).all() and trajectory[-1] > trajectory[0] + 0.01
    np.testing.assert_allclose(np.sort(model.means_[:, 0]), means, atol=0.05)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.fit_gaussian(TWO, X, kind="tv"), "fit_gaussian: kind must be one of kl, reverse_kl, js"),
        (lambda: theory.fit_gaussian(TWO, X[::-1]), "fit_gaussian: x must be (points,) and increase"),
        (lambda: theory.fit_gaussian(2 * TWO, X), "fit_gaussian: p must integrate to one over dx, got 2"),
        (lambda: theory.fit_gaussian(TWO[:-1], X), "fit_gaussian: dx must be one number or one for each of the 20000"),
        (lambda: theory.fit_gaussian(TWO, X, start=(0, 0)), "fit_gaussian: start[1] must be above 0"),
        (lambda: theory.fit_gaussian(np.full(101, 1.0), np.linspace(0, 1, 101)), "fit_gaussian: the Gaussian must lie"),
        (lambda: theory.nce_objective([0.5, 0.6], [0.0, 0.0]), "nce_objective: p_data must sum to one"),
        (lambda: theory.nce_objective([0.5, 0.5], [0.0, 0.0], [0.1, 0.1]), "nce_objective: noise must sum to one"),
        (lambda: theory.nce_objective([0.5, 0.5], [0.0]), "p_data, log_model and noise must have one shape"),
        (lambda: theory.nce_loss([1.0], [1.0], [1.0], [1.0, 2.0]), "fake_log_model and fake_log_noise must have one"),
    ],
)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)
