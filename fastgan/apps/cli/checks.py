"""Checks of a config.json, field by field: users edit it and copy it between runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, whose numbers are all finite.

    Raises:
        ValueError: it holds something else.
    """
    body = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(body, dict):
        raise ValueError(f"it must be an object, got {_short(body)}")
    _check_finite(body, "")
    return body


def _check_finite(value: Any, name: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            _check_finite(part, f"{name}.{key}" if name else str(key))


def text(body: dict[str, Any], name: str) -> str:
    """A field that is a non-empty text."""
    if not isinstance(value := body[name], str) or not value:
        raise ValueError(f"{name} must be a text, got {_short(value)}")
    return value


def whole(body: dict[str, Any], name: str, least: int) -> int:
    """A field that is an integer of at least `least`."""
    return _whole(body[name], name, least)


def _whole(value: Any, name: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise ValueError(f"{name} must be an integer of at least {least}, got {_short(value)}")
    return value


def numbers(body: dict[str, Any], name: str, count: int, least: float = -math.inf) -> tuple[float, ...]:
    """A field that is a list of so many numbers of at least so much."""
    return _numbers(body[name], name, count, least)


def _numbers(values: Any, name: str, count: int, least: float) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != count:
        got = f"a list of {len(values)}" if isinstance(values, list) else _short(values)
        raise ValueError(f"{name} must be a list of {count}, got {got}")
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or value < least:
            rule = "a number" if least == -math.inf else f"a number of at least {least:g}"
            raise ValueError(f"{name} must hold {rule} at each place, got {_short(value)}")
    return tuple(map(float, values))


def columns(body: dict[str, Any], data_dim: int) -> None:
    """Raise unless there are a mean and a standard deviation of each column, or None."""
    if (value := body["columns"]) is None:
        return
    if not isinstance(value, dict):
        raise ValueError(f"columns must be an object with mean and std, got {_short(value)}")
    _numbers(value["mean"], "columns.mean", data_dim, -math.inf)
    _numbers(value["std"], "columns.std", data_dim, 0.0)


def image_shape(body: dict[str, Any], data_dim: int) -> tuple[int, int] | None:
    """(height, width) of images of `data_dim` features in one or more channels, or None."""
    if (value := body["image_shape"]) is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"image_shape must be a list of 2, got {_short(value)}")
    height, width = (_whole(size, "image_shape", 1) for size in value)
    if data_dim % (height * width):
        raise ValueError(f"image_shape must divide the {data_dim} features of a sample, got {height} x {width}")
    return height, width


def value_range(body: dict[str, Any]) -> tuple[float, float] | None:
    """(lowest, highest), or None."""
    if body["value_range"] is None:
        return None
    low, high = numbers(body, "value_range", 2)
    if not low < high:
        raise ValueError(f"value_range must be the lowest and the highest value, got {low:g} and {high:g}")
    return low, high


def column_names(body: dict[str, Any], data_dim: int) -> tuple[str, ...]:
    """A name for each column, or no names."""
    values = body.get("column_names", [])  # not in the first files of this format
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"column_names must be a list of texts, got {_short(values)}")
    if values and len(values) != data_dim:
        raise ValueError(f"column_names must be one for each of {data_dim} columns, got {len(values)}")
    return tuple(values)


def reading(body: dict[str, Any]) -> dict[str, Any]:
    """How the file is read: header, image_shape, background, labels, each where it was given."""
    values = body.get("read", {})  # not in the first files of this format
    if not isinstance(values, dict):
        raise ValueError(f"read must be an object, got {_short(values)}")
    if unknown := values.keys() - {"header", "image_shape", "background", "labels"}:
        raise ValueError(f"read must hold header, image_shape, background and labels alone, got {_short(min(unknown))}")
    if not isinstance(values.get("header", False), bool):
        raise ValueError(f"read.header must be true or false, got {_short(values['header'])}")
    for name in ("background", "labels"):
        if not isinstance(values.get(name, ""), str):
            raise ValueError(f"read.{name} must be a text, got {_short(values[name])}")
    found = dict(values)
    if "image_shape" in found:
        if not isinstance(shape := found["image_shape"], list) or len(shape) != 2:
            raise ValueError(f"read.image_shape must be a list of 2, got {_short(shape)}")
        found["image_shape"] = tuple(_whole(size, "read.image_shape", 1) for size in shape)
    return found


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
