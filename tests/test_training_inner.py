"""D trained to its optimum before each step of G, and schedules that let one player run ahead."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from resuming import check_resumed
from torch import Tensor, nn

from fastgan import _backend, data, theory
from fastgan.models import GAN
from fastgan.training import (
    Callback,
    Momentum,
    Run,
    TrainConfig,
    train,
)
from fastgan.training.engines.eager import EagerEngine

CONFIG = TrainConfig(
    steps=200,
    batch_size=8192,
    k=200,
    inner="optimum",
    inner_tolerance=1e-3,
    loss="minimax",
    generator_optimizer=Momentum(0.3, 0.0),
    discriminator_optimizer=Momentum(0.5, 0.8),
    seed=1,
)


class Shift(nn.Module):
    """G(z) = z + mu: p_g = N(mu, 1)."""

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(mu, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return z + self.mu


def gaussian_gan() -> GAN:
    """D's logit is affine in x, as that of D* = N(0, 1) / (N(0, 1) + N(mu, 1)) is: its optimum is the true one."""
    torch.manual_seed(0)
    return GAN(Shift(3.0), nn.Linear(1, 1).double(), latent_dim=1)


class Recorder(Callback):
    """mu before each step of G, and the weight and bias of the D it answered."""

    every = 1

    def __init__(self) -> None:
        self.mu, self.d = [3.0], []

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        self.mu.append(run.gan.generator.mu.item())
        self.d.append([p.item() for p in run.gan.discriminator.parameters()])
        run.stop = abs(self.mu[-1]) <= 0.01


def test_M07_an_optimal_d_before_each_step_leads_g_down_the_js_divergence() -> None:
    """1-D Gaussian from mu = 3: |mu| <= 0.05 within 200 outer steps, V(G_t, D_t*) falling in at least 95% of them."""
    recorder = Recorder()
    rows = data.gaussian(65_536).data.double()
    result = train(gaussian_gan(), rows, CONFIG, callbacks=[recorder])
    assert result.engine == "eager"
    first = next(t for t, mu in enumerate(recorder.mu) if abs(mu) <= 0.05)
    assert first <= 200
    x = torch.linspace(-12, 15, 20_001, dtype=torch.float64)
    dx = float(x[1] - x[0])

    def density(mu: float) -> Tensor:
        q = torch.exp(-((x - mu) ** 2) / 2)
        return q / (q.sum() * dx)

    found, best = [], []
    for mu, (weight, bias) in zip(recorder.mu[: first + 1], recorder.d, strict=False):
        d = torch.sigmoid(weight * x + bias)
        # D's probabilities are rounded to 1 and 0 at the ends of the axis, where its logits are not infinite.
        found.append(float(theory.value(density(0.0), density(mu), d, clamp=True, dx=dx)))
        best.append(float(theory.training_criterion(density(0.0), density(mu), dx=dx)))
    assert np.mean(np.diff(found) < 0) >= 0.95
    assert np.abs(np.array(found) - best).max() < 0.01  # D was at its optimum: V(G, D) = 2 JSD - log 4


def test_M07_the_inner_loop_stops_at_the_tolerance_or_after_k_steps() -> None:
    """The gradient of D's loss on the iteration's batches, recomputed, is below the tolerance; and not with k = 2."""
    norms = []
    for k in (200, 2):
        gan = gaussian_gan()
        frozen = replace(CONFIG, steps=1, k=k, batch_size=256, generator_optimizer=Momentum(0.0, 0.0))
        rows = torch.randn(256, 1, dtype=torch.float64)
        train(gan, rows, frozen)
        fake = gan.generator(gan.noise(256, seed=1, purpose=1))
        loss = nn.functional.softplus(-gan.discriminator(rows)).mean()
        loss = loss + nn.functional.softplus(gan.discriminator(fake)).mean()
        grads = torch.autograd.grad(loss, list(gan.discriminator.parameters()))
        norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))
    assert norms[0] <= 1e-3 < norms[1]


def test_M07_a_resumed_run_has_the_bits_of_a_whole_one(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=6, batch_size=32, k=20)
    check_resumed(gaussian_gan, data.gaussian(100).data.double(), config, 2, tmp_path)


def test_M07_bad_settings_are_named_and_the_fused_engine_says_why() -> None:
    for change, message in (
        ({"k": 1}, "k must be at least 2 where inner is 'optimum', got 1"),
        ({"inner": "best"}, "inner must be one of steps, optimum, got 'best'"),
        ({"inner_tolerance": 0.0}, "inner_tolerance must be above 0 and finite, got 0.0"),
        ({"mode": "simultaneous"}, "k must be 1 in simultaneous mode, got 200"),
    ):
        with pytest.raises(ValueError, match=f"^TrainConfig: {message}"):
            replace(CONFIG, **change)  # type: ignore[arg-type]
    if _backend.native is not None:
        with pytest.raises(ValueError, match="config.inner is 'optimum': D's gradient decides how many steps it takes"):
            train(gaussian_gan(), torch.zeros(9000, 1, dtype=torch.float64), replace(CONFIG, engine="fused"))


def test_of_the_inner_updates_the_one_that_is_not_finite_is_taken_back_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(k: int, bad: int | None = None) -> nn.Module:
        torch.manual_seed(0)
        gan = GAN(nn.Linear(2, 3), nn.Linear(3, 1), latent_dim=2).double()
        config = TrainConfig(
            1, 20, k=k, inner="optimum", inner_tolerance=1e-30, nonfinite="skip", optimizer=Momentum(0.1, 0.0)
        )
        calls, usual = [0], EagerEngine._discriminator_loss

        def loss(engine: EagerEngine, real: Tensor, fake: Tensor) -> Tensor:
            calls[0] += 1
            return usual(engine, real, fake) * (float("nan") if calls[0] == bad else 1.0)

        with monkeypatch.context() as patch:
            patch.setattr(EagerEngine, "_discriminator_loss", loss)
            train(gan, torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), config)
        return gan.discriminator

    for a, b in zip(trained(3, bad=3).parameters(), trained(2).parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(trained(3).weight, trained(2).weight)
