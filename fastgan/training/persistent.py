"""The persistent engine: many iterations of many GANs in one launch, with the weights in shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import backend, kernels
from fastgan.models import GAN
from fastgan.training import plan
from fastgan.training.config import TrainConfig
from fastgan.training.cost_model import DeviceLimits, choose
from fastgan.training.fused import METRICS, FusedEngine
from fastgan.training.graph import GraphEngine
from fastgan.training.rows import Minibatches

_LARGEST_CLUSTER = 8
_MOST_NUMBERS = 1 << 27  # of metrics in one launch: 1 GB
_PRODUCTS = {
    "fp32": "products take three of tensor cores in tf32 each, as exact as float",
    "ieee": "products are plain multiplications and additions",
    "tf32": "products take tensor cores, factors rounded to tf32",
    "bf16": "products take tensor cores, factors rounded to bfloat16",
}


def cuda_engine(gan: GAN, rows: Minibatches, config: TrainConfig) -> FusedEngine:
    """Choose between the two CUDA engines, by the cost model.

    What the persistent kernel does not support runs in the graph engine, which supports every plan.

    Raises:
        plan.UnsupportedByEngine: with the reason, where neither can run this.
    """
    plan.check_config(gan, config)
    reason = why_not(gan.device)
    if reason is None:
        kernel, reason = choose(gan, config, limits_of(gan.device))
        if kernel:
            try:
                return PersistentEngine(gan, rows, config).chosen_for(reason)
            except plan.UnsupportedByEngine as why:
                reason = str(why)
    return GraphEngine(gan, rows, config).chosen_for(reason)


def limits_of(device: torch.device) -> DeviceLimits:
    """The limits of a device. Blocks can form clusters from Hopper on."""
    properties: Any = torch.cuda.get_device_properties(device)
    most = _LARGEST_CLUSTER if properties.major >= 9 else 1
    return DeviceLimits(properties.multi_processor_count, most, properties.shared_memory_per_block_optin)


def with_cluster(limits: DeviceLimits, engines: Sequence[FusedEngine]) -> DeviceLimits:
    """The room with the cluster that each of the GANs gets."""
    rows = min(engine.config.batch_size for engine in engines)
    return limits._replace(cluster=limits.blocks(rows, len(engines)))


def why_not(device: torch.device) -> str | None:
    """Why kernels cannot run there; None where they can."""
    if device.type != "cuda":
        return f"the networks are on {device}; this engine is built for CUDA"
    return backend.cuda_reason()


def has_tensor_cores(device: torch.device) -> bool:
    """Whether the device has tensor cores whose sums are float: from Ampere on."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


class PersistentEngine(FusedEngine):
    """Runs a plan of networks on a CUDA device, in place.

    One block of threads (or a cluster of them) keeps a GAN's weights in its shared memory for the whole launch;
    activations go to shared memory as far as they fit, the rest to the L2 cache. Products of float32
    networks run on tensor cores as `config.precision` says; where there are none, and in float64, they are plain.
    Metrics come back once a launch, which is the only time the host waits.

    Raises:
        plan.UnsupportedByEngine: with the reason, where the kernel cannot run this.
    """

    name = "cuda-persistent"
    members_a_launch = 8192

    def check_device(self) -> None:
        """Refuse what the kernel does not compute."""
        if (reason := why_not(self.gan.device)) is not None:
            raise plan.UnsupportedByEngine(reason)
        if self.config.precision in ("tf32", "bf16") and not has_tensor_cores(self.gan.device):
            raise plan.UnsupportedByEngine(
                f"config.precision is {self.config.precision!r}, which takes tensor cores (compute capability 8.0)"
            )
        if self.config.gradient_penalty is not None:
            raise plan.UnsupportedByEngine("config.gradient_penalty is not computed by the persistent kernel")

    @property
    def reason(self) -> str:
        """Why this engine runs, how it multiplies and where its matrices are; in a population a GAN may get fewer
        blocks."""
        limits = with_cluster(limits_of(self.gan.device), [self])
        shared, spilled = needs(self, limits)
        blocks = "a block" if limits.cluster == 1 else f"trained alone, each of {limits.cluster} blocks"
        where = f"{blocks} keeps {-(-shared // 1024)} KB in shared memory"
        if spilled:
            where += f" and {-(-spilled // 1024)} KB in the L2 cache"
        tensor_cores = self.gan.dtype == torch.float32 and has_tensor_cores(self.gan.device)
        products = _PRODUCTS[self.config.precision if tensor_cores else "ieee"]
        return f"{super().reason}; {products}; {where}"

    @classmethod
    def launch(
        cls, engines: Sequence[FusedEngine], runs: list[Any], firsts: list[int], counts: list[int], threads: int
    ) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
        """One launch for all engines; the host synchronises once, for the metrics."""
        device = engines[0].gan.device
        most = max(1, _MOST_NUMBERS // (METRICS * len(engines)))
        counts = [min(count, most) for count in counts]
        sizes = [count * METRICS + 2 for count in counts]  # the last two: the updates made
        found = torch.empty(sum(sizes), dtype=torch.float64, device=device)
        places = np.cumsum([0, *sizes[:-1]]).tolist()
        calls = [
            engine.call(first, count, found[place:].data_ptr())
            for engine, first, count, place in zip(engines, firsts, counts, places, strict=True)
        ]
        train(engines, runs, calls, with_cluster(limits_of(device), engines), found)
        numbers = found.cpu().numpy()  # the only wait
        parts = [numbers[place : place + size] for place, size in zip(places, sizes, strict=True)]
        return [part[:-2].reshape(-1, METRICS) for part in parts], [(int(part[-2]), int(part[-1])) for part in parts]


# ---------------------------------------------------------------- the core


def needs(engine: FusedEngine, limits: DeviceLimits) -> tuple[int, int]:
    """Bytes of a block's shared memory that a run takes, and bytes that do not fit."""
    shared, spilled = kernels.native.cuda_train_needs(engine.prepare(), *limits)
    return shared, spilled


def train(
    engines: Sequence[FusedEngine], runs: list[Any], calls: list[dict[str, Any]], limits: DeviceLimits, found: Tensor
) -> None:
    """Queue the launch on the current stream. `found`: where the calls want their metrics."""
    held: list[Tensor] = []

    def allocate(size: int) -> int:
        held.append(torch.empty(size, dtype=torch.uint8, device=found.device))
        return held[-1].data_ptr()

    with torch.cuda.device(found.device):
        kernels.native.cuda_train(runs, calls, *limits, allocate, torch.cuda.current_stream().cuda_stream)
