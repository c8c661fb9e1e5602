"""The compiled core under AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="needs GCC on Linux"),
    pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="an installed package has no csrc folder"),
]

# Eight floats' worth of memory, into which a call writes more; the same memory, which two calls write at once.
BEYOND = """
import numpy
from fastgan import _native
memory = numpy.empty(8, numpy.float32)
_native.random_fill(0, memory.ctypes.data, 64, False, 0, 0, 0, 0, 0, 1)
"""
RACE = """
import threading
import numpy
from fastgan import _native
memory = numpy.empty(100_000, numpy.float32)
start = threading.Barrier(2)

def fill():
    start.wait()
    for _ in range(20):
        _native.random_fill(0, memory.ctypes.data, memory.size, False, 0, 0, 0, 0, 0, 1)

threads = [threading.Thread(target=fill) for _ in range(2)]
for t in threads: t.start()
for t in threads: t.join()
"""


@dataclass(frozen=True)
class Sanitizer:
    name: str
    runtime: str
    options: dict[str, str]
    wrong: str  # a script with the very fault that it looks for
    finds: str
    tests: tuple[str, ...]


# CPython keeps much of its memory to the end, so leaks say nothing; C++ exceptions need libstdc++ from the start.
SANITIZERS = {
    "address": Sanitizer(
        "address",
        "libasan.so",
        {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
        BEYOND,
        "heap-buffer-overflow",
        (
            "test_fused.py",
            "test_amx.py",
            "test_forced_teams.py",
            "test_mlp_kernels.py",
            "test_empty_layers.py",
            "test_losses.py",
            "test_random.py",
            "test_concurrency.py",
        ),
    ),
    "thread": Sanitizer(
        "thread",
        "libtsan.so",
        {"TSAN_OPTIONS": f"exitcode=0 suppressions={TESTS / 'tsan.supp'}"},
        RACE,
        "data race",
        (
            "test_concurrency.py::test_eight_threads_get_what_one_gets",
            "test_concurrency.py::test_one_module_runs_many_threads",
            "test_concurrency.py::test_R27_eight_threads_train_eight_gans",
            "test_forced_teams.py",
            "test_amx.py::test_bits_depend_neither_on_threads_nor_on_resuming",
            "test_fused.py::test_R16_any_number_of_threads_gives_the_same_bits",
        ),
    ),
}


@dataclass(frozen=True)
class Build:
    """A copy of the package around an instrumented module."""

    sanitizer: Sanitizer
    folder: Path

    def python(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output, reports."""
        reports = self.folder / "reports"
        shutil.rmtree(reports, ignore_errors=True)
        reports.mkdir()
        find = ("gcc", "-print-file-name=" + self.sanitizer.runtime), ("gcc", "-print-file-name=libstdc++.so.6")
        libraries = [subprocess.check_output(command, text=True).strip() for command in find]
        environment = dict(os.environ)
        environment.pop("FASTGAN_DISABLE_NATIVE", None)
        environment |= {
            "LD_PRELOAD": ":".join(libraries),
            "PYTHONPATH": os.pathsep.join([str(self.folder), *filter(None, sys.path)]),
            **{name: f"{value} log_path={reports / name}" for name, value in self.sanitizer.options.items()},
        }
        # Without site, no editable installation of fastgan is looked for before the path.
        done = subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout, "\n".join(p.read_text() for p in sorted(reports.iterdir()))


@pytest.fixture(scope="module", params=SANITIZERS)
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    import pybind11

    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(ROOT / "fastgan", folder / "fastgan", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    options = {
        "SKBUILD_PROJECT_VERSION": "0.0.0",
        "CMAKE_BUILD_TYPE": "RelWithDebInfo",
        "FASTGAN_CUDA": "OFF",
        "FASTGAN_SANITIZE": request.param,
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    make = folder / "make"
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(make), *(f"-D{name}={value}" for name, value in options.items())],
        ["cmake", "--build", str(make), "--parallel", str(os.cpu_count())],
        ["cmake", "--install", str(make), "--prefix", str(folder)],
    ):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout[-4000:]
    return Build(SANITIZERS[request.param], folder)


def test_the_sanitizer_sees_what_it_is_for(build: Build) -> None:
    _, output, reports = build.python("-c", build.sanitizer.wrong)
    assert build.sanitizer.finds in reports and "_native" in reports, output + reports[:8000]


def test_R21_R22_no_report(build: Build) -> None:
    tests = [str(TESTS / test) for test in build.sanitizer.tests]
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"))
    # AddressSanitizer ends a process whose memory runs out, and -O1 fuses no products.
    left_out = "reference or forked or interpreter or out_of_memory or products_are_fused"
    chosen = ("-k", f"not ({left_out})", "-o", "timeout=1800")
    code, output, reports = build.python("-m", "pytest", *options, *chosen, *tests)
    assert code == 0 and not reports, output[-4000:] + reports[:8000]
    assert " passed" in output, output
