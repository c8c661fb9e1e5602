"""Monitors mean what they say, and warn where a game is lost."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

from fastgan import data, models
from fastgan.models import GAN
from fastgan.nn import ClassDiscriminator
from fastgan.training import Adam, Callback, Momentum, Monitor, Run, TrainConfig, train

DATA = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
STILL = TrainConfig(steps=4, batch_size=8, optimizer=Momentum(0.0, 0.0))


def affine_gan(bias: float = 0.0) -> GAN:
    """G(z) = 2 z; D's logit is 3 x_0 + 4 x_1 + bias."""
    generator, discriminator = nn.Linear(2, 2, bias=False), nn.Linear(2, 1)
    with torch.no_grad():
        generator.weight.copy_(2 * torch.eye(2))
        discriminator.weight.copy_(torch.tensor([[3.0, 4.0]]))
        discriminator.bias.fill_(bias)
    return GAN(generator, discriminator, latent_dim=2)


def test_M67_measures_are_what_their_names_say() -> None:
    """Of two networks that do not change, every two iterations."""
    monitor, gan = Monitor(every=2, samples=100), affine_gan()
    history = train(gan, DATA, STILL, callbacks=[monitor]).history
    assert monitor.history["step"].tolist() == [2, 4]
    with torch.no_grad():
        x = gan.generator(gan.noise(100, seed=0))
        logits = gan.discriminator(x).double()
    for i, pair in enumerate((slice(0, 2), slice(2, 4))):
        found = {name: column[i] for name, column in monitor.history.items()}
        assert found["false_positives"] == pytest.approx(1 - history["accuracy_fake"][pair].mean(), abs=1e-12)
        assert found["false_negatives"] == pytest.approx(1 - history["accuracy_real"][pair].mean(), abs=1e-12)
        assert found["js_estimate"] == pytest.approx((math.log(4) - history["loss_d"][pair].mean()) / 2, abs=1e-12)
        # d/dx softplus(-l) = -sigmoid(-l) (3, 4), of length 5 sigmoid(-l)
        assert found["sample_grad_norm"] == pytest.approx(5 * torch.sigmoid(-logits).mean().item(), rel=1e-5)
        assert found["spread"] == pytest.approx(x.double().var(0, correction=0).sum().sqrt().item(), rel=1e-6)
    assert history["accuracy_fake"][:2].mean() != history["accuracy_real"][:2].mean()  # they are not swapped


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"loss": "minimax"}, True),
        ({"mode": "simultaneous"}, True),
        ({"loss": "hinge"}, False),
        ({"real_label": 0.9}, False),
        ({"gradient_penalty": "r1"}, False),
    ],
    ids=str,
)
def test_M67_the_js_estimate_is_given_only_where_the_loss_is_the_value_of_the_game(change: dict, known: bool) -> None:
    monitor = Monitor(every=4)
    gan = affine_gan()
    with torch.no_grad():
        gan.discriminator.weight.zero_()  # D = 1/2 everywhere: V = -log 4
    train(gan, DATA, TrainConfig(**{**vars(STILL), **change}), callbacks=[monitor])
    (estimate,) = monitor.history["js_estimate"]
    assert estimate == pytest.approx(0.0, abs=1e-6) if known else math.isnan(estimate)


def test_M67_every_kind_of_game_can_be_watched() -> None:
    rows = data.Dataset(DATA, labels=torch.arange(40) % 3)
    classes = GAN(nn.Linear(2, 2), ClassDiscriminator(nn.Linear(2, 4), nn.Linear(4, 3)), latent_dim=2)
    packing = GAN(nn.Linear(2, 2), nn.Linear(6, 1), latent_dim=2)
    for gan, change in (
        (models.mlp_gan(2, latent_dim=2, classes=3), {}),
        (classes, {}),
        (packing, {"pack": 3}),
        (affine_gan(), {"loss": "relativistic"}),
    ):
        monitor = Monitor(every=2)
        train(gan, rows, TrainConfig(**{**vars(STILL), **change}), callbacks=[monitor])
        derivatives = monitor.history["sample_grad_norm"]
        assert bool(np.isnan(derivatives).all() if "loss" in change else (derivatives > 0).all())
        assert bool((monitor.history["spread"] > 0).all())


class Break(Callback):
    """Changes a network after some iterations."""

    every = 1

    def __init__(self, network: str, name: str, value: float) -> None:
        self.network, self.name, self.value = network, name, value

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        if run.step == 2:
            with torch.no_grad():
                getattr(getattr(run.gan, self.network), self.name).fill_(self.value)


def test_M67_saturation_and_collapse_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    saturated = (Break("discriminator", "bias", -80.0), "minimax", "D takes none for real: G's loss is saturated")
    collapsed = (Break("generator", "weight", 1e-3), "non_saturating", "of the spread they have had: G has collapsed")
    for change, loss, message in (saturated, collapsed):
        caplog.clear()
        monitor = Monitor(every=1)
        config = TrainConfig(**{**vars(STILL), "loss": loss, "steps": 6})
        with caplog.at_level(logging.WARNING, logger="fastgan"):
            train(affine_gan(), DATA, config, callbacks=[change, monitor])
        assert len(monitor.warnings) == 1 and message in monitor.warnings[0]
        assert sum(message in record.getMessage() for record in caplog.records) == 1


def test_M67_a_sound_game_is_not_warned_of_and_at_equilibrium_d_is_one_half() -> None:
    """1-D Gaussian: D(x) and D(G(z)) within 0.05 of 1/2, the JSD that D sees near 0."""
    torch.manual_seed(0)
    monitor, gan = Monitor(every=100), models.mlp_gan(1, latent_dim=1, hidden=(16, 16))
    config = TrainConfig(steps=3000, batch_size=256, optimizer=Adam(1e-3), generator_optimizer=Adam(5e-4))
    history = train(gan, data.gaussian(50_000), config, callbacks=[monitor]).history
    assert abs(history["d_real"][-500:].mean() - 0.5) <= 0.05
    assert abs(history["d_fake"][-500:].mean() - 0.5) <= 0.05
    assert abs(monitor.history["js_estimate"][-5:].mean()) <= 0.02
    assert monitor.warnings == []
    assert gan.sample(10_000).std().item() == pytest.approx(1.0, abs=0.2)


def test_monitor_does_not_change_the_run_and_names_bad_numbers() -> None:
    states = []
    for callbacks in ([], [Monitor(every=3)]):
        torch.manual_seed(0)
        gan = models.mlp_gan(2, latent_dim=2, hidden=(8,), discriminator_dropout=0.3)
        train(gan, DATA, TrainConfig(steps=10, batch_size=8), callbacks=callbacks)
        states.append(gan.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    for name in ("every", "samples"):
        with pytest.raises(ValueError, match=f"^Monitor: {name} must be at least 1, got 0"):
            Monitor(**{name: 0})
