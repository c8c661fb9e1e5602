"""The CPU engine: whole iterations in one call of the compiled core, without Python in between."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from fastgan import _backend, _kernels
from fastgan.models import GAN
from fastgan.training.config import TrainConfig
from fastgan.training.engines import plan
from fastgan.training.engines.state import METRICS, HostState, advance_together
from fastgan.training.rows import Minibatches

_A_THREAD = 4  # members of a call for each thread, so that a thread whose core is busy can take fewer of them


class CpuEngine:
    """Runs a plan of the networks; parameters and optimiser states are updated in place.

    Raises:
        plan.UnsupportedByEngine: with the reason, where the compiled core cannot run this.
    """

    name = "cpu"
    calls_at_once = 1
    threads: int | None = None

    def __init__(self, gan: GAN, rows: Minibatches, config: TrainConfig) -> None:
        if _backend.native is None:
            raise plan.UnsupportedByEngine(_backend.why_not("mlp", "cpu", gan.dtype) or "")
        plan.check_config(gan, config)
        if gan.device.type != "cpu":
            raise plan.UnsupportedByEngine(f"the networks are on {gan.device}; this engine is built for the CPU")
        if config.precision == "tf32" and not _kernels.native.multiplies_tf32():
            raise plan.UnsupportedByEngine(
                "config.precision is 'tf32', which is for CUDA and, on a CPU, for AMX: "
                + _kernels.native.bf16_products()["amx"]
            )
        if config.precision == "bf16" and not _kernels.native.multiplies_bf16():
            raise plan.UnsupportedByEngine(
                "config.precision is 'bf16', which is for AMX and AVX512-BF16: "
                + _kernels.native.bf16_products()["avx512_bf16"]
            )
        self.state = HostState(gan, rows, config)
        self.state.compiled()
        self.schedulers, self.as_built = self.state.schedulers, self.state.as_built

    @classmethod
    def members_a_call(cls, threads: int) -> int:
        """A few members for each thread."""
        return _A_THREAD * threads

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers, up to date; they may be read and changed between two calls."""
        return self.state.optimizers

    @property
    def details(self) -> str:
        """What multiplies at "bf16" and "tf32"; fp32's products do where they are faster, as in small networks."""
        if self.state.config.precision not in ("bf16", "tf32"):
            return ""
        g, d = self.state.compiled().products()
        faster = ", where fp32 is faster" if "fp32" in (g, d) else ""
        return f"; products of G by {g}, of D by {d}{faster}"

    def write_back(self) -> None:
        """Bring parameters, optimiser states and the moving average up to date; the next call reads them."""
        self.state.write_back()

    def begin(self, first: int, count: int, should_stop: Callable[[], bool]) -> Callable[[], np.ndarray]:
        """A function that runs iterations first .. first+count (from 0) on all threads and returns their metrics."""
        run = functools.partial(launch, torch.get_num_threads())
        return lambda: advance_together([self], [first], [count], run)[0]


def launch(
    threads: int,
    states: Sequence[HostState],
    plans: list[_kernels.native.CompiledPlan],
    firsts: list[int],
    counts: list[int],
) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Iterations of each GAN, of one alone on all threads, of many on a thread each."""
    tables = [np.empty((count, METRICS)) for count in counts]
    jobs = zip(states, firsts, tables, strict=True)
    calls = [state.call(first, len(table), table.ctypes.data) for state, first, table in jobs]
    return tables, _kernels.native.advance(plans, calls, threads)
