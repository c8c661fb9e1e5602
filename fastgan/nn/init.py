"""Initial weights of the original code and its relatives, and its constraint on the norm of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fastgan._errors import Invalid
from fastgan.nn.maxout import Maxout

__all__ = ["constant_bias_", "max_col_norm_", "normal_", "output_bias_from_data", "sparse_", "uniform_"]
__dir__ = __all__.copy  # what completion shows

T = TypeVar("T", bound="Tensor | nn.Module")
M = TypeVar("M", bound=nn.Module)

_LAYERS = (nn.Linear, Maxout, nn.modules.conv._ConvNd)


def _layers(operation: str, module: nn.Module) -> Iterator[Any]:
    if not isinstance(module, nn.Module):
        raise Invalid(operation).type("module", f"must be a torch.nn.Module, got {type(module).__name__}")
    for layer in module.modules():
        if isinstance(layer, _LAYERS):
            if nn.parameter.is_lazy(layer.weight):
                raise Invalid(operation).value("module", "must know its shapes, got a lazy layer before its first call")
            yield layer


def _check_scale(operation: str, argument: str, value: float, *, positive: bool = False) -> None:
    Invalid(operation).check_number(argument, value)
    if not 0.0 <= value < float("inf") or positive and value == 0.0:
        rule = "positive and finite" if positive else "finite and not negative"
        raise Invalid(operation).value(argument, f"must be {rule}, got {value}")


def _fill(operation: str, argument: str, scale: float, module: M, bias: float | None, fill: Callable[[Any], Any]) -> M:
    _check_scale(operation, argument, scale)
    if bias is not None:
        Invalid(operation).check_number("bias", bias)
    for layer in _layers(operation, module):
        fill(layer.weight)
    return module if bias is None else constant_bias_(module, bias)


@torch.no_grad()
def uniform_(module: M, irange: float, *, bias: float | None = 0.0, generator: torch.Generator | None = None) -> M:
    """Weights from U(-irange, irange), the original code's initialiser; biases to a constant.

    Args:
        module: whose linear, maxout and convolution layers are filled, at any depth.
        irange: half the width of the range.
        bias: of every unit; None leaves biases as they are.
        generator: where the numbers come from; torch's default one if None.

    Returns:
        The module.

    Raises:
        ValueError: irange negative or not finite, a lazy layer.

    Source: the code of Goodfellow et al. (2014): irange 0.005 for D, 0.05 for G.
    """
    return _fill("uniform_", "irange", irange, module, bias, lambda w: w.uniform_(-irange, irange, generator=generator))


@torch.no_grad()
def normal_(module: M, std: float = 0.02, *, bias: float | None = 0.0, generator: torch.Generator | None = None) -> M:
    """Weights from N(0, std^2), DCGAN's initialiser; biases to a constant.

    Args:
        module: whose linear, maxout and convolution layers are filled, at any depth.
        std: standard deviation.
        bias: of every unit; None leaves biases as they are.
        generator: where the numbers come from; torch's default one if None.

    Returns:
        The module.

    Raises:
        ValueError: std negative or not finite, a lazy layer.

    Source: Radford et al. (2015), section 4.
    """
    return _fill("normal_", "std", std, module, bias, lambda w: w.normal_(0.0, std, generator=generator))


@torch.no_grad()
def constant_bias_(module: M, value: float) -> M:
    """Every bias of the module's linear, maxout and convolution layers to one value (the original code also
    uses -2)."""
    Invalid("constant_bias_").check_number("value", value)
    for layer in _layers("constant_bias_", module):
        if layer.bias is not None:
            layer.bias.fill_(value)
    return module


@torch.no_grad()
def sparse_(
    weight: Tensor, nonzeros: int = 100, *, std: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Exactly `nonzeros` incoming weights of each unit from N(0, std^2), at random places; the others 0.

    Args:
        weight: (units, in_features), changed in place; for `Maxout` every piece is a row.
        nonzeros: a unit's number of incoming weights that are not 0.
        std: standard deviation of those.
        generator: where the numbers come from; torch's default one if None.

    Returns:
        The weight.

    Raises:
        ValueError: weight without two dimensions, nonzeros outside 0 to in_features, std not positive.

    Source: Martens (2010), section 5; the original code's `sparse_init`.
    """
    if weight.dim() != 2:
        raise Invalid("sparse_").value("weight", f"must have shape (units, in_features), got {tuple(weight.shape)}")
    units, features = weight.shape
    Invalid("sparse_").check_integer("nonzeros", nonzeros, 0)
    if nonzeros > features:
        raise Invalid("sparse_").value("nonzeros", f"must be between 0 and in_features={features}, got {nonzeros}")
    _check_scale("sparse_", "std", std, positive=True)
    numbers: dict[str, Any] = {"device": weight.device, "generator": generator}
    # the first columns of a random order of each row: places without replacement
    places = torch.rand(units, features, dtype=torch.float64, **numbers).argsort(dim=1)[:, :nonzeros]
    values = torch.empty(units, nonzeros, dtype=weight.dtype, device=weight.device)
    values.normal_(0.0, std, generator=generator)
    values[values == 0] = std  # a normal number can round to 0, which would be one nonzero fewer
    weight.zero_().scatter_(1, places, values)
    return weight


@torch.no_grad()
def output_bias_from_data(layer: nn.Module, data: Any) -> nn.Module:
    """Set the generator's output bias so that, with weights at 0, its sigmoid puts out the mean of the data.

    Equivalent to `layer.bias.copy_(torch.logit(data.mean(0).clamp(1e-7, 1 - 1e-7)))`.

    Args:
        layer: the output layer, or a model whose last linear layer it is.
        data: Tensor or array (n, ...) of values in [0, 1], with as many features as the layer has units.

    Returns:
        The layer.

    Raises:
        ValueError: no bias, data empty, of another width, outside [0, 1] or NaN.

    Source: the original code's `init_bias_target_marginals`.
    """
    layers = [m for m in _layers("output_bias_from_data", layer) if isinstance(m, nn.Linear)]
    bias = layers[-1].bias if layers else None
    if bias is None:
        raise Invalid("output_bias_from_data").value("layer", "must end in a linear layer with a bias, got none")
    data = data if isinstance(data, Tensor) else np.asarray(data)
    width = math.prod(data.shape[1:]) if len(data.shape) > 1 and len(data) else 0
    if width != bias.numel():
        raise Invalid("output_bias_from_data").value(
            "data", f"must have shape (n, {bias.numel()}) with n at least 1, got {tuple(data.shape)}"
        )
    wide = torch.float64 if isinstance(data, Tensor) else np.float64
    mean = torch.as_tensor(data.reshape(len(data), -1).mean(0, dtype=wide))
    if not bool(((mean >= 0) & (mean <= 1)).all()):
        raise Invalid("output_bias_from_data").value(
            "data", f"must lie in [0, 1], got means from {float(mean.min()):.6g} to {float(mean.max()):.6g}"
        )
    bias.copy_(torch.logit(mean.clamp(1e-7, 1 - 1e-7)))
    return layer


@torch.no_grad()
def max_col_norm_(weight: T, limit: float = 1.9365) -> T:
    """Scale down the incoming weights of every unit whose norm exceeds the limit; apply after each step.

    Equivalent to `weight.copy_(torch.renorm(weight, 2, 0, limit))`, more exactly and for any floating type.

    Args:
        weight: (units, ...), changed in place; for `Maxout` every piece is a row. Or a module: all its linear
            and maxout layers whose weight requires a gradient, so that frozen layers stay as they are.
        limit: largest Euclidean norm.

    Returns:
        The argument. Norms are at most limit * (1 + 1e-6); units below the limit keep their bits.

    Raises:
        ValueError: limit not positive and finite, weight without units and inputs.

    Source: the original code's `max_col_norm` of 1.9365 (its columns are the rows here); Hinton et al. (2012).
    """
    _check_scale("max_col_norm_", "limit", limit, positive=True)
    if isinstance(weight, nn.Module):
        for layer in _layers("max_col_norm_", weight):
            if isinstance(layer, nn.Linear | Maxout) and layer.weight.requires_grad:
                max_col_norm_(layer.weight, limit)
        return weight
    if weight.dim() < 2:
        raise Invalid("max_col_norm_").value(
            "weight", f"must have shape (units, in_features), got {tuple(weight.shape)}"
        )
    wide = torch.float32 if weight.device.type == "mps" else torch.float64  # squares must not overflow, sums not drift
    norms = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True, dtype=wide)
    # in half precision the product may round up by half an eps, more than the tolerance
    half = weight.dtype in (torch.float16, torch.bfloat16)
    scale = limit * (1 - torch.finfo(weight.dtype).eps if half else 1) / norms
    weight.mul_(torch.where(norms > limit, scale, 1.0).to(weight.dtype if not half else torch.float32))
    return weight
