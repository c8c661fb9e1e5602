"""The optimiser of a network in a compiled engine, and a scheduler's rates, taken ahead for a whole call."""

from __future__ import annotations

import contextlib
import copy
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from fastgan._errors import Invalid
from fastgan.models import GAN
from fastgan.training import plugins
from fastgan.training.config import TrainConfig
from fastgan.training.engines import plan
from fastgan.training.optimizers import STATES, Optimizer, allocate
from fastgan.training.plugins import Built

TAKEN = ("lr", "momentum", "initial_lr")  # numbers of a group that a scheduler may change between the updates of a call


def _cycles_momentum(scheduler: Any) -> bool:
    """Whether it, or a scheduler within it, changes the momentum, which is Adam's first beta."""
    within = getattr(scheduler, "_schedulers", ())
    return bool(getattr(scheduler, "cycle_momentum", False)) or any(map(_cycles_momentum, within))


class Updater:
    """The optimiser of one network: a plan has its numbers, and the core updates its state.

    Args:
        network: "generator" or "discriminator", for messages.
        description: what the optimiser was built from.
        scheduler: of the optimiser; None: there is none.
    """

    def __init__(
        self,
        network: str,
        description: Optimizer | Built,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler | None,
    ) -> None:
        self.network, self.description, self.optimizer, self.scheduler = network, description, optimizer, scheduler
        # The updates that were taken, and what was before them: the scheduler, and the numbers of its group.
        self._before: tuple[range, dict[str, Any], dict[str, Any]] | None = None
        self._tried = False  # whether `check` has tried the scheduler
        self._own: set[int] = set()  # the optimiser's parameters, by identity, as `check` found them
        self.spare: dict[Tensor, Tensor] = {}  # velocities at momentum 0, which torch does not keep
        optimizer._opt_called = True  # type: ignore[attr-defined]  # the core steps: torch would warn that nothing did

    @classmethod
    def of(cls, config: TrainConfig, network: str, gan: GAN) -> Self:
        """Of the "generator" or the "discriminator" of a run."""
        parameters = [p for p in getattr(gan, network).parameters() if p.requires_grad]
        description, (field, factory) = config.optimizer_of(network), config.scheduler_of(network)
        optimizer = description.build(parameters)
        scheduler = None if factory is None else plugins.build_scheduler(field, factory, optimizer)
        return cls(network, description, optimizer, scheduler)

    def check(self) -> None:
        """Refuse what a plan cannot describe, else make the state that is missing.

        Raises:
            plan.UnsupportedByEngine: with the reason.
        """
        if (why := plan.reason_against(self.optimizer)) is not None:
            rule = self.description
            if isinstance(rule, Built):
                raise plan.UnsupportedByEngine(f"config.{rule.field} {why}")
            raise plan.UnsupportedByEngine(f"the {self.network}'s optimizer {why}")
        (group,) = self.optimizer.param_groups
        if (changed := self._will_change(group)) is not None:
            name = type(self.scheduler).__name__
            raise plan.UnsupportedByEngine(f"config.scheduler is {name}, which changes the optimiser's {changed}")
        allocate(self.optimizer)
        self._own = set(map(id, group["params"]))

    def _will_change(self, group: dict[str, Any]) -> str | None:
        """A number of the optimiser, besides what `take` takes ahead, that the scheduler is seen to change."""
        if self.scheduler is None:
            return None
        if "betas" in group and _cycles_momentum(self.scheduler):
            return "betas"
        if self._tried:
            return None
        self._tried = True  # while it is new: later it may be near its last step
        with contextlib.suppress(ValueError):  # it has one step
            self._advance(range(2))  # the first change may come after the first step
        changed = self._changed(group)
        self.commit(0)
        return changed

    def _changed(self, group: dict[str, Any]) -> str | None:
        assert self._before is not None
        numbers = self._before[2]
        return next((name for name in numbers if name not in TAKEN and group[name] != numbers[name]), None)

    def states(self, parameter: Tensor) -> list[Tensor]:
        """What the rule reads and writes beside a parameter, as `STATES` names it; nothing where it is not trained."""
        kept = self.optimizer.state.get(parameter, {})
        if not parameter.requires_grad:
            if any(name in kept for name in STATES[type(self.optimizer)]):
                raise plan.UnsupportedByEngine("a parameter was frozen while it trained")
            return []
        if id(parameter) not in self._own:
            return []  # it is not the optimiser's
        found: list[Tensor] = []
        for name in STATES[type(self.optimizer)]:
            if name not in kept and parameter not in self.spare:
                self.spare[parameter] = torch.zeros_like(parameter)
            found.append(kept[name] if name in kept else self.spare[parameter])
        return found

    def take(self, updates: range) -> tuple[list[float], list[float]]:
        """The rate and the momentum of these updates; the scheduler advances past them.

        Raises:
            ValueError: the scheduler changes another number, and did not when `check` tried it.
        """
        self.commit(updates[0])
        taken = self._advance(updates)
        if (changed := self._changed(self.optimizer.param_groups[0])) is not None:
            rule = f"must change the rate and the momentum alone, but with engine='eager', got another {changed}"
            raise Invalid("train").value("config.scheduler", rule)
        return taken

    def _advance(self, updates: range) -> tuple[list[float], list[float]]:
        assert self.scheduler is not None
        (group,) = self.optimizer.param_groups
        numbers = {name: value for name, value in group.items() if name != "params"}
        self._before = updates, copy.deepcopy(self.scheduler.state_dict()), numbers
        rates, momenta = [], []
        for _ in updates:
            rates.append(float(group["lr"]))
            momenta.append(float(group.get("momentum", 0.0)))
            self.scheduler.step()
        return rates, momenta

    def commit(self, made: int) -> None:
        """Put the scheduler where it is after so many updates, of those that were taken."""
        if self._before is None or self.scheduler is None:
            return
        taken, state, numbers = self._before
        self._before = None
        if made == taken.stop:
            return
        self.scheduler.load_state_dict(state)
        (group,) = self.optimizer.param_groups
        group.update(numbers)
        for _ in range(made - taken.start):
            self.scheduler.step()
