"""The persistent engine: many iterations of many GANs in one launch, with the weights in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import _backend, _kernels
from fastgan.models import GAN
from fastgan.training.config import TrainConfig
from fastgan.training.engines import plan
from fastgan.training.engines.cost_model import DeviceLimits
from fastgan.training.engines.state import METRICS, HostState, advance_together
from fastgan.training.rows import Minibatches

_LARGEST_CLUSTER = 8
_MOST_MEMBERS = 8192  # of one launch
_MOST_NUMBERS = 1 << 27  # of metrics in one launch: 1 GB
_PRODUCTS = {
    "fp32": "products take three of tensor cores in tf32 each, as exact as float",
    "ieee": "products are plain multiplications and additions",
    "tf32": "products take tensor cores, factors rounded to tf32",
    "bf16": "products take tensor cores, factors rounded to bfloat16",
}


def limits_of(device: torch.device) -> DeviceLimits:
    """The limits of a device. Blocks can form clusters from Hopper on."""
    properties: Any = torch.cuda.get_device_properties(device)
    most = _LARGEST_CLUSTER if properties.major >= 9 else 1
    return DeviceLimits(properties.multi_processor_count, most, properties.shared_memory_per_block_optin)


def with_cluster(limits: DeviceLimits, configs: Sequence[TrainConfig]) -> DeviceLimits:
    """The limits with the cluster that each GAN of a launch gets."""
    rows = min(config.batch_size for config in configs)
    return limits._replace(cluster=limits.blocks(rows, len(configs)))


def obstacle(device: torch.device) -> str | None:
    """Why kernels cannot run on the device; None if they can."""
    if device.type != "cuda":
        return f"the networks are on {device}; this engine is built for CUDA"
    return _backend.cuda_reason()


def has_tensor_cores(device: torch.device) -> bool:
    """Whether the device has tensor cores whose sums are float: from Ampere on."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


class PersistentEngine:
    """Runs a plan of networks on a CUDA device, in place.

    One block of threads (or a cluster of them) keeps a GAN's weights in its shared memory for the whole launch;
    activations go to shared memory as far as they fit, the rest to the L2 cache. Products of float32
    networks run on tensor cores as `config.precision` says; without tensor cores, and in float64, they are plain.
    Metrics come back once a launch, which is the only time the host waits.

    Raises:
        plan.UnsupportedByEngine: with the reason, where the kernel cannot run this.
    """

    name = "cuda-persistent"
    calls_at_once = 1
    threads: int | None = None

    def __init__(self, gan: GAN, rows: Minibatches, config: TrainConfig) -> None:
        plan.check_config(gan, config)
        if (reason := obstacle(gan.device)) is not None:
            raise plan.UnsupportedByEngine(reason)
        if config.precision in ("tf32", "bf16") and not has_tensor_cores(gan.device):
            raise plan.UnsupportedByEngine(
                f"config.precision is {config.precision!r}, which takes tensor cores (compute capability 8.0)"
            )
        if config.gradient_penalty is not None:
            raise plan.UnsupportedByEngine("config.gradient_penalty is not computed by the persistent kernel")
        self.state = HostState(gan, rows, config, _check)
        self.state.compiled()
        self.schedulers, self.as_built = self.state.schedulers, self.state.as_built

    @classmethod
    def members_a_call(cls, threads: int) -> int:
        """The most members of one launch."""
        return _MOST_MEMBERS

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers, up to date; they may be read and changed between two calls."""
        return self.state.optimizers

    def write_back(self) -> None:
        """Does nothing: an iteration changes parameters and states in place."""

    @property
    def details(self) -> str:
        """How this engine multiplies and where its matrices are; in a population a GAN may get fewer blocks."""
        gan, config = self.state.gan, self.state.config
        limits = with_cluster(limits_of(gan.device), [config])
        shared, spilled = needs(self.state, limits)
        blocks = "a block" if limits.cluster == 1 else f"trained alone, each of {limits.cluster} blocks"
        where = f"{blocks} keeps {-(-shared // 1024)} KB in shared memory"
        if spilled:
            where += f" and {-(-spilled // 1024)} KB in the L2 cache"
        tensor_cores = gan.dtype == torch.float32 and has_tensor_cores(gan.device)
        return f"{_PRODUCTS[config.precision if tensor_cores else 'ieee']}; {where}"

    def begin(self, first: int, count: int, should_stop: Callable[[], bool]) -> Callable[[], np.ndarray]:
        """A function that runs iterations first .. first+count (from 0) in one launch and returns their metrics."""
        return lambda: advance_together([self], [first], [count], launch)[0]


def _check(described: plan.Description) -> None:
    """Refuse the parts of a plan that the kernel does not compute."""
    if any(described["table"]):
        raise plan.UnsupportedByEngine("rows are drawn by their labels, which the persistent kernel does not do")
    for name in ("generator", "discriminator"):
        heads, layers = (described[name][part] for part in ("heads", "layers"))
        what = "Heads" if heads else "Residual" if any(layer["concatenates"] for layer in layers) else None
        if what is not None:
            raise plan.UnsupportedByEngine(f"gan.{name}: {what} is not computed by the persistent kernel")


def launch(
    states: Sequence[HostState], plans: list[_kernels.native.CompiledPlan], firsts: list[int], counts: list[int]
) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """One launch for all GANs; the host synchronises once, for the metrics."""
    device = states[0].gan.device
    most = max(1, _MOST_NUMBERS // (METRICS * len(states)))
    counts = [min(count, most) for count in counts]
    sizes = [count * METRICS + 2 for count in counts]  # the last two: the updates made
    found = torch.empty(sum(sizes), dtype=torch.float64, device=device)
    places = np.cumsum([0, *sizes[:-1]]).tolist()
    calls = [
        state.call(first, count, found[place:].data_ptr())
        for state, first, count, place in zip(states, firsts, counts, places, strict=True)
    ]
    train(states, plans, calls, with_cluster(limits_of(device), [state.config for state in states]), found)
    numbers = found.cpu().numpy()  # the only wait
    parts = [numbers[place : place + size] for place, size in zip(places, sizes, strict=True)]
    return [part[:-2].reshape(-1, METRICS) for part in parts], [(int(part[-2]), int(part[-1])) for part in parts]


# ---------------------------------------------------------------- the core


def needs(state: HostState, limits: DeviceLimits) -> tuple[int, int]:
    """Bytes of a block's shared memory that a run takes, and bytes that do not fit."""
    shared, spilled = _kernels.native.cuda_train_needs(state.compiled(), *limits)
    return shared, spilled


def train(
    states: Sequence[HostState],
    plans: list[_kernels.native.CompiledPlan],
    calls: list[dict[str, Any]],
    limits: DeviceLimits,
    found: Tensor,
) -> None:
    """Queue the launch on the current stream. found: the buffer for the metrics of the calls."""
    held: list[Tensor] = []

    def allocate(size: int) -> int:
        held.append(torch.empty(size, dtype=torch.uint8, device=found.device))
        return held[-1].data_ptr()

    with torch.cuda.device(found.device):
        _kernels.native.cuda_train(plans, calls, *limits, allocate, torch.cuda.current_stream().cuda_stream)
