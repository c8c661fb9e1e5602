"""Checks of the layers' sizes."""

from __future__ import annotations

from fastgan._errors import Invalid


def check_size(owner: str, argument: str, value: int) -> int:
    """A number of units: a positive int."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid(owner).type(argument, f"must be an int, got {type(value).__name__}")
    if value < 1:
        raise Invalid(owner).value(argument, f"must be at least 1, got {value}")
    return value
