"""What the layers ask of their arguments, in one sentence each."""

from __future__ import annotations


def check_size(owner: str, argument: str, value: int) -> int:
    """A number of units: a positive int."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{owner}: {argument} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{owner}: {argument} must be at least 1, got {value}")
    return value


def check_probability(owner: str, argument: str, value: float) -> float:
    """A probability, 0 and 1 included."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{owner}: {argument} must be a probability between 0 and 1, got {value}")
    return float(value)


def check_impl(owner: str, impl: str) -> str:
    """ "auto", "native" or "reference"."""
    if impl not in ("auto", "native", "reference"):
        raise ValueError(f"{owner}: impl must be 'auto', 'native' or 'reference', got {impl!r}")
    return impl
