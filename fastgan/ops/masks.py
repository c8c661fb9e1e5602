"""Dropout by a mask that is replayed from its key, never stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan import kernels, library, reference
from fastgan.ops.checks import check_integer, check_key, check_probability, check_tensor
from fastgan.ops.choosing import is_batched, is_compiling, natively
from fastgan.options import Impl


class _Dropout(torch.autograd.Function):
    """Multiplication by a mask that is replayed, never stored; linear, hence its own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, key: Tensor, substream: int) -> Tensor:
        ctx.what = p, key, substream
        return kernels.dropout(x, p, key, substream)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        run = reference.dropout if is_batched(grad) else _Dropout.apply
        return run(grad, *ctx.what), None, None, None


def native_dropout(x: Tensor, p: float, key: Tensor, substream: int) -> Tensor:
    """`dropout` by the native core, unchecked."""
    result: Tensor = _Dropout.apply(x, p, key, substream)
    return result


def dropout(x: Tensor, p: float, key: Tensor, substream: int = 0, *, impl: Impl = "auto") -> Tensor:
    """Inverted dropout: each element is zeroed with probability p, the others divided by 1 - p.

    Equivalent to `torch.nn.functional.dropout(x, p)` with the mask of (key, substream), which backward replays.

    Args:
        x: (..., features).
        p: probability of zeroing.
        key: int64 tensor of shape (), as `random.next_key()` gives.
        substream: tells masks of one key apart, < 2**16.
        impl: "auto", "native" or "reference".
    """
    check_tensor("dropout", "x", x)
    check_probability("dropout", "p", p)
    check_key("dropout", key)
    check_integer("dropout", "substream", substream, 0, 2**16)
    if not natively("dropout", "dropout", impl, x):
        return reference.dropout(x, p, key, substream)
    if is_compiling():
        return library.dropout(x, p, key, substream)
    return native_dropout(x, p, key, substream)
