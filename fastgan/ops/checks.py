"""Checks of the operations' arguments; each error is one sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan import options
from fastgan.options import Impl

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
IMPLEMENTATIONS = options.names(Impl)


def check_tensor(caller: str, name: str, x: object) -> None:
    """Raise unless x is a dense floating-point tensor of a type fastgan computes with."""
    if isinstance(x, Tensor) and x.dtype in FLOATS and x.layout is torch.strided:
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"{caller}: {name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{caller}: {name} must be floating point, got {x.dtype}")
    if x.dtype not in FLOATS:
        raise TypeError(f"{caller}: {name} must be float32, float64, float16 or bfloat16, got {x.dtype}")
    raise TypeError(f"{caller}: {name} must be a dense tensor, got layout {x.layout}")


def check_same(caller: str, first: str, a: Tensor, second: str, b: Tensor) -> None:
    """Raise unless both tensors live on one device and share one dtype."""
    if a.device != b.device:
        raise ValueError(f"{caller}: {first} and {second} must be on one device, got {a.device} and {b.device}")
    if a.dtype != b.dtype:
        raise TypeError(f"{caller}: {first} and {second} must share one dtype, got {a.dtype} and {b.dtype}")


def check_dropout_seed(caller: str, dropout_seed: Tensor | None) -> None:
    if not isinstance(dropout_seed, Tensor) or dropout_seed.dtype != torch.int64 or dropout_seed.dim() != 0:
        raise TypeError(f"{caller}: dropout_seed must be an int64 tensor of shape (), got {dropout_seed!r}")


def check_probability(caller: str, name: str, p: float) -> float:
    """p, or raise unless 0 <= p <= 1."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{caller}: {name} must lie in [0, 1], got {p}")
    return float(p)


def check_impl(caller: str, impl: Impl) -> Impl:
    """impl, or raise unless it is "auto", "native" or "reference"."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{caller}: impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    return impl


def check_integer(caller: str, name: str, number: int, low: int, limit: int) -> None:
    if not hasattr(number, "__index__"):
        raise TypeError(f"{caller}: {name} must be an integer, got {number!r}")
    if not low <= number < limit:
        raise ValueError(f"{caller}: {name} must lie in [{low}, {limit}), got {number}")
