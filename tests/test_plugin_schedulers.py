"""Schedulers that change more than the rate and the momentum: they run eagerly, as plain PyTorch, or are refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from test_plugins import DATA, OPTIMIZERS, SGD, config, distance, new_gan, plain_torch
from torch.optim import lr_scheduler

from fastgan._backend import native
from fastgan.training import train


def one_cycle(optimizer: Any) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, 0.1, 40)


class Decay(lr_scheduler.LRScheduler):
    """Changes the weight decay too, from some update on."""

    def __init__(self, optimizer: Any, after: int = 0) -> None:
        self.after = after
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.1 * max(0, self.last_epoch - self.after)
        return [group["lr"] for group in self.optimizer.param_groups]


CHANGES: dict[str, Any] = {
    "OneCycleLR betas": one_cycle,
    "ChainedScheduler betas": lambda optimizer: lr_scheduler.ChainedScheduler([one_cycle(optimizer)]),
    "SequentialLR betas": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.StepLR(optimizer, 3), one_cycle(optimizer)], milestones=[4]
    ),
    "Decay weight_decay": functools.partial(Decay, after=1),
}


@pytest.mark.skipif(native is None, reason="it is compiled")
@pytest.mark.parametrize("name", CHANGES)
def test_a_scheduler_of_other_numbers_than_the_rate_runs_eagerly(name: str) -> None:
    gan, schedule, make = new_gan(), CHANGES[name], OPTIMIZERS["Adam, weight decay"]
    result = train(gan, DATA, config(optimizer=make, scheduler=schedule))
    scheduler, changed = name.split()
    assert result.engine_reason == f"config.scheduler is {scheduler}, which changes the optimiser's {changed}"
    assert distance(gan, plain_torch(make, schedule)) < 1e-10
    assert distance(gan, plain_torch(make)) > 1e-4  # the schedule tells


@pytest.mark.skipif(native is None, reason="it is compiled")
def test_a_scheduler_of_one_step_is_tried_and_runs() -> None:
    gan, schedule = new_gan(), functools.partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=1)
    assert train(gan, DATA, config(optimizer=SGD, scheduler=schedule, steps=1)).engine == "cpu"
    assert distance(gan, plain_torch(SGD, schedule, steps=1)) < 1e-10


@pytest.mark.skipif(native is None, reason="it is compiled")
def test_a_scheduler_that_changes_other_numbers_late_is_refused_then() -> None:
    with pytest.raises(ValueError, match="must change the rate and the momentum alone.* got another weight_decay"):
        train(new_gan(), DATA, config(optimizer=torch.optim.Adam, scheduler=functools.partial(Decay, after=6)))
