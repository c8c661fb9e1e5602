"""Values as plain JSON and back: numbers keep their bits, containers their types."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastgan._errors import Invalid


def encode(value: Any) -> Any:
    """As JSON: tuples, counters, dictionaries with other keys than texts and non-finite numbers are tagged.

    Raises:
        TypeError: a value of another kind, named by its type.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"!": "float", "of": repr(value)}
    if type(value) is list:
        return [encode(part) for part in value]
    if type(value) is tuple:
        return {"!": "tuple", "of": [encode(part) for part in value]}
    if type(value) in (dict, Counter):
        if type(value) is dict and all(isinstance(key, str) and key != "!" for key in value):
            return {key: encode(part) for key, part in value.items()}
        return {"!": type(value).__name__, "of": [[encode(key), encode(part)] for key, part in value.items()]}
    raise TypeError(type(value).__name__)


def decode(value: Any) -> Any:
    """The value that `encode` encoded."""
    if isinstance(value, list):
        return [decode(part) for part in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("!")
    if kind == "float":
        return float(value["of"])
    if kind == "tuple":
        return tuple(decode(part) for part in value["of"])
    if kind in ("dict", "Counter"):
        pairs = {decode(key): decode(part) for key, part in value["of"]}
        return Counter(pairs) if kind == "Counter" else pairs
    return {key: decode(part) for key, part in value.items()}


def leaves(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries and lists, by dotted name."""
    if isinstance(part, dict | list):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, part


def take_plain_numbers(description: Any) -> None:
    """Replace the numbers of NumPy in a frozen dataclass by those of Python, which JSON knows."""
    for field in dataclasses.fields(description):
        value = getattr(description, field.name)
        plain = tuple(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
        object.__setattr__(description, field.name, plain)


def _plain(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def count_of(owner: str, name: str, value: int) -> int:
    """A count of an argument, at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Invalid(owner).value(name, f"must be an integer of at least 1, got {value!r}")
    return value
