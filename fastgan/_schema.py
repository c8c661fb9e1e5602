"""Enumerations and plan fields as the compiled core exports them; without it, the names that Python has anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from fastgan import _options, reference
from fastgan._backend import native

_DTYPES = {"f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16}
# What users and the reference name; a test compares it with the core.
NAMED: dict[str, tuple[str, ...]] = {
    "DType": tuple(_DTYPES),
    "Formula": tuple(reference.FORMULAS),
    "Activation": tuple(reference.ACTIVATIONS),
    "Prior": _options.names(_options.PriorName),
    "Precision": _options.names(_options.Precision),
    "Head": _options.names(_options.HeadName),
    "Penalty": ("none", *(name.replace("-", "_") for name in _options.names(_options.PenaltyKind))),
}
ENUMS: Mapping[str, tuple[str, ...]] = NAMED if native is None else native.ENUMS
# Of each struct of csrc/plan.h and csrc/train.h: a field's name, and what it is.
FIELDS: Mapping[str, Mapping[str, str]] = {} if native is None else native.FIELDS

_NUMBERS = {enumeration: {name: i for i, name in enumerate(names)} for enumeration, names in ENUMS.items()}
DTYPES = {_DTYPES[name]: i for name, i in _NUMBERS["DType"].items()}
FORMULAS, ACTIVATIONS = _NUMBERS["Formula"], _NUMBERS["Activation"]
PENALTIES = {name.replace("_", "-"): i for name, i in _NUMBERS["Penalty"].items()}
# Activations whose derivative is computed from their input, that of the others from their output; those without a
# second derivative: `from_output` and `has_second_derivative` in csrc/formulas.h.
FROM_INPUT = ("softplus", "gelu")
PIECEWISE_LINEAR = ("none", "relu", "leaky_relu")


def number(enumeration: str, name: str) -> int:
    """The core's number of a name; hyphens are its underscores."""
    return _NUMBERS[enumeration][name.replace("-", "_")]


def in_order(struct: str, values: Mapping[str, Any]) -> list[Any]:
    """The fields of a struct of plain numbers, in the core's order; names of values become their numbers."""
    plain: dict[str, Callable[[Any], Any]] = {"real": float, "integer": int, "flag": int}
    return [
        number(kind, values[name]) if kind in ENUMS else plain[kind](values[name])
        for name, kind in FIELDS[struct].items()
    ]


def of_config(struct: str, config: object) -> dict[str, Any]:
    """The fields of a struct that have the name of one of a config's, with its values; 0 for None."""
    taken = {name: getattr(config, name) for name in FIELDS[struct] if hasattr(config, name)}
    return {name: 0.0 if value is None else value for name, value in taken.items()}
