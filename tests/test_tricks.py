"""Feature matching, historical averaging, noise on D's input, and the options of networks: each as its formula says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import check_resumed
from torch import Tensor, nn
from torch.nn import functional as F

import fastgan
from fastgan import losses, random
from fastgan.apps import presets
from fastgan.apps.cli import main, runs
from fastgan.models import GAN
from fastgan.random import Purpose
from fastgan.training import Adam, Momentum, TrainConfig, train, tricks
from fastgan.training.engines.eager import EagerEngine
from fastgan.training.session import rows_for

SEED, BATCH = 5, 6
Nets = tuple[nn.Sequential, nn.Sequential]


def networks(seed: int = 0) -> Nets:
    torch.manual_seed(seed)
    g = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return g, fastgan.nn.MLP([3, 8, 7, 1], activation="tanh").double()


def data() -> Tensor:
    return torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rows(draw: int) -> Tensor:
    return data()[random.permutation(30, seed=SEED, epoch=0)[draw * BATCH :][:BATCH]]


def z(purpose: Purpose, step: int) -> Tensor:
    return random.prior("normal", (BATCH, 2), seed=SEED, purpose=purpose, step=step, dtype=torch.float64)


def gan_of(nets: Nets) -> GAN:
    return GAN(*nets, latent_dim=2)


def run(steps: int, **options: Any) -> tuple[GAN, dict[str, Any]]:
    gan = gan_of(networks())
    result = train(gan, data(), TrainConfig(steps, BATCH, seed=SEED, **options))
    assert result.engine == "eager"
    return gan, result.history


def value_d(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-d(real)).mean() + F.softplus(d(fake)).mean()


def assert_equal(gan: GAN, nets: Nets) -> None:
    for a, b in zip(gan.parameters(), (p for net in nets for p in net.parameters()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def descend(net: nn.Module, loss: Tensor, rate: float) -> None:
    grads = torch.autograd.grad(loss, list(net.parameters()))
    with torch.no_grad():
        for p, grad in zip(net.parameters(), grads, strict=True):
            p -= rate * grad


SGD = Momentum(0.1, momentum=0.0)


# ---------------------------------------------------------------- feature matching


def test_M93_feature_matching_descends_the_distance_of_mean_features() -> None:
    gan, history = run(3, loss="feature_matching", optimizer=SGD)
    g, d = networks()
    for it in range(3):
        descend(d, value_d(d, rows(it), g(z(Purpose.NOISE_D, it)).detach()), 0.1)
        features = nn.Sequential(*list(d.children())[:-1])  # all but the last linear layer
        of_real = features(rows(it)).detach()
        loss = (of_real.mean(0) - features(g(z(Purpose.NOISE_G, it))).mean(0)).square().sum()
        assert history["loss_g"][it] == pytest.approx(loss.item(), abs=1e-12)
        descend(g, loss, 0.1)
    assert_equal(gan, (g, d))


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_features_go_into_a_parametrised_last_layer(norm: Any) -> None:
    d = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), norm(nn.Linear(8, 1)))
    x = torch.randn(4, 3)
    assert torch.equal(tricks.features(d, d, x), d[:2](x))


def test_feature_matching_loss_and_what_it_refuses() -> None:
    a, b = torch.rand(5, 3, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    assert losses.feature_matching_loss(a, b).item() == pytest.approx(float(((a.mean(0) - b.mean(0)) ** 2).sum()))
    for bad in (torch.rand(4, 2), torch.rand(0, 3)):
        with pytest.raises(ValueError, match="feature_matching_loss: real_features and fake_features must be of one"):
            losses.feature_matching_loss(a, bad)


# ---------------------------------------------------------------- historical averaging


@pytest.mark.parametrize("mode", ["alternating", "simultaneous"])
def test_M93_historical_averaging_pulls_to_the_average_of_past_parameters(mode: Any) -> None:
    weight, half = 0.7, 0.5 if mode == "simultaneous" else 1.0
    gan, history = run(4, historical_averaging=weight, optimizer=SGD, mode=mode)
    nets = g, d = networks()
    past: list[list[list[Tensor]]] = [[], []]  # of each network, its parameters after each update

    def pull(i: int) -> Tensor | float:
        if not past[i]:
            return 0.0
        means = [torch.stack(values).mean(0) for values in zip(*past[i], strict=True)]
        return weight * sum((p - m).square().sum() for p, m in zip(nets[i].parameters(), means, strict=True))

    def remember(i: int) -> None:
        past[i].append([p.detach().clone() for p in nets[i].parameters()])

    for it in range(4):
        fake = g(z(Purpose.NOISE_D, it))
        loss_d = half * value_d(d, rows(it), fake.detach()) + pull(1)
        loss_g = F.softplus(-d(fake)).mean() + pull(0) if mode == "simultaneous" else None
        grads = None if loss_g is None else torch.autograd.grad(loss_g, list(g.parameters()))
        descend(d, loss_d, 0.1)
        remember(1)
        if grads is None:
            loss_g = F.softplus(-d(g(z(Purpose.NOISE_G, it)))).mean() + pull(0)
            grads = torch.autograd.grad(loss_g, list(g.parameters()))
        assert loss_g is not None
        with torch.no_grad():
            for p, grad in zip(g.parameters(), grads, strict=True):
                p -= 0.1 * grad
        remember(0)
        assert history["loss_d"][it] == pytest.approx(loss_d.item(), abs=1e-12)
        assert history["loss_g"][it] == pytest.approx(loss_g.item(), abs=1e-12)
    assert_equal(gan, nets)


@pytest.mark.parametrize("optimizer", [Adam(1e-2), SGD, torch.optim.RMSprop])
def test_a_run_with_an_average_resumes_to_the_same_bits(optimizer: Any, tmp_path: Path) -> None:
    config = TrainConfig(6, BATCH, seed=SEED, historical_averaging=0.5, optimizer=optimizer)
    check_resumed(lambda: gan_of(networks()), data(), config, 3, tmp_path)


class FirstLossIsNaN:
    """A loss of one's own whose first value is not finite."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        self.calls += 1
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        return loss * float("nan") if self.calls == 2 else loss  # the first call is the check of the loss


@pytest.mark.parametrize("optimizer", [SGD, Adam(1e-2), torch.optim.SGD, torch.optim.Adam])
def test_an_update_that_is_taken_back_is_not_averaged(optimizer: Any) -> None:
    loss = (FirstLossIsNaN(), lambda fake: F.softplus(-fake).mean())
    _, history = run(3, historical_averaging=0.7, optimizer=optimizer, nonfinite="skip", loss=loss)
    loss = (FirstLossIsNaN(), loss[1])
    _, without = run(3, optimizer=optimizer, nonfinite="skip", loss=loss)
    assert [bool(value == value) for value in history["loss_d"]] == [False, True, True]
    assert history["loss_d"][1] == without["loss_d"][1]  # no pull before the first update that stays
    assert history["loss_d"][2] != without["loss_d"][2] or history["loss_g"][2] != without["loss_g"][2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_each_update_counts_where_d_is_brought_to_its_optimum(dtype: torch.dtype) -> None:
    config = TrainConfig(2, BATCH, k=3, inner="optimum", inner_tolerance=1e-9, historical_averaging=0.5, optimizer=SGD)
    gan = gan_of(networks()).to(dtype)
    engine = EagerEngine(gan, rows_for(data().to(dtype), gan, config), config, BATCH)
    player, past = engine.discriminator, []
    player.optimizer.register_step_post_hook(lambda *_: past.append([p.detach().clone() for p in player.parameters]))
    engine.advance(0, 2, lambda: False)
    assert len(past) == 6
    for parameter, values in zip(player.parameters, zip(*past, strict=True), strict=True):
        state = player.optimizer.state[parameter]
        assert state[tricks.COUNT] == 6 and state[tricks.COUNT].dtype == torch.float32
        mean = torch.stack(values).double().mean(0)
        atol = 1e-14 if dtype == torch.float64 else 0.01
        torch.testing.assert_close(state[tricks.AVERAGE].double(), mean, rtol=0, atol=atol)


# ---------------------------------------------------------------- noise on D's input


def test_M93_instance_noise_falls_linearly_and_is_on_all_that_d_sees() -> None:
    gan, history = run(4, instance_noise=0.5, instance_noise_steps=2, optimizer=SGD)
    g, d = networks()

    def noise(it: int, substream: int) -> Tensor:
        std = 0.5 * max(1 - it / 2, 0)
        stream = {"seed": SEED, "purpose": 9, "step": it, "substream": substream, "dtype": torch.float64}
        return std * random.normal((BATCH, 3), **stream)

    for it in range(4):
        fake = g(z(Purpose.NOISE_D, it)).detach() + noise(it, 1)
        loss_d = value_d(d, rows(it) + noise(it, 0), fake)
        assert history["loss_d"][it] == pytest.approx(loss_d.item(), abs=1e-12)
        descend(d, loss_d, 0.1)
        loss_g = F.softplus(-d(g(z(Purpose.NOISE_G, it)) + noise(it, 2))).mean()
        assert history["loss_g"][it] == pytest.approx(loss_g.item(), abs=1e-12)
        descend(g, loss_g, 0.1)
    assert_equal(gan, (g, d))
    assert [TrainConfig(1, 1, instance_noise=0.5).instance_noise_at(it) for it in (0, 10**6)] == [0.5, 0.5]


# ---------------------------------------------------------------- what goes with what


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": "feature_matching"}, "config.loss is 'feature_matching', which looks at D's features"),
        ({"instance_noise": 0.1}, "config.instance_noise is set, which no compiled engine computes"),
        ({"historical_averaging": 0.1}, "config.historical_averaging is set, which no compiled engine computes"),
    ],
)
def test_the_reason_for_the_eager_engine(options: dict[str, Any], reason: str) -> None:
    if fastgan._backend.native is None:
        pytest.skip("without a core every run is eager")
    gan = gan_of((fastgan.nn.MLP([2, 4, 3]).double(), networks()[1]))
    assert train(gan, data(), TrainConfig(1, BATCH, **options)).engine_reason == reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instance_noise": -1.0}, "instance_noise must be finite and at least 0, got -1.0"),
        ({"historical_averaging": float("nan")}, "historical_averaging must be finite and at least 0, got nan"),
        ({"instance_noise_steps": -1}, "instance_noise_steps must be at least 0, got -1"),
        ({"loss": "feature_matching", "mode": "simultaneous"}, "mode and unroll must be 'alternating' and 0 for feat"),
        ({"loss": "feature_matching", "unroll": 1}, "mode and unroll must be 'alternating' and 0 for feature_matching"),
        ({"historical_averaging": 1.0, "unroll": 1}, "historical_averaging must be 0.0 where unroll is above 0"),
    ],
)
def test_options_that_break_their_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"TrainConfig: {message}"):
        TrainConfig(10, 8, **options)


# ---------------------------------------------------------------- networks of the command line


def test_M93_minibatch_features_and_virtual_batch_norm_come_from_the_command_line(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    flags = ("--minibatch-features", "3", "--generator-norm", "virtual", "--width", "8", "--rows", "200")
    tricks = ("--instance-noise", "0.1", "--historical-averaging", "0.1", "--loss", "feature_matching")
    how = ("--steps", "3", "--batch-size", "10", "--quiet", "--no-pictures", "--out", out)
    assert main(["train", "ring", *flags, *tricks, *how]) == 0
    config = runs.read(Path(out))
    assert (config.train.loss, config.train.instance_noise) == ("feature_matching", 0.1)
    gan = runs.trained(Path(out), config)
    kinds = [type(module) for module in gan.modules()]
    assert kinds.count(fastgan.nn.VirtualBatchNorm) == 2 * 2  # of G and of its moving average
    assert kinds.count(fastgan.nn.MinibatchDiscrimination) == 1
    x, _ = gan.sample(4), gan.logits(torch.rand(5, 2))
    torch.testing.assert_close(x[:2], gan.sample(2))  # virtual: no sample depends on the others


@pytest.mark.parametrize("norm", ["batch", "virtual"])
@pytest.mark.parametrize("classes", [0, 3])
def test_networks_with_normalisation_and_minibatch_features(norm: Any, classes: int) -> None:
    nets = presets.Networks(
        2, latent_dim=3, generator_hidden=(8, 8), discriminator_hidden=(8, 6), generator_norm=norm,
        minibatch_features=4, dropout=0.2, classes=classes,
    )  # fmt: skip
    gan = nets.build(pack=2)
    kind = nn.BatchNorm1d if norm == "batch" else fastgan.nn.VirtualBatchNorm
    assert [m.num_features for m in gan.generator.modules() if isinstance(m, kind)] == [8, 8]
    assert gan.discriminator[-1].in_features == 6 + 4 and gan.sample(3).shape == (3, 2)
    assert [type(m) for m in gan.discriminator if not isinstance(m, nn.LeakyReLU)] == [
        *(nn.Linear, fastgan.nn.Dropout) * 2, fastgan.nn.MinibatchDiscrimination, nn.Linear,
    ]  # fmt: skip
    again = nets.build(pack=2)
    assert all(torch.equal(a, b) for a, b in zip(gan.state_dict().values(), again.state_dict().values(), strict=True))
