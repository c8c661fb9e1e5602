"""The engines: the interface that runs and populations use, and the one place that chooses one, with the reason."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler

from fastgan._errors import Invalid
from fastgan._ranks import Ranks
from fastgan.models import GAN
from fastgan.training.config import TrainConfig
from fastgan.training.engines import cost_model, cpu, cuda_persistent, plan
from fastgan.training.engines.cpu import CpuEngine
from fastgan.training.engines.cuda_graph import GraphEngine
from fastgan.training.engines.cuda_persistent import PersistentEngine
from fastgan.training.engines.eager import EagerEngine
from fastgan.training.engines.plan import UnsupportedByEngine
from fastgan.training.engines.state import advance_together
from fastgan.training.rows import Minibatches

_SUPPORTED = "it supports these networks and this config"


class Engine(Protocol):
    """The interface of an engine; an instance trains one GAN.

    Args:
        name: "eager", "cpu", "cuda-graph" or "cuda-persistent".
        calls_at_once: calls of `begin_all`, each by engines of its own, that may be under way.
        threads: of torch, on which the bits depend; None: they depend on none.
        schedulers: by network, of those that have one.
        as_built: optimisers and schedulers that functions made, as a resume compares them (`plugins.as_built`).
    """

    name: str
    calls_at_once: int
    threads: int | None
    schedulers: dict[str, LRScheduler]
    as_built: dict[str, Any]

    @classmethod
    def members_a_call(cls, threads: int) -> int:
        """Members of a population that one call of `begin_all` takes at most, on so many threads of the CPU."""
        ...

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """For reading and writing between two calls: after `write_back`, with step counts that are up to date; the next
        call reads them."""
        ...

    def write_back(self) -> None:
        """Bring parameters, optimiser states and the moving average up to date; the next call reads them.

        To be called before anyone looks at them: between two calls an engine may keep them in a layout of its own.
        """
        ...

    def begin(self, first: int, count: int, should_stop: Callable[[], bool]) -> Callable[[], np.ndarray]:
        """Begin iterations first .. first+count (from 0); they may be fewer, at least one.

        Returns:
            A function that waits for them and returns their metrics, float64 (iterations, 6): loss_d, loss_g, d_real,
            d_fake, accuracy_real, accuracy_fake. Until it has returned, the networks must not be used.
        """
        ...


def begin_all(
    engines: Sequence[Engine], firsts: list[int], counts: list[int], threads: int, should_stop: Callable[[], bool]
) -> Callable[[], list[np.ndarray]]:
    """`begin` of several engines of one class in one call, on so many threads of the CPU; gives all metrics."""
    if on_cpu := [engine for engine in engines if isinstance(engine, cpu.CpuEngine)]:
        return functools.partial(advance_together, on_cpu, firsts, counts, functools.partial(cpu.launch, threads))
    if persistent := [engine for engine in engines if isinstance(engine, cuda_persistent.PersistentEngine)]:
        return functools.partial(advance_together, persistent, firsts, counts, cuda_persistent.launch)
    (engine,) = engines
    finish = engine.begin(firsts[0], counts[0], should_stop)
    return lambda: [finish()]


def choose(
    gan: GAN,
    rows: Minibatches,
    config: TrainConfig,
    logits_per_batch: int,
    memory_is_shared: bool = False,
    ranks: Ranks | None = None,
) -> tuple[Engine, str]:
    """The engine of a run and the reason: the compiled one of the networks' device where it can run this, else eager.

    Args:
        logits_per_batch: logits of a minibatch.
        memory_is_shared: other runs hold memory for a while, so that want of memory is no reason for the eager engine.
        ranks: the processes that share each batch, which the eager engine alone can.

    Raises:
        ValueError: config asks for what no engine here does.
        torch.OutOfMemoryError: with memory_is_shared.
    """
    if config.engine == "eager":
        if config.precision != "fp32":
            raise Invalid("train").value(
                "config.precision", f"must be 'fp32' for the eager engine, got {config.precision!r}"
            )
        return EagerEngine(gan, rows, config, logits_per_batch, ranks), "config.engine is 'eager'"
    try:
        if ranks is not None and ranks.size > 1:
            raise UnsupportedByEngine(f"{ranks.size} processes share each batch")
        return compiled_engine(gan, rows, config)
    except UnsupportedByEngine as why:
        if memory_is_shared and isinstance(why.__cause__, torch.OutOfMemoryError):
            raise why.__cause__ from None
        reason = str(why)
    if config.engine != "auto":
        raise Invalid("train").value(
            "config.engine", f"must be 'auto' or 'eager' here, got {config.engine!r}: {reason}"
        )
    if config.precision != "fp32":
        raise Invalid("train").value("config.precision", f"must be 'fp32' here, got {config.precision!r}: {reason}")
    return EagerEngine(gan, rows, config, logits_per_batch, ranks), reason


def compiled_engine(gan: GAN, rows: Minibatches, config: TrainConfig) -> tuple[Engine, str]:
    """The compiled engine that config.engine names, or that is for the networks' device, and the reason.

    Raises:
        UnsupportedByEngine: with the reason, where it cannot run this.
    """
    chosen = f"config.engine is {config.engine!r}"
    if config.engine == "cuda-graph":
        return GraphEngine(gan, rows, config), chosen
    if config.engine == "cuda-persistent":
        persistent = PersistentEngine(gan, rows, config)
        return persistent, f"{chosen}; {persistent.details}"
    if config.engine == "cpu" or gan.device.type == "cpu":
        engine = CpuEngine(gan, rows, config)
        return engine, f"{chosen if config.engine == 'cpu' else _SUPPORTED}{engine.details}"
    return cuda_engine(gan, rows, config)


def cuda_engine(gan: GAN, rows: Minibatches, config: TrainConfig) -> tuple[PersistentEngine | GraphEngine, str]:
    """The faster of the two CUDA engines by the cost model, and the reason.

    What the persistent kernel does not support runs in the CUDA-graph engine, which supports every plan.

    Raises:
        UnsupportedByEngine: with the reason, where neither can run this.
    """
    plan.check_config(gan, config)
    reason = cuda_persistent.obstacle(gan.device)
    if reason is None:
        kernel, reason = cost_model.choose(gan, config, cuda_persistent.limits_of(gan.device))
        if kernel:
            try:
                engine = PersistentEngine(gan, rows, config)
            except UnsupportedByEngine as why:
                reason = str(why)
            else:
                return engine, f"{_SUPPORTED}; {reason}; {engine.details}"
    return GraphEngine(gan, rows, config), f"{_SUPPORTED}; {reason}"
