"""State of other people's objects as plain JSON, and back: numbers keep their bits, containers their types."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any


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
    """What `encode` was given."""
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
