"""Lower bounds of a device: launches, barriers, copies, products, synchronisations; measured in the same run.

All but the waits are slopes: the time of many less the time of few, each with one wait at its end, over how many more
they were; the median of some repeats. So neither the wait nor whatever begins a series counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgan import _probes
from fastgan.apps.bench.products import products_in

REPEATS = 9
COPY_BYTES = 1 << 30
SIDE = 8192  # of the matrices
CLUSTERS = (2, 4, 8)  # blocks; from Hopper on
THREADS = 256  # of a block, as in csrc/cuda/device.cuh
_PRODUCTS = {"ieee": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


class Device(Protocol):
    """The operations whose latencies are measured."""

    @property
    def clusters(self) -> tuple[int, ...]:
        """Blocks of the clusters that are tried."""

    def wait(self) -> None:
        """Until all that was queued has been done."""

    def fetch(self) -> None:
        """Bring a number to the host, which waits for it."""

    def launch(self, count: int) -> None:
        """Queue so many empty kernels, one after another."""

    def captured(self, count: int) -> Callable[[], None]:
        """A function that queues a graph of so many empty kernels."""

    def barriers(self, blocks: int, barriers: int) -> None:
        """Queue a kernel that passes so many barriers of a cluster of blocks; of one block where `blocks` is 0."""


class Cuda:
    """The current GPU, through csrc/cuda/lower_bounds.cu."""

    def __init__(self) -> None:
        self.clusters: tuple[int, ...] = CLUSTERS if torch.cuda.get_device_capability()[0] >= 9 else ()
        self._numbers = torch.zeros(max(CLUSTERS) * THREADS, dtype=torch.int32, device="cuda")

    def wait(self) -> None:
        torch.cuda.synchronize()

    def fetch(self) -> None:
        self._numbers[:1].cpu()

    def launch(self, count: int) -> None:
        _probes.launch_empty(self._numbers, count)

    def captured(self, count: int) -> Callable[[], None]:
        self.launch(1)  # what is loaded at first use cannot be captured
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.launch(count)
        replay: Callable[[], None] = graph.replay
        return replay

    def barriers(self, blocks: int, barriers: int) -> None:
        _probes.launch_barriers(self._numbers, blocks, barriers)


def seconds(run: Callable[[], object], wait: Callable[[], object]) -> float:
    """The seconds of one run, from an idle device to its end."""
    wait()
    started = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - started


def slope(run: Callable[[int], object], wait: Callable[[], object], few: int, many: int) -> float:
    """Seconds of one more; the first run of each length does not count."""
    for count in (few, many):
        run(count)
    found = [
        (seconds(lambda: run(many), wait) - seconds(lambda: run(few), wait)) / (many - few) for _ in range(REPEATS)
    ]
    return statistics.median(found)


def latencies(device: Device) -> dict[str, Any]:
    """Seconds of a launch, of a graph's node, of a barrier, of a wait."""
    graphs = {count: device.captured(count) for count in (100, 1000)}
    barriers = {
        blocks: slope(lambda n, of=blocks: device.barriers(of, n), device.wait, 1000, 21_000)  # type: ignore[misc]
        for blocks in (0, *device.clusters)
    }
    return {
        "launch_s": slope(device.launch, device.wait, 100, 1100),
        "graph_node_s": slope(lambda count: graphs[count](), device.wait, 100, 1000),
        "block_barrier_s": barriers.pop(0),
        "cluster_barrier_s": {str(blocks): s for blocks, s in barriers.items()},
        "launch_and_wait_s": _median(lambda: device.launch(1), device.wait),
        "fetch_s": _median(device.fetch, device.wait),
    }


def _median(run: Callable[[], object], wait: Callable[[], object]) -> float:
    return statistics.median(seconds(run, wait) for _ in range(10 * REPEATS))


def throughputs(device: str, wait: Callable[[], object], copy_bytes: int, side: int) -> dict[str, Any]:
    """Bytes a second that a copy reads and writes, operations a second of a square product in each precision."""
    rates = {}
    for precision, dtype in _PRODUCTS.items():
        a, b = torch.randn(2, side, side, device=device).to(dtype)  # never zeros: they are faster
        with products_in(precision):
            rates[precision] = 2.0 * side**3 / slope(_repeated(torch.mm, a, b, out=torch.empty_like(a)), wait, 1, 4)
    source, target = torch.randn(2, copy_bytes // 4, device=device)
    copy = slope(_repeated(target.copy_, source), wait, 2, 12)
    return {"copy_bytes_per_s": 2.0 * copy_bytes / copy, "products_per_s": rates}


def _repeated(call: Callable[..., object], *arguments: Tensor, **options: Tensor) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            call(*arguments, **options)

    return run


def measure(device: str, copy_bytes: int = COPY_BYTES, side: int = SIDE) -> Iterator[dict[str, Any]]:
    """The lower bounds of a device: first the throughputs, which rows need, then, on a GPU, those and the latencies."""
    if device != "cuda":
        yield throughputs(device, lambda: None, copy_bytes, side)
        return
    found = throughputs(device, torch.cuda.synchronize, copy_bytes, side)
    yield found
    yield found | latencies(Cuda())


def rate(bounds: Mapping[str, Any], precision: str) -> float:
    """Operations a second of the whole device at this precision.

    fp32 asks for results of that accuracy: by plain multiply-adds, or by three products in tf32.
    """
    rates: Mapping[str, float] = bounds["products_per_s"]
    return max(rates["ieee"], rates["tf32"] / 3) if precision == "fp32" else rates[precision]
