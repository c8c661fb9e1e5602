"""Enumerations and plan fields: C++ lists them once, and what Python names itself equals what the core exports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from fused_rows import config_of, row

import fastgan
from fastgan import _backend, _kernels, _schema, random
from fastgan.training import session
from fastgan.training.engines.cpu import CpuEngine

pytestmark = pytest.mark.skipif(_backend.native is None, reason="the core exports the schema")
CSRC = Path(fastgan.__file__).parent.parent / "csrc"


def test_the_names_of_python_are_those_of_the_core() -> None:
    exported = {name: tuple(_backend.native.ENUMS[name]) for name in _schema.NAMED}
    assert exported == _schema.NAMED
    assert _backend.native.ENUMS["Purpose"] == tuple(purpose.name.lower() for purpose in random.Purpose)
    assert [purpose.value for purpose in random.Purpose] == list(range(len(random.Purpose)))
    assert _schema.DTYPES[torch.bfloat16] == _schema.number("DType", "bf16") == 3
    assert _schema.number("Penalty", "wgan-gp") == 1


@pytest.mark.skipif(not CSRC.is_dir(), reason="an installed package has no csrc folder")
def test_activations_have_the_traits_that_python_goes_by() -> None:
    """Which derivative comes from the input, and which second derivative is zero, as the structs say."""
    text = (CSRC / "formulas.h").read_text()
    traits = r"struct (\w+) \{[^{]*?from_output = (\w+), has_second_derivative = (\w+);"
    of_struct = {name: (output == "true", second == "true") for name, output, second in re.findall(traits, text)}
    cases = dict(re.findall(r"case Activation::(\w+): f\((\w+)\{\}\)", text))
    assert tuple(cases) == _schema.ENUMS["Activation"]
    assert _schema.FROM_INPUT == tuple(name for name, struct in cases.items() if not of_struct[struct][0])
    assert _schema.PIECEWISE_LINEAR == tuple(name for name, struct in cases.items() if not of_struct[struct][1])


def test_a_plan_with_a_field_too_few_or_too_many_is_refused() -> None:
    gan = row().make(torch.float64)
    config = config_of(row(), "fused", steps=1)
    data = torch.randn(30, 2, dtype=torch.float64)
    description = CpuEngine(gan, session.rows_for(data, gan, config), config).state.description
    assert set(description["plan"]) == set(_schema.FIELDS["TrainPlan"])
    _kernels.native.CompiledPlan(description)
    for plan, why in (
        (description["plan"] | {"unheard_of": 1}, "1 fields are unknown to the core"),
        ({name: value for name, value in description["plan"].items() if name != "pack"}, "pack"),
        (description["plan"] | {"prior": "cauchy"}, "no Prior is named cauchy"),
    ):
        with pytest.raises((ValueError, KeyError), match=why):
            _kernels.native.CompiledPlan(description | {"plan": plan})


def test_a_field_named_as_one_of_the_config_is_that_one() -> None:
    config = config_of(row(), "eager", k=3, ema_decay=0.25)
    taken = _schema.of_config("TrainPlan", config)
    assert (taken["k"], taken["ema_decay"], taken["pack"]) == (3, 0.25, 1)
    assert _schema.of_config("OptimizerPlan", config)["max_col_norm"] == 0.0
