"""sdist -> wheel -> install -> import -> train, away from the checkout, with and without nvcc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAIN = """
import sys, torch, fastgan
assert sys.argv[1] in fastgan.__file__, fastgan.__file__
info = fastgan.backend_info()
assert bool(info["native"]["cuda"]) == (sys.argv[2] == "ON"), info
assert info["serves"]["mlp on cpu"] == "native", info
gan = fastgan.models.mlp_gan(2)
result = fastgan.train(gan, fastgan.data.ring(1000), fastgan.TrainConfig(steps=5, batch_size=32), run_dir="run")
assert result.step == 5 and gan.sample(3).shape == (3, 2)
print("trained")
"""


def run(*command: str | Path, cwd: Path) -> str:
    ours = ("PYTHONPATH", "FASTGAN_DISABLE_NATIVE")
    outside = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cuda", ["OFF", "ON"])
def test_R38_sdist_to_wheel_to_training_outside_the_checkout(tmp_path: Path, cuda: str) -> None:
    if cuda == "ON" and shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    make_sdist = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", make_sdist, tmp_path, cwd=ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"csrc/formulas.h", "csrc/cuda/loss.cu", "CMakeLists.txt", "fastgan/ops/losses.py", "README.md"} <= names

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    options = ("-q", "--no-deps", "-C", f"cmake.define.FASTGAN_CUDA={cuda}", "-w", tmp_path)
    run(*pip, "wheel", *options, sdist, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")

    home = tmp_path / "venv"  # sees this environment's packages, but not the editable fastgan among them
    venv.create(home, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    run(*pip, "--python", home / "bin/python", "install", "-q", "--no-deps", wheel, cwd=tmp_path)
    assert "trained" in run(home / "bin/python", "-c", TRAIN, home, cuda, cwd=tmp_path)
