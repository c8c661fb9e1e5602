"""Optimisers and schedulers of others: resumed, compared, written as JSON, and taken back."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import check_resumed
from test_plugins import COMPILED, DATA, OPTIMIZERS, SCHEDULERS, SGD, SIZE, config, distance, new_gan, plain_torch
from torch import nn
from torch.optim import lr_scheduler

from fastgan._backend import native
from fastgan.training import (
    Adam,
    Momentum,
    TrainConfig,
    train,
    train_population,
)
from fastgan.training.engines.snapshot import Snapshot

RESUMED = [(name, engine) for name in (*OPTIMIZERS, *SCHEDULERS) for engine in ("eager", "auto")
           if engine == "eager" or native is not None and (name in COMPILED or name in SCHEDULERS)]  # fmt: skip


@pytest.mark.parametrize(("name", "engine"), RESUMED)
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(name: str, engine: str, tmp_path: Path) -> None:
    dtype = torch.float32 if name in ("ASGD", "cosine") else torch.float64
    one = config(optimizer=OPTIMIZERS.get(name, SGD), scheduler=SCHEDULERS.get(name), engine=engine)
    check_resumed(lambda: new_gan(dtype), DATA, one, 5, tmp_path)


def test_a_class_that_torch_keeps_elsewhere_is_known_by_its_name(tmp_path: Path) -> None:
    schedule = functools.partial(torch.optim.swa_utils.SWALR, swa_lr=1e-4)
    assert config(scheduler=schedule).as_dict()["scheduler"] == {"function": "partial(SWALR)"}
    result = train_population(lambda seed: new_gan(), DATA, config(optimizer=SGD, scheduler=schedule), seeds=range(2),
                              grid={"k": [1, 2]})  # fmt: skip
    assert not any(member.failed for member in result.members)


@pytest.mark.parametrize("schedule", ["exponential", "one cycle"])
@pytest.mark.parametrize("rule", [Adam(1e-2), Momentum(0.1), torch.optim.Adagrad], ids=["Adam", "Momentum", "Adagrad"])
def test_a_schedule_goes_on_where_it_was_with_an_optimiser_that_has_state_from_the_start(
    rule: Any, schedule: str, tmp_path: Path
) -> None:
    if rule is torch.optim.Adagrad and schedule == "one cycle":
        rule = functools.partial(torch.optim.NAdam, lr=1e-2)  # Adagrad has no momentum for it to change
    one = config(optimizer=rule, scheduler=SCHEDULERS[schedule])
    check_resumed(new_gan, DATA, one, 5, tmp_path)


def test_what_functions_build_is_compared_on_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = config(optimizer=lambda params: torch.optim.RMSprop(params, 1e-3), scheduler=SCHEDULERS["cosine"])
    train(new_gan(), DATA, replace(one, steps=4), run_dir=tmp_path)
    wrong: dict[str, dict[str, Any]] = {
        "lr must be 0.001": {"optimizer": lambda params: torch.optim.RMSprop(params, 1e-2)},
        "optimizer must be 'RMSprop'": {"optimizer": lambda params: torch.optim.Adagrad(params, 1e-3)},
        "schedule.T_max must be 10": {"scheduler": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 20)},
        "config.optimizer must be": {"optimizer": Adam()},
        "config.max_grad_norm must be None": {"max_grad_norm": 1.0},
    }
    for message, fields in wrong.items():
        with pytest.raises(ValueError, match=message):
            train(new_gan(), DATA, replace(one, **fields), run_dir=tmp_path, resume=True)
    caplog.clear()
    train(new_gan(), DATA, one, run_dir=tmp_path, resume=True)
    assert "resume takes config.optimizer and config.scheduler for what it was" in caplog.text


def test_configs_with_classes_of_torch_are_json() -> None:
    one = config(optimizer=OPTIMIZERS["AdamW"], generator_optimizer=torch.optim.RMSprop, scheduler=SCHEDULERS["step"])
    described = json.loads(json.dumps(one.as_dict()))
    assert described["optimizer"] == {"type": "torch.optim.AdamW", "lr": 1e-2, "weight_decay": 0.1}
    again = TrainConfig.from_dict(described)
    assert again.as_dict() == one.as_dict() and again.generator_optimizer is torch.optim.RMSprop
    named = config(optimizer=lambda params: torch.optim.SGD(params, 0.1)).as_dict()
    with pytest.raises(ValueError, match="known by its name alone: give the function itself"):
        TrainConfig.from_dict(json.loads(json.dumps(named)))


def test_a_population_takes_functions_and_a_grid_over_their_arguments() -> None:
    base = config(optimizer=functools.partial(torch.optim.RMSprop, lr=1e-2), scheduler=SCHEDULERS["cosine"])
    many = train_population(lambda seed: new_gan(), DATA, base, seeds=[3, 4], grid={"optimizer.lr": [1e-2, 1e-3]})
    assert [(member.seed, member.overrides) for member in many.members] == [
        (seed, {"optimizer.lr": lr}) for lr in (1e-2, 1e-3) for seed in (3, 4)
    ]
    for lr, member in ((1e-2, many.members[0]), (1e-3, many.members[2])):
        make = functools.partial(torch.optim.RMSprop, lr=lr)
        assert distance(member.gan, plain_torch(make, SCHEDULERS["cosine"])) < 1e-10


def test_an_update_that_is_not_finite_is_taken_back() -> None:
    """Also the first one, in which torch's optimisers make their state."""
    poison = torch.cat([DATA[:SIZE], torch.full_like(DATA[:SIZE], 1e200)])  # finite, but no square of it
    for make in (torch.optim.RMSprop, torch.optim.NAdam, functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)):
        for policy in ("skip", "log"):
            gan = new_gan()
            gan.discriminator = nn.Linear(3, 1).double()
            train(gan, poison, config(optimizer=make, loss="least_squares", nonfinite=policy, steps=8))
            assert all(bool(torch.isfinite(p).all()) for p in gan.parameters()) == (policy == "skip")


def test_state_that_a_bad_update_has_made_is_unmade() -> None:
    class Counting(torch.optim.SGD):
        """Keeps a number of Python, which no copy of tensors brings back."""

        def step(self, closure: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                self.state[p]["count"] = self.state[p].get("count", 0) + 1
            return super().step(closure)

    gan = new_gan()
    optimizer = Counting(gan.parameters(), 0.1, momentum=0.9)
    snapshot = Snapshot(gan, [optimizer], active=True)
    for value, count in ((float("nan"), None), (1.0, 1), (float("inf"), 1), (1.0, 2)):
        snapshot.save()
        for p in gan.parameters():
            p.grad = torch.full_like(p, value)
        optimizer.step()
        snapshot.restore_unless_finite(torch.tensor(value))
        assert {entry["count"] for entry in optimizer.state.values()} == ({count} if count else set())
    velocity = optimizer.state[next(gan.parameters())]["momentum_buffer"]
    assert torch.equal(velocity, torch.full_like(velocity, 1.9))  # of the two good updates alone
