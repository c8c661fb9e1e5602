"""Counter-based random numbers: any number of any stream is addressable, so runs replay and resume exactly.

A stream is named by (seed, purpose, step, substream); its elements by their index. The numbers are those of
Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), the same on every device, in every
backend and for any split into chunks: uniform numbers to the last bit, normal ones to the rounding of their logarithm.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import _deprecation, _options, ops, reference
from fastgan._errors import Invalid, check_choice, is_integer
from fastgan._options import Impl, PriorName

__all__ = [
    "Purpose",
    "next_dropout_seed",
    "normal",
    "permutation",
    "prior",
    "scope",
    "torch_seed",
    "uniform",
]
__dir__ = __all__.copy  # what completion shows

__getattr__ = _deprecation.names(__name__, {"next_key": "next_dropout_seed"})


class Purpose(enum.IntEnum):
    """The purpose of a stream: equal seeds never share numbers across purposes."""

    ROWS = 0  # the order of the minibatches
    NOISE_D = 1  # z for the discriminator's step
    NOISE_G = 2  # z for the generator's step
    SAMPLE = 3  # z for samples drawn after training
    DROPOUT_SEED = 4  # dropout seeds
    DROPOUT = 5  # the masks themselves
    DATA = 6  # synthetic data sets
    PENALTY = 7  # where between real and fake a gradient penalty looks
    GUMBEL = 8  # noise of a Gumbel-softmax
    INSTANCE_NOISE = 9  # on what the discriminator sees


def uniform(
    shape: int | Sequence[int],
    *,
    seed: int,
    purpose: int,
    step: int = 0,
    substream: int = 0,
    offset: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    impl: Impl = "auto",
) -> Tensor:
    """Numbers uniform in the open interval (0, 1).

    Args:
        shape: of the result.
        seed: 64-bit int.
        purpose: what the stream is for, a `Purpose`.
        step: below 2**56.
        substream: below 2**16.
        offset: index of the first element.
        dtype: float32 or any floating type.
        device: of the result.
        impl: "auto", "native" or "reference".

    Returns:
        Tensor of `shape`. Element i is element offset + i of the stream, whatever the shape.
    """
    stream = {"seed": seed, "purpose": purpose, "step": step, "substream": substream, "offset": offset}
    return _numbers("uniform", shape, **stream, dtype=dtype, device=torch.device(device), impl=impl)


def normal(
    shape: int | Sequence[int],
    *,
    seed: int,
    purpose: int,
    step: int = 0,
    substream: int = 0,
    offset: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    impl: Impl = "auto",
) -> Tensor:
    """Standard normal numbers; arguments as for `uniform`.

    Returns:
        Tensor of `shape`. Element i is element offset + i of the stream, whatever the shape.

    Source: Box and Muller (1958).
    """
    stream = {"seed": seed, "purpose": purpose, "step": step, "substream": substream, "offset": offset}
    return _numbers("normal", shape, **stream, dtype=dtype, device=torch.device(device), impl=impl)


def _numbers(distribution: str, shape: int | Sequence[int], **stream: Any) -> Tensor:
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    return ops.random(distribution, math.prod(size), **stream).view(size)


PRIORS = _options.names(PriorName)


def prior(
    name: PriorName,
    shape: Sequence[int],
    *,
    seed: int,
    purpose: int,
    step: int = 0,
    substream: int = 0,
    offset: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    impl: Impl = "auto",
) -> Tensor:
    """Latent vectors z ~ p_z, one a row.

    Args:
        name: "normal" N(0, I); "uniform" on [-sqrt 3, sqrt 3], variance 1; "spherical", normal rows of unit length.
        shape: (rows, latent_dim).
        seed, purpose, step, substream, offset, dtype, device, impl: as for `uniform`.

    Returns:
        Tensor (rows, latent_dim).

    Raises:
        ValueError: an unknown name.

    Source: Goodfellow et al. (2014), Algorithm 1, and the noise of its original code.
    """
    check_choice("prior", "name", name, PRIORS)
    stream = {"seed": seed, "purpose": purpose, "step": step, "substream": substream, "offset": offset}
    draw = uniform if name == "uniform" else normal
    z = draw(shape, **stream, dtype=dtype, device=device, impl=impl)
    if name == "uniform":
        return z.mul_(2).sub_(1).mul_(math.sqrt(3.0))
    return z if name == "normal" else z.div_(z.norm(dim=-1, keepdim=True))


def permutation(
    n: int,
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    count: int | None = None,
    device: torch.device | str = "cpu",
    impl: Impl = "auto",
) -> Tensor:
    """Positions start .. start+count of the shuffle of range(n) that belongs to this epoch: rows without replacement.

    Equivalent to `torch.randperm(n)[start:start + count]`, but keyed, so that any step of any epoch is addressable.

    Args:
        n: number of rows.
        seed: 64-bit int.
        epoch: each has a shuffle of its own.
        start: the first position wanted.
        count: how many; None for all that follow.
        device: of the result.
        impl: "auto", "native" or "reference".

    Returns:
        int64 Tensor (count,).
    """
    count = n - start if count is None else count
    for name, value in (("n", n), ("epoch", epoch), ("start", start), ("count", count)):
        if not is_integer(value):
            raise Invalid("permutation").type(name, f"must be an integer, got {value!r}")
    if n < 1 or start < 0 or count < 0 or start + count > n:
        raise Invalid("permutation").value(f"positions {start} to {start + count}", f"must lie within 0 to n = {n}")
    order = ops.permutation(n, seed=seed, epoch=epoch, start=start, count=count, purpose=Purpose.ROWS, impl=impl)
    return order.to(device)


def torch_seed(seed: int, step: int, phase: int = 0) -> int:
    """The seed that torch's own generators get for one (step, phase) of the run of this seed.

    Returns:
        int of 63 bits.
    """
    low, high, _, _ = reference.philox(*_counter(0, phase, step, Purpose.DROPOUT_SEED), *_halves(seed))
    return (low | (high << 32)) & (2**63 - 1)


@contextlib.contextmanager
def scope(seed: int, step: int, phase: int = 0) -> Iterator[None]:
    """Inside, dropout masks (fastgan's and torch's) depend on (seed, step, phase) alone: a step can be replayed.

    torch's default generator, which all threads share, is seeded inside and put back behind. Dropout seeds are drawn
    from that generator, because code that repeats a forward pass, such as `torch.utils.checkpoint`, restores it and so
    gets the same masks.

    Returns:
        A context manager.
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(torch_seed(seed, step, phase))
    try:
        yield
    finally:
        generator.set_state(state)


@contextlib.contextmanager
def dropout_seeds(seed: int, step: int, substream: int = 0) -> Iterator[None]:
    """Inside, `next_dropout_seed()` gives numbers of the stream (seed, DROPOUT_SEED, step), as in the compiled engines.

    Each process of several that share a batch has a substream of its own, and so have samples.

    Do not use it where a forward pass is run again, as `torch.utils.checkpoint` does: the second pass would draw the
    next seeds. There use `scope`.
    """
    token = _dropout_seeds.set(_counted(seed, step, substream))
    try:
        yield
    finally:
        _dropout_seeds.reset(token)


_dropout_seeds: contextvars.ContextVar[Iterator[int] | None] = contextvars.ContextVar("dropout_seeds", default=None)


def _counted(seed: int, step: int, substream: int) -> Iterator[int]:
    for block in itertools.count(1):
        low, high, _, _ = reference.philox(*_counter(block, substream, step, Purpose.DROPOUT_SEED), *_halves(seed))
        yield (low | (high << 32)) & (2**63 - 1)


def _halves(number: int) -> tuple[int, int]:
    """The low and the high 32 bits."""
    number = int(number)  # of NumPy, it would overflow
    return number & 0xFFFFFFFF, (number >> 32) & 0xFFFFFFFF


def _counter(block: int, substream: int, step: int, purpose: Purpose) -> tuple[int, int, int, int]:
    """The four words that Philox encrypts."""
    (b, b_high), (s, s_high) = _halves(block), _halves(step)
    return b, b_high | (substream << 16), s, s_high | (int(purpose) << 24)


def next_dropout_seed() -> Tensor:
    """A fresh 63-bit seed for dropout masks, int64 of shape (), on the CPU.

    It comes from torch's default generator, within `dropout_seeds` from a counter.
    """
    counted = None if torch.compiler.is_compiling() else _dropout_seeds.get()
    if counted is not None:
        return torch.tensor(next(counted), dtype=torch.int64)
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")
