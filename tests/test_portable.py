"""The CPU kernels on another processor: built for 64-bit ARM, run by qemu, compared with the results of this one."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fastgan
from fastgan.reference import ACTIVATIONS, FORMULAS

CSRC = Path(fastgan.__file__).parents[1] / "csrc"
if not CSRC.is_dir():
    pytest.skip("an installed package has no csrc folder", allow_module_level=True)
SOURCES = [*(p for p in sorted(CSRC.glob("cpu/*.cpp"))), Path(__file__).parent / "portable" / "kernels.cpp"]
FLAGS = ("-std=gnu++20", "-O2", "-fno-math-errno", "-fno-trapping-math", "-DFASTGAN_ISA=portable", "-pthread")
ARM = ("aarch64-linux-gnu-g++", "qemu-aarch64")


def build(compiler: str, out: Path, *flags: str) -> Path:
    command = (compiler, *FLAGS, *flags, *map(str, SOURCES), "-o", str(out))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]
    return out


def results(program: tuple[str | Path, ...], dtype: int, out: Path) -> np.ndarray:
    command = [*map(str, program), str(dtype), str(out), str(len(FORMULAS)), str(len(ACTIVATIONS))]
    subprocess.run(command, check=True, timeout=300)
    return np.fromfile(out)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_kernels_give_on_arm_what_they_give_here(tmp_path: Path) -> None:
    """Random numbers and masks to the bit; the rest to the rounding of products that one of both fuses."""
    for tool in (*ARM, "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if platform.machine() == "aarch64":
        pytest.skip("this processor is one")
    arm = (ARM[1], build(ARM[0], tmp_path / "arm", "-static", "-Wall", "-Wextra", "-Wno-psabi", "-Werror"))
    here = (build("g++", tmp_path / "here"),)
    for dtype, epsilon in ((0, 2.0**-23), (1, 2.0**-52)):
        want, got = (results(program, dtype, tmp_path / "out") for program in (here, arm))
        assert len(want) == len(got) > 50_000
        # The two formulas of probabilities, of twelve, give NaN outside [0, 1]; so they do on ARM.
        assert np.isfinite(want).mean() > 0.85
        np.testing.assert_array_equal(got[:777], want[:777])  # uniform numbers
        masks = slice(2 * 777, 2 * 777 + 40 * 19)
        np.testing.assert_array_equal(got[masks], want[masks])
        # Sums of up to 45 * 5 products of numbers below 1: each rounding is at most half an epsilon of the sum.
        np.testing.assert_allclose(got, want, rtol=64 * epsilon, atol=256 * epsilon)
