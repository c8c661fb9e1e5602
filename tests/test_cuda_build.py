"""The CUDA sources compile without a warning and without a register spilled to memory; needs nvcc, but no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import fastgan

CSRC = Path(fastgan.__file__).parent.parent / "csrc"
KERNELS = (*sorted((CSRC / "cuda").glob("*.cu")), *sorted((Path(__file__).parent / "simt").glob("*.cu")))
NVCC = shutil.which("nvcc")
FLAGS = "-std=c++17 -O3 --expt-relaxed-constexpr -DFASTGAN_ISA=cuda -Werror all-warnings -Xptxas -v -t 2 -c".split()
AMPERE, HOPPER = "-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90a,code=sm_90a"

pytestmark = [
    pytest.mark.skipif(not CSRC.is_dir(), reason="an installed package has no csrc folder"),
    pytest.mark.skipif(NVCC is None, reason="nvcc is not installed"),
    pytest.mark.timeout(900),
]


def build(source: Path, out: Path, *architectures: str) -> subprocess.CompletedProcess[str]:
    assert NVCC is not None
    command = [NVCC, *FLAGS, *architectures, f"-I{CSRC}", str(source), "-o", str(out)]
    return subprocess.run(command, capture_output=True, text=True)


def test_there_are_kernels() -> None:
    assert KERNELS


@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.name)
def test_kernels_compile_and_spill_nothing(source: Path, tmp_path: Path) -> None:
    # Clusters came with Hopper.
    architectures = (HOPPER,) if source.name == "primitives.cu" else (AMPERE, HOPPER)
    run = build(source, tmp_path / "kernel.o", *architectures)
    assert run.returncode == 0, run.stderr[-4000:]
    reports = re.findall(r"Function properties for (\S+)\s+.*?(\d+) bytes spill stores", run.stderr)
    assert reports, "ptxas said nothing about spills"
    spilled = {name: int(stored) for name, stored in reports if int(stored)}
    assert not spilled, spilled


def test_the_check_sees_warnings(tmp_path: Path) -> None:
    source = tmp_path / "unused.cu"
    source.write_text("__global__ void k(float* x) { int unused; x[0] = 1; }\n")
    run = build(source, tmp_path / "unused.o", HOPPER)
    assert run.returncode != 0 and "unused" in run.stderr
