"""What a GAN is compared with: auto-encoders, the mixture, the kernel density, and the correlations of pixels."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, check_refusal, check_success

import fastgan
from fastgan import evaluation, nn
from fastgan.apps import baselines, presets
from fastgan.apps.cli import compare


def normal(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- auto-encoders


def test_M26_a_linear_auto_encoder_is_principal_component_analysis() -> None:
    """Rank 2 up to a little noise: what the best plane leaves over is what the auto-encoder leaves over."""
    x = normal((400, 2), 0) @ normal((2, 6), 1) + 0.05 * normal((400, 6), 2) + normal((6,), 3)
    model = nn.AutoEncoder([6, 2], activation=None)
    baselines.minimise(model, lambda batch, step: model.loss(batch), x, steps=1200, batch_size=400, learning_rate=0.1)
    centred = (x - x.mean(0)).double()
    plane = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    pca = (centred - centred @ plane.T @ plane).square().mean()
    assert pca > 1e-4 and model.encoder(x).shape == (400, 2)
    assert model.loss(x).item() == pytest.approx(float(pca), abs=1e-4)


def test_M26_the_decoder_has_the_encoders_widths_reversed() -> None:
    model = nn.AutoEncoder([8, 5, 3], output_activation="sigmoid")
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    assert shapes == [(5, 8), (3, 5), (5, 3), (8, 5)]
    assert ((model(normal((4, 8), 0)) - 0.5).abs() < 0.5).all()


def test_the_bound_of_a_vae_is_tight_where_its_encoder_is_the_posterior() -> None:
    """x = w z + b + sigma noise has a Gaussian density and posterior: at that encoder every draw gives log p(x)."""
    w, b, sigma = 2.0, 0.5, 0.7
    model = nn.VAE([1, 1]).double()
    gain = w / (w**2 + sigma**2)
    values = [gain, 0.0, -b * gain, math.log(sigma**2 / (w**2 + sigma**2)), w, b]
    with torch.no_grad():
        flat = torch.tensor(values, dtype=torch.float64)
        model.encoder[0].weight.copy_(flat[:2, None])
        model.encoder[0].bias.copy_(flat[2:4])
        model.decoder[0].weight.fill_(w)
        model.decoder[0].bias.fill_(b)
        model.log_sigma.fill_(math.log(sigma))
    x = normal((50, 1), 0).double()
    exact = torch.distributions.Normal(b, math.sqrt(w**2 + sigma**2)).log_prob(x[:, 0])
    draws = torch.stack([model(x, normal((50, 1), seed).double()) for seed in range(4000)]).detach()
    assert draws.mean(0) == pytest.approx(exact.numpy(), abs=0.1)
    assert float((draws.mean() - exact.mean()).abs()) < 0.005
    with torch.no_grad():
        model.encoder[0].bias[0] += 0.3
    worse = torch.stack([model(x, normal((50, 1), seed).double()) for seed in range(500)]).detach().mean()
    assert worse < exact.mean() - 0.2


# ---------------------------------------------------------------- densities


def test_M24_the_mixture_finds_the_rings_modes_and_its_density() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn fits mixtures")
    ring = fastgan.data.ring(4000)
    fresh = fastgan.data.ring(2000, seed=1).tensor()
    model = baselines.gaussian_mixture(ring.tensor(), fresh[:1000], components=(1, 4, 8))
    assert model.about == "8 components" and not model.bound
    samples = model.sample(2000, 5)
    assert samples.dtype == torch.float32 and torch.equal(samples, model.sample(2000, 5))
    assert ring.centres is not None and ring.std is not None
    found = evaluation.mode_coverage(samples, ring.centres, ring.std)
    assert found.covered == 8 and found.high_quality > 0.97
    exact = -math.log(2 * math.pi * 1e-4) - math.log(8) - 1.0  # expected log-density of eight far Gaussians
    assert float(model.log_density(fresh[1000:]).mean()) == pytest.approx(exact, abs=0.06)


def test_M25_the_kernel_density_is_the_parzen_window() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn has kernel density")
    rows, validation = normal((500, 3), 0), normal((200, 3), 1)
    model = baselines.kernel_density(rows, validation, sigmas=(0.1, 0.4, 1.0))
    assert model.about == "width 0.4"
    parzen = evaluation.parzen_log_likelihood(rows, validation, sigma=0.4)
    np.testing.assert_allclose(model.log_density(validation), parzen.log_likelihoods, rtol=1e-6)
    samples = model.sample(3000, 0)
    assert float((samples.var(0) - (rows.var(0) + 0.16)).abs().max()) < 0.15


def test_a_vae_learns_a_gaussian_and_says_so_from_below() -> None:
    rows = normal((4000, 2), 0) @ torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    model = baselines.variational_autoencoder(rows, hidden=(16,), steps=600, learning_rate=1e-2)
    assert model.bound and torch.equal(model.sample(10, 1), model.sample(10, 1))
    cov = torch.tensor([[1.0, 0.5], [0.5, 1.25]])
    exact = torch.distributions.MultivariateNormal(torch.zeros(2), cov).log_prob(rows).mean()
    bound = float(model.log_density(rows).mean())
    assert exact - 0.25 < bound < exact + 0.01


# ---------------------------------------------------------------- pixels


def test_M27_the_error_is_that_of_numpys_correlations() -> None:
    a, b = normal((50, 4), 0) @ normal((4, 4), 1), normal((60, 4), 2)
    b[:, 2] = 0.25  # does not vary: left out
    use = [0, 1, 3]
    difference = np.corrcoef(a[:, use].T) - np.corrcoef(b[:, use].T)
    expected = np.sqrt((difference[np.triu_indices(3, 1)] ** 2).mean())
    assert evaluation.correlation_error(a, b) == pytest.approx(expected, rel=1e-6)
    assert evaluation.correlation_error(b.numpy(), b.numpy()) == 0
    a[:, 0] = 1.0  # no correlation with anything
    assert 0 < evaluation.correlation_error(a, b) < 2


@pytest.mark.parametrize(
    ("samples", "data", "message"),
    [
        (torch.ones(1, 3), torch.eye(3), "samples must have at least 2 rows, got 1"),
        (torch.eye(3), torch.ones(3, 3), "data must have at least 2 features that vary, got 0"),
        (torch.eye(2), torch.eye(3), "data must have the 2 features|samples must have the 3 features"),
    ],
)
def test_M27_bad_input_is_refused(samples: torch.Tensor, data: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation.correlation_error(samples, data)


def test_M27_a_gan_models_the_joint_of_the_pixels() -> None:
    """A sampler of the pixels' marginals has every one of them right, and nothing of what they do together."""
    pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    rows = fastgan.data.digits().tensor()
    preset = presets.for_source("digits", fastgan.data.digits())
    gan = preset.networks.build(seed=0)
    fastgan.train(gan, rows, dataclasses.replace(preset.train, steps=3000, checkpoint_every=0))
    order = torch.Generator().manual_seed(0)
    independent = torch.stack([column[torch.randperm(len(rows), generator=order)] for column in rows.T], 1)
    of_gan = evaluation.correlation_error(gan.sample(1797), rows)
    of_marginals = evaluation.correlation_error(independent, rows)
    assert of_gan < 0.9 * of_marginals  # 0.148 of 0.185 here; 0.08 at the preset's 10,000 steps


# ---------------------------------------------------------------- fastgan compare


@pytest.fixture
def run(run: Run) -> Run:
    return functools.partial(run, "compare")


@pytest.mark.parametrize("source", ["ring", "digits", "gaussian"])
def test_compare_measures_and_draws_all_models(run: Run, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("sklearn", "matplotlib"):
        pytest.importorskip(library, reason="the comparison fits and draws")
    monkeypatch.setattr("fastgan.apps.cli.compare._SAMPLES", 200)
    monkeypatch.setattr("fastgan.apps.cli.compare._TEST", 100)
    few = ("--rows", "300") if source != "digits" else ()
    vae = baselines.variational_autoencoder
    monkeypatch.setattr(baselines, "variational_autoencoder", lambda *a, **k: vae(*a, **k, steps=5))
    monkeypatch.setattr(baselines, "_COMPONENTS", (2,))
    out = check_success(run(source, "--steps", "3", "--out", "a", "--quiet", *few))
    assert [line.split()[0] for line in out.splitlines()[1:7]] == ["GAN", "GMM", "KDE", "VAE", "marginals", "real"]
    head = out.splitlines()[0]
    assert ("modes" in head) == (source == "ring") and ("correlation" in head) == (source == "digits")
    assert out.splitlines()[1].split()[1:3] == ["3", "iterations"]
    assert (Path("a") / "samples.png").stat().st_size > 5000 and Path("a/table.md").is_file()
    with open("a/table.csv") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 7 and {len(row) for row in rows} == {len(rows[0])}
    assert rows[1][1:3] == ["GAN", "3 iterations"]


def test_compare_says_what_is_missing_before_it_trains(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    monkeypatch.setattr(compare, "train", lambda *_: pytest.fail("it trained first"))
    code, _, err = run("ring", "--rows", "200", "--steps", "5")
    assert code != 0 and "fastgan compare needs scikit-learn: pip install scikit-learn" in err


def test_compare_takes_the_columns_of_a_table_as_equals(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of large numbers broke the VAE down, and was all that the kernel density saw."""
    pytest.importorskip("sklearn", reason="the comparison fits")
    monkeypatch.setattr("fastgan.apps.cli.compare._SAMPLES", 100)
    vae = baselines.variational_autoencoder
    monkeypatch.setattr(baselines, "variational_autoencoder", lambda *a, **k: vae(*a, **k, steps=50))
    monkeypatch.setattr(baselines, "_COMPONENTS", (2,))
    np.save("people.npy", np.random.default_rng(0).normal(size=(120, 3)) * (1, 1e4, 1) + (40, 3e4, 1))
    out = check_success(run("people.npy", "--steps", "3", "--out", "a", "--quiet", "--no-pictures"))
    assert out.splitlines()[-2] == "units: standard deviations of each column, from its mean"
    width = next(line for line in out.splitlines() if line.startswith("KDE")).split()[2]
    assert 0.05 < float(width) < 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("nothing",), "no data set or file 'nothing'"),
        (("short.npy",), "SOURCE must have at least 12 rows to hold some out, got 5"),
        (("ring", "--out", "full"), "--out must be new or empty, got full"),
    ],
)
def test_a_mistake_ends_in_one_line(run: Run, argv: tuple[str, ...], message: str) -> None:
    np.save("short.npy", np.random.default_rng(0).normal(size=(5, 3)))
    Path("full").mkdir()
    Path("full/x").touch()
    check_refusal(run(*argv), message)
