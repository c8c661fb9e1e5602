"""PyTorch's settings, changed for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


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
