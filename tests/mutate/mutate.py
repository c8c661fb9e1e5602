"""Plants the faults of faults.txt one by one and says which of them the tests notice: `make mutate`.

Nothing of the checkout is changed. The C++ faults are compiled together, from a copy of the sources, into one module in
which a number chooses the fault; a Python fault is planted where its module is imported. For each fault processes are
forked, one for each file of tests that the table names, until a test fails. Each file must pass without a fault first.

No time of a clock decides: a fault hangs where its tests need ten times the processor time that they need without it,
or where all their threads sleep for minutes. Results are kept in a file: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import hashlib
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(__file__).with_name("site")
sys.path.insert(0, str(ROOT / "tests"))
from places import places  # noqa: E402

sys.modules.pop("sitecustomize", None)  # another one, of the machine
sys.path.insert(0, str(SITE))
import sitecustomize  # noqa: E402

sys.path.remove(str(SITE))

TABLE = Path(__file__).with_name("faults.txt")
MINUTE = 60.0
ASLEEP = 5 * MINUTE  # so long without processor time and without a thread that waits for a processor
SURVIVED = "survived"
UNREACHABLE = "not reached: no test of it runs on this processor"

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
    needs: str = ""  # a feature of the processor

    @property
    def native(self) -> bool:
        return self.file.startswith("csrc/")


@dataclass
class Row:
    """What came of a fault: the files of tests that did not notice it, and the test that did."""

    outcome: str = UNREACHABLE
    by: str = ""
    seconds: float = 0.0
    passed: list[str] = field(default_factory=list)


def runs_here(fault: Fault) -> bool:
    return not fault.needs or fault.needs in Path("/proc/cpuinfo").read_text().split()


def read_table() -> list[Fault]:
    """All faults; an error where one does not have exactly one place."""
    faults: list[Fault] = []
    groups: dict[str, tuple[str, ...]] = {}
    file, tests, text = "", (), ""
    pieces = re.split(r"\n(?=[-!+~=@#%])", "\n" + TABLE.read_text())
    old: str | None = None
    for piece in filter(None, (piece.strip("\n") for piece in pieces)):
        kind, rest = piece[0], piece[1:].strip()
        if kind == "@":
            name, *members = rest.split()
            groups["@" + name] = tuple(members)
        elif kind == "=":
            file, *names = rest.removeprefix("=").split()
            tests = tuple(dict.fromkeys(test for name in names for test in groups.get(name, (name,))))
            text = (ROOT / file).read_text()
        elif kind in "-!":
            old, statement = rest, kind == "!"
        elif kind == "+":
            assert old is not None
            start, end = locate(text, old, file)
            faults.append(Fault(len(faults) + 1, file, tests, start, end, rest, statement, ""))
        elif kind in "~%":
            faults[-1] = dataclasses.replace(faults[-1], **{"excuse" if kind == "~" else "needs": rest})
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
    sources = {str(p.relative_to(ROOT)): p.read_text() for p in (ROOT / "csrc").rglob("*") if p.is_file()}
    for file in {fault.file for fault in faults}:
        sources[file] = planted(sources[file], [f for f in faults if f.file == file])
    for file, text in sources.items():  # an unchanged file is not written, and not compiled again
        path = source / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    lists = (ROOT / "CMakeLists.txt").read_text()
    sets = r"if\(FASTGAN_SANITIZE\)  # once.*?endif\(\)\nset\(FASTGAN_FLAGS_v2[^\n]*\n[^\n]*\n[^\n]*\n"
    one = "set(FASTGAN_SETS portable)\nset(FASTGAN_FLAGS_portable -march=native)\n"
    lists = re.sub(sets, one, lists, flags=re.S)
    assert "set(FASTGAN_SETS v2" not in lists, "CMakeLists.txt is not as it was"
    (source / "CMakeLists.txt").write_text(lists)
    if not (work / "switch.h").exists():
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
    """From now on the import of this module of fastgan gives the faulty one, also in processes that tests start."""
    file = str(ROOT / fault.file)
    names = sitecustomize.plant(file, fault.start, fault.end, fault.put)
    os.environ["FASTGAN_FAULT"] = json.dumps([file, fault.start, fault.end, fault.put])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH")]))
    importlib.import_module(fault.file.removesuffix(".py").replace("/", "."))
    assert names, f"{fault.file} was not imported from {file}"


def use_native(module: Path) -> Any:
    """Let fastgan find this module where it looks for its core; gives the switch."""
    switch = ctypes.c_int.in_dll(ctypes.CDLL(str(module)), "fastgan_fault")
    spec = importlib.util.spec_from_file_location("fastgan._native", module)
    assert spec is not None and spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    sys.modules["fastgan._native"] = native
    return switch


def run_tests(test: str, log: Path) -> int:
    """pytest in this process until the first failure; 0 where all pass."""
    import pytest

    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-W", "ignore"]
        code = int(pytest.main([*options, "-o", "timeout=0", str(ROOT / "tests" / test)]))
        sys.stdout.flush()
        return code


def processes(session: int) -> list[tuple[float, str]]:
    """Processor seconds and states of the threads of all processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                states = [s.read_text().rpartition(")")[2].split()[0] for s in stat.parent.glob("task/*/stat")]
                found.append((sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"), "".join(states)))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return found


def forked(log: Path, test: str, prepare: Any, limit: float) -> tuple[str, float]:
    """Run a file of tests in a child after `prepare`: what came of it, and the seconds of the processor."""
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            prepare()
            os._exit(min(run_tests(test, log), 9))
        except BaseException as error:
            log.write_text(f"{type(error).__name__}: {error}\n")
            os._exit(8)  # it does not even import
    used, moved, pause = 0.0, time.monotonic(), 0.05
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            names = {0: SURVIVED, 1: "caught", 2: "caught", 8: "caught (import)"}
            code = os.waitstatus_to_exitcode(status)
            return names.get(code, f"caught ({code})"), usage.ru_utime + usage.ru_stime
        time.sleep(pause)
        pause = min(1.5 * pause, 2.0)
        alive = processes(child)
        total = sum(seconds for seconds, _ in alive)
        if total > used or any("R" in states or "D" in states for _, states in alive):
            used, moved = max(total, used), time.monotonic()
        if used > limit or time.monotonic() - moved > ASLEEP:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hangs", used


def campaign(faults: Sequence[Fault], rows: dict[int, Row], work: Path) -> Iterator[Fault]:
    """Run the tests that each fault's row lacks; gives each fault whose row has changed."""
    import hypothesis  # noqa: F401
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch

    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])  # the first one imports for seconds: once, not in each child
    sys.path.insert(0, str(ROOT / "tests"))
    python, native = [[f for f in faults if f.native is kind] for kind in (False, True)]
    yield from plant(python, rows, work, plant_python)
    if not native:
        return
    switch = use_native(build([f for f in read_table() if f.native], work))
    import algorithm1  # noqa: F401  # fastgan and all that it imports

    def choose(fault: Fault) -> None:
        switch.value = fault.number

    yield from plant(native, rows, work, choose)


def plant(faults: Sequence[Fault], rows: dict[int, Row], work: Path, prepare: Any) -> Iterator[Fault]:
    """The first file of tests for all faults, then the second for those left: what is caught is known early."""
    found = work / "sound.json"  # seconds of each file of tests, as it is, without a fault; 0 where it skips all
    needed: dict[str, float] = json.loads(found.read_text()) if found.exists() else {}

    def sound(test: str) -> float:
        name = f"{test} {hashlib.sha256((ROOT / 'tests' / test).read_bytes()).hexdigest()}"
        if name not in needed:
            log = work / f"sound-{test}.log"
            log.unlink(missing_ok=True)
            outcome, seconds = forked(log, test, lambda: None, 60 * MINUTE)
            if outcome != SURVIVED and "no tests ran" not in log.read_text():
                raise SystemExit(f"{test} fails without a fault: see {log}")
            needed[name] = seconds if re.search(r"\d passed", log.read_text()) else 0.0
            found.write_text(json.dumps(needed, indent=1))
        return needed[name]

    turns = [(turn, fault) for fault in faults for turn in range(len(fault.tests)) if runs_here(fault)]
    for turn, fault in sorted(turns, key=lambda pair: (bool(pair[1].excuse), pair[0])):
        row, test = rows[fault.number], fault.tests[turn]
        if row.outcome not in (SURVIVED, UNREACHABLE) or test in row.passed:
            continue
        if usual := sound(test):
            log = work / f"fault-{fault.number:03d}.log"
            log.unlink(missing_ok=True)
            row.outcome, spent = forked(log, test, lambda f=fault: prepare(f), 10 * usual + MINUTE)
            row.seconds = round(row.seconds + spent, 1)
            row.passed += [test] * (row.outcome == SURVIVED)
            row.by = culprit(log) if row.outcome != SURVIVED else ""
            yield fault


def culprit(log: Path) -> str:
    """The test that failed, or the line that says what happened."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    failed = [line.split(" ", 1)[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return (failed or lines or [""])[-1][:200]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", type=int, help="faults to plant, in this order; all by default")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutate", help="folder of the build and the logs")
    parser.add_argument("--list", action="store_true", help="only show the faults")
    parser.add_argument("--again", action="store_true", help="plant also what the folder has a result of")
    parser.add_argument("--report", action="store_true", help="only print what the folder has results of")
    arguments = parser.parse_args()
    known = {f.number: f for f in read_table()}
    faults = [known[number] for number in arguments.numbers or known]
    texts = {f.file: (ROOT / f.file).read_text() for f in known.values()}
    if arguments.list:
        for f in faults:
            print(f"{f.number:3d} {f.file}: {' '.join(texts[f.file][f.start : f.end].split())}  ->  {f.put}")
        return 0
    arguments.work.mkdir(parents=True, exist_ok=True)
    results = arguments.work / "result.json"
    known_rows = json.loads(results.read_text()) if results.exists() and not arguments.again else {}
    keys = {f.number: key(f, texts[f.file]) for f in faults}
    rows = {f.number: Row(**known_rows.get(keys[f.number], {})) if runs_here(f) else Row() for f in faults}
    for fault in () if arguments.report else campaign(faults, rows, arguments.work):
        row = rows[fault.number]
        known_rows[keys[fault.number]] = vars(row)
        print(f"{place(fault, texts)}  {row.outcome}  {row.seconds:.0f} s  {row.by}", flush=True)
        results.write_text(json.dumps(known_rows, indent=1))
    return report([(f, rows[f.number].outcome) for f in faults], texts)


def key(fault: Fault, text: str) -> str:
    """A fault in the file of results, whatever its number: the place with text around it, and what is put."""
    around = text[max(fault.start - 80, 0) : fault.start], text[fault.start : fault.end], text[fault.end :][:80]
    return f"{fault.file}: {' « '.join(' '.join(part.split()) for part in around)} -> {fault.put}"


def place(fault: Fault, texts: dict[str, str]) -> str:
    line = texts[fault.file].count("\n", 0, fault.start) + 1
    return f"{fault.number:3d} {fault.file}:{line}"


def report(found: Sequence[tuple[Fault, str]], texts: dict[str, str]) -> int:
    """Print the figures and the survivors; 1 where more than one in twenty survives without an excuse."""
    for name, kind in (("C++", True), ("Python", False)):
        outcomes = [(f, outcome) for f, outcome in found if f.native is kind]
        reached = [(f, outcome) for f, outcome in outcomes if outcome != UNREACHABLE]
        caught = sum(outcome.startswith("caught") for _, outcome in reached)
        hangs = sum(outcome == "hangs" for _, outcome in reached)
        excused = sum(outcome == SURVIVED and bool(f.excuse) for f, outcome in reached)
        print(f"{name}: {len(outcomes)} planted, {len(outcomes) - len(reached)} not reached on this processor, "
              f"{caught} caught, {hangs} hang, {excused} change nothing that shows, "
              f"{len(reached) - caught - hangs - excused} survive")  # fmt: skip
    survived = [f for f, outcome in found if outcome == SURVIVED]
    for fault in survived:
        print(f"  {place(fault, texts)}  {fault.put}  {fault.excuse}")
    real = sum(outcome != UNREACHABLE for _, outcome in found) - sum(bool(f.excuse) for f in survived)
    return int(sum(not f.excuse for f in survived) > 0.05 * real)


if __name__ == "__main__":
    raise SystemExit(main())
