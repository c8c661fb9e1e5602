"""In what precision the peers multiply."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Factors of torch's and JAX's float32 products are rounded to tf32 inside where that is asked for, else not.

    By itself torch would not, JAX would on a GPU.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with _jax_products_in("tensorfloat32" if precision == "tf32" else "float32"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _jax_products_in(precision: str) -> contextlib.AbstractContextManager[None]:
    try:
        import jax
    except ImportError:
        return contextlib.nullcontext()
    found: contextlib.AbstractContextManager[None] = jax.default_matmul_precision(precision)
    return found
