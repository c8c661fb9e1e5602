"""PyTorch's settings, changed for a while, and the devices that it has here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import Optimizer

from fastgan._errors import Invalid


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """A context in which PyTorch has this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def put_back(switch: Any, before: str) -> None:
    """Set one of torch's switches for float32 to what it was: to follow the one above it, where that says the same."""
    switch.fp32_precision = "none"
    if switch.fp32_precision != before:
        switch.fp32_precision = before


@contextlib.contextmanager
def without_dynamo() -> Iterator[None]:
    """A context in which an optimiser is made, and its state read or set, without an import of torch._dynamo.

    `torch.compile` does not trace these methods. To tell it so, torch imports it at their first call, which takes a
    second. In a process that has not imported it nothing is traced.
    """
    methods = []
    if "torch._dynamo" not in sys.modules:
        for method in (Optimizer.add_param_group, Optimizer.state_dict, Optimizer.load_state_dict):
            plain = getattr(method, "__wrapped__", None)
            if plain is not None and not hasattr(plain, "__dynamo_disable"):
                setattr(plain, "__dynamo_disable", plain)  # what torch's wrapper calls, once it has found it
                methods.append(plain)
    try:
        yield
    finally:
        for plain in methods:
            delattr(plain, "__dynamo_disable")


def usable_device(operation: str, name: object) -> torch.device:
    """The argument `device` of an operation.

    Raises:
        ValueError: torch does not know it or cannot use it here.
    """
    try:
        device = torch.device(name)  # type: ignore[call-overload]
        torch.empty(1, device=device).item()  # "meta" can make a tensor, but has no numbers
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        why = " ".join(str(error).split())[:120]
        raise Invalid(operation).value("device", f"must be one that torch can use here, got {name!r} ({why})") from None
    return device
