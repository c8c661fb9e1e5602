"""The table of planted faults (tests/mutate) fits the sources: `make mutate` takes half an hour, this a moment."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

MUTATE = Path(__file__).with_name("mutate") / "mutate.py"
ROOT = MUTATE.parents[2]
if not (ROOT / "csrc").is_dir():
    pytest.skip("not in a checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def mutate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fastgan_mutate", MUTATE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_fault_has_one_place_and_tests_that_exist(mutate: ModuleType) -> None:
    """`read_table` raises where a row has no place, or two."""
    faults = mutate.read_table()
    assert len(faults) == len(re.findall(r"^\+", mutate.TABLE.read_text(), re.M))
    named = {test for fault in faults for test in fault.tests}
    assert not {test for test in named if not (ROOT / "tests" / test).is_file()}


def test_every_python_fault_compiles(mutate: ModuleType) -> None:
    """One that does not would count as noticed, whatever the tests."""
    for fault in mutate.read_table():
        if not fault.native:
            text = (ROOT / fault.file).read_text()
            compile(text[: fault.start] + fault.put + text[fault.end :], fault.file, "exec")


def test_the_faults_of_a_file_can_be_planted_together(mutate: ModuleType) -> None:
    """C++ faults are built into one module, so none may overlap another without containing it."""
    faults = [fault for fault in mutate.read_table() if fault.native]
    for file in {fault.file for fault in faults}:
        mutate.planted((ROOT / file).read_text(), [fault for fault in faults if fault.file == file])


@pytest.mark.parametrize("old", ["no such text", "«return»"])
def test_a_row_without_one_place_is_refused(mutate: ModuleType, old: str) -> None:
    with pytest.raises(SystemExit, match="places in some.py"):
        mutate.locate("return 1\nreturn 2\n", old, "some.py")
