"""Choose the native or the reference implementation from dtype, device, layout and active torch transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from fastgan._backend import native as _native
from fastgan._backend import why_not
from fastgan._errors import Invalid
from fastgan._options import Impl
from fastgan.ops.checks import check_impl

_TensorGuards: Any
try:
    from torch._C._dynamo.guards import TensorGuards as _TensorGuards
except ImportError:
    _TensorGuards = None

REAL = (torch.float32, torch.float64)
PLAIN: tuple[type, ...] = (Tensor, Parameter)
is_compiling = torch.compiler.is_compiling
# Whether a transform of torch.func is active. A look at the stack of transforms would create it, and from then on
# autograd would copy it for each node that it runs.
_transforms = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack


def _tracing() -> bool:
    """Whether torch.jit.trace or a dispatch mode (make_fx, FakeTensorMode) is active: neither can record a native
    call."""
    return torch._C._get_tracing_state() is not None or _dispatch_modes() > 0


def _special(*tensors: Tensor | None) -> str | None:
    """Why these tensors need plain PyTorch whatever their dtype and device."""
    if _transforms():
        return "a torch.func transform is active"
    if _tracing():
        return "a tracer records the operations"
    if forward_ad._current_level >= 0 and any(
        x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors
    ):
        return "a forward-mode derivative is being computed"
    for x in tensors:
        if x is not None and type(x) not in PLAIN:
            return f"{type(x).__name__} is a tensor subclass"
        if x is not None and x._is_zerotensor():
            return "a tensor of symbolic zeros has no memory"
    return None


def is_batched(grad: Tensor) -> bool:
    """Whether vmap runs a backward (torch.func's, or autograd's own for is_grads_batched), or compiled autograd traces
    it."""
    return is_compiling() or _transforms() or torch._C._functorch.is_legacy_batchedtensor(grad)


def is_common(dtypes: tuple[torch.dtype, ...], x: Tensor, *others: Tensor | None) -> bool:
    """Whether this is the common case, by the cheapest checks: dense CPU tensors of one dtype, no transform active.

    All other calls take the slow path, which finds the reasons and raises the errors.
    """
    if _native is None or is_compiling() or _transforms() or forward_ad._current_level >= 0:
        return False
    if type(x) not in PLAIN or x.dtype not in dtypes or x._is_zerotensor() or _tracing():
        return False
    dtype, strided = x.dtype, torch.strided
    for t in (x, *others):
        if t is not None and not (
            type(t) in PLAIN
            and t.dtype is dtype
            and t.is_cpu
            and t.layout is strided
            and t.is_contiguous()
            and not t.is_neg()
        ):
            return False
    return True


class Likeness:
    """What makes a call the common case: of its tensors all but addresses and the number of rows.

    `is_common` looks at every tensor from Python, which takes as long as the products of a small network. Here torch
    compares them in C++, with the checks that torch.compile makes before it reuses what it compiled: types, dtypes,
    sizes, strides, devices, and the keys of dispatch, in which autocast, torch.func, torch.jit's tracer, and tensors
    negated or of symbolic zeros show.
    """

    __slots__ = ("_check",)

    def __init__(self, x: Tensor, params: Sequence[Tensor]) -> None:
        """Remember a call that `is_common`, with x (rows, features). RuntimeError: this torch has no such checks."""
        if _TensorGuards is None:
            raise RuntimeError("this version of torch has no TensorGuards")
        sizes = [[None, x.shape[1]], *(list(p.shape) for p in params)]
        strides = [[x.shape[1], 1], *(list(p.stride()) for p in params)]
        self._check = _TensorGuards(x, *params, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check

    def matches(self, x: Tensor, params: Sequence[Tensor | None]) -> bool:
        """Whether a call with these tensors is common too, and like the first one; not while torch.compile traces."""
        same: bool = forward_ad._current_level < 0 and not _dispatch_modes() and self._check(x, *params)
        return same


def can_look(x: Tensor) -> bool:
    """Whether the values of x may be inspected: not while compiling, under a transform, or for a tensor without any."""
    return not is_compiling() and _special(x) is None and x.device.type != "meta"


def natively(caller: str, operation: str, impl: Impl, *tensors: Tensor | None) -> bool:
    """Whether the native core computes this; raise if impl='native' but the native core cannot run it."""
    if check_impl(caller, impl) == "reference":
        return False
    x = tensors[0]
    assert x is not None
    reason = why_not(operation, x.device.type, x.dtype)
    if reason is None and not is_compiling():
        reason = _special(*tensors)
    if impl == "native" and reason is not None:
        raise Invalid(caller)(RuntimeError, "impl='native'", f"is not available: {reason}")
    return reason is None
