"""Unrolled GANs: G's gradient flows through D's own updates, and everything else stays as it was."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from resuming import check_resumed
from torch import Tensor, nn
from torch.nn import functional as F

import fastgan.nn
from fastgan import _backend, random
from fastgan.models import GAN
from fastgan.random import Purpose
from fastgan.training import Adam, Momentum, TrainConfig, checkpoint, train, unroll
from fastgan.training.optimizers import Optimizer
from fastgan.training.unroll import look_ahead

DATA = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
BASE = TrainConfig(steps=4, batch_size=8, optimizer=Adam(0.01), seed=5)
RULES: dict[str, Optimizer] = {
    "adam": Adam(0.02, eps=1e-4),  # a large eps keeps the gradient of sign(g) from hiding mistakes
    "torch momentum": Momentum(0.2, 0.5, lr_decay=1.1, momentum_final=0.9, saturate_epochs=4),
    "pylearn2 momentum": Momentum(0.2, 0.5, "pylearn2", lr_decay=1.1),
}


def small_gan(*, norm: bool = False) -> GAN:
    torch.manual_seed(2)
    generator = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3))
    normalise = [nn.BatchNorm1d(6)] if norm else []
    discriminator = nn.Sequential(nn.Linear(3, 6), *normalise, nn.Tanh(), nn.Linear(6, 1))
    return GAN(generator, discriminator, latent_dim=2).double()


def loss_d(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()


def warmed(gan: GAN, rule: Optimizer, updates: int = 3) -> torch.optim.Optimizer:
    """D's optimiser after some updates, so that its moments are no zeros."""
    optimizer = rule.build(gan.discriminator.parameters())
    advance(gan.discriminator, rule, optimizer, DATA[:8], DATA[8:16].flip(1), range(updates))
    return optimizer


def advance(
    network: nn.Module, rule: Optimizer, optimizer: torch.optim.Optimizer, real: Tensor, fake: Tensor, updates: range
) -> None:
    for update in updates:
        optimizer.zero_grad()
        loss_d(network, real, fake).backward()
        rule.schedule(optimizer, update=update, epoch=2)
        optimizer.step()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch norm"])
def test_M74_the_look_ahead_is_what_the_optimiser_then_does(rule: Optimizer, norm: bool) -> None:
    gan = small_gan(norm=norm)
    optimizer, real, fake = warmed(gan, rule), DATA[16:24], DATA[24:32].sin()
    before = copy.deepcopy((gan.state_dict(), optimizer.state_dict()))
    network = gan.discriminator
    discriminator = look_ahead(network, optimizer, rule, lambda d: loss_d(d, real, fake), 4, update=3, epoch=2)
    after = (gan.state_dict(), optimizer.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)  # looking leaves no trace, buffers included
    ahead = discriminator(real)
    advance(network, rule, optimizer, real, fake, range(3, 7))
    torch.testing.assert_close(ahead, network(real), rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", ["minimax", "non_saturating", "relativistic"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("unroll", [1, 3])
def test_M74_the_gradient_through_the_unrolled_updates_is_the_finite_difference(
    unroll: int, rule: Optimizer, loss: str
) -> None:
    """G's whole objective, recomputed with D really updated by torch.optim, against the step that training makes.

    A step of plain SGD shows the gradient that training used; copies of D's weights without differentiation
    through the updates give another one, which the last line measures.
    """
    config = replace(
        BASE,
        steps=1,
        unroll=unroll,
        loss=loss,
        discriminator_optimizer=rule,
        generator_optimizer=Momentum(1.0, 0.0),
    )
    gan = small_gan()
    start = copy.deepcopy(gan)
    train(gan, DATA, config)
    grad = flat(start.generator) - flat(gan.generator)  # lr 1, momentum 0
    real = DATA[random.permutation(len(DATA), seed=5, epoch=0)[:8]]
    z = {p: random.prior("normal", (8, 2), seed=5, purpose=p, step=0, dtype=torch.float64) for p in Purpose}
    optimizer = rule.build(start.discriminator.parameters())
    step_d(start.discriminator, rule, optimizer, real, start.generator(z[Purpose.NOISE_D]).detach(), 0, loss)

    def objective(theta: Tensor, frozen_ahead: Tensor | None = None) -> Tensor:
        generator, state = copy.deepcopy(start.generator), copy.deepcopy((start.discriminator, optimizer))
        nn.utils.vector_to_parameters(theta, generator.parameters())
        network, own = state
        fake = generator(z[Purpose.NOISE_G])
        shown = fake.detach() if frozen_ahead is None else frozen_ahead
        for update in range(1, 1 + unroll):
            step_d(network, rule, own, real, shown, update, loss)
        return loss_g(loss, network(fake), network(real))

    theta, generator = flat(start.generator), torch.Generator().manual_seed(3)
    fake = start.generator(z[Purpose.NOISE_G]).detach()
    for _ in range(4):
        direction = torch.randn(theta.shape, dtype=theta.dtype, generator=generator)
        direction /= direction.norm()
        h = 1e-5
        derivative, copied = (
            (objective(theta + h * direction, ahead) - objective(theta - h * direction, ahead)).item() / (2 * h)
            for ahead in (None, fake)
        )
        found = float(grad @ direction)
        assert found == pytest.approx(derivative, rel=1e-5, abs=1e-8)
        assert abs(copied - derivative) > 1e-4 * abs(derivative)


def flat(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


def step_d(
    network: nn.Module,
    rule: Optimizer,
    optimizer: torch.optim.Optimizer,
    real: Tensor,
    fake: Tensor,
    update: int,
    loss: str,
) -> None:
    optimizer.zero_grad()
    a, b = network(real), network(fake)
    paired = F.softplus(b - a).mean() if loss == "relativistic" else F.softplus(-a).mean() + F.softplus(b).mean()
    paired.backward()
    rule.schedule(optimizer, update=update, epoch=1)
    optimizer.step()


def loss_g(kind: str, fake: Tensor, real: Tensor) -> Tensor:
    if kind == "minimax":
        return -F.softplus(fake).mean()
    return F.softplus(-fake if kind == "non_saturating" else real - fake).mean()


def test_M74_no_unrolling_is_plain_training_and_a_fixed_d_changes_nothing() -> None:
    still = replace(BASE, engine="eager", discriminator_optimizer=Momentum(0.0, 0.0))
    states = []
    for config in (still, replace(still, unroll=3), replace(still, discriminator_optimizer=None, unroll=3)):
        gan = small_gan()
        train(gan, DATA, config)
        states.append(flat(gan))
    assert (states[1] - states[0]).abs().max() < 1e-12
    assert (states[2] - states[0]).abs().max() > 1e-3


@pytest.mark.skipif(_backend.native is None, reason="without the compiled core everything is eager")
def test_M74_unrolling_runs_in_the_eager_engine_and_says_why() -> None:
    config = replace(BASE, unroll=1)
    result = train(small_gan(), DATA, config)
    assert (result.engine, result.engine_reason) == ("eager", "config.unroll differentiates through D's updates")
    with pytest.raises(ValueError, match="config.unroll differentiates through D's updates"):
        train(small_gan(), DATA, replace(config, engine="fused"))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_M74_a_resumed_unrolled_run_has_the_bits_of_an_uninterrupted_one(rule: Optimizer, tmp_path: Path) -> None:
    config = replace(BASE, steps=7, unroll=2, discriminator_optimizer=rule)

    def dropping() -> GAN:
        gan = small_gan(norm=True)
        gan.discriminator.insert(2, fastgan.nn.Dropout(0.3))
        return gan

    check_resumed(dropping, DATA, config, 3, tmp_path)
    assert len(checkpoint.load(tmp_path / "whole").tensors) > 20


@pytest.mark.parametrize("layers", ["native", "reference"])
def test_M74_fastgans_layers_unroll_like_torchs(layers: str) -> None:
    """A discriminator of fused layers, through its second derivatives."""
    if layers == "native" and _backend.native is None:
        pytest.skip("there is no compiled core")
    gan = small_gan()
    first, _, last = gan.discriminator
    other = small_gan()
    own = fastgan.nn.MLP([3, 6, 1], activation="tanh", dtype=torch.float64, impl=layers)
    nn.utils.vector_to_parameters(flat(nn.ModuleList([first, last])), own.parameters())
    other.discriminator = own
    for each in (gan, other):
        train(each, DATA, replace(BASE, unroll=3))
    torch.testing.assert_close(flat(other), flat(gan), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unroll": -1}, "unroll must be at least 0, got -1"),
        ({"unroll": 1.0}, "unroll must be an integer, got 1.0"),
        ({"mode": "simultaneous"}, "mode must be 'alternating' where unroll is above 0, got 'simultaneous'"),
        ({"gradient_penalty": "r1"}, "gradient_penalty must be None where unroll is above 0, got 'r1'"),
        ({"max_col_norm": 1.0}, "max_col_norm must be None where unroll is above 0, got 1.0"),
    ],
)
def test_what_cannot_be_unrolled_is_refused(change: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^TrainConfig: {message}"):
        replace(BASE, **{"unroll": 2, **change})


def test_adam_differentiates_through_a_gradient_that_is_zero() -> None:
    """The first update -lr g / (|g| + eps) has the derivative -lr / eps at g = 0; a square root alone gives NaN."""
    grad, zeros = torch.zeros(3, dtype=torch.float64, requires_grad=True), torch.zeros(3, dtype=torch.float64)
    state = {"step": torch.tensor(0.0, dtype=torch.float64), "exp_avg": zeros, "exp_avg_sq": zeros}
    change = unroll._adam(Adam(0.02, eps=1e-4), state, grad)
    torch.testing.assert_close(torch.autograd.grad(change.sum(), grad)[0], torch.full_like(zeros, -0.02 / 1e-4))
