"""The table of planted faults (tests/mutate) fits the sources: `make mutate` takes half an hour, this a moment."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
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


@pytest.mark.slow
def test_every_cpp_fault_compiles(mutate: ModuleType, tmp_path: Path) -> None:
    """Of those that a program for this processor has; one that does not stops the whole campaign."""
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    faults = [fault for fault in mutate.read_table() if fault.native]
    for file in {fault.file for fault in faults}:
        text = (ROOT / file).read_text()
        (tmp_path / file).write_text(mutate.planted(text, [fault for fault in faults if fault.file == file]))
    (tmp_path / "switch.h").write_text(mutate.SWITCH)
    command = ["c++", "-std=gnu++20", "-fsyntax-only", "-w", "-march=native", "-DFASTGAN_ISA=portable"]
    command += ["-include", str(tmp_path / "switch.h")]
    for unit in sorted((tmp_path / "csrc" / "cpu").glob("*.cpp")):
        subprocess.run([*command, str(unit)], check=True)


@pytest.mark.parametrize("old", ["no such text", "«return»"])
def test_a_row_without_one_place_is_refused(mutate: ModuleType, old: str) -> None:
    with pytest.raises(SystemExit, match="places in some.py"):
        mutate.locate("return 1\nreturn 2\n", old, "some.py")


def spin() -> None:
    while True:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.filterwarnings("ignore:os.fork")  # of JAX, where another test has imported it
@pytest.mark.parametrize(("behave", "outcome"), [
    (spin, "hangs"), (signal.pause, "hangs"), (lambda: None, "survived"), (lambda: 1 / 0, "caught (import)"),
])  # fmt: skip
def test_a_fault_hangs_by_the_processors_time_not_the_clocks(
    mutate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, behave: Callable[[], object], outcome: str
) -> None:
    monkeypatch.setattr(mutate, "run_tests", lambda test, log: 0)
    monkeypatch.setattr(mutate, "ASLEEP", 0.5)
    assert mutate.forked(tmp_path / "log", "some.py", behave, 0.3)[0] == outcome


def test_the_report_counts_what_was_reached(mutate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    faults = [fault for fault in mutate.read_table() if fault.native and not fault.excuse][:41]
    texts = {fault.file: (ROOT / fault.file).read_text() for fault in faults}
    outcomes = [mutate.UNREACHABLE, "hangs", "survived", *["caught"] * 38]
    assert mutate.report(list(zip(faults, outcomes, strict=True)), texts) == 0  # 1 of 40
    out = capsys.readouterr().out
    assert (
        "C++: 41 planted, 1 not reached on this processor, 38 caught, 1 hang, 0 change nothing that shows, 1 surv"
        in out
    )
    assert mutate.report(list(zip(faults, ["survived", *outcomes[1:]], strict=True)), texts) == 0  # 2 of 41
    assert mutate.report(list(zip(faults, ["survived"] * 2 + outcomes[2:], strict=True)), texts) == 1  # 3 of 41
    assert f"{faults[0].file}:" in capsys.readouterr().out


def test_processes_that_a_test_starts_have_the_fault(mutate: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "some_module.py"
    file.write_text("answer = 42\n")
    environment = os.environ | {
        "FASTGAN_FAULT": json.dumps([str(file), 9, 11, "41"]),
        "PYTHONPATH": os.pathsep.join([str(mutate.SITE), str(tmp_path)]),
    }
    command = [sys.executable, "-c", "import some_module; print(some_module.answer)"]
    assert subprocess.run(command, env=environment, check=True, capture_output=True).stdout == b"41\n"


def test_a_fault_that_needs_another_processor_is_not_planted(mutate: ModuleType, tmp_path: Path) -> None:
    fault = dataclasses.replace(mutate.read_table()[0], needs="no_such_flag")
    row = mutate.Row()
    assert not list(mutate.plant([fault], {fault.number: row}, tmp_path, lambda f: pytest.fail("planted")))
    assert row.outcome == mutate.UNREACHABLE


def test_results_are_known_by_place_whatever_the_number(mutate: ModuleType) -> None:
    faults = mutate.read_table()
    texts = {fault.file: (ROOT / fault.file).read_text() for fault in faults}
    assert len({mutate.key(fault, texts[fault.file]) for fault in faults}) == len(faults)
