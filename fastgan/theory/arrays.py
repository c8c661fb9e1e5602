"""Conversion of numpy and torch arrays to float64 and back, and checks of distributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgan._errors import Invalid

Array = Tensor | NDArray[Any] | Sequence[Any] | float
Back = Callable[[Tensor], Any]

# Tolerance of a sum of probabilities, by their type. A grid cuts off tails, so its integral gets more.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
_GRID_TOLERANCE = 1e-3


def take(caller: str, **named: Array) -> tuple[list[Tensor], Back]:
    """The arrays as float64 tensors on one device, and a function that converts results back.

    Results are tensors if any argument is one, numpy otherwise; float32 if every array is of at most that precision
    (numbers and lists do not count). Tensors keep their graph, so that results can be differentiated.

    Raises:
        TypeError: an argument that does not hold real numbers.
    """
    tensors = {name: _tensor(caller, name, x) for name, x in named.items()}
    was_torch = any(isinstance(x, Tensor) for x in named.values())
    device = next((x.device for x in named.values() if isinstance(x, Tensor)), torch.device("cpu"))
    arrays = [x for x in named.values() if isinstance(x, Tensor | np.ndarray | np.generic)]
    wide = not arrays or any(precision(x) == torch.float64 for x in arrays)
    dtype = torch.float64 if wide else torch.float32

    def back(result: Tensor) -> Any:
        result = result.to(dtype)
        return result if was_torch else result.numpy()[()]

    return [t.to(device, torch.float64) for t in tensors.values()], back


def precision(x: Array) -> torch.dtype:
    """The floating type of x; float64 for whole numbers and lists."""
    if isinstance(x, Tensor):
        return x.dtype if x.is_floating_point() else torch.float64
    narrow = {np.dtype(np.float32): torch.float32, np.dtype(np.float16): torch.float16}
    return narrow.get(np.asarray(x).dtype.newbyteorder("="), torch.float64)


def _tensor(caller: str, name: str, x: Array) -> Tensor:
    if isinstance(x, Tensor):
        tensor = x
    else:
        array = np.asarray(x)
        if array.dtype.kind not in "biuf":
            raise Invalid(caller).type(name, f"must hold real numbers, got {array.dtype}")
        floating = array.dtype.kind == "f" and array.dtype.itemsize <= 8
        tensor = torch.from_numpy(np.array(array, array.dtype.newbyteorder("=") if floating else np.float64))
    if tensor.is_complex():
        raise Invalid(caller).type(name, f"must hold real numbers, got {tensor.dtype}")
    return tensor


def check_non_negative(caller: str, name: str, x: Tensor) -> None:
    """Raise unless every number is finite and at least 0."""
    if x.numel() == 0:
        raise Invalid(caller).value(name, f"must not be empty, got shape {tuple(x.shape)}")
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (low >= 0 and high < float("inf")):
        raise Invalid(caller).value(name, f"must be finite and not negative, got {low if not low >= 0 else high:g}")


def take_distributions(caller: str, dx: Array | None, **named: Array) -> tuple[list[Tensor], Tensor, Back]:
    """Checked distributions over the last axis, the weight of each outcome (1, or dx of a grid), and `back` of `take`.

    Raises:
        ValueError: negative or infinite numbers, a sum that is not one, or different numbers of outcomes.
    """
    tensors, back = take(caller, **named)
    weight = torch.ones((), dtype=torch.float64, device=tensors[0].device)
    if dx is not None:
        (weight,), _ = take(caller, dx=dx)
        weight = weight.to(tensors[0].device)
        check_non_negative(caller, "dx", weight)
    outcomes = {name: tuple(p.shape[-1:]) for name, p in zip(named, tensors, strict=True)}
    if () in outcomes.values() or len(set(outcomes.values())) > 1:
        got = " and ".join(f"{name} of shape {tuple(p.shape)}" for name, p in zip(named, tensors, strict=True))
        raise Invalid(caller).value(" and ".join(named), f"must have the same outcomes on the last axis, got {got}")
    if dx is not None and weight.ndim > 0 and weight.shape != tensors[0].shape[-1:]:
        rule = f"one number or one for each of the {tensors[0].shape[-1]} grid points"
        raise Invalid(caller).value("dx", f"must be {rule}, got shape {tuple(weight.shape)}")
    for (name, given), p in zip(named.items(), tensors, strict=True):
        check_non_negative(caller, name, p)
        _check_total(caller, name, (p.detach() * weight).sum(-1), dx is not None, precision(given))
    return tensors, weight, back


def _check_total(caller: str, name: str, total: Tensor, grid: bool, dtype: torch.dtype) -> None:
    tolerance = max(_TOLERANCE[dtype], _GRID_TOLERANCE if grid else 0.0)
    worst = total.flatten()[(total.flatten() - 1).abs().argmax()].item()
    if not abs(worst - 1) <= tolerance:
        rule = "integrate to one over dx" if grid else "sum to one over the last axis"
        raise Invalid(caller).value(name, f"must {rule}, got {worst:.10g}")


def check_positive(caller: str, name: str, value: float) -> None:
    """Raise unless the number is above 0 and finite."""
    Invalid(caller).check_number(name, value)
    if not 0 < value < float("inf"):
        raise Invalid(caller).value(name, f"must be above 0 and finite, got {value}")
