"""The CPU engine: whole iterations in one call of the compiled core, without Python in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fastgan import backend, kernels
from fastgan.models import GAN
from fastgan.training import plan
from fastgan.training.changes import ChangeDetector
from fastgan.training.config import TrainConfig
from fastgan.training.optimizers import Adam, Momentum, Optimizer
from fastgan.training.rows import Minibatches

METRICS = 6
_MOST_ITERATIONS = 1 << 18  # of one call: the metrics of a call are one table


class FusedEngine:
    """Runs a plan of the networks; parameters and optimiser states are updated in place.

    Raises:
        plan.UnsupportedByEngine: with the reason, where the compiled core cannot run this.
    """

    name = "cpu"
    members_a_launch: int | None = None
    calls_at_once = 1
    _chosen_for: tuple[str, ...] = ()

    def __init__(self, gan: GAN, rows: Minibatches, config: TrainConfig) -> None:
        if backend.native is None:
            raise plan.UnsupportedByEngine(backend.why_not("mlp", "cpu", gan.dtype) or "")
        self.gan, self.rows, self.config = gan, rows, config
        plan.check_config(gan, config)
        self.check_device()
        data = rows.in_memory(gan.dtype, self.gan.device)
        if data is None:
            raise plan.UnsupportedByEngine(f"data is a {rows.kind} whose rows must be read one batch at a time")
        self.data = data
        self._optimizers = {
            name: description.build([p for p in getattr(gan, name).parameters() if p.requires_grad])
            for name, description in self.descriptions.items()
        }
        self._made: dict[str, int] = {}  # updates of each optimiser whose own step counts are not up to date
        self._described: plan.Description = {}
        self._changes: ChangeDetector | None = None
        self._buffers: list[tuple[Tensor, Tensor]] = []  # of the moving average, and what each takes over
        self._run: Any = None
        self.prepare()

    def check_device(self) -> None:
        """Refuse what this engine cannot run where the networks are."""
        if self.gan.device.type != "cpu":
            raise plan.UnsupportedByEngine(f"the networks are on {self.gan.device}; this engine is built for the CPU")
        if self.config.precision == "tf32":
            raise plan.UnsupportedByEngine("config.precision is 'tf32', which is for CUDA")
        if self.config.precision == "bf16" and not kernels.native.multiplies_bf16():
            raise plan.UnsupportedByEngine(
                "config.precision is 'bf16', which this processor does not multiply (AVX512-BF16)"
            )

    @property
    def reason(self) -> str:
        """Why this engine runs, and how."""
        return "; ".join(("it supports these networks and this config", *self._chosen_for))

    def chosen_for(self, reason: str) -> Self:
        """Record why this engine was chosen."""
        self._chosen_for = (reason,)
        return self

    @property
    def descriptions(self) -> dict[str, Optimizer]:
        """The optimiser of each network."""
        rules = {name: self.config.optimizer_of(name) for name in ("generator", "discriminator")}
        return {name: rule for name, rule in rules.items() if isinstance(rule, Adam | Momentum)}  # `check_config`: both

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """For reading and writing between two calls: step counts are up to date, and the next call reads them."""
        for name, made in self._made.items():
            for step in self._steps(name):
                step.fill_(made)
        self._made.clear()
        return self._optimizers

    def prepare(self) -> Any:
        """The core's run. Modes, parameters and their places may have changed since the last call."""
        if self.described_anew():
            self._run = None  # the core may refuse the new one
        self._run = self._run or kernels.native.CompiledPlan(self._described)
        return self._run

    def described_anew(self) -> bool:
        """Describe the plan again if something has changed since; returns whether the description differs."""
        if self._changes is not None and self._changes.is_current():
            return False
        before = self._described
        self._described = plan.describe(self.gan, self.config, self._optimizers, self.data)
        self._changes = ChangeDetector(self.gan, self._optimizers, self.data)
        self._buffers = [] if self.config.ema_decay is None else self.gan.ema_buffers()
        return self._described != before

    def advance(self, first: int, count: int, should_stop: Callable[[], bool]) -> np.ndarray:
        """Begin iterations first .. first+count (from 0), as `begin` does, and wait for them.

        Returns:
            float64 array (iterations, 6): loss_d, loss_g, d_real, d_fake, accuracy_real, accuracy_fake.
        """
        return self.begin(first, count, should_stop)()

    def begin(self, first: int, count: int, should_stop: Callable[[], bool]) -> Callable[[], np.ndarray]:
        """A function that runs iterations first .. first+count (from 0) and returns their metrics, as `advance`
        does."""
        return lambda: self.advance_all([self], [first], [count], torch.get_num_threads())[0]

    @classmethod
    def advance_all(
        cls, engines: Sequence[FusedEngine], firsts: list[int], counts: list[int], threads: int
    ) -> list[np.ndarray]:
        """Run iterations first .. first+count of each engine: one alone on all threads, many on a thread each.

        Returns:
            The metrics of each, as of `advance`; fewer rows than its count where the table would be too large.
        """
        counts = [min(count, _MOST_ITERATIONS) for count in counts]
        try:
            runs = [engine.prepare() for engine in engines]
        except plan.UnsupportedByEngine as why:  # a mode, a hook or a tensor that changed between two calls
            raise RuntimeError(
                f"train: the fused engine cannot continue, because the model changed during training: {why}"
            ) from None
        tables, updates = cls.launch(engines, runs, firsts, counts, threads)
        for engine, first, count, made in zip(engines, firsts, counts, updates, strict=True):
            engine.done(first, count, made)
        return tables

    @classmethod
    def launch(
        cls, engines: Sequence[FusedEngine], runs: list[Any], firsts: list[int], counts: list[int], threads: int
    ) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
        """Run the plans in the core; returns the metrics, and the number of updates of both optimisers."""
        tables = [np.empty((count, METRICS)) for count in counts]
        jobs = zip(engines, firsts, tables, strict=True)
        calls = [engine.call(first, len(table), table.ctypes.data) for engine, first, table in jobs]
        return tables, kernels.native.advance(runs, calls, threads)

    def call(self, first: int, count: int, table: int) -> dict[str, Any]:
        """The arguments of a call for iterations first .. first+count, whose metrics go to the table at an address."""
        draws, updates = self._numbers(first, count)
        return {
            "first": first,
            "count": count,
            "generator_schedule": self._schedule("generator", updates, self.config.generator_steps),
            "discriminator_schedule": self._schedule("discriminator", draws, self.config.k),
            "generator_updates": self._updates_done("generator"),
            "discriminator_updates": self._updates_done("discriminator"),
            "metrics": table,
        }

    def done(self, first: int, count: int, updates: tuple[int, int]) -> None:
        """Record the number of updates: the core does not write the optimisers' own step counts, which are on the
        device."""
        for average, live in self._buffers:
            average.copy_(live)
        draws, generator_updates = self._numbers(first, count)
        last = {"generator": generator_updates[-1], "discriminator": draws[-1]}
        for (name, optimizer), made in zip(self._optimizers.items(), updates, strict=True):
            self._made[name] = made if self._steps(name) else 0
            epoch = self.rows.epoch(draws[-1])
            self.descriptions[name].schedule(optimizer, update=last[name], epoch=epoch)

    def _numbers(self, first: int, count: int) -> tuple[range, range]:
        """Of the minibatches drawn, one for each update of D, and of the updates of G."""
        k, g = self.config.k, self.config.generator_steps
        return range(first * k, (first + count) * k), range(first * g, (first + count) * g)

    def _schedule(self, name: str, updates: range, an_iteration: int) -> tuple[list[float], list[float]]:
        optimizer = self.descriptions[name]
        epochs = None
        if isinstance(optimizer, Momentum) and optimizer.momentum_final is not None:
            k = self.config.k
            last_draw = (lambda u: u) if name == "discriminator" else (lambda u: (u // an_iteration + 1) * k - 1)
            epochs = [self.rows.epoch(last_draw(update)) for update in updates]
        return plan.schedule(optimizer, updates[0], len(updates), epochs)

    def _updates_done(self, name: str) -> int:
        """Synchronises with the device only if the number may have changed since."""
        if name not in self._made:
            self._made[name] = int(next(iter(self._steps(name)), 0))
        return self._made[name]

    def _steps(self, name: str) -> list[Tensor]:
        """How many updates Adam has made, a number a parameter; momentum counts none."""
        return [state["step"] for state in self._optimizers[name].state.values() if "step" in state]
