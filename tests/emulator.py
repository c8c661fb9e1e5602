"""Builds the CUDA sources against the SIMT emulator (tests/simt) and calls their kernels with CPU tensors.

A build looks for one of two kinds of mistakes. MEMORY: AddressSanitizer guards the last byte of each tensor and
around each shared object, UndefinedBehaviorSanitizer watches arithmetic and alignment; a call runs under many
schedules, which must agree to the bit. RACES: each access is noted, and two threads that touch a byte, one of them
writing, must have had a barrier between; that does not depend on the schedule.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from places import places
from torch import Tensor

TESTS = Path(__file__).parent
CSRC = TESTS.parent / "csrc"
SIMT = TESTS / "simt"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-unknown-pragmas")
COMMON = ("-std=c++17", "-DFASTGAN_ISA=cuda", *WARNINGS)
# Of the harness what is not tested, hence not sanitised.
MACHINE = ("simt.cpp", "shared_memory.cpp", "runtime.cpp", "fibres.cpp", "races.cpp")
HARNESS = (*MACHINE, "serve.cpp", "calls.cpp")


class Flavour(NamedTuple):
    """What a build looks for."""

    kernels: tuple[str, ...]
    machine: tuple[str, ...]
    link: tuple[str, ...]


# AddressSanitizer sees each access by a null or overflowing pointer; a check of each pointer costs a third of a build.
_MEMORY = ("-fsanitize=address,undefined", "-fno-sanitize=null,pointer-overflow", "-fno-sanitize-recover=all")
MEMORY = Flavour((*COMMON, "-O0", "-g1", *_MEMORY), (*COMMON, "-O2", "-DSIMT_ASAN"), _MEMORY)
# Without optimisation a whole object is copied, and reading what it pads itself with looks like a race.
RACES = Flavour((*COMMON, "-O1", "-g1", "-DSIMT_RACES", "-fsanitize=thread"), (*COMMON, "-O2", "-DSIMT_RACES"), ())
LINK = ("-no-pie", "-Wl,--unresolved-symbols=ignore-all")  # a program need not have every entry
GPU_FLAGS = ("-arch=native", "-DFASTGAN_ISA=cuda", "-DFASTGAN_ON_GPU")
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:redzone=512:max_redzone=2048:allocator_may_return_null=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
STREAM = object()  # the caller's stream


class Violation(AssertionError):
    """A sanitizer or the emulator itself found something; the report is the message."""


class Refused(RuntimeError):
    """The host code threw."""


# ---------------------------------------------------------------- building


def compiler() -> str | None:
    """g++, or clang++ under another name: whatever CXX says, else g++."""
    return shutil.which(os.environ.get("CXX", "g++"))


NEEDS = [  # the marks of tests that compile kernels for the CPU
    pytest.mark.skipif(not CSRC.is_dir(), reason="an installed package has no csrc folder"),
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler"),
]


def _run(command: Sequence[object]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}\n{done.stderr[-6000:]}")


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _made_once(out: Path) -> Iterator[Path | None]:
    """The path to write to, which then becomes `out`; None where a thread or process has made `out` before."""
    import fcntl  # what Windows has not: there is no emulator there

    out.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{out}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if out.exists():
            yield None
            return
        part = out.with_name(f"part-{out.name}")
        yield part
        part.replace(out)


class Builder:
    """Objects and programs in one folder, each made once by all processes that share it; a compiler per processor.

    They are named after what they are made of: flags, the source's text and all headers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(max_workers=max(2, min(8, os.cpu_count() or 2)))
        self.jobs: dict[tuple[object, ...], Future[Path]] = {}
        self._read: dict[Path, str] = {}

    def _digest_of_headers(self, csrc: Path) -> str:
        if csrc not in self._read:
            headers = sorted(path for end in ("h", "cuh") for path in csrc.rglob(f"*.{end}"))
            self._read[csrc] = _digest([(str(path.relative_to(csrc)), path.read_bytes()) for path in headers])
        return self._read[csrc]

    def _headers(self, flags: tuple[str, ...]) -> tuple[object, ...]:
        """Options by which kernels find the headers parsed that all of them begin with: a third less for a fault."""
        if "clang" in str(compiler()):
            return ()
        header = self.folder / f"headers-{_digest(flags, self._digest_of_headers(SIMT))}" / "all.h"
        with _made_once(header.with_suffix(".h.gch")) as part:
            if part is not None:
                source = header.with_suffix(".in.h")
                names = ("cuda_runtime.h", "algorithm", "cmath", "stdexcept", "string", "vector")
                source.write_text("".join(f"#include <{name}>\n" for name in names))
                _run((compiler(), *flags, f"-I{SIMT}", "-x", "c++-header", source, "-o", part))
                header.touch()
        return "-include", header

    def _compile(self, source: Path, csrc: Path, flags: tuple[str, ...], headers: tuple[str, ...] = ()) -> Path:
        """The object of one source that may include anything of `csrc` and of the emulator.

        `headers`: the flags it shares with others whose headers it shares.
        """
        read = source.read_bytes(), self._digest_of_headers(csrc), self._digest_of_headers(SIMT)
        out = self.folder / f"{source.stem}-{_digest(compiler(), flags, headers, *read)}.o"
        with _made_once(out) as part:
            if part is not None:
                first = self._headers(headers) if headers else ()
                _run((compiler(), *flags, *first, f"-I{SIMT}", f"-I{csrc}", "-x", "c++", "-c", source, "-o", part))
        return out

    def begin(
        self, sources: Sequence[Path], flavour: Flavour = MEMORY, csrc: Path = CSRC, *more: str
    ) -> Callable[..., Emulator]:
        """Start compiling the kernels of `sources`; what is returned waits for them. The harness is this checkout's.

        The number of a planted fault may be given to it (`begin_faults`).

        Entries whose kernels are not among the sources are missing in the program: calling them crashes it.
        """
        harness = [(SIMT / name, CSRC, flavour.machine if name in MACHINE else flavour.kernels) for name in HARNESS]
        kernels = [(source, csrc, (*flavour.kernels, *more), flavour.kernels) for source in sources]
        wanted: list[tuple[Any, ...]] = [*harness, *kernels]
        for job in wanted:
            if job not in self.jobs:
                self.jobs[job] = self.pool.submit(self._compile, *job)
        jobs = [self.jobs[job] for job in wanted]

        def finish(fault: int = 0) -> Emulator:
            objects = sorted(job.result() for job in jobs)
            out = self.folder / f"serve-{_digest(objects, flavour.link)}"
            with _made_once(out) as part:
                if part is not None:
                    _run((compiler(), *LINK, *flavour.link, *objects, "-o", part))
            return Emulator(out, fault=fault)

        return finish

    def library(self, sources: Sequence[Path]) -> Library:
        """The kernels for float and double, in this process: nothing watches them, but nothing is copied either.

        Entries whose kernels are not among the sources refuse, as csrc/cuda/none.cpp says.
        """
        csrc = Path(tempfile.mkdtemp(dir=self.folder)) / "csrc"
        shutil.copytree(CSRC, csrc)
        narrow(csrc, (("dtypes.h", r"^    case DType::b?f16: f\(.*\n"),))
        harness = [*(SIMT / name for name in (*MACHINE, "calls.cpp", "library.cpp")), *sorted(SIMT.glob("*.cu"))]
        flags = (*COMMON, "-O1", "-fPIC", "-w")
        wanted = (*sources, *harness, CSRC / "cuda" / "none.cpp")  # of two definitions the first one counts
        objects = [job.result() for job in [self.pool.submit(self._compile, source, csrc, flags) for source in wanted]]
        out = self.folder / f"kernels-{_digest(objects)}.so"
        with _made_once(out) as part:
            if part is not None:
                _run((compiler(), "-shared", "-Wl,-z,muldefs", *objects, "-o", part))
        return Library(out)

    def for_gpu(self, sources: Sequence[Path]) -> Emulator:
        """The same server for the GPU there is, by nvcc. FASTGAN_GPU_TOOL names what it shall run under."""
        flags = ("-std=c++17", "-O3", "--expt-relaxed-constexpr", *GPU_FLAGS)

        def compile_one(source: Path) -> Path:
            out = self.folder / f"{source.stem}-gpu.o"
            _run(("nvcc", *flags, "-lineinfo", f"-I{CSRC}", "-x", "cu", "-c", source, "-o", out))
            return out

        out = self.folder / "serve-gpu"
        if not out.exists():
            objects = list(self.pool.map(compile_one, (*sources, SIMT / "serve.cpp", SIMT / "calls.cpp")))
            _run(("nvcc", *GPU_FLAGS, *objects, "-o", out))
        return Emulator(out, on_gpu=True)


# ---------------------------------------------------------------- faults planted into a copy


def plant(csrc: Path, name: str, old: str, new: str) -> None:
    """Replace `old`, which must be in the file of this name once, whatever its blanks are."""
    path = csrc / name
    text = path.read_text()
    found = places(text, old)
    assert len(found) == 1, f"{name} has {len(found)} times {old!r}: the fault would not be planted"
    ((start, end),) = found
    path.write_text(text[:start] + new.strip() + text[end:])


_LEFT_OUT = r"^    case (?:Formula::(?!non_saturating|fake)|Activation::(?!none|relu)).*\n"
NARROWED = (("formulas.h", _LEFT_OUT), ("dtypes.h", r"^    case DType::(?!f32).*\n"))


def narrow(csrc: Path, cases: Sequence[tuple[str, str]] = NARROWED) -> None:
    """Leave two formulas, two activations and one element type in a copy: it then compiles in a second."""
    for name, pattern in cases:
        path = csrc / name
        text, count = re.subn(pattern, "", path.read_text(), flags=re.M)
        assert count >= 2, f"{name}: found {count} cases to leave out"
        path.write_text(text)


def begin_narrow(
    builder: Builder, source: str | Path, flavour: Flavour, *faults: tuple[str, str, str]
) -> Callable[..., Emulator]:
    """Start building the narrowed kernels of csrc/cuda/`source` with faults (file, old, new).

    A path instead of a name: a source of the emulator's, in whose headers from csrc the faults are.
    """
    csrc = Path(tempfile.mkdtemp(dir=builder.folder)) / "csrc"
    shutil.copytree(CSRC, csrc)
    for fault in faults:
        plant(csrc, *fault)
    if isinstance(source, Path):
        return builder.begin([source], flavour, csrc, "-w")
    narrow(csrc)
    return builder.begin([csrc / "cuda" / source], flavour, csrc, "-w")


def begin_faults(
    builder: Builder, source: str | Path, flavour: Flavour, faults: dict[str, tuple[str, str, str]]
) -> dict[str, Callable[[], Emulator]]:
    """Start building faults (file, old, new) by name, as `begin_narrow` does one.

    Where the new text asks FAULT, whether the fault is on, those that do share one build, planted in this order.
    """
    switched = [name for name, (*_, new) in faults.items() if "FAULT" in new]
    numbered = {name: number for number, name in enumerate(switched, 1)}
    texts = {name: (file, old, new.replace("FAULT", f"::simt::fault_is({numbered.get(name)})"))
             for name, (file, old, new) in faults.items()}  # fmt: skip
    together = begin_narrow(builder, source, flavour, *(texts[name] for name in switched)) if switched else None
    return {
        name: functools.partial(together, numbered[name])
        if together and name in numbered
        else begin_narrow(builder, source, flavour, fault)
        for name, fault in texts.items()
    }


def without_faults(begun: Callable[[], Emulator]) -> Emulator:
    """The build that a fault of `begin_faults` shares, with none on."""
    assert isinstance(begun, functools.partial), "the fault has a build of its own"
    emulator: Emulator = begun.func()
    return emulator


# ---------------------------------------------------------------- calling


@dataclass
class Huge:
    """So many bytes of zeros on the other side, where they cost only what is touched; `tail` is what they end in."""

    size: int
    tail: bytes = b""


def _line(argument: object, shift: int) -> bytes:
    if argument is STREAM:
        return b"s\n"
    if argument is None:
        return b"i 0\n"
    if isinstance(argument, Huge):
        return f"h {argument.size}\n".encode()
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        content = argument.detach().view(-1).view(torch.uint8).numpy().tobytes() if argument.numel() else b""
        return f"b {len(content)} {shift * argument.itemsize}\n".encode() + content
    if isinstance(argument, float):
        return f"d {argument.hex()}\n".encode()
    assert isinstance(argument, int), f"no argument of a kernel: {argument!r}"
    return f"i {int(argument)}\n".encode()


class Emulator:
    """A running server; `call` sends tensors there and writes what comes back into them. On a GPU it is no emulator."""

    def __init__(self, program: Path, on_gpu: bool = False, fault: int = 0) -> None:
        self.on_gpu = on_gpu
        self.environment = os.environ | ENVIRONMENT | {"SIMT_FAULT": str(fault)}
        self.command = [*(os.environ.get("FASTGAN_GPU_TOOL", "").split() if on_gpu else ()), str(program)]
        self.answer = 0
        self.process: subprocess.Popen[bytes] | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            self.errors = tempfile.TemporaryFile()
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=self.errors, env=self.environment
            )
        return self.process

    def close(self) -> None:
        """End the server, whatever it does."""
        if self.process is not None:
            assert self.process.stdin and self.process.stdout
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(BrokenPipeError):  # what it no longer read
                self.process.stdin.close()
            self.process.stdout.close()
            self.errors.close()
            self.process = None

    def _report(self) -> Violation:
        assert self.process is not None
        self.process.wait()
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace")
        code = self.process.returncode
        self.close()
        return Violation(text[:6000] or f"the emulator ended with code {code}")

    def call(
        self,
        name: str,
        *arguments: object,
        schedules: int = 1,
        seed: int = 0,
        shift: int = 0,
        inject: int = 0,
        block: int = -1,
    ) -> int:
        """Run an entry under `schedules` schedules; tensors are changed in place. Returns the launches it made.

        Args:
            name: an entry of tests/simt/calls.cpp.
            arguments: in the order of csrc/bindings.cpp: int, float, Tensor, Huge, None, STREAM.
            schedules: how many; all must leave the same bits.
            seed: of the first.
            shift: elements by which each tensor is moved from an aligned address.
            inject: number of the CUDA error that the launches meet.
            block: the only one to run of each launch that has it; -1: all.

        Raises:
            Violation: something was found.
            Refused: the host code threw.
        """
        process = self._start()
        assert process.stdin and process.stdout
        head = f"call {name} {len(arguments)} {schedules} {seed} {inject} {block}\n".encode()
        # A tensor given twice is one buffer on the other side too.
        tensors = [a for a in arguments if isinstance(a, (Tensor, Huge))]
        own = [t for i, t in enumerate(tensors) if not any(t is earlier for earlier in tensors[:i])]
        lines, seen = [], 0
        for a in arguments:
            number = next((i for i, b in enumerate(own) if a is b), None)
            lines.append(_line(a, shift) if number is None or number == seen else f"r {number}\n".encode())
            seen += number == seen
        try:
            process.stdin.write(head + b"".join(lines))
            process.stdin.flush()
        except BrokenPipeError:
            raise self._report() from None
        status, _, text = process.stdout.readline().decode().strip().partition(" ")
        if status == "error":
            raise Refused(text)
        if status != "ok":
            raise self._report()
        launches, self.answer = map(int, text.split())
        for argument in own:
            if isinstance(argument, Huge):
                argument.tail = process.stdout.read(64)
            if isinstance(argument, Tensor) and argument.numel():
                content = bytearray(process.stdout.read(argument.numel() * argument.itemsize))
                argument.data.copy_(torch.frombuffer(content, dtype=argument.dtype).view(argument.shape))
        return launches

    def ask(self, name: str, *numbers: int) -> int:
        """What an entry answers to numbers alone."""
        self.call(name, *numbers)
        return self.answer


class _Argument(ctypes.Structure):
    """Argument in tests/simt/calls.h."""

    _fields_ = (
        ("kind", ctypes.c_char), ("integer", ctypes.c_int64), ("number", ctypes.c_double), ("pointer", ctypes.c_void_p)
    )  # fmt: skip


class Library:
    """The emulated kernels in this process, on the memory of CPU tensors. What the emulator finds ends the process."""

    def __init__(self, path: Path) -> None:
        self._call = ctypes.CDLL(str(path)).simt_library_call
        self._call.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: object) -> int:
        """Run an entry, with arguments as for `Emulator.call`; returns what it answers."""
        given = (_Argument * len(arguments))(*map(_argument, arguments))
        answer = ctypes.c_int64()
        error = self._call(name.encode(), given, len(arguments), ctypes.byref(answer))
        if error:
            raise Refused(error.decode())
        return answer.value


def _argument(value: object) -> _Argument:
    if value is STREAM:
        return _Argument(b"s")
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return _Argument(b"b", pointer=value.data_ptr())
    if isinstance(value, float):
        return _Argument(b"d", number=value)
    assert value is None or isinstance(value, int), f"no argument of a kernel: {value!r}"
    return _Argument(b"i", integer=ctypes.c_int64(int(value or 0)).value)
