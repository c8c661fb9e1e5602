"""The precision of the baselines' products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from fastgan.training.engines.cuda_graph import put_back


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Factors of torch's and JAX's float32 products are rounded to tf32 inside on request, else not.

    By itself torch would not, JAX would on a GPU. Both of torch's switches say so: its products go by the newer,
    torch.compile by the older, unlike the CUDA-graph engine, which sets the newer alone. Afterwards both are as
    they were.
    """
    newer = [switch for switch in _newer() if hasattr(switch, "fp32_precision")]
    before = [switch.fp32_precision for switch in newer]
    with contextlib.ExitStack() as put_all_back:
        for switch, said in zip(newer, before, strict=True):
            put_all_back.callback(put_back, switch, said)
            switch.fp32_precision = "ieee"  # the older answers only where these do not contradict it
        put_all_back.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        with _jax_products_in("tensorfloat32" if precision == "tf32" else "float32"):
            yield


@contextlib.contextmanager
def bf16_products() -> Iterator[None]:
    """Factors of torch's float32 products on the CPU are rounded to bf16 inside: the one line of a user of oneDNN.

    Raises:
        RuntimeError: this torch has no such switch.
    """
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    if switch is None:
        raise RuntimeError("this PyTorch has no torch.backends.mkldnn.matmul.fp32_precision")
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before


def _newer() -> tuple[Any, ...]:
    """The settings that the older switch also sets."""
    return torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)


def _jax_products_in(precision: str) -> contextlib.AbstractContextManager[None]:
    try:
        import jax
    except ImportError:
        return contextlib.nullcontext()
    found: contextlib.AbstractContextManager[None] = jax.default_matmul_precision(precision)
    return found
