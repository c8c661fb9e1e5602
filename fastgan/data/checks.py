"""Checks that every array of training data must pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .dataset import DataError, Fault

MAX_DIMS = 8
MAX_CLAIM, MAX_RATIO = 1 << 28, 5000  # a file may claim 256 MiB, or more up to this compression
_CHUNK = 1 << 20  # elements looked at once: a memory-mapped file is never copied whole


def real_array(array: NDArray[Any], fault: Fault) -> NDArray[Any]:
    """An array of plain real numbers that torch can hold, or DataError.

    `fault` makes the error. A foreign byte order or misalignment costs a copy.
    """
    check_dtype(array.dtype, fault)
    if not array.dtype.isnative or not array.flags.aligned:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def check_dtype(dtype: np.dtype[Any], fault: Fault) -> None:
    """Real numbers of at most 8 bytes pass; objects would need pickle, which is never read."""
    if dtype.hasobject:
        raise fault("must hold numbers, got objects (pickle is never read)")
    if dtype.fields is not None:
        raise fault(f"must be a plain array, got one with fields {', '.join(dtype.names or ())}")
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or dtype.subdtype is not None:
        raise fault(f"must hold real numbers of at most 8 bytes, got {dtype}")


def check_shape(shape: tuple[int, ...], fault: Fault) -> None:
    """Raise unless there are at least one row, at least one number in a row, and a possible number of dimensions."""
    if not shape:
        raise fault("must have rows, got a single number")
    if len(shape) > MAX_DIMS:
        raise fault(f"must have at most {MAX_DIMS} dimensions, got {len(shape)}")
    if min(shape) < 0:
        raise fault(f"must not have a negative dimension, got shape {shape}")
    if shape[0] == 0:
        raise fault(f"must have at least one row, got shape {shape}")
    if math.prod(shape) == 0:
        raise fault(f"must have at least one number in a row, got shape {shape}")


def check_length(claimed: int, present: int, fault: Fault) -> None:
    """Raise unless a file has exactly the numbers that its header promises; called before allocation."""
    if claimed > present:
        raise fault(f"is truncated: its header needs {claimed} bytes of numbers, got {present}")
    if claimed < present:
        raise fault(f"must end after {claimed} bytes of numbers, got {present - claimed} more")


def check_visible(data: Tensor | NDArray[Any], fault: Fault) -> None:
    """Raise if a mask hides values, which code that reads the memory would see."""
    hidden = 0
    if isinstance(data, np.ma.MaskedArray):
        hidden = int(np.ma.getmaskarray(data).sum())
    elif isinstance(data, Tensor) and torch.masked.is_masked_tensor(data):
        hidden = int((~data.get_mask()).sum())
    if hidden:
        raise fault(f"must hide no value, got {hidden} masked ones: fill them in or leave out their rows")


def check_claim(claimed: int, present: int, fault: Fault) -> None:
    """Raise, before allocation, if a compressed file claims more bytes than compression can explain."""
    if claimed > MAX_CLAIM and claimed > MAX_RATIO * present:
        raise fault(f"claims {claimed} bytes of numbers, more than its {present} bytes can hold")


def check_values(stored: Tensor, fault: Fault, dtype: torch.dtype) -> tuple[float, float]:
    """Refuse NaN, infinity and what overflows `dtype`; return the lowest and highest value.

    Reads in chunks of rows, so the memory used does not grow with the file.
    """
    low, high = math.inf, -math.inf
    step = max(1, _CHUNK // max(1, stored[0].numel()))
    for start in range(0, len(stored), step):
        chunk = stored[start : start + step]
        # A number too large for the output type becomes an infinity there. Python floats hold the extremes.
        values = chunk.to(dtype)
        smallest, largest = (float(v) for v in torch.aminmax(values))
        if not (math.isfinite(smallest) and math.isfinite(largest)):
            raise _bad_value(chunk, values, start, fault, dtype)
        low, high = min(low, smallest), max(high, largest)
    return low, high


def _bad_value(chunk: Tensor, values: Tensor, start: int, fault: Fault, dtype: torch.dtype) -> DataError:
    place = [int(i) for i in (~torch.isfinite(values)).nonzero()[0]]
    value = float(chunk[tuple(place)])
    rest = place[1:] if values.ndim > 1 and values[0].numel() > 1 else []
    column = "" if not rest else f", column {rest[0]}" if len(rest) == 1 else f", element {rest}"
    limit = "a finite number" if not math.isfinite(value) else f"within the range of {dtype}"
    row = f"row {start + place[0]}{column} (counted from 0)"
    return fault(f"{row} must be {limit}, got {value:g}")
