"""Checks of the operations' arguments; each error is one sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan import _options
from fastgan._errors import Invalid, check_choice, is_integer, is_number
from fastgan._options import Impl

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
IMPLEMENTATIONS = _options.names(Impl)


def check_tensor(caller: str, name: str, x: object) -> None:
    """Raise unless x is a dense floating-point tensor of a type fastgan computes with."""
    if isinstance(x, Tensor) and x.dtype in FLOATS and x.layout is torch.strided:
        return
    if not isinstance(x, Tensor):
        raise Invalid(caller).type(name, f"must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise Invalid(caller).type(name, f"must be floating point, got {x.dtype}")
    if x.dtype not in FLOATS:
        raise Invalid(caller).type(name, f"must be float32, float64, float16 or bfloat16, got {x.dtype}")
    raise Invalid(caller).type(name, f"must be a dense tensor, got layout {x.layout}")


def check_same(caller: str, first: str, a: Tensor, second: str, b: Tensor) -> None:
    """Raise unless both tensors live on one device and share one dtype."""
    if a.device != b.device:
        raise Invalid(caller).value(f"{first} and {second}", f"must be on one device, got {a.device} and {b.device}")
    if a.dtype != b.dtype:
        raise Invalid(caller).type(f"{first} and {second}", f"must share one dtype, got {a.dtype} and {b.dtype}")


def check_dropout_seed(caller: str, dropout_seed: Tensor | None) -> None:
    if not isinstance(dropout_seed, Tensor) or dropout_seed.dtype != torch.int64 or dropout_seed.dim() != 0:
        raise Invalid(caller).type("dropout_seed", f"must be an int64 tensor of shape (), got {dropout_seed!r}")


def check_probability(caller: str, name: str, p: float) -> float:
    """p, or raise unless 0 <= p <= 1."""
    if not is_number(p):
        raise Invalid(caller).type(name, f"must be a number, got {p!r}")
    if not 0.0 <= p <= 1.0:
        raise Invalid(caller).value(name, f"must lie in [0, 1], got {p}")
    return float(p)


def check_impl(caller: str, impl: Impl) -> Impl:
    """impl, or raise unless it is "auto", "native" or "reference"."""
    check_choice(caller, "impl", impl, IMPLEMENTATIONS)
    return impl


def check_integer(caller: str, name: str, number: int, low: int, limit: int) -> None:
    if not is_integer(number):
        raise Invalid(caller).type(name, f"must be an integer, got {number!r}")
    if not low <= number < limit:
        raise Invalid(caller).value(name, f"must lie in [{low}, {limit}), got {number}")
