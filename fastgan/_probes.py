"""Limits of the hardware, measured by the compiled core or known to it: what the benchmark holds times against."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan import _cuda
from fastgan._backend import native
from fastgan.training.engines.cuda_persistent import limits_of


def fma_peak(threads: int, seconds: float = 0.1) -> dict[str, float]:
    """GFLOP/s a core while all of `threads` work: "fp32", "bf16" where the processor has it; none without the core."""
    if native is None:
        return {}
    found = zip(("fp32", "bf16"), native.fma_peak(seconds, threads), strict=True)
    return {name: min(rates) / 1e9 for name, rates in found if min(rates) > 0}


def additions_per_cycle() -> float:
    """Of this hardware thread, at this moment; 0 where that cannot be measured."""
    return native.additions_per_cycle() if native is not None else 0.0


def line_transfer_ns() -> float:
    """Nanoseconds in which a cache line passes from one thread to another, at this moment; 0 where it is not known."""
    return native.line_transfer_ns() if native is not None else 0.0


def launch_empty(device_tensor: Tensor, count: int) -> None:
    """Queue so many empty kernels, one after another."""
    _cuda.launch(device_tensor, "empty", count)


def launch_barriers(numbers: Tensor, blocks: int, barriers: int) -> None:
    """Queue a kernel that passes so many barriers of a cluster of blocks; of one block where `blocks` is 0.

    Args:
        numbers: int32, one for each thread.
    """
    _cuda.launch(numbers, "barrier_loop", blocks, barriers, numbers)


def blocks_of_the_persistent_kernel(device: torch.device, rows: int, members: int) -> tuple[int, int]:
    """How many multiprocessors a population with minibatches of so many rows takes, and how many there are."""
    limits = limits_of(device)
    return min(limits.multiprocessors, members * limits.blocks(rows, members)), limits.multiprocessors
