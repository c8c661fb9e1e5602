"""The host's state of a GAN in a compiled engine: data, optimisers, plan, numbers of updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fastgan import _kernels
from fastgan._errors import Invalid
from fastgan.models import GAN
from fastgan.training import plugins
from fastgan.training.config import TrainConfig
from fastgan.training.engines import plan
from fastgan.training.engines.changes import ChangeDetector
from fastgan.training.engines.updater import Updater
from fastgan.training.optimizers import Momentum
from fastgan.training.rows import Minibatches

METRICS = 6
_MOST_ITERATIONS = 1 << 18  # of one call: the metrics of a call are one table
# Runs iterations first .. first+count of each GAN by its compiled plan; gives the metrics, and the updates of G and D.
Launch = Callable[
    ["Sequence[HostState]", "list[_kernels.native.CompiledPlan]", list[int], list[int]],
    tuple[list[np.ndarray], list[tuple[int, int]]],
]


class HostState:
    """The host's part of the training of one GAN; the engine that has it updates parameters and states in place.

    Args:
        gan, rows, config: of the run.
        check: refuses what the engine leaves out of a plan; it gets the fields of TrainPlan.

    Raises:
        plan.UnsupportedByEngine: the data are not held in memory.
    """

    def __init__(
        self,
        gan: GAN,
        rows: Minibatches,
        config: TrainConfig,
        check: Callable[[plan.Description], None] = lambda described: None,
    ) -> None:
        self.gan, self.rows, self.config, self._check = gan, rows, config, check
        # Of sampled rows, the scalars: the rest is in `rows.sampled`.
        sampled = rows.sampled
        if sampled is None:
            data = rows.in_memory(gan.dtype, gan.device)
        else:
            data = sampled.on(gan.device, gan.dtype)["data"]
        if data is None:
            raise plan.UnsupportedByEngine(f"data is a {rows.kind} whose rows must be read one batch at a time")
        self.data = data
        self.updaters = {name: Updater.of(config, name, gan) for name in ("generator", "discriminator")}
        for updater in self.updaters.values():
            updater.check()
        # whose own step counts may be out of date
        self.torch_optimizers = {name: updater.optimizer for name, updater in self.updaters.items()}
        self.schedulers = plugins.schedulers_of(self.updaters)
        self.as_built = plugins.all_as_built(self.updaters)
        self.labels = rows.labels_in_memory(gan.device) if gan.classes and sampled is None else None
        self.description: plan.Description = {}
        self.changes: ChangeDetector | None = None
        self._made: dict[str, int] = {}  # updates of each optimiser whose own step counts are not up to date
        self._buffers: list[tuple[Tensor, Tensor]] = []  # of the moving average, and what each takes over
        self._numbers: list[plan.Description] = []  # of the optimisers, as described
        self._kept: list[Tensor] = []  # the memory of the plan's addresses, whatever becomes of the modules
        self._compiled: _kernels.native.CompiledPlan | None = None

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers, up to date; they may be read and changed between two calls."""
        self.write_back()
        for name, made in self._made.items():
            for step in self._steps(name):
                step.fill_(made)
        self._made.clear()
        return self.torch_optimizers

    def write_back(self) -> None:
        """Bring the networks, states and average up to date, where the CPU engine keeps them in blocks."""
        if self._compiled is not None:
            self._compiled.write_back(torch.get_num_threads())

    def compiled(self) -> _kernels.native.CompiledPlan:
        """The core's plan. Modes, parameters and their places may have changed since the last call.

        Raises:
            plan.UnsupportedByEngine: with the reason, where the compiled core cannot run this.
        """
        if self.described_anew():
            self._compiled = None  # the core may refuse the new one
        self._compiled = self._compiled or _kernels.native.CompiledPlan(self.description)
        return self._compiled

    def described_anew(self) -> bool:
        """Describe the plan again if something has changed since; returns whether the description differs."""
        if self.changes is not None and self.changes.is_current() and self._numbers == self._all_numbers():
            return False
        self.write_back()  # to the tensors of the old plan, which `_kept` keeps
        before = self.description
        for updater in self.updaters.values():
            updater.check()  # and makes the state that another engine's checkpoint lacks
        sampled = self.rows.sampled
        self.description = plan.describe(self.gan, self.config, self.updaters, self.data, self.labels, sampled)
        self._check(self.description["plan"])
        self.changes = ChangeDetector(self.gan, self.torch_optimizers, self.data)
        self._numbers = self._all_numbers()
        entries = (state for optimizer in self.torch_optimizers.values() for state in optimizer.state.values())
        states = (value for entry in entries for value in entry.values() if isinstance(value, Tensor))
        self._kept = [tensor.detach() for tensor in (*self.gan.parameters(), *self.gan.buffers(), *states)]
        self._buffers = [] if self.config.ema_decay is None else self.gan.ema_buffers()
        return self.description != before

    def call(self, first: int, count: int, table: int) -> dict[str, Any]:
        """The arguments of a call for iterations first .. first+count, whose metrics go to the table at an address."""
        draws, updates = self.numbers(first, count)
        return {
            "first": first,
            "count": count,
            "generator_schedule": self._schedule("generator", updates, self.config.generator_steps),
            "discriminator_schedule": self._schedule("discriminator", draws, self.config.k),
            "generator_updates": self.updates_done("generator"),
            "discriminator_updates": self.updates_done("discriminator"),
            "metrics": table,
        }

    def done(self, first: int, count: int, updates: tuple[int, int]) -> None:
        """Record the number of updates: the core does not write the optimisers' own step counts, which are on the
        device."""
        for average, live in self._buffers:
            average.copy_(live)
        draws, generator_updates = self.numbers(first, count)
        last = {"generator": generator_updates[-1], "discriminator": draws[-1]}
        for (name, optimizer), made in zip(self.torch_optimizers.items(), updates, strict=True):
            self._made[name] = made if self._steps(name) else 0
            updater, epoch = self.updaters[name], self.rows.epoch(draws[-1])
            if updater.scheduler is None:
                updater.description.schedule(optimizer, update=last[name], epoch=epoch)
            else:
                updater.commit(last[name] + 1)

    def numbers(self, first: int, count: int) -> tuple[range, range]:
        """The numbers of the minibatches drawn, one for each update of D, and of the updates of G."""
        k, g = self.config.k, self.config.generator_steps
        return range(first * k, (first + count) * k), range(first * g, (first + count) * g)

    def _schedule(self, name: str, updates: range, an_iteration: int) -> tuple[list[float], list[float]]:
        """The rate and the momentum of these updates: a number each, or one for all where it is constant."""
        updater = self.updaters[name]
        rule, (group,) = updater.description, updater.optimizer.param_groups
        if updater.scheduler is not None:
            return updater.take(updates)
        if not isinstance(rule, Momentum):
            return [float(group["lr"])], [float(group.get("momentum", 0.0))]
        rates = [rule.lr] if rule.lr_decay == 1.0 else [rule.learning_rate(u) for u in updates]
        if rule.momentum_final is None:
            return rates, [rule.momentum]
        k = self.config.k
        last_draw = (lambda u: u) if name == "discriminator" else (lambda u: (u // an_iteration + 1) * k - 1)
        return rates, [rule.momentum_at(self.rows.epoch(last_draw(update))) for update in updates]

    def _all_numbers(self) -> list[plan.Description]:
        return [plan.updates_of(optimizer) for optimizer in self.torch_optimizers.values()]

    def updates_done(self, name: str) -> int:
        """Synchronises with the device only if the number may have changed since."""
        if name not in self._made:
            self._made[name] = int(next(iter(self._steps(name)), 0))
        return self._made[name]

    def _steps(self, name: str) -> list[Tensor]:
        """How many updates Adam or RMSprop has made, a number a parameter; momentum counts none."""
        return [state["step"] for state in self.torch_optimizers[name].state.values() if "step" in state]


class Compiled(Protocol):
    """An engine that runs a compiled plan."""

    name: str
    state: HostState


def advance_together(
    engines: Sequence[Compiled], firsts: list[int], counts: list[int], launch: Launch
) -> list[np.ndarray]:
    """Run iterations first .. first+count of each engine's GAN in one launch of compiled plans.

    Returns:
        The metrics of each, float64 (iterations, 6): loss_d, loss_g, d_real, d_fake, accuracy_real, accuracy_fake.
        Fewer rows than its count where the table would be too large.
    """
    states = [engine.state for engine in engines]
    try:
        plans = [state.compiled() for state in states]
    except plan.UnsupportedByEngine as why:  # a mode, a hook or a tensor that changed between two calls
        raise Invalid("train")(
            RuntimeError,
            f"the {engines[0].name} engine",
            f"cannot continue, because the model changed during training: {why}",
        ) from None
    tables, updates = launch(states, plans, firsts, [min(count, _MOST_ITERATIONS) for count in counts])
    for state, first, table, made in zip(states, firsts, tables, updates, strict=True):
        state.done(first, len(table), made)
    return tables
