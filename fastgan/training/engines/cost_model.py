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
        """Of all steps. Work of only one engine is left out, and work that is small in both."""
        d, g = _step_of_d(gan, config), _step_of_g(gan, config)
        return cls(*(config.k * of_d + config.generator_steps * of_g for of_d, of_g in zip(d, g, strict=True)))


def _step_of_d(gan: GAN, config: TrainConfig) -> Work:
    (g, _, g_layers), (d, d_first, d_layers) = _sizes(gan.generator), _sizes(gan.discriminator)
    # G forward; of real rows and fakes D forward, down to the first layer, gradients of weights
    products = config.batch_size * (config.pack * g + 2 * (d + (d - d_first) + d))
    passes = 2 + g_layers + 2 * d_layers  # noise and rows, losses, layers
    # Noise, rows, losses, update; a layer forward is two, on its backward pass three, its gradient of weights one
    launches = 4 + 2 * g_layers + 6 * d_layers - 1 + 7 * (gan.classes > 0)  # labels: drawn, copied beside the inputs
    rounded = 1 + g_layers + 2 * d_layers if config.precision == "bf16" else 0
    return Work(products, passes, launches + rounded)


def _step_of_g(gan: GAN, config: TrainConfig) -> Work:
    (g, g_first, g_layers), (d, _, d_layers) = _sizes(gan.generator), _sizes(gan.discriminator)
    forward = config.mode == "alternating"  # else D's step has been there
    # Forward; D down to the fakes, G down to the first layer, gradients of weights
    products = config.batch_size * (forward * (config.pack * g + d) + d + config.pack * ((g - g_first) + g))
    passes = 3 + (1 + forward) * (g_layers + d_layers)
    launches = 4 + 2 * forward * (g_layers + d_layers) + 2 * d_layers + 4 * g_layers - 1
    launches += (gan.classes > 0) * (1 + 2 * forward)  # noise and fakes beside the labels, the gradient from there
    rounded = 1 + (1 + forward) * (g_layers + d_layers) if config.precision == "bf16" else 0
    return Work(products, passes, launches + rounded)


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
        """On the cluster of a GAN trained alone, and on all of the device."""
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
