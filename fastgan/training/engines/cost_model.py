"""Cost model of the two CUDA engines, which predicts the faster one.

The persistent kernel trains a GAN on a cluster, a few of the device's many multiprocessors; the CUDA-graph engine uses
the whole device for each product, but pays for each launch. So the kernel is faster for small batches, the graph for
large ones. Both predicted times are lower bounds.

Population size is deliberately ignored, so a model gets the same engine, hence the same bits, alone or in a population.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from fastgan.models import GAN
from fastgan.training.config import TrainConfig
from fastgan.training.engines import recording

# None of these has been measured here. Rates are multiply-adds of one multiprocessor in a cycle, in the kernel and in
# cuBLAS, for an H200 by its data sheet. Of the 1024 of tf32 that tensor cores do, `mma.sync` is said to reach six
# tenths, and fp32 takes three products; factors come from shared memory, 128 bytes a cycle, of which 1024 multiply-adds
# of a tile and chunk read 384: docs/the-persistent-kernel.md.
_RATES = {"fp32": (205, 128), "ieee": (128, 128), "tf32": (341, 1024), "bf16": (341, 2048)}
_RATES_IN_DOUBLE = (64, 64)
_FREQUENCY = 1.8e9  # cycles a second; docs/the-persistent-kernel.md
_PASS = 200  # cycles that a pass of the kernel takes at least, as it waits for the one before; likewise
_LAUNCH = 1.3e-6  # seconds of a dependent kernel in a graph; measured by others, docs/the-graph-engine.md
_ROWS_A_BLOCK = 8  # fewer rows a block: the price of a cluster's barriers outweighs its work


class DeviceLimits(NamedTuple):
    """Limits of a device for one launch."""

    multiprocessors: int
    cluster: int  # the most blocks that may train one GAN together
    shared_bytes: int  # of a block

    def blocks(self, rows: int, members: int) -> int:
        """Blocks for each member: no multiprocessor twice, no block with too few rows."""
        size = self.cluster
        while size > 1 and (size * members > self.multiprocessors or rows < _ROWS_A_BLOCK * size):
            size //= 2
        return size


class Work(NamedTuple):
    """The work of one iteration of one GAN."""

    products: int  # multiply-adds
    passes: int  # of the persistent kernel, each of which waits for the one before
    launches: int  # of the CUDA-graph engine: products, and the kernels between them

    @classmethod
    def of(cls, gan: GAN, config: TrainConfig) -> Work:
        """The work of all verbs, without work of one engine only and without work that is small in both."""
        of_verbs, shown = _by_verb(gan, config), 0
        found = cls(0, 0, 1)  # the launch that records the metrics
        for verb, arguments in recording.record(recording.iteration_plan(config)):
            if verb == "show":
                shown = len(recording.sub_batches(*arguments))
            work = of_verbs.get(verb, cls(0, 0, 0))
            products = work.products * (shown if verb in ("forward_d", "backward_d") else 1)
            found = cls(found.products + products, found.passes + work.passes, found.launches + work.launches)
        return found


def _by_verb(gan: GAN, config: TrainConfig) -> dict[str, Work]:
    """Of each verb of csrc/iteration.h; of D's passes, the products of one sub-batch.

    In the CUDA-graph engine a layer is two launches forward, two backward, one for the sums of its bias's gradient, and
    one for the gradient of its weights; the first one has no product down to its input where nothing reads that.
    """
    (g, g_first, g_layers), (d, d_first, d_layers) = _sizes(gan.generator), _sizes(gan.discriminator)
    of_d, of_g = config.batch_size, config.batch_size * config.pack
    rounded, labels = config.precision == "bf16", gan.classes > 0  # rounded: a copy of each factor; of the weights, one
    return {
        "sample_data": Work(0, 0, 1 + 5 * labels),  # in the pass of the noise
        "sample_noise": Work(0, 1, 1 + labels),
        "forward_g": Work(of_g * g, g_layers, (2 + rounded) * g_layers),
        "show": Work(0, 0, int(labels)),
        "forward_d": Work(of_d * d, d_layers, (2 + rounded) * d_layers),
        "loss_of_d": Work(0, 1, 1),
        "loss_of_g": Work(0, 1, 1),
        "backward_d": Work(of_d * (d - d_first), d_layers, (3 + rounded) * d_layers - 1),
        "penalty": Work(2 * of_d * d, 0, d_layers),
        "backward_through_d": Work(of_d * d, d_layers + 1, (2 + rounded) * d_layers + labels),
        "backward_g": Work(of_g * (g - g_first + g), g_layers, (4 + rounded) * g_layers - 1),
        "update_d": Work(0, 0, 1),
        "update_g": Work(0, 0, 1),
        "commit_or_roll_back": Work(0, 0, int(rounded)),
    }


def _sizes(network: nn.Module) -> tuple[int, int, int]:
    """Elements of its weights, of the first one, and how many there are."""
    sizes = [p.numel() for p in network.parameters() if p.dim() == 2]
    return sum(sizes), sizes[0] if sizes else 0, len(sizes)


class Weighed(NamedTuple):
    """Seconds of one iteration."""

    kernel: float
    graph: float
    blocks: int  # of the kernel

    @classmethod
    def of(cls, work: Work, limits: DeviceLimits, rows: int, rates: tuple[int, int]) -> Weighed:
        """The times on the cluster of a GAN trained alone, and on the whole device."""
        blocks = limits.blocks(rows, 1)
        in_kernel, in_library = (rate * _FREQUENCY for rate in rates)
        kernel = work.products / (blocks * in_kernel) + work.passes * _PASS / _FREQUENCY
        graph = work.launches * _LAUNCH + work.products / (limits.multiprocessors * in_library)
        return cls(kernel, graph, blocks)

    def __str__(self) -> str:
        kernel, graph = (f"{max(1, round(1e6 * seconds)):,} us" for seconds in (self.kernel, self.graph))
        where = "one multiprocessor" if self.blocks == 1 else f"{self.blocks} multiprocessors"
        return f"by arithmetic an iteration takes {kernel} in the persistent kernel, on {where}, and {graph} as a graph"


class Choice(NamedTuple):
    """Whether the persistent kernel shall train a GAN, and why."""

    kernel: bool
    reason: str


def choose(gan: GAN, config: TrainConfig, limits: DeviceLimits) -> Choice:
    """By the arithmetic of a GAN that trains alone.

    The kernel is for networks whose weights fit into a multiprocessor's shared memory: others would read them from the
    L2 cache for every product.
    """
    weights = sum(p.numel() * p.element_size() for p in (*gan.generator.parameters(), *gan.discriminator.parameters()))
    if weights > limits.shared_bytes:
        there = limits.shared_bytes >> 10
        return Choice(False, f"the weights take {-(-weights >> 10)} KB, a multiprocessor's shared memory has {there}")
    rates = _RATES_IN_DOUBLE if gan.dtype == torch.float64 else _RATES[config.precision]
    weighed = Weighed.of(Work.of(gan, config), limits, config.batch_size, rates)
    return Choice(weighed.kernel <= weighed.graph, str(weighed))
