"""The CUDA-graph engine: iterations captured once as a CUDA graph of products and fused kernels, and replayed."""

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

from fastgan import _backend, _cuda
from fastgan._errors import Invalid
from fastgan._torch_settings import put_back
from fastgan.models import GAN
from fastgan.training.config import TrainConfig
from fastgan.training.engines import plan
from fastgan.training.engines.cuda_graph_iteration import CAPACITY, MOST, Iteration
from fastgan.training.engines.cuda_graph_layers import KernelLauncher
from fastgan.training.engines.state import METRICS, HostState
from fastgan.training.rows import Minibatches

_SIZES = (MOST, 10, 1)  # iterations a graph: launching one costs the host about as much whatever its size
_STREAMS = 8  # that a GPU takes work from at once, unless CUDA_DEVICE_MAX_CONNECTIONS says otherwise


def _in_graphs(count: int) -> int:
    return count - count % MOST if count > MOST else count


class CudaLauncher(KernelLauncher):
    """Runs an iteration's calls on a GPU: products by cuBLAS, launches by the core, all on a stream of its own.

    So the launchers of several members run concurrently, with the same bits as alone, because they share no memory.
    cuBLAS gives the same bits on concurrent streams if each has its own workspace; torch keeps one for each stream, so
    a graph is captured and replayed on one stream.
    """

    _all: weakref.WeakSet[CudaLauncher] = weakref.WeakSet()
    _streams: defaultdict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)  # that machines have had
    _stream: torch.cuda.Stream

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.tensor_cores = _cuda._has_tensor_cores(device)
        self._anything = torch.empty(0, device=device)
        # torch reuses its pool of 32 streams; two launchers on one stream would serialise. It never frees a stream's
        # workspaces, so a stream that a launcher has used is preferred.
        taken, had = {launcher._stream for launcher in self._all}, self._streams[device]
        streams = itertools.chain(had, (torch.cuda.Stream(device) for _ in range(32)))
        self._stream = next((stream for stream in streams if stream not in taken), None) or torch.cuda.Stream(device)
        if self._stream not in had:
            had.append(self._stream)
        self._all.add(self)
        self.run(self._make_workspaces)

    def _make_workspaces(self) -> None:
        """Allocates cuBLAS's workspaces before capture: a graph must not own them, and an out-of-memory error must come
        before an iteration.

        Products with a bias may have one of their own: cublasLt's, which torch takes from two rows and columns on.
        """
        out, a, b = torch.zeros(3, 2, 2, device=self.device)
        self.product(out, a, b)
        self.product(out, a, b, bias=a[0])

    def launch(self, entry: str, *arguments: object) -> None:
        """An entry of csrc/cuda/entries.h."""
        _cuda.launch(self._anything, entry, *arguments)

    def size(self, entry: str, *numbers: int) -> int:
        """The size of an entry's scratch."""
        return int(getattr(_cuda.native, f"cuda_{entry}")(*numbers))

    def fork(self) -> None:
        """Later calls run after the work queued on the current stream, and concurrently with work queued after this."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def join(self) -> None:
        """Work queued on the current stream after this runs after all calls."""
        torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def run(self, body: Callable[[], object]) -> None:
        """Run the calls of `body` now."""
        with torch.cuda.stream(self._stream):
            body()

    def fetch(self, x: Tensor) -> Tensor:
        """A copy on the host; waits for all calls."""
        with torch.cuda.stream(self._stream):
            return x.cpu()

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """A function that replays the calls of `body`, which do not run now. The graph has its own memory pool.

        torch synchronises the device before the capture; `body` does not synchronise, so other launchers may run.

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
    """The error to raise: torch.OutOfMemoryError if memory was too small, as torch or CUDA reports it."""
    reason = reason.splitlines()[0]
    kind = torch.OutOfMemoryError if "out of memory" in reason else RuntimeError
    return kind(f"train: the cuda-graph engine could not {to} an iteration: {reason}")


class GraphEngine:
    """Runs a plan as graphs of whole iterations; the host waits for the device when it fetches the metrics of a call.

    Such calls of several engines may be under way at once.

    Args:
        launcher: runs the calls; None: the GPU on which the networks are.

    Raises:
        plan.UnsupportedByEngine: with the reason, where the plan cannot say it or the memory does not suffice.
    """

    name = "cuda-graph"
    calls_at_once = _STREAMS
    threads: int | None = None
    details = ""  # there is nothing that it chooses

    def __init__(
        self, gan: GAN, rows: Minibatches, config: TrainConfig, launcher: KernelLauncher | None = None
    ) -> None:
        if launcher is None and (why := _backend.why_not("mlp", "cuda", gan.dtype)) is not None:
            raise plan.UnsupportedByEngine(why)
        if launcher is None and gan.device.type != "cuda":
            raise plan.UnsupportedByEngine(f"the networks are on {gan.device}; this engine is built for CUDA")
        self._iteration: Iteration | None = None
        self._graphs: dict[int, Callable[[], None]] = {}  # by how many iterations they have
        self._cold = True
        try:
            self.launcher = launcher or CudaLauncher(gan.device)
            plan.check_config(gan, config)
            _check_device(gan, config, self.launcher)
            self.state = HostState(gan, rows, config)
            self.prepare()
            self.schedulers, self.as_built = self.state.schedulers, self.state.as_built
        except torch.OutOfMemoryError as error:
            raise plan.UnsupportedByEngine(f"the cuda-graph engine's memory does not suffice: {error}") from error

    @classmethod
    def members_a_call(cls, threads: int) -> int:
        """One: each engine has its own graphs."""
        return 1

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers, up to date; they may be read and changed between two calls."""
        return self.state.optimizers

    def write_back(self) -> None:
        """Does nothing: an iteration changes parameters and states in place."""

    def prepare(self) -> Iteration:
        """The iteration and its buffers. Modes, parameters and their places may have changed since the last call."""
        state = self.state
        if state.described_anew() or self._iteration is None:
            self._give_back()
            table = None if state.rows.sampled is None else plan.table_of(state.gan, state.rows.sampled)
            parts = state.updaters, state.data, state.labels, table, self.launcher
            described = state.description
            self._iteration = Iteration(state.gan, described["dtype"], described["plan"], *parts)
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
            A function that waits for them and returns their metrics, float64 (iterations, 6). Until then the networks
            must not be used.

        Raises:
            torch.OutOfMemoryError: there is no room for buffers or graphs; nothing was queued, and all are given back.
        """
        try:
            iteration = self.prepare()
            count = _in_graphs(min(count, CAPACITY))
            draws, updates = self.state.numbers(first, count)
            made = self.state.updates_done("generator"), self.state.updates_done("discriminator")
            call = self.state.call(first, count, 0)
            counter = torch.tensor([first, updates[0] - made[0], draws[0] - made[1], 0])
            self.launcher.fork()
            self.launcher.run(lambda: self._set(iteration, counter, call, updates[0], draws[0]))
            done = self._queue(iteration, count, should_stop)
        except plan.UnsupportedByEngine as why:  # a mode, a hook or a tensor that changed between two calls
            raise Invalid("train")(
                RuntimeError,
                "the cuda-graph engine",
                f"cannot continue, because the model changed during training: {why}",
            ) from None
        except BaseException as error:
            self.launcher.join()  # what was queued is still at work on the networks
            if isinstance(error, torch.OutOfMemoryError):
                self._give_back()
            raise
        return functools.partial(self._finish, iteration, first, done)

    @staticmethod
    def _set(iteration: Iteration, counter: Tensor, call: dict[str, Any], update: int, draw: int) -> None:
        """Write the values of this call to the device."""
        iteration.counter.copy_(counter)
        iteration.set_schedule("generator", update, call["generator_schedule"])
        iteration.set_schedule("discriminator", draw, call["discriminator_schedule"])

    def _finish(self, iteration: Iteration, first: int, done: int) -> np.ndarray:
        block = self.launcher.fetch(iteration.block)
        skipped = block[1:3].view(torch.int64).tolist()
        draws, updates = self.state.numbers(first, done)
        self.state.done(first, done, (updates[-1] + 1 - skipped[0], draws[-1] + 1 - skipped[1]))
        table: np.ndarray = block[4:].view(CAPACITY, METRICS).numpy()
        return table[np.arange(first, first + done) % CAPACITY]

    def _queue(self, iteration: Iteration, count: int, should_stop: Callable[[], bool]) -> int:
        """Queue iterations; returns how many. The first runs uncaptured: libraries initialise at first use."""
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
                    return done  # the next call raises it
                done += size
        return done

    def _run_uncaptured(self, iteration: Iteration) -> None:
        try:
            with products_in(self.state.config.precision):
                self.launcher.run(functools.partial(iteration.run, 1))
        except torch.OutOfMemoryError as error:  # halfway through: it cannot be tried again
            raise Invalid("train")(
                RuntimeError, f"the cuda-graph engine ran out of memory within an iteration: {error}"
            ) from error

    def _graph_of(self, size: int, iteration: Iteration) -> Callable[[], None]:
        if size not in self._graphs:
            with products_in(self.state.config.precision):
                self._graphs[size] = self.launcher.capture(functools.partial(iteration.run, size))
        return self._graphs[size]


def _check_device(gan: GAN, config: TrainConfig, launcher: KernelLauncher) -> None:
    if gan.device != launcher.device:
        raise plan.UnsupportedByEngine(f"the networks are on {gan.device}; this engine is built for CUDA")
    if config.precision in ("tf32", "bf16") and not launcher.tensor_cores:
        raise plan.UnsupportedByEngine(
            f"config.precision is {config.precision!r}, which takes compute capability 8.0 or later"
        )


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Products of floats in TF32 for "tf32", else exact, whatever torch's switch says: a graph keeps what was captured.

    Afterwards the switch is as it was. Products of bfloat16 do not go by it.
    """
    switch: Any = torch.backends.cuda.matmul
    # Older versions of torch have only `allow_tf32`. cuBLAS obeys `fp32_precision` in newer ones; both switches set it.
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
