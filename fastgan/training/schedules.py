"""Learning-rate schedules as frozen descriptions: each makes a scheduler of torch of an optimiser."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from fastgan._errors import Invalid, is_number
from fastgan.training.plain import count_of, take_plain_numbers


@dataclass(frozen=True)
class CosineDecay:
    """The rate falls to a least one along half a cosine; `torch.optim.lr_scheduler.CosineAnnealingLR`.

    Args:
        updates: of the network until the least rate; after that the rate rises again.
        least: that rate.

    Source: Loshchilov and Hutter (2017), equation 5.
    """

    updates: int
    least: float = 0.0

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        count_of("CosineDecay", "updates", self.updates)
        if not is_number(self.least) or not 0.0 <= self.least < float("inf"):
            raise Invalid("CosineDecay").value("least", f"must be finite and at least 0, got {self.least!r}")

    def __call__(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return lr_scheduler.CosineAnnealingLR(optimizer, self.updates, self.least)


@dataclass(frozen=True)
class StepDecay:
    """The rate is multiplied by a factor after every `updates` updates; `torch.optim.lr_scheduler.StepLR`.

    Args:
        updates: of the network between two changes.
        factor: of each change.
    """

    updates: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        count_of("StepDecay", "updates", self.updates)
        _positive("StepDecay", "factor", self.factor)

    def __call__(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return lr_scheduler.StepLR(optimizer, self.updates, self.factor)


@dataclass(frozen=True)
class LinearDecay:
    """The rate is multiplied by a factor that changes linearly, then stays constant;
    `torch.optim.lr_scheduler.LinearLR`.

    Args:
        updates: of the network, until the last factor.
        first: factor of the first update, in (0, 1].
        last: factor at the end, in [0, 1].
    """

    updates: int
    first: float = 1.0
    last: float = 0.0

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        count_of("LinearDecay", "updates", self.updates)
        numbers = is_number(self.first) and is_number(self.last)
        if not (numbers and 0.0 < self.first <= 1.0 and 0.0 <= self.last <= 1.0):
            got = f"{self.first!r}, {self.last!r}"
            raise Invalid("LinearDecay").value("first", f"must lie in (0, 1] and last in [0, 1], got {got}")

    def __call__(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return lr_scheduler.LinearLR(optimizer, self.first, self.last, self.updates)


@dataclass(frozen=True)
class ExponentialDecay:
    """The rate is multiplied by a factor after every update; `torch.optim.lr_scheduler.ExponentialLR`.

    Args:
        factor: of the rate, such as 0.9999.
    """

    factor: float

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        _positive("ExponentialDecay", "factor", self.factor)

    def __call__(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return lr_scheduler.ExponentialLR(optimizer, self.factor)


Schedule = CosineDecay | StepDecay | LinearDecay | ExponentialDecay


def _positive(owner: str, name: str, value: float) -> None:
    if not is_number(value) or not 0.0 < value < float("inf"):
        raise Invalid(owner).value(name, f"must be above 0 and finite, got {value!r}")
