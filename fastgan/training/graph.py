"""The graph engine: iterations captured once as a CUDA graph of library products and fused kernels, and replayed."""

from __future__ import annotations

import contextlib
import functools
import itertools
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import backend, cuda
from fastgan.models import GAN
from fastgan.training import plan
from fastgan.training.config import TrainConfig
from fastgan.training.fused import METRICS, FusedEngine
from fastgan.training.graph_iteration import CAPACITY, MOST, Iteration
from fastgan.training.graph_layers import Machine
from fastgan.training.rows import Rows

_SIZES = (MOST, 10, 1)  # iterations a graph: launching one costs the host about as much whatever its size
_STREAMS = 8  # that a GPU takes work from at once, unless CUDA_DEVICE_MAX_CONNECTIONS says otherwise


def _in_graphs(count: int) -> int:
    return count - count % MOST if count > MOST else count


class CudaMachine(Machine):
    """Runs an iteration's calls on a GPU: products by cuBLAS, launches by the core, all on a stream of its own.

    So the machines of several members work side by side, and each gives the bits that it gives alone: nothing that one
    writes is another's. cuBLAS promises the same bits on streams that run together where each has a workspace of its
    own, which torch gives it: by stream, so a graph is captured and replayed on one.
    """

    _all: weakref.WeakSet[CudaMachine] = weakref.WeakSet()
    _streams: defaultdict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)  # that machines have had
    _stream: torch.cuda.Stream

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.matrix_units = cuda._has_matrix_units(device)
        self._anything = torch.empty(0, device=device)
        # torch hands its 32 streams out in turn, whoever still has one: two machines on one would not run together.
        # It keeps the workspaces of each for ever, so one that a machine has had comes before another.
        taken, had = {machine._stream for machine in self._all}, self._streams[device]
        streams = itertools.chain(had, (torch.cuda.Stream(device) for _ in range(32)))
        self._stream = next((stream for stream in streams if stream not in taken), None) or torch.cuda.Stream(device)
        if self._stream not in had:
            had.append(self._stream)
        self._all.add(self)
        self.run(self._make_workspaces)

    def _make_workspaces(self) -> None:
        """A graph must not own them, and who has no room for them shall know before an iteration is halfway.

        Products with a bias may have one of their own: cublasLt's, which torch takes from two rows and columns on.
        """
        out, a, b = torch.zeros(3, 2, 2, device=self.device)
        self.product(out, a, b)
        self.product(out, a, b, bias=a[0])

    def launch(self, entry: str, *arguments: object) -> None:
        """An entry of csrc/cuda/entries.h."""
        cuda.launch(self._anything, entry, *arguments)

    def size(self, entry: str, *numbers: int) -> int:
        """How much scratch an entry needs."""
        return int(getattr(cuda.native, f"cuda_{entry}")(*numbers))

    def fork(self) -> None:
        """Calls from here on come after what the current stream has been given, and beside what it is given next."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def join(self) -> None:
        """What the current stream is given from here on comes after all calls."""
        torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def run(self, body: Callable[[], object]) -> None:
        """Make the calls of `body` now."""
        with torch.cuda.stream(self._stream):
            body()

    def fetch(self, x: Tensor) -> Tensor:
        """A copy for the host, which waits for all calls."""
        with torch.cuda.stream(self._stream):
            return x.cpu()

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """What replays the calls of `body`, none of which run now. It has a memory pool of its own.

        torch waits for the whole device before it begins; from there on nothing of `body` waits, so the machines beside
        this one may be at work.

        Raises:
            RuntimeError: CUDA did not capture them, or later replay them. torch.OutOfMemoryError: for want of memory.
        """
        graph, reason = torch.cuda.CUDAGraph(), ""
        try:
            # The stream before is set again out here: a capture that fails leaves its own the current one, and
            # `torch.cuda.graph` alone would capture on the device that it saw first.
            with torch.cuda.stream(self._stream):  # noqa: SIM117
                with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                    try:
                        body()
                    except RuntimeError as error:
                        reason = str(error)  # the end of the capture will raise another, which does not say it
                        raise
        except RuntimeError as error:
            raise _failure("capture", reason or str(error)) from error

        def replay() -> None:
            try:
                self.run(graph.replay)
            except RuntimeError as error:
                raise _failure("replay", str(error)) from error

        return replay


def _failure(to: str, reason: str) -> RuntimeError:
    """A torch.OutOfMemoryError for want of memory, whether torch or CUDA says so."""
    reason = reason.splitlines()[0]
    kind = torch.OutOfMemoryError if "out of memory" in reason else RuntimeError
    return kind(f"train: the graph engine could not {to} an iteration: {reason}")


class GraphEngine(FusedEngine):
    """Runs a plan as graphs of whole iterations; the host waits for the device when it fetches the metrics of a call.

    Such calls of several engines may be under way at once.

    Args:
        machine: runs the calls; None: the GPU on which the networks are.

    Raises:
        plan.Inexpressible: with the reason, where the plan cannot say it or the memory does not suffice.
    """

    name = "graph"
    members_a_launch = 1
    calls_at_once = _STREAMS

    def __init__(self, gan: GAN, rows: Rows, config: TrainConfig, machine: Machine | None = None) -> None:
        if machine is None and (why := backend.why_not("mlp", "cuda", gan.dtype)) is not None:
            raise plan.Inexpressible(why)
        self._iteration: Iteration | None = None
        self._graphs: dict[int, Callable[[], None]] = {}  # by how many iterations they have
        self._cold = True
        try:
            self.machine = machine or CudaMachine(gan.device)
            super().__init__(gan, rows, config)
        except torch.OutOfMemoryError as error:
            raise plan.Inexpressible(f"the graph engine's memory does not suffice: {error}") from error

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
            self._give_back()
            parts = self._optimizers, self.descriptions, self.data, self.machine
            self._iteration = Iteration(self.gan, self._described, *parts)
        return self._iteration

    def _give_back(self) -> None:
        """The memory that was made for the iteration."""
        self._iteration = None
        self._graphs.clear()
        self._cold = True

    def begin(self, first: int, count: int, should_stop: Callable[[], bool]) -> Callable[[], np.ndarray]:
        """Queue iterations first .. first+count (from 0). Other engines are waited for only where a graph is captured.

        They are fewer if asked to stop, and where there are more than the largest graph has, whole graphs of that size.

        Returns:
            What waits for them and gives their metrics, as of `advance`. Until then nobody may touch the networks.

        Raises:
            torch.OutOfMemoryError: there is no room for buffers or graphs; nothing was queued, and all are given back.
        """
        try:
            iteration = self.prepare()
            count = _in_graphs(min(count, CAPACITY))
            draws, updates = self._numbers(first, count)
            made = self._updates_done("generator"), self._updates_done("discriminator")
            clock = torch.tensor([first, updates[0] - made[0], draws[0] - made[1], 0])
            self.machine.fork()
            self.machine.run(lambda: iteration.clock.copy_(clock))
            done = self._queue(iteration, count, should_stop)
        except plan.Inexpressible as why:  # a mode, a hook or a tensor that changed between two calls
            raise RuntimeError(f"train: the graph engine cannot go on with what was changed meanwhile: {why}") from None
        except BaseException as error:
            self.machine.join()  # what was queued is still at work on the networks
            if isinstance(error, torch.OutOfMemoryError):
                self._give_back()
            raise
        return functools.partial(self._finish, iteration, first, done)

    def _finish(self, iteration: Iteration, first: int, done: int) -> np.ndarray:
        block = self.machine.fetch(iteration.block)
        skipped = block[1:3].view(torch.int64).tolist()
        draws, updates = self._numbers(first, done)
        self.done(first, done, (updates[-1] + 1 - skipped[0], draws[-1] + 1 - skipped[1]))
        table: np.ndarray = block[4:].view(CAPACITY, METRICS).numpy()
        return table[np.arange(first, first + done) % CAPACITY]

    def _queue(self, iteration: Iteration, count: int, should_stop: Callable[[], bool]) -> int:
        """Queue iterations; returns how many. The first runs uncaptured: libraries set themselves up at first use."""
        done = 0
        if self._cold:
            self._run_uncaptured(iteration)
            self._cold, done = False, 1
        for size in _SIZES:
            while done + size <= count and not (done and should_stop()):
                try:
                    self._graph_of(size, iteration)()
                except torch.OutOfMemoryError:
                    if not done:
                        raise
                    return done  # the next call will say so
                done += size
        return done

    def _run_uncaptured(self, iteration: Iteration) -> None:
        try:
            with products_in(self.config.precision):
                self.machine.run(functools.partial(iteration.run, 1))
        except torch.OutOfMemoryError as error:  # halfway through: it cannot be tried again
            raise RuntimeError(f"train: the graph engine ran out of memory within an iteration: {error}") from error

    def _graph_of(self, size: int, iteration: Iteration) -> Callable[[], None]:
        if size not in self._graphs:
            with products_in(self.config.precision):
                self._graphs[size] = self.machine.capture(functools.partial(iteration.run, size))
        return self._graphs[size]


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Products of floats in TF32 for "tf32", else exact, whatever torch's switch says: a graph keeps what was captured.

    Afterwards the switch is as it was. Products of bfloat16 do not go by it.
    """
    switch: Any = torch.backends.cuda.matmul
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
        put_back(switch, before) if newer else setattr(switch, name, before)


def put_back(switch: Any, before: str) -> None:
    """Set one of torch's switches for float32 to what it was: to follow the one above it, where that says the same."""
    switch.fp32_precision = "none"
    if switch.fp32_precision != before:
        switch.fp32_precision = before
