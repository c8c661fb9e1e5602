"""Both engines against Algorithm 1 written out in tests/algorithm1.py, which calls no native code.

test_fused.py compares the compiled engine with the eager one, whose layers and losses run in the same core: a fault in
a loop that both use cancels. Here the eager engine runs on `fastgan.reference` alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from algorithm1 import Game, compare, compiled, differences, eager
from fused_rows import ALL_ROWS, MOMENTUM, ROWS_OF_TABLE, SCHEDULED, Row, config_of, mlp, of

import fastgan
from fastgan import GAN, Momentum, _backend, losses, nn, ops, train
from fastgan.data import Dataset

needs_core = pytest.mark.skipif(_backend.native is None, reason="the engine is compiled")

STEPS = 3


def only_a_bias(dtype: torch.dtype) -> GAN:
    """D is linear with a frozen weight, so that only its bias has a gradient."""
    discriminator = torch.nn.Sequential(torch.nn.Linear(2, 1))
    discriminator[0].weight.requires_grad_(False)
    return GAN(nn.MLP([3, 5, 2], activation="tanh"), discriminator, latent_dim=3).to(dtype)


def steep(dtype: torch.dtype) -> GAN:
    """D's logits are finite for a row of 1e200, the gradient of its first weight is not.

    That of its first bias would be the rounding of 1e150 - 1e150, so the bias is frozen.
    """
    discriminator = nn.MLP([2, 3, 1], activation="tanh")
    with torch.no_grad():
        discriminator.to(dtype)[0].weight.mul_(1e-200)
        discriminator[2].weight.mul_(1e150)
    discriminator[0].bias.requires_grad_(False)
    return GAN(nn.MLP([3, 5, 2], activation="tanh"), discriminator, latent_dim=3).to(dtype)


STILL = Momentum(0.0, momentum=0.5)
MORE: dict[str, Row] = {
    # An update that is not finite in some iterations, so that what comes after it counts.
    "skip some": Row(of(), config={"nonfinite": "skip", "loss": "least_squares", "k": 2, "ema_decay": 0.8}),
    "skip some, simultaneous": Row(
        of(), config={"nonfinite": "skip", "loss": "least_squares", "mode": "simultaneous", "max_col_norm": 0.7}
    ),
    "skip some, clipped": Row(
        of(), config={"nonfinite": "skip", "loss": "least_squares", "max_grad_norm": 0.1, "optimizer": MOMENTUM}
    ),
    # The loss overflows, its gradient does not.
    "skip by the loss": Row(only_a_bias, config={"nonfinite": "skip", "loss": "least_squares", "optimizer": MOMENTUM}),
    "skip by the gradient": Row(steep, config={"nonfinite": "skip", "loss": "wasserstein", "optimizer": STILL}),
    "relativistic, dropout, two steps of G": Row(
        of(dropout=0.4), config={"loss": "relativistic", "generator_steps": 2, "optimizer": MOMENTUM}
    ),
    "two steps of G in an epoch's schedule": Row(
        of(), config={"k": 3, "generator_steps": 2, "optimizer": Momentum(0.05, momentum=0.5, **SCHEDULED)}
    ),
    "an epoch's schedule, simultaneous": Row(
        of(), config={"mode": "simultaneous", "optimizer": Momentum(0.05, 0.5, "pylearn2", **SCHEDULED)}
    ),
    "max norm, simultaneous": Row(of(), config={"max_col_norm": 0.4, "mode": "simultaneous"}),
}


def steps_of(name: str) -> int:
    """So many that an epoch's schedule ends."""
    return 30 if "epoch" in name else 8 if name in MORE else STEPS


def rows_of(name: str) -> int:
    """So few that an epoch ends, with rows left over."""
    return 67 if "epoch" in name else 300


def data_of(row: Row, rows: int = 300) -> torch.Tensor | Dataset:
    data = replace(row, rows=rows).data(torch.float64)
    if isinstance(data, torch.Tensor) and row.config.get("loss") and row.config.get("nonfinite") == "skip":
        data[::50] = 1e200  # its square, hence the loss, overflows
    return data


@needs_core
def test_a_wrong_velocity_of_rmsprop_is_found() -> None:
    row = Row(of(), config={"optimizer": fastgan.RMSprop(1e-3, momentum=0.5)})
    gan, config, data = row.make(torch.float64), config_of(row, "fused", steps=2), row.data(torch.float64)
    game = Game(gan, data, config)
    game.play(2)
    engine, metrics = compiled(gan, data, config)
    for optimizer in engine.optimizers.values():
        for state in optimizer.state.values():
            state["momentum_buffer"].add_(1.0)
    found = compare(game, gan, engine.optimizers, metrics)
    wrong = {name for name, difference in found.items() if difference > 1e-6}
    assert wrong == {f"{player}.{name}: velocity" for player in ("generator", "discriminator")
                     for name, _ in getattr(gan, player).named_parameters()}  # fmt: skip


@needs_core
@pytest.mark.parametrize("name", [*ALL_ROWS, *MORE])
def test_M60_the_compiled_engine_equals_algorithm_1_written_out(name: str) -> None:
    row = {**ALL_ROWS, **MORE}[name]
    torch.manual_seed(1)
    gan = row.make(torch.float64)
    config = config_of(row, "fused", steps=steps_of(name))
    data = data_of(row, rows_of(name))
    game = Game(gan, data, config)
    game.play(config.steps)
    found = differences(game, gan, data, config)
    assert max(found.values()) < 1e-10, found
    if name in MORE and config.nonfinite == "skip":
        assert 0 < game.rule_d.count < config.steps * config.k, "some updates are skipped, not all"


@pytest.mark.parametrize("name", [*ALL_ROWS, *MORE])
def test_M60_the_eager_engine_equals_algorithm_1_written_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the reference: no function of the native core is called."""
    row = {**ALL_ROWS, **MORE}[name]
    torch.manual_seed(1)
    gan = row.make(torch.float64)
    config = config_of(row, "eager", impl="reference", steps=steps_of(name))
    data = data_of(row, rows_of(name))
    game = Game(gan, data, config)
    game.play(config.steps)
    for module in gan.modules():
        if hasattr(type(module), "impl") or "impl" in module.__dict__:
            module.impl = "reference"
    called = native_calls(monkeypatch)
    engine, metrics = eager(gan, data, config)
    assert called == []
    found = compare(game, gan, engine.optimizers, metrics)
    assert max(found.values()) < 1e-10, found


def native_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the core's functions, as they are called from here on."""
    called: list[str] = []
    for name, entry in vars(_backend.native).items() if _backend.native is not None else ():
        if callable(entry):
            monkeypatch.setattr(
                _backend.native, name, lambda *_, name=name, entry=entry: (called.append(name), entry(*_))[1]
            )
    return called


@needs_core
def test_another_seed_is_far_away() -> None:
    """What the tolerance above would have to miss."""
    for name in ("plain", "wgan-gp maxout", "dropout"):
        row = ROWS_OF_TABLE[name]
        torch.manual_seed(1)
        gan = row.make(torch.float64)
        game = Game(gan, data_of(row), config_of(row, "fused", steps=STEPS))
        game.play(STEPS)
        assert max(differences(game, gan, data_of(row), config_of(row, "fused", steps=STEPS, seed=6)).values()) > 1e-3


@needs_core
def test_the_stub_sees_native_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counterpart of `called == []`: with impl="auto" the core's entries that an iteration uses are noted."""
    called = native_calls(monkeypatch)
    row = ROWS_OF_TABLE["dropout"]
    torch.manual_seed(1)
    # Of a width that no other test has: the core's description of a network is cached for all of its shape.
    gan = mlp(torch.float64, width=61, dropout=0.3)
    train(gan, data_of(row), config_of(row, "eager", steps=1, gradient_penalty="wgan-gp"))
    assert {"Mlp", "pair_loss", "random_fill", "permutation"} <= set(called)


@needs_core
def test_impl_reaches_every_random_number_and_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """What config.impl promises, at the level of operations: none is called otherwise."""
    seen: dict[str, set[Any]] = {}
    for name in ("random", "permutation", "pair_loss", "pointwise"):
        usual = getattr(ops, name)

        def spy(*arguments: Any, name: str = name, usual: Any = usual, **options: Any) -> Any:
            seen.setdefault(name, set()).add(options.get("impl"))
            return usual(*arguments, **options)

        monkeypatch.setattr(ops, name, spy)
    gan = GAN(nn.MLP([3, 4, 2], activation="relu"), nn.MLP([2, 4, 1], activation="tanh"), latent_dim=3)
    config = fastgan.TrainConfig(2, 5, gradient_penalty="wgan-gp", engine="eager", impl="reference")
    train(gan, torch.randn(20, 2), config)
    assert seen == {"random": {"reference"}, "permutation": {"reference"}, "pair_loss": {"reference"}}
    assert losses.gradient_penalty(gan.discriminator, torch.ones(2, 2), torch.zeros(2, 2), seed=0, impl="native") > 0
