"""One workload: every side built, checked and timed in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgan._probes import fma_peak
from fastgan._torch_settings import torch_threads
from fastgan.apps.bench import baselines_jax, baselines_torch, fastgan_side, flops, harness
from fastgan.apps.bench.workloads import Draws, Workload, draws

FASTGAN, BF16, ONE_THREAD = "fastgan", "bf16", "fastgan, 1 thread"
MATMUL, AUTOCAST = ("matmul", "compile-matmul"), ("autocast", "compile-autocast")  # torch's products in bf16
BASELINES = ("eager", "fused-adam", "compile", "jax", *MATMUL, *AUTOCAST)
CUDA_BASELINES = ("eager", "fused-adam", "compile", "graph", "jax", "vmap", "autocast", "compile-autocast")
COMPILED = ("compile", "graph", "compile-matmul", "compile-autocast")
IN_BF16 = (BF16, *MATMUL, *AUTOCAST)  # of the CPU, where a record has both precisions
SETUP_LIMIT = 300.0  # seconds
GRAPH = 100  # iterations of the CUDA-graph engine's largest graph
CHECKED_ITERATIONS = 5
LOSS_TOLERANCE = 1e-3  # of the check, for each iteration's losses
CHANGE_TOLERANCE = 2e-2  # for the change of a parameter, as a part of its norm
DISTURBED_RUNS, TIMES_ROUNDING = 2, 1.5  # runs that estimate the effect of rounding; its multiple that is allowed
FP32_TOLERANCE = harness.Tolerance(CHANGE_TOLERANCE, {"loss_d": LOSS_TOLERANCE, "loss_g": LOSS_TOLERANCE})
# bf16 has 8 bits: many entries of a gradient are lost in rounding, and Adam moves them all by the same length
BF16_TOLERANCE = harness.Tolerance(0.5, {"loss_d": 3e-2, "loss_g": 3e-2})
Say = Callable[[str], None]
PLAIN = (ImportError, RuntimeError, ValueError, TypeError, AttributeError, OSError, ArithmeticError)
LEFT_OUT = (*PLAIN, LookupError, AssertionError)


def in_short(error: Exception) -> str:
    """Why something is left out, in one line; with the error's type where the message alone is unclear."""
    text = " ".join(str(error).split())[:300]
    plain = text and isinstance(error, (*PLAIN, harness.ResultsDiffer))
    return text if plain else f"{type(error).__name__}: {text}".rstrip(": ")


class Contender(Protocol):
    """A baseline that has been set up."""

    @property
    def per_call(self) -> int: ...

    def replay(self, draws: Draws) -> dict[str, Tensor]: ...

    def run(self) -> None: ...


def build(baseline: str, workload: Workload, data: Tensor, settings: harness.Settings) -> Contender:
    """Set one baseline up."""
    if baseline == "jax":
        return baselines_jax.Jax(workload, data, settings.window_s)
    builders: dict[str, Callable[..., baselines_torch.Step]] = {
        "eager": baselines_torch.eager,
        "fused-adam": baselines_torch.eager_fused_adam,
        "compile": baselines_torch.compiled,
        "graph": baselines_torch.compiled,
        "matmul": baselines_torch.eager_matmul,
        "compile-matmul": baselines_torch.compiled_matmul,
        "autocast": baselines_torch.eager_autocast,
        "compile-autocast": baselines_torch.compiled_autocast,
    }
    return baselines_torch.Torch(workload, data, builders[baseline], settings.window_s, capture=baseline == "graph")


class Sides:
    """The sides of one workload as they come up, fastgan's first; those that cannot be measured, and why.

    Args:
        workload, settings: what is measured, and how.
        setup_limit: seconds a side may take to set up, compilation included.
        say: told what is done now.
        device: where all train.
    """

    def __init__(
        self, workload: Workload, settings: harness.Settings, setup_limit: float, say: Say, device: str = "cpu"
    ) -> None:
        self.workload, self.settings, self.setup_limit = workload, settings, setup_limit
        self.say: Say = lambda what: say(f"{workload.name}: {what}")
        self.data = workload.data(settings.seed).to(device)
        self.say("running it in float64")
        self.truth = baselines_torch.float64_run(workload, self.data, self.draws())
        self.tolerance = tolerance_of(workload, self.data, self.draws(), self.truth)
        self.runs: dict[str, fastgan_side.LongRun] = {}
        self.sides: list[harness.Side] = []
        self.setup_s: dict[str, float] = {}
        self.left_out: dict[str, str] = {}
        self.engine: dict[str, str] = {}
        self._open = contextlib.ExitStack()
        self._compiles = False

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(
        self,
        name: str,
        make: Callable[[], tuple[harness.Side, float]],
        left_out: tuple[type[Exception], ...] = LEFT_OUT,
    ) -> None:
        """Take a side in, or note why it cannot be: what it raises is among `left_out`."""
        self.say(f"setting up {name}")
        try:
            with deadline(self.setup_limit):
                side, seconds = make()
        except left_out as error:
            self.left_out[name] = in_short(error)
            return
        self.sides.append(side)
        self.setup_s[name] = seconds

    def fastgan(
        self,
        name: str,
        threads: int,
        cpus: Sequence[int] | None,
        tolerance: harness.Tolerance | None = None,
        **changes: Any,
    ) -> tuple[harness.Side, float]:
        """`fastgan.train`: its results, and a long run to be timed."""
        workload, started = self.workload, time.perf_counter()
        with torch_threads(threads):
            found = fastgan_side.replay(workload, self.data, self.draws(), **changes)
            seconds = time.perf_counter() - started
            every = fastgan_side.pace(workload, self.data, self.settings.window_s, **changes)
        if self.data.is_cuda and every > GRAPH:
            every -= every % GRAPH  # the rest would be launched in smaller graphs, window by window
        config = fastgan_side.config(workload, fastgan_side.ENDLESS, **changes)
        run = self.runs[name] = fastgan_side.LongRun(workload.gan(), self.data, config, every, threads, cpus)
        self._open.callback(run.close)
        self.engine[name] = f"{run.engine} ({run.engine_reason})"
        return self._side(name, run.advance, found, every, tolerance), seconds

    def baseline(self, name: str, tolerance: harness.Tolerance | None = None) -> tuple[harness.Side, float]:
        """A baseline: its results, from which its timed run continues."""
        started = time.perf_counter()
        if name in COMPILED and not self._compiles:  # once: it discards the compiled code of earlier sides
            torch.compiler.reset()  # a size compiled for itself is faster than one for all sizes
            self._compiles = True
        contender = build(name, self.workload, self.data, self.settings)
        found = contender.replay(self.draws())
        side = self._side(name, contender.run, found, contender.per_call, tolerance)
        return side, time.perf_counter() - started

    def _side(
        self,
        name: str,
        run: Callable[[], object],
        found: dict[str, Tensor],
        per_call: int,
        tolerance: harness.Tolerance | None,
    ) -> harness.Side:
        return harness.Side(name, run, lambda: found, per_call, tolerance, -(-self.workload.start // per_call))

    def compare(self, tolerance: harness.Tolerance) -> dict[str, Any]:
        """Check and time all sides that came up; what cannot be timed is left out too."""
        case, threads = self.workload.describe(), self.workload.threads
        record = harness.compare(case, self.sides, self.truth, tolerance, self.settings, threads)
        for name, seconds in self.setup_s.items():
            if name in record["sides"]:
                record["sides"][name]["first_call_s"] = seconds
        return record

    def draws(self) -> Draws:
        """The minibatches and the noise of all sides."""
        return draws(self.workload, self.data.cpu(), CHECKED_ITERATIONS, seed=0)


def measure(
    workload: Workload,
    baselines: Sequence[str],
    settings: harness.Settings,
    setup_limit: float = SETUP_LIMIT,
    say: Say = harness.progress,
) -> dict[str, Any]:
    """Check and time a workload.

    Args:
        workload: with `threads` threads.
        baselines: some of BASELINES.
        settings: how.
        setup_limit: seconds a side may take to set up.
        say: told what is done now.

    Returns:
        dict: harness.compare's record with rates and the share of the FMA peak.
    """
    threads = workload.threads
    with harness.pinned(threads) as cpus, Sides(workload, settings, setup_limit, say) as found:
        found.add(FASTGAN, lambda: found.fastgan(FASTGAN, threads, cpus), ())
        found.add(BF16, lambda: found.fastgan(BF16, threads, cpus, BF16_TOLERANCE, precision="bf16"))
        for name in baselines:
            tolerance = BF16_TOLERANCE if name in IN_BF16 else None
            found.add(name, lambda name=name, tolerance=tolerance: found.baseline(name, tolerance))  # type: ignore[misc]
        if threads > 1:
            found.add(ONE_THREAD, lambda: found.fastgan(ONE_THREAD, 1, cpus and cpus[:1]))
        found.say(f"timing {len(found.sides)} sides")
        peak_before = fma_peak(threads)
        record = found.compare(found.tolerance)
        if threads > 1 and cpus and FASTGAN in record["sides"]:
            record["busy"] = beside_a_busy_process(found, cpus)
        return {
            "workload": workload.name,
            "threads": threads,
            "batch": workload.batch,
            "cpus": cpus,
            "engine": found.engine,
            "every": {name: run.every for name, run in found.runs.items()},
            "left out": found.left_out,
            **rates(workload, record, best(peak_before, fma_peak(threads))),
            **record,
        }


def tolerance_of(
    workload: Workload, data: Tensor, draws: Draws, truth: Mapping[str, Tensor], seed: int = 0
) -> harness.Tolerance:
    """How far float32 sides may depart from a float64 run.

    A parameter's change by CHANGE_TOLERANCE, or by TIMES_ROUNDING what rounding alone does to it, where that is more:
    in wide networks some unit's sum is always within rounding of the kink of its ReLU.
    """
    norms = dict.fromkeys(truth, CHANGE_TOLERANCE)
    for number in range(DISTURBED_RUNS):
        found = baselines_torch.disturbed_run(workload, data, draws, seed, number)
        for name, value in truth.items():
            norms[name] = max(norms[name], TIMES_ROUNDING * harness.departure(found[name].double(), value.double()))
    norms = {name: norm for name, norm in norms.items() if norm > CHANGE_TOLERANCE}
    return dataclasses.replace(FP32_TOLERANCE, norms=norms)


def rates(workload: Workload, record: dict[str, Any], peak: dict[str, float]) -> dict[str, Any]:
    """Operations, GFLOP/s of each side, and its share of the FMA peak of its threads."""
    operations = flops.iteration(workload)
    rate = {name: operations / side["median_s"] / 1e9 for name, side in record["sides"].items()}
    cores = {name: 1 if name == ONE_THREAD else workload.threads for name in rate}
    limit = {name: peak.get("bf16" if name in IN_BF16 else "fp32") for name in rate}
    return {
        "operations": operations,
        "peak GFLOP/s a core": peak,
        "lower_bound_s": operations / (peak["fp32"] * 1e9 * workload.threads) if "fp32" in peak else None,
        "gflops": rate,
        "share_of_peak": {n: r / (cores[n] * top) for n, r in rate.items() if (top := limit[n])},
    }


def beside_a_busy_process(found: Sides, cpus: Sequence[int]) -> dict[str, Any]:
    """fastgan's side with all threads and with one, while another process keeps the last processor busy."""
    found.say("timing beside a busy process")
    mine = [side for side in found.sides if side.name in (FASTGAN, ONE_THREAD)]
    with busy(cpus[-1]):
        case = f"{found.workload.name} beside a busy process"
        return harness.compare(case, mine, found.truth, found.tolerance, found.settings, found.workload.threads)


def best(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    """The greater of two measurements of the peak: whatever disturbs one only lowers it."""
    return {name: max(value, b[name]) for name, value in a.items()}


@contextlib.contextmanager
def busy(cpu: int) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that is always busy, held on one processor."""
    code = f"import os\nos.sched_setaffinity(0, [{cpu}])\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it is running
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the body after so many seconds, where the main thread has signals."""
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError(f"it was not set up within {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, late)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    started = time.monotonic()
    try:
        yield
    finally:
        if left:  # another timer was running: it continues
            left = max(left - (time.monotonic() - started), 1e-3)
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, handler)
