"""The CUDA sources compile without a warning and without a register spilled to memory; needs nvcc, but no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import fastgan

CSRC = Path(fastgan.__file__).parent.parent / "csrc"
KERNELS = sorted((CSRC / "cuda").glob("*.cu"))
NVCC = shutil.which("nvcc")
FLAGS = "-std=c++20 -O3 --expt-relaxed-constexpr -DFASTGAN_ISA=cuda -Werror all-warnings -Xptxas -v -c".split()

pytestmark = [
    pytest.mark.skipif(not CSRC.is_dir(), reason="an installed package has no csrc folder"),
    pytest.mark.skipif(NVCC is None, reason="nvcc is not installed"),
    pytest.mark.timeout(900),
]


def compile_for_hopper(source: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    assert NVCC is not None
    architecture = ["-gencode", "arch=compute_90,code=sm_90"]
    command = [NVCC, *FLAGS, *architecture, *more, str(source), "-o", str(out)]
    return subprocess.run(command, capture_output=True, text=True)


def test_there_are_kernels() -> None:
    assert KERNELS


@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.name)
def test_kernels_compile_and_spill_nothing(source: Path, tmp_path: Path) -> None:
    run = compile_for_hopper(source, tmp_path / "kernel.o")
    assert run.returncode == 0, run.stderr[-4000:]
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", run.stderr)
    assert spills, "ptxas said nothing about spills"
    assert {pair for pair in spills if pair != ("0", "0")} == set(), run.stderr[-4000:]


def test_the_gate_sees_warnings(tmp_path: Path) -> None:
    source = tmp_path / "unused.cu"
    source.write_text("__global__ void k(float* x) { int unused; x[0] = 1; }\n")
    run = compile_for_hopper(source, tmp_path / "unused.o")
    assert run.returncode != 0 and "unused" in run.stderr
