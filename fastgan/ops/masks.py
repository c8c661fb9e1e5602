"""Dropout by a mask that is recomputed from its seed, never stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan import _kernels, _operators, reference
from fastgan._options import Impl
from fastgan.ops.checks import check_dropout_seed, check_integer, check_probability, check_tensor
from fastgan.ops.dispatch import is_batched, is_compiling, natively


class _Dropout(torch.autograd.Function):
    """Multiplication by a mask that is replayed, never stored; linear, hence its own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, dropout_seed: Tensor, substream: int) -> Tensor:
        ctx.what = p, dropout_seed, substream
        return _kernels.dropout(x, p, dropout_seed, substream)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        run = reference.dropout if is_batched(grad) else _Dropout.apply
        return run(grad, *ctx.what), None, None, None


def native_dropout(x: Tensor, p: float, dropout_seed: Tensor, substream: int) -> Tensor:
    """`dropout` by the native core, unchecked."""
    result: Tensor = _Dropout.apply(x, p, dropout_seed, substream)
    return result


def dropout(x: Tensor, p: float, dropout_seed: Tensor, substream: int = 0, *, impl: Impl = "auto") -> Tensor:
    """Inverted dropout: each element is zeroed with probability p, the others divided by 1 - p.

    Equivalent to `torch.nn.functional.dropout(x, p)` with the mask of (dropout_seed, substream), which backward
    recomputes.

    Args:
        x: (..., features).
        p: probability of zeroing.
        dropout_seed: int64 tensor of shape (), as `random.next_dropout_seed()` gives.
        substream: distinguishes the masks of one seed, < 2**16.
        impl: "auto", "native" or "reference".
    """
    check_tensor("dropout", "x", x)
    check_probability("dropout", "p", p)
    check_dropout_seed("dropout", dropout_seed)
    check_integer("dropout", "substream", substream, 0, 2**16)
    if not natively("dropout", "dropout", impl, x):
        return reference.dropout(x, p, dropout_seed, substream)
    if is_compiling():
        return _operators.dropout(x, p, dropout_seed, substream)
    return native_dropout(x, p, dropout_seed, substream)
