"""The host's work during training on a GPU: launches, synchronisations and time, counted by torch's profiler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cudaGraphLaunch", "cuLaunchKernel", "cuLaunchKernelEx")
COPIES = ("cudaMemcpyAsync", "cudaMemcpy", "cudaMemsetAsync")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


MORE = 3  # calls of the longer run
CALLS = 1 + MORE


class Seen(NamedTuple):
    """Of some calls: how many of each kind, and the seconds in which the host neither waited nor copied.

    A copy to memory that is not pinned waits as well.
    """

    launches: int
    copies: int
    waits: int
    host_s: float


def profiled(run: Callable[[], object]) -> Seen:
    """Run under the profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        took = time.perf_counter() - started
    return tally(profiler.key_averages(), took)


def tally(events: Iterable[Any], took: float) -> Seen:
    """The counts in the profiler's averages of a run that took so many seconds."""
    count, waited = dict.fromkeys((*LAUNCHES, *COPIES, *WAITS), 0), 0.0
    for event in events:
        if event.key in count:
            count[event.key] += event.count
        if event.key in (*COPIES, *WAITS):
            waited += event.cpu_time_total * 1e-6
    launches, copies, waits = (sum(count[name] for name in names) for names in (LAUNCHES, COPIES, WAITS))
    return Seen(launches, copies, waits, took - waited)


def per_iteration(
    advance: Callable[[], object], iterations: int, profiled: Callable[[Callable[[], object]], Seen] = profiled
) -> dict[str, float]:
    """Launches, copies and waits in 100 iterations, and seconds of the host in one.

    The difference between MORE calls and one: the profiler waits too, at its end.

    Args:
        advance: trains so many iterations.
        iterations: of a call.
        profiled: counts what a run does.

    Raises:
        RuntimeError: the profiler saw no launch, so what it counted means nothing.
    """
    few = profiled(advance)
    many = profiled(lambda: [advance() for _ in range(MORE)])
    if many.launches <= few.launches:
        raise RuntimeError(f"torch's profiler saw {few.launches} launches in one call and {many.launches} in {MORE}")
    launches, copies, waits, host_s = ((b - a) / ((MORE - 1) * iterations) for a, b in zip(few, many, strict=True))
    return {
        "launches in 100": 100 * launches,
        "copies in 100": 100 * copies,
        "waits in 100": 100 * waits,
        "host_s": max(host_s, 0.0),
    }
