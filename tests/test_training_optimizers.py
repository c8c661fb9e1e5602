"""Momentum in both conventions, the schedules of the original code, Adam."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgan import GAN, _backend, nn
from fastgan.training import (
    SGD,
    Adam,
    AdamW,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    Momentum,
    RMSprop,
    StepDecay,
    TrainConfig,
    checkpoint,
    train,
)
from fastgan.training.optimizers import Optimizer
from fastgan.training.schedules import Schedule


def descend(spec: Adam | Momentum, rates: list[int], steps: int = 20) -> torch.Tensor:
    """Minimise a quadratic bowl; `rates` are the update numbers given to the schedule."""
    p = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    second_derivative = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    optimizer = spec.build([p])
    for t in range(steps):
        optimizer.zero_grad()
        (second_derivative * p.square()).sum().backward()
        spec.schedule(optimizer, update=rates[t], epoch=1.0 + t)
        optimizer.step()
    return p.detach()


def by_hand(spec: Momentum, rates: list[int], steps: int = 20) -> list[float]:
    """The same in plain Python, a number at a time."""
    p, v = [1.0, -2.0, 3.0], [0.0, 0.0, 0.0]
    for t in range(steps):
        lr = max(spec.lr / spec.lr_decay ** rates[t], spec.min_lr)
        m = spec.momentum
        if spec.momentum_final is not None:
            alpha = min(max((1.0 + t - 1) / (spec.saturate_epochs - 1), 0.0), 1.0)
            m = (1 - alpha) * spec.momentum + alpha * spec.momentum_final
        for i, second_derivative in enumerate((0.5, 1.0, 2.0)):
            g = 2 * second_derivative * p[i]
            v[i] = m * v[i] - lr * g if spec.convention == "pylearn2" else m * v[i] + g
            p[i] += v[i] if spec.convention == "pylearn2" else -lr * v[i]
    return p


@pytest.mark.parametrize("convention", ["torch", "pylearn2"])
@pytest.mark.parametrize("momenta", [(0.5, 0.9), (0.0, 0.9), (0.9, 0.0)])
def test_M62_momentum_equals_the_rule_written_out(convention: str, momenta: tuple[float, float]) -> None:
    first, last = momenta
    spec = Momentum(0.05, first, convention, lr_decay=1.1, min_lr=0.01, momentum_final=last, saturate_epochs=10)
    rates = list(range(20))
    expected = torch.tensor(by_hand(spec, rates), dtype=torch.float64)
    assert torch.allclose(descend(spec, rates), expected, rtol=0, atol=1e-12)


def test_M62_the_conventions_part_only_where_the_rate_changes() -> None:
    constant = [descend(Momentum(0.05, 0.5, c), [0] * 20) for c in ("torch", "pylearn2")]
    assert torch.allclose(*constant, rtol=0, atol=1e-12)
    decaying = [descend(Momentum(0.05, 0.5, c, lr_decay=1.1), list(range(20))) for c in ("torch", "pylearn2")]
    assert (decaying[0] - decaying[1]).abs().max() > 1e-3


def test_M63_learning_rate_table() -> None:
    spec = Momentum(0.1, lr_decay=1.000004, min_lr=1e-6)
    assert spec.learning_rate(0) == 0.1
    assert spec.learning_rate(1) == pytest.approx(0.1 / 1.000004, abs=1e-15)
    assert spec.learning_rate(125_000) == pytest.approx(0.0606531, abs=1e-7)
    assert spec.learning_rate(10_000_000) == 1e-6
    assert spec.learning_rate(10**12) == 1e-6  # beyond the largest float
    assert Momentum(0.1).learning_rate(10**9) == 0.1


def test_M63_momentum_table() -> None:
    spec = Momentum(0.1, 0.5, momentum_final=0.7, saturate_epochs=250)
    table = {1: 0.5, 125.5: 0.6, 250: 0.7, 400: 0.7, 0: 0.5}
    assert {epoch: spec.momentum_at(epoch) for epoch in table} == pytest.approx(table, abs=1e-9)
    assert Momentum(0.1, 0.5).momentum_at(1000) == 0.5
    at_once = Momentum(0.1, 0.5, momentum_final=0.7, saturate_epochs=1)
    assert at_once.momentum_at(1) == at_once.momentum_at(9) == pytest.approx(0.7)


def test_adam_is_torch_adam_and_its_state_loads_both_ways() -> None:
    spec = Adam(0.1, betas=(0.5, 0.9), eps=1e-6)
    p = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([p], lr=0.1, betas=(0.5, 0.9), eps=1e-6)
    for _ in range(20):
        optimizer.zero_grad()
        (torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64) * p.square()).sum().backward()
        optimizer.step()
    assert torch.allclose(descend(spec, [0] * 20), p.detach(), rtol=0, atol=1e-12)
    made = spec.build([p])
    made.load_state_dict(optimizer.state_dict())
    assert torch.equal(made.state[p]["exp_avg"], optimizer.state[p]["exp_avg"])
    optimizer.load_state_dict(made.state_dict())
    assert optimizer.state[p]["step"] == 20


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (CosineDecay(np.int64(5), np.float32(0.25)), CosineDecay(5, 0.25)),
        (StepDecay(np.int32(5), np.float16(0.5)), StepDecay(5, 0.5)),
        (LinearDecay(np.int64(5), np.float32(1), np.float32(0.5)), LinearDecay(5, 1.0, 0.5)),
        (ExponentialDecay(np.float32(0.5)), ExponentialDecay(0.5)),
    ],
)
def test_schedules_with_numbers_of_numpy_reach_json_and_back(given: Schedule, expected: Schedule) -> None:
    config = TrainConfig(5, 4, scheduler=given)
    assert config == TrainConfig(5, 4, scheduler=expected)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Adam(np.float32(0.5), [np.float32(0), np.float32(0.5)]), Adam(0.5, (0.0, 0.5))),
        (AdamW(weight_decay=np.float32(0.5)), AdamW(weight_decay=0.5)),
        (SGD(np.float32(0.5), np.float32(0.5), np.bool_(True)), SGD(0.5, 0.5, True)),
        (RMSprop(np.float32(0.5), np.float32(0.5)), RMSprop(0.5, 0.5)),
        (Momentum(np.float32(0.5), np.float32(0.25)), Momentum(0.5, 0.25)),
    ],
)
def test_optimisers_with_numbers_of_numpy_reach_json_and_back(given: Optimizer, expected: Optimizer) -> None:
    config = TrainConfig(np.int64(5), 4, optimizer=given)
    assert config == TrainConfig(5, 4, optimizer=expected)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize("name", ["max_col_norm", "max_grad_norm", "max_grad_value", "clip_weights"])
@pytest.mark.parametrize("bound", [float("inf"), float("nan"), 0.0])
def test_a_bound_is_a_finite_number(name: str, bound: float) -> None:
    with pytest.raises(ValueError, match=f"TrainConfig: {name} must be above 0 and finite, or None, got {bound!r}"):
        TrainConfig(5, 4, **{name: bound})


def test_the_velocity_optimiser_returns_the_closures_loss() -> None:
    p = torch.zeros(1, requires_grad=True)
    optimizer = Momentum(0.1, convention="pylearn2").build([p])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p - 1).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 1.0
    assert p.item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(lr=-1.0), "Adam: lr must be a finite number of at least 0"),
        (lambda: Adam(lr=float("nan")), "Adam: lr must"),
        (lambda: Adam(betas=(0.5, 1.0)), r"Adam: betas must be two numbers in \[0, 1\)"),
        (lambda: Adam(betas=0.5), r"Adam: betas must be two numbers in \[0, 1\), got 0.5"),
        (lambda: Adam(betas=("a", "b")), r"Adam: betas must be two numbers in \[0, 1\), got \('a', 'b'\)"),
        (lambda: Momentum(0.1, momentum=1.0), r"Momentum: momentum must lie in \[0, 1\), got 1.0"),
        (lambda: Momentum(0.1, convention="theano"), "Momentum: convention must be"),
        (
            lambda: Momentum(0.1, lr_decay=0.9),
            "Momentum: lr_decay must be a finite number of at least 1, got 0.9",
        ),
        (lambda: Momentum(0.1, momentum_final=0.7), "must be given together"),
        (lambda: CosineDecay(5, -1e-3), "CosineDecay: least must be finite and at least 0, got -0.001"),
        (lambda: LinearDecay(5, 1.0, "0"), "LinearDecay: first must lie in .* and last in .*, got 1.0, '0'"),
    ],
)
def test_a_bad_argument_is_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "TrainConfig: batch_size must be at least 1, got 0"),
        ({"steps": -1}, ValueError, "TrainConfig: steps must be at least 0, got -1"),
        ({"k": 1.5}, TypeError, "TrainConfig: k must be an integer, got 1.5"),
        ({"k": True}, TypeError, "TrainConfig: k must be an integer, got True"),
        ({"seed": 2**63}, ValueError, "TrainConfig: seed must be below"),
        (
            {"loss": "nonsense"},
            ValueError,
            "TrainConfig: loss must be one of non_saturating, .*, got 'nonsense'",
        ),
        ({"gradient_penalty": "r3"}, ValueError, "TrainConfig: gradient_penalty must be one of"),
        (
            {"optimizer": "adam"},
            TypeError,
            "TrainConfig: optimizer must be fastgan.Adam, AdamW, Momentum, SGD, RMSprop or a function .*, got 'adam'",
        ),
        ({"optimizer": None}, TypeError, "TrainConfig: optimizer must be"),
        ({"real_label": 0.0}, ValueError, r"TrainConfig: real_label must lie in \(0, 1\]"),
        ({"fake_label": 1.0}, ValueError, r"TrainConfig: fake_label must lie in \[0, real_label=1\), got 1.0"),
        ({"fake_label": 0.1, "loss": "hinge"}, ValueError, "TrainConfig: fake_label must be 0 for loss 'hinge'"),
        (
            {"real_label": 0.9, "loss": "hinge"},
            ValueError,
            "TrainConfig: real_label must be 1 for loss 'hinge'",
        ),
        ({"max_col_norm": 0.0}, ValueError, "TrainConfig: max_col_norm must be above 0"),
        ({"penalty_weight": -1.0}, ValueError, "TrainConfig: penalty_weight must be finite"),
        (
            {"mode": "simultaneous", "k": 2},
            ValueError,
            "TrainConfig: k must be 1 in simultaneous mode, got 2",
        ),
        ({"device": "abacus"}, ValueError, "TrainConfig: device must name a torch device, got 'abacus'"),
    ],
)
def test_the_config_names_a_bad_field(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TrainConfig(**{"steps": 10, "batch_size": 4, **change})


def test_M14_far_more_generator_than_discriminator_steps_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="generator_steps=20 with k=1 trains G far ahead"):
        TrainConfig(steps=1, batch_size=1, generator_steps=20)


def test_the_config_survives_json() -> None:
    import json

    config = TrainConfig(
        steps=5,
        batch_size=2,
        optimizer=Adam(1e-3, betas=(0.1, 0.2)),
        generator_optimizer=Momentum(0.1, momentum_final=0.7, saturate_epochs=250),
        gradient_penalty="r1",
        device="cpu",
    )
    assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    with pytest.raises(ValueError, match="TrainConfig: unknown field 'stepz'"):
        TrainConfig.from_dict({"stepz": 1})


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_a_checkpoint_has_the_rate_and_momentum_of_the_last_update(engine: str, tmp_path: Path) -> None:
    """Whichever engine wrote them: a script that loads them into torch.optim goes on from there."""
    if engine == "fused" and _backend.native is None:
        pytest.skip("there is no compiled core")
    spec = Momentum(0.1, 0.5, lr_decay=1.1, momentum_final=0.9, saturate_epochs=4)
    gan = GAN(nn.MLP([2, 4, 3], activation="relu"), nn.MLP([3, 4, 1], activation="relu"), latent_dim=2)
    config = TrainConfig(8, batch_size=8, k=2, generator_steps=3, optimizer=spec, engine=engine)  # 5 batches an epoch
    result = train(gan, torch.randn(40, 3), config, run_dir=tmp_path)
    assert (result.engine == "eager") == (engine == "eager")
    groups = checkpoint.load(tmp_path).groups
    found = {name: (group["lr"], group["momentum"]) for name, (group,) in groups.items()}
    epoch = 4  # of minibatch 15, the last of 2 * 8, whose iteration began in epoch 3
    expected = {"discriminator": 15, "generator": 23}  # the number of the last update
    for name, update in expected.items():
        assert found[name] == pytest.approx((spec.learning_rate(update), spec.momentum_at(epoch))), name
