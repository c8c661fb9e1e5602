"""The precision of the baselines' products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from fastgan._torch_settings import put_back


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Round the factors of torch's and JAX's float32 products to tf32 inside if `precision` is "tf32", else not.

    By default torch does not, and JAX does on a GPU. torch has two switches, and both are set: its products read the
    newer one, torch.compile the older one. The CUDA-graph engine needs the newer one alone. Afterwards both are as
    before.
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
