"""The CUDA sources compile without a warning and without a register spilled to memory; needs nvcc, but no GPU."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import strict_build

import fastgan

CSRC = Path(fastgan.__file__).parent.parent / "csrc"
KERNELS = (*sorted((CSRC / "cuda").glob("*.cu")), *sorted((Path(__file__).parent / "simt").glob("*.cu")))
NVCC = shutil.which("nvcc")
# As CMakeLists.txt says with FASTGAN_WERROR=ON
FLAGS = (
    "-std=c++17 -O3 --expt-relaxed-constexpr -DFASTGAN_ISA=cuda -Werror=all-warnings -Xptxas=--warn-on-spills".split()
)
TURING, AMPERE, HOPPER = (f"-gencode=arch=compute_{n},code=sm_{n}" for n in (75, 80, 90))

pytestmark = [
    pytest.mark.skipif(not CSRC.is_dir(), reason="an installed package has no csrc folder"),
    pytest.mark.skipif(NVCC is None, reason="nvcc is not installed"),
    pytest.mark.timeout(900),
]


def build(source: Path, out: Path, flags: Sequence[str]) -> subprocess.CompletedProcess[str]:
    assert NVCC is not None
    command = [NVCC, *flags, f"-I{CSRC}", "-c", str(source), "-o", str(out)]
    return subprocess.run(command, capture_output=True, text=True)


def test_there_are_kernels() -> None:
    assert KERNELS


@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.name)
def test_kernels_compile_and_spill_nothing(source: Path, tmp_path: Path) -> None:
    if source.is_relative_to(CSRC) and strict_build.flags(source):
        return  # the build would have failed
    architectures = (HOPPER,) if source.name == "primitives.cu" else (AMPERE, HOPPER)  # clusters came with Hopper
    run = build(source, tmp_path / "kernel.o", (*FLAGS, "-t", "2", *architectures))
    assert run.returncode == 0, run.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [TURING, AMPERE], ids=["sm_75", "sm_80"])
@pytest.mark.parametrize("source", sorted((CSRC / "cuda").glob("*.cu")), ids=lambda p: p.name)
def test_kernels_spill_nothing_where_make_test_does_not_assemble_them(
    source: Path, architecture: str, tmp_path: Path
) -> None:
    """Without a GPU its build leaves sm_80 out, and ends sm_75 at PTX (Makefile)."""
    assembled = architecture.rpartition("=")[2]
    if not any(assembled in option for flags in strict_build.flags(source) for option in flags):
        run = build(source, tmp_path / "kernel.o", (*FLAGS, architecture))
        assert run.returncode == 0, run.stderr[-4000:]


UNUSED = "__global__ void k(float* x) { int unused; x[0] = 1; }\n"
# 64 values that stay in use, in 64 registers
SPILLS = """
__device__ __noinline__ float f(const float* x, int n) {
  float a[64], sum = 0;
#pragma unroll
  for (int i = 0; i < 64; ++i) a[i] = x[i * n];
#pragma unroll
  for (int i = 0; i < 128; ++i) sum = sum * a[i % 64] + a[i * 7 % 64];
  return sum;
}
__global__ void __launch_bounds__(1024) k(float* x, int n) { x[0] = f(x, n); }
"""


@pytest.mark.parametrize(("text", "found"), [(UNUSED, "unused"), (SPILLS, "spilled")], ids=["warning", "spill"])
def test_the_check_sees(text: str, found: str, tmp_path: Path) -> None:
    """The options that the build had, or those of the test above."""
    source = tmp_path / "fault.cu"
    source.write_text(text)
    for flags in (*strict_build.flags(KERNELS[0])[:1], (*FLAGS, HOPPER)):
        run = build(source, tmp_path / "fault.o", flags)
        assert run.returncode != 0 and found in run.stderr, flags
