"""The graph engine: iterations captured once as a CUDA graph of library products and fused kernels, and replayed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch

from fastgan import backend, cuda
from fastgan.models import GAN
from fastgan.training import plan
from fastgan.training.config import TrainConfig
from fastgan.training.fused import METRICS, FusedEngine
from fastgan.training.graph_iteration import CAPACITY, MOST, Iteration
from fastgan.training.graph_layers import Machine
from fastgan.training.rows import Rows

_SIZES = (MOST, 10, 1)  # iterations a graph: launching one costs the host about as much whatever its size


class CudaMachine(Machine):
    """Runs an iteration's calls on a GPU: products by cuBLAS, launches by the core, replays on the current stream.

    Calls are made and captured on a stream of its own: cuBLAS keeps its workspace by stream, so that a first run puts
    it where no graph owns it, and `torch.cuda.graph` alone would capture on the device that it saw first.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.matrix_units = cuda._has_matrix_units(device)
        self._anything = torch.empty(0, device=device)
        self._stream = torch.cuda.Stream(device)

    def launch(self, entry: str, *arguments: object) -> None:
        """An entry of csrc/cuda/entries.h."""
        cuda.launch(self._anything, entry, *arguments)

    def size(self, entry: str, *numbers: int) -> int:
        """How much scratch an entry needs."""
        return int(getattr(cuda.native, f"cuda_{entry}")(*numbers))

    def run(self, body: Callable[[], None]) -> None:
        """Make the calls of `body` now, where they will be captured."""
        with self._here():
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                body()
            current.wait_stream(self._stream)

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """What replays the calls of `body`, none of which run now. It has a memory pool of its own.

        Raises:
            RuntimeError: CUDA did not capture them.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            # A capture that fails leaves its stream the current one: the stream before is set again here.
            with self._here(), torch.cuda.stream(torch.cuda.current_stream()):  # noqa: SIM117
                with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                    body()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RuntimeError(f"train: the graph engine could not capture an iteration: {reason}") from error

        def replay() -> None:
            with self._here():
                graph.replay()

        return replay

    def _here(self) -> torch.cuda.device:
        return torch.cuda.device(self.device)


class GraphEngine(FusedEngine):
    """Runs a plan as graphs of whole iterations; the host waits for the device between calls, to fetch the metrics.

    Args:
        machine: runs the calls; None: the GPU on which the networks are.

    Raises:
        plan.Inexpressible: with the reason, where the plan cannot say it or the memory does not suffice.
    """

    name = "graph"
    members_a_launch = 1

    def __init__(self, gan: GAN, rows: Rows, config: TrainConfig, machine: Machine | None = None) -> None:
        if machine is None and (why := backend.why_not("mlp", "cuda", gan.dtype)) is not None:
            raise plan.Inexpressible(why)
        self.machine = machine or CudaMachine(gan.device)
        self._iteration: Iteration | None = None
        self._graphs: dict[int, Callable[[], None]] = {}  # by how many iterations they have
        self._cold = True
        try:
            super().__init__(gan, rows, config)
        except torch.OutOfMemoryError as error:
            raise plan.Inexpressible(f"the graph engine's memory does not suffice: {error}") from None

    def check_device(self) -> None:
        """Refuse what this engine cannot run where the networks are."""
        if self.gan.device != self.machine.device:
            raise plan.Inexpressible(f"the networks are on {self.gan.device}; this engine is built for CUDA")
        if self.config.precision in ("tf32", "bf16") and not self.machine.matrix_units:
            raise plan.Inexpressible(
                f"config.precision is {self.config.precision!r}, which takes compute capability 8.0 or later"
            )

    def prepare(self) -> Iteration:
        """The iteration and its buffers. Modes, parameters and their places may have changed since the last call."""
        if self.described_anew() or self._iteration is None:
            self._iteration = None  # its memory first
            self._graphs.clear()
            self._cold = True
            parts = self._optimizers, self.descriptions, self.data, self.machine
            self._iteration = Iteration(self.gan, self._described, *parts)
        return self._iteration

    def advance(self, first: int, count: int, should_stop: Callable[[], bool]) -> np.ndarray:
        """Run iterations first .. first+count (from 0), fewer if asked to stop.

        Returns:
            float64 array (iterations, 6): loss_d, loss_g, d_real, d_fake, accuracy_real, accuracy_fake.
        """
        try:
            iteration = self.prepare()
        except plan.Inexpressible as why:  # a mode, a hook or a tensor that changed between two calls
            raise RuntimeError(f"train: the graph engine cannot go on with what was changed meanwhile: {why}") from None
        count = min(count, CAPACITY)
        draws, updates = self._numbers(first, count)
        made = self._updates_done("generator"), self._updates_done("discriminator")
        iteration.clock.copy_(torch.tensor([first, updates[0] - made[0], draws[0] - made[1], 0]))
        done = self._queue(iteration, count, should_stop)
        block = iteration.block.cpu()  # the host waits
        skipped = block[1:3].view(torch.int64).tolist()
        draws, updates = self._numbers(first, done)
        self.done(first, done, (updates[-1] + 1 - skipped[0], draws[-1] + 1 - skipped[1]))
        table: np.ndarray = block[4:].view(CAPACITY, METRICS).numpy()
        return table[np.arange(first, first + done) % CAPACITY]

    def _queue(self, iteration: Iteration, count: int, should_stop: Callable[[], bool]) -> int:
        """Queue iterations; returns how many. The first runs uncaptured: libraries set themselves up at first use."""
        done = 0
        if self._cold:
            with products_in(self.config.precision):
                self.machine.run(functools.partial(iteration.run, 1))
            self._cold, done = False, 1
        for size in _SIZES:
            while done + size <= count and not (done and should_stop()):
                if size not in self._graphs:
                    with products_in(self.config.precision):
                        self._graphs[size] = self.machine.capture(functools.partial(iteration.run, size))
                self._graphs[size]()
                done += size
        return done


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Products of floats in TF32 for "tf32", else exact, whatever torch's switch says: a graph keeps what was captured.

    Afterwards the switch is as it was. Products of bfloat16 do not go by it.
    """
    switch = torch.backends.cuda.matmul
    # The older of the switches, where it is the only one; elsewhere cuBLAS goes by the newer, which both of them set.
    newer = hasattr(switch, "fp32_precision")
    name, tf32, exact = ("fp32_precision", "tf32", "ieee") if newer else ("allow_tf32", True, False)
    before = getattr(switch, name)
    if (before == tf32) == (precision == "tf32"):
        yield
        return
    setattr(switch, name, tf32 if precision == "tf32" else exact)
    try:
        yield
    finally:
        setattr(switch, name, before)
