"""Random numbers by stream and index, and permutations by seed and epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan import _kernels, reference
from fastgan._errors import Invalid
from fastgan._options import Impl
from fastgan.ops.checks import check_integer
from fastgan.ops.dispatch import natively


def _check_stream(caller: str, seed: int, purpose: int, step: int) -> None:
    check_integer(caller, "seed", seed, -(2**63), 2**64)
    check_integer(caller, "purpose", purpose, 0, 2**8)
    check_integer(caller, "step", step, 0, 2**56)


def random(
    kind: str,
    n: int,
    *,
    seed: int,
    purpose: int,
    step: int,
    substream: int,
    offset: int,
    dtype: torch.dtype,
    device: torch.device,
    impl: Impl = "auto",
) -> Tensor:
    """Elements offset .. offset+n of a stream: "uniform" in (0, 1) or "normal"; Tensor (n,)."""
    caller = f"random.{kind}"
    _check_stream(caller, seed, purpose, step)
    check_integer(caller, "substream", substream, 0, 2**16)
    check_integer(caller, "offset", offset, 0, 2**50)
    if not dtype.is_floating_point:
        raise Invalid(caller).type("dtype", f"must be floating point, got {dtype}")
    narrow = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    probe = torch.empty(0, dtype=narrow, device=device if device.type == "cuda" else "cpu")
    if impl == "reference" or not natively(caller, "random", "auto", probe):
        probe = torch.empty(0, dtype=narrow, device="cpu")  # drawn there and moved, where the device has no kernel
    if natively(caller, "random", impl, probe):
        flat = _kernels.random(kind, n, seed, purpose, step, substream, offset, narrow, probe.device)
    else:
        draw = reference.random_normal if kind == "normal" else reference.random_uniform
        flat = draw(n, seed=seed, purpose=purpose, step=step, substream=substream, offset=offset)
    flat = flat.to(dtype)
    if device.type != "cuda" or flat.is_cuda:
        return flat.to(device)
    return flat.pin_memory().to(device, non_blocking=True)  # the copy is asynchronous


def permutation(n: int, *, seed: int, epoch: int, start: int, count: int, purpose: int, impl: Impl = "auto") -> Tensor:
    """Positions start .. start+count of the keyed permutation of range(n); int64 Tensor (count,) on the CPU."""
    _check_stream("permutation", seed, purpose, epoch)
    if natively("permutation", "random", impl, torch.empty(0, device="cpu")):
        return _kernels.permutation(n, seed, epoch, start, count, purpose)
    return reference.permutation(n, seed=seed, epoch=epoch, start=start, count=count, purpose=purpose)
