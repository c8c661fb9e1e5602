"""Which modules can be part of a fused segment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from fastgan.nn.activation import SETTINGS, of_module
from fastgan.nn.dropout import Dropout
from fastgan.nn.linear import Linear
from fastgan.nn.maxout import Maxout
from fastgan.ops.checks import FLOATS
from fastgan.ops.dispatch import PLAIN

LINEARS: tuple[type, ...] = (nn.Linear, Linear, Maxout)
DROPOUTS: tuple[type, ...] = (nn.Dropout, Dropout)
RUNNING = ("running_mean", "running_var", "num_batches_tracked")  # the buffers of nn.BatchNorm1d

# exact type -> the attributes that decide how a module of it takes part (a subclass may do anything)
DECIDING: dict[type, tuple[str, ...]] = {
    **{kind: ("forward", *settings) for kind, settings in SETTINGS.items()},
    nn.Linear: ("forward",),
    Linear: ("forward", "spec", "impl"),
    Maxout: ("forward", "spec", "impl"),
    nn.Dropout: ("forward", "p", "training", "inplace"),
    Dropout: ("forward", "p", "training", "inplace", "impl"),
    nn.BatchNorm1d: ("forward", "training", "eps", "momentum", "track_running_stats"),
}

# their forwards; None where another one was put into the class
_kinds: list[Any] = list(DECIDING)
_FORWARDS = {kind: kind.forward if kind.forward.__module__ == kind.__module__ else None for kind in _kinds}


def hooks(module: nn.Module) -> tuple[Any, ...]:
    """The dicts of the hooks that a call of the module would run."""
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


# Those of all modules. Newer versions of torch have a function that looks, which 2.5 has not.
GLOBAL_HOOKS: tuple[dict[int, Any], ...] = (
    torch_module._global_forward_pre_hooks,
    torch_module._global_forward_hooks,
    torch_module._global_backward_pre_hooks,
    torch_module._global_backward_hooks,
)


def any_global_hook() -> bool:
    """Whether there is a hook of all modules."""
    return any(GLOBAL_HOOKS)


def obstacle(module: nn.Module) -> str | None:
    """Why a module must be called as it is; None where it can be part of a fused segment."""
    kind = type(module)
    if kind is nn.LazyLinear:
        return "it is lazy until its first call"
    if kind not in DECIDING:
        return f"{kind.__name__} is no layer that fuses"
    if any(hooks(module)):  # among them prune's, weight_norm's and spectral_norm's
        return "it has hooks"
    if "forward" in module.__dict__ or kind.forward is not _FORWARDS[kind]:
        return "its forward is replaced"
    if kind in LINEARS:
        return parameter_obstacle(module)
    if kind is nn.BatchNorm1d:
        return _norm_obstacle(module)
    if kind not in DROPOUTS and of_module(module) is None:
        return "its settings differ from the fused formula"
    return None


def parameter_obstacle(layer: Any) -> str | None:
    """Why a linear layer's parameters need the layer's own forward."""
    weight, bias = layer.weight, layer.bias
    if type(weight) not in PLAIN or not (bias is None or type(bias) in PLAIN):
        return "its parameters are a tensor subclass (quantised, sharded, fake)"
    if weight.dtype not in FLOATS:
        return f"its dtype is {str(weight.dtype).removeprefix('torch.')}"
    if weight.is_meta or weight.layout is not torch.strided:
        return "its weight is not dense memory"
    if weight.dim() != 2 or not (bias is None or bias.shape == weight.shape[:1]):
        return "its weight is no matrix, or its bias is not one number a row of it"
    return None


def _norm_obstacle(norm: Any) -> str | None:
    """Why batch normalisation needs its own forward."""
    mean, variance, batches = (getattr(norm, name) for name in RUNNING)
    if (mean is None) != (variance is None) or (norm.track_running_stats and mean is None):
        return "its running statistics are not those of an nn.BatchNorm1d as made"
    if norm.track_running_stats:
        if type(batches) is not Tensor or batches.dtype is not torch.int64 or batches.dim():
            return "it does not count its batches"
    for t in (norm.weight, norm.bias, mean, variance):
        if t is not None and (type(t) not in PLAIN or t.dtype not in FLOATS or t.is_meta):
            return "its parameters are no plain floating-point tensors"
    return None


def ordinary(x: Any) -> bool:
    """Whether x is a dense floating-point tensor; any other input goes to the modules themselves."""
    return type(x) in PLAIN and x.dtype in FLOATS and x.layout is torch.strided and not x.is_nested
