"""Plants the faults of faults.txt one by one and says which of them the tests notice: `make mutate`.

Nothing of the checkout is changed. The C++ faults are compiled together, from a copy of the sources, into one module in
which a number chooses the fault; a Python fault is planted where its module is imported. For each fault a process is
forked, which runs the tests that the table names until the first one fails.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from places import places  # noqa: E402

TABLE = Path(__file__).with_name("faults.txt")
SECONDS = 300  # a fault that takes the tests longer hangs them: noticed

SWITCH = """
#pragma once
extern "C" inline __attribute__((visibility("default"), used)) int fastgan_fault = 0;
#define FASTGAN_FAULT(n) (fastgan_fault == (n))
"""


@dataclass(frozen=True)
class Fault:
    """A place in a file and what to put there."""

    number: int
    file: str
    tests: tuple[str, ...]
    start: int
    end: int
    put: str
    statement: bool
    excuse: str  # why no test can notice it, or ""

    @property
    def native(self) -> bool:
        return self.file.startswith("csrc/")


def read_table() -> list[Fault]:
    """All faults; an error where one does not have exactly one place."""
    faults: list[Fault] = []
    groups: dict[str, tuple[str, ...]] = {}
    file, tests, text = "", (), ""
    pieces = re.split(r"\n(?=[-!+~=@#])", "\n" + TABLE.read_text())
    old: str | None = None
    for piece in filter(None, (piece.strip("\n") for piece in pieces)):
        kind, rest = piece[0], piece[1:].strip()
        if kind == "@":
            name, *members = rest.split()
            groups["@" + name] = tuple(members)
        elif kind == "=":
            file, *names = rest.removeprefix("=").split()
            tests = tuple(test for name in names for test in groups.get(name, (name,)))
            text = (ROOT / file).read_text()
        elif kind in "-!":
            old, statement = rest, kind == "!"
        elif kind == "+":
            assert old is not None
            start, end = locate(text, old, file)
            faults.append(Fault(len(faults) + 1, file, tests, start, end, rest, statement, ""))
        elif kind == "~":
            faults[-1] = Fault(**{**vars(faults[-1]), "excuse": rest})
    return faults


def locate(text: str, old: str, file: str) -> tuple[int, int]:
    """Where the part in « » of `old` is, or all of it; blanks and line breaks do not count."""
    before, _, rest = old.partition("«") if "«" in old else ("", "", old)
    inside, _, after = rest.partition("»")
    found = places(text, before + inside + after)
    if len(found) != 1:
        raise SystemExit(f"{TABLE.name}: {len(found)} places in {file} have {old!r}")
    first, last = found[0]
    lead, length = len("".join(before.split())), len("".join(inside.split()))
    at = [i for i in range(first, last) if not text[i].isspace()]
    return at[lead], at[lead + length - 1] + 1


def planted(text: str, faults: Sequence[Fault]) -> str:
    """The C++ text with all these faults behind the switch; one may lie inside another."""

    def render(start: int, end: int, inside: Sequence[Fault]) -> str:
        out, at = [], start
        outermost = [f for f in inside if not any(g is not f and contains(g, f) for g in inside)]
        for fault in sorted(outermost, key=lambda f: f.start):
            assert fault.start >= at, f"faults overlap at {text[fault.start : fault.end]!r}"
            below = [f for f in inside if f is not fault and contains(fault, f)]
            good = render(fault.start, fault.end, below)
            switch = f"FASTGAN_FAULT({fault.number})"
            out.append(text[at : fault.start])
            if fault.statement:
                out.append(f"if ({switch}) {{ {fault.put} }} else {{ {good} }}")
            else:
                out.append(f"({switch} ? ({fault.put}) : ({good}))")
            at = fault.end
        return "".join(out) + text[at:end]

    return render(0, len(text), faults)


def contains(outer: Fault, inner: Fault) -> bool:
    same = (outer.start, outer.end) == (inner.start, inner.end)
    return outer.start <= inner.start and inner.end <= outer.end and (not same or outer.number < inner.number)


def build(faults: Sequence[Fault], work: Path) -> Path:
    """The module with all C++ faults, for this machine's processor alone."""
    source = work / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "csrc", source / "csrc", ignore=shutil.ignore_patterns("cuda-*"))
    for file in {fault.file for fault in faults}:
        path = source / file
        path.write_text(planted(path.read_text(), [f for f in faults if f.file == file]))
    lists = (ROOT / "CMakeLists.txt").read_text()
    sets = r"if\(FASTGAN_SANITIZE\)  # once.*?endif\(\)\nset\(FASTGAN_FLAGS_v2[^\n]*\n[^\n]*\n[^\n]*\n"
    one = "set(FASTGAN_SETS portable)\nset(FASTGAN_FLAGS_portable -march=native)\n"
    lists = re.sub(sets, one, lists, flags=re.S)
    assert "set(FASTGAN_SETS v2" not in lists, "CMakeLists.txt is not as it was"
    (source / "CMakeLists.txt").write_text(lists)
    (work / "switch.h").write_text(SWITCH)
    import pybind11

    options = {
        "SKBUILD_PROJECT_VERSION": "0.0.0", "FASTGAN_CUDA": "OFF", "CMAKE_BUILD_TYPE": "Release",
        "pybind11_DIR": pybind11.get_cmake_dir(), "CMAKE_CXX_FLAGS": f"-include {work / 'switch.h'} -O2 -w",
        "Python_EXECUTABLE": sys.executable, "PYTHON_EXECUTABLE": sys.executable,
    }  # fmt: skip
    target = work / "build"
    defines = [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run(["cmake", "-G", "Ninja", "-S", str(source), "-B", str(target), *defines], check=True, stdout=2)
    subprocess.run(["cmake", "--build", str(target), "-j", "2"], check=True, stdout=2)
    return next(target.glob("_native*.so"))


def plant_python(fault: Fault) -> None:
    """From now on the import of this module of fastgan gives the faulty one."""
    path = ROOT / fault.file
    text = path.read_text()
    code = compile(text[: fault.start] + fault.put + text[fault.end :], str(path), "exec")
    usual = importlib.machinery.SourceFileLoader.get_code
    names: list[str] = []

    def get_code(self: Any, name: str) -> Any:
        if Path(self.path) != path:
            return usual(self, name)
        names.append(name)
        return code

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    importlib.import_module(fault.file.removesuffix(".py").replace("/", "."))
    assert names, f"{fault.file} was not imported from {path}"


def use_native(module: Path) -> Any:
    """Let fastgan find this module where it looks for its core; gives the switch."""
    switch = ctypes.c_int.in_dll(ctypes.CDLL(str(module)), "fastgan_fault")
    spec = importlib.util.spec_from_file_location("fastgan._native", module)
    assert spec is not None and spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    sys.modules["fastgan._native"] = native
    return switch


def run_tests(tests: Sequence[str], log: Path) -> int:
    """pytest in this process until the first failure; 0 where all pass."""
    import pytest

    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-W", "ignore"]
        for name in dict.fromkeys(tests):  # one after the other: most faults are noticed by the first
            if code := int(pytest.main([*options, str(ROOT / "tests" / name)])):
                return code
    return 0


def forked(work: Path, name: str, tests: Sequence[str], prepare: Any) -> tuple[str, float]:
    """Run tests in a child after `prepare`: what came of it, and the seconds."""
    begun = time.monotonic()
    log = work / f"{name}.log"
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            prepare()
            os._exit(min(run_tests(tests, log), 9))
        except BaseException as error:
            log.write_text(f"{type(error).__name__}: {error}\n")
            os._exit(8)  # it does not even import
    while time.monotonic() - begun < SECONDS:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {0: "survived", 1: "caught", 2: "caught", 8: "caught (import)"}.get(code, f"caught ({code})"), (
                time.monotonic() - begun
            )
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "caught (hangs)", SECONDS


def campaign(faults: Sequence[Fault], work: Path) -> Iterator[tuple[Fault, str, float]]:
    """Each fault, and what came of it. The tests must pass without one."""
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT / "tests"))
    python, native = [[f for f in faults if f.native is kind] for kind in (False, True)]
    yield from plant(python, work, plant_python)
    if not native:
        return
    switch = use_native(build([f for f in read_table() if f.native], work))
    import fastgan  # noqa: F401

    def choose(fault: Fault) -> None:
        switch.value = fault.number

    yield from plant(native, work, choose)


def plant(faults: Sequence[Fault], work: Path, prepare: Any) -> Iterator[tuple[Fault, str, float]]:
    sound: dict[str, bool] = {}
    for fault in faults:
        for test in fault.tests:
            if test not in sound:
                sound[test] = forked(work, f"sound-{test}", [test], lambda: None)[0] == "survived"
                if not sound[test]:
                    raise SystemExit(f"{test} fails without a fault: see {work}/sound-{test}.log")
        yield (fault, *forked(work, f"fault-{fault.number:03d}", fault.tests, lambda f=fault: prepare(f)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", type=int, help="faults to plant, in this order; all by default")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutate", help="folder of the build and the logs")
    parser.add_argument("--list", action="store_true", help="only show the faults")
    arguments = parser.parse_args()
    known = {f.number: f for f in read_table()}
    faults = [known[number] for number in arguments.numbers or known]
    texts = {f.file: (ROOT / f.file).read_text() for f in faults}
    if arguments.list:
        for f in faults:
            print(f"{f.number:3d} {f.file}: {' '.join(texts[f.file][f.start : f.end].split())}  ->  {f.put}")
        return 0
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = []
    for fault, outcome, seconds in campaign(faults, arguments.work):
        line = texts[fault.file].count("\n", 0, fault.start) + 1
        found.append({"number": fault.number, "file": fault.file, "line": line, "outcome": outcome, "put": fault.put,
                      "seconds": round(seconds, 1), "excuse": fault.excuse})  # fmt: skip
        print(f"{fault.number:3d} {fault.file}:{line}  {outcome}  {seconds:.0f} s", flush=True)
        (arguments.work / "result.json").write_text(json.dumps(found, indent=1))
    survived = [row for row in found if row["outcome"] == "survived"]
    excused = [row for row in survived if row["excuse"]]
    real = len(found) - len(excused)
    missed = len(survived) - len(excused)
    print(f"{len(found)} faults: {len(found) - len(survived)} caught, {len(survived)} survived")
    print(f"{len(excused)} survivors change nothing that shows; of the other {real} faults {real - missed} are caught")
    for row in survived:
        print(f"  {row['number']:3d} {row['file']}:{row['line']}  {row['put']}  {row['excuse']}")
    return int(missed > 0.05 * real)


if __name__ == "__main__":
    raise SystemExit(main())
