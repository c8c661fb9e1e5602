"""fastgan's side: a plain `fastgan.train`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.apps.bench.workloads import BETAS, EPS, LEARNING_RATE, Draws, Workload
from fastgan.models import GAN
from fastgan.training import Adam, Callback, Run, TrainConfig, train

ENDLESS = 10**9


def config(workload: Workload, steps: int, **changes: Any) -> TrainConfig:
    """Algorithm 1 with the numbers all sides share."""
    adam = Adam(LEARNING_RATE, betas=BETAS, eps=EPS)
    return TrainConfig(**{"steps": steps, "batch_size": workload.batch, "optimizer": adam, **changes})


def change(before: dict[str, dict[str, Tensor]], after: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The change of each parameter, by "generator.<name>" or "discriminator.<name>"."""
    return {
        f"{network}.{name}": after[network][name].cpu() - start
        for network, tensors in before.items()
        for name, start in tensors.items()
        if name.rpartition(".")[2] in ("weight", "bias")
    }


def replay(workload: Workload, data: Tensor, draws: Draws, seed: int = 0, **changes: Any) -> dict[str, Tensor]:
    """The first iterations from the first weights of a seed: their losses, and what they changed."""
    gan = workload.gan(seed)
    result = train(gan, data, config(workload, len(draws), seed=seed, **changes))
    after = {"generator": gan.generator.state_dict(), "discriminator": gan.discriminator.state_dict()}
    losses = {name: torch.from_numpy(result.history[name]).float() for name in ("loss_d", "loss_g")}
    return losses | change(workload.weights(seed), after)


class LongRun(Callback):
    """One long call of `fastgan.train`, held between chunks so that others can be timed in turn.

    It trains on a thread of its own, which waits wherever a chunk ends; so what is timed is training under way, as in
    any run of more than a second: no set-up, but metrics, history and callbacks included.

    Args:
        gan, data, config: of the run.
        every: iterations of a chunk.
        threads: of PyTorch and the core.
        cpus: processors the run may use; None: any.
    """

    reads_networks = False

    def __init__(
        self, gan: GAN, data: Any, config: TrainConfig, every: int, threads: int = 1, cpus: Sequence[int] | None = None
    ) -> None:
        self.every = every
        self.engine = self.engine_reason = ""
        self._threads, self._cpus = threads, cpus
        self._go, self._held = threading.Semaphore(0), threading.Semaphore(0)
        self._closing = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._train, args=(gan, data, config), daemon=True)
        self._thread.start()
        self._wait()

    def advance(self) -> None:
        """Train one chunk."""
        self._go.release()
        self._wait()

    def close(self) -> None:
        """End the run."""
        self._closing = True
        self._go.release()
        self._thread.join()

    def on_start(self, run: Run) -> None:
        self.engine, self.engine_reason = run.engine, run.engine_reason
        self._hold(run)

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        if run.step % self.every == 0:
            self._hold(run)

    def _hold(self, run: Run) -> None:
        self._held.release()
        began = time.perf_counter()
        self._go.acquire()
        run.held += time.perf_counter() - began
        run.stop = self._closing

    def _wait(self) -> None:
        self._held.acquire()
        if self._error is not None:
            raise self._error

    def _train(self, gan: GAN, data: Any, config: TrainConfig) -> None:
        try:
            torch.set_num_threads(self._threads)
            if self._cpus is not None:
                os.sched_setaffinity(0, self._cpus)
            train(gan, data, config, callbacks=[self])
        except BaseException as error:  # raised in the thread that waits for the chunk
            self._error = error
            self._held.release()


def pace(workload: Workload, data: Tensor, seconds: float, **changes: Any) -> int:
    """Iterations that take about this long."""

    def took(steps: int) -> float:
        started = time.perf_counter()
        train(workload.gan(), data, config(workload, steps, **changes))
        return time.perf_counter() - started

    # On CUDA a first call of so many captures graphs of all sizes: the longer one costs what its iterations cost.
    return length(took, seconds, 128 if data.is_cuda else 2)


def length(took: Callable[[int], float], seconds: float, few: int) -> int:
    """How many more than `few` take about so long, by the slope between two lengths, so that no set-up counts."""
    short, many = took(few), 4 * few
    while (longer := took(many) - short) < max(min(seconds, 0.1) / 2, short / 4):
        many = int(many * min(64.0, max(2.0, seconds / max(longer, 1e-9))))
    return max(1, round(seconds * (many - few) / longer))
