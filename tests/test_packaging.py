"""sdist -> wheel -> install -> import -> train, away from the checkout: with and without nvcc, compiler, permission."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAIN = """
import sys, torch, fastgan
assert sys.argv[1] in fastgan.__file__, fastgan.__file__
info = fastgan.backend_info()
assert bool(info["native"]["cuda"]) == (sys.argv[2] == "ON"), info
assert info["backends"]["mlp on cpu"] == "native", info
gan = fastgan.models.mlp_gan(2)
result = fastgan.train(gan, fastgan.data.ring(1000), fastgan.TrainConfig(steps=5, batch_size=32), run_dir="run")
assert result.step == 5 and gan.sample(3).shape == (3, 2)
print("trained")
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    own = ("PYTHONPATH", "FASTGAN_DISABLE_NATIVE")
    outside = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=outside | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


BUILD = "import sys; from scikit_build_core.build import build_wheel; print(build_wheel(sys.argv[1]))"
WITHOUT_CORE = """
import sys
import fastgan
assert sys.argv[1] in fastgan.__file__, fastgan.__file__
print(fastgan.backend_info()["native"])
config = fastgan.TrainConfig(steps=2, batch_size=8)
result = fastgan.train(fastgan.models.mlp_gan(2), fastgan.data.ring(64), config)
print(result.step, result.engine)
"""


def without_compilers(folder: Path) -> str:
    """A PATH on which CMake finds its own tools and no compiler."""
    folder.mkdir()
    for tool in ("cmake", "ninja"):
        if (found := shutil.which(tool)) is not None:
            (folder / tool).symlink_to(found)
    return str(folder)


@pytest.mark.parametrize("why", ["no compiler", "on request", "compiler too old"])
def test_without_a_compiler_the_reference_is_installed(tmp_path: Path, why: str) -> None:
    """A wheel for any platform, which says at build and at run time what it lacks; required, the core fails instead."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith("FASTGAN_") and k not in ("CXX", "PYTHONPATH")}
    if why == "on request":
        environment = {"FASTGAN_DISABLE_NATIVE": "1"}
    elif why == "no compiler":
        environment = {"PATH": without_compilers(tmp_path / "bin")}
    else:
        environment = {"CXX": str(old_compiler(tmp_path / "g++"))}
    command = (sys.executable, "-c", BUILD, str(tmp_path))
    built = subprocess.run(command, cwd=ROOT, env=outside | environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert built.stdout.splitlines()[-1].endswith("-py3-none-any.whl"), built.stdout
    assert "the PyTorch reference runs" in built.stdout
    if why == "on request":  # what runs is the same for all three
        (wheel,) = tmp_path.glob("*.whl")
        python = environment_of(tmp_path / "venv")
        with zipfile.ZipFile(wheel) as archive:
            assert not [name for name in archive.namelist() if name.endswith((".so", ".cpp"))]
            archive.extractall(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
        said = run(python, "-c", WITHOUT_CORE, tmp_path / "venv", cwd=tmp_path).splitlines()
        assert said[0].startswith("not loaded: fastgan was installed without its compiled core, which needs g++ 11")
        assert said[1] == "2 eager"
        return
    required = outside | environment | {"FASTGAN_REQUIRE_NATIVE": "1"}
    refused = subprocess.run(command, cwd=ROOT, env=required, capture_output=True, text=True)
    found = "found no C++ compiler" if why == "no compiler" else "found GNU 10.2.1"
    assert refused.returncode != 0
    assert "fastgan: the compiled core needs g++ 11 or clang 14 or newer" in refused.stderr
    assert found in " ".join(refused.stderr.split())


def old_compiler(path: Path) -> Path:
    """g++ that calls itself version 10."""
    if (compiler := shutil.which("g++")) is None:
        pytest.skip("g++ is not installed")
    path.write_text(
        f"#!/bin/sh\nexec {compiler} -U__GNUC__ -D__GNUC__=10 -U__GNUC_MINOR__ -D__GNUC_MINOR__=2 "
        '-U__GNUC_PATCHLEVEL__ -D__GNUC_PATCHLEVEL__=1 "$@"\n'
    )
    path.chmod(0o755)
    return path


def environment_of(folder: Path) -> Path:
    """The python of a virtual environment that sees the packages of this one, but not the editable fastgan."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "packages.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return folder / "bin/python"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("compiler", ["g++-11", "clang++-14", "clang++"])
def test_the_oldest_compilers_build(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    environment = {"CXX": compiler, "FASTGAN_REQUIRE_NATIVE": "1"}
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        *NO_CUDA,
        "-w",
        tmp_path,
        ROOT,
        cwd=tmp_path,
        **environment,
    )
    install_and_train(tmp_path, "OFF")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_checkout_that_one_may_only_read_installs(tmp_path: Path) -> None:
    """Root gives the files away and the right to write anywhere up; others take their own right to write away."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "build", "runs", "dist", "__pycache__"))
    if shutil.which("git") is not None:  # which refuses to answer in a repository of another owner
        run("git", "init", "-q", cwd=checkout)
    files = sorted(checkout.rglob("*"))
    as_reader: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed")
        as_reader = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner")
    for path in (checkout, *files):
        path.chmod(0o555 if path.is_dir() else 0o444)
        if as_reader:
            os.chown(path, 65534, 65534)
    refused = subprocess.run([*as_reader, "touch", str(checkout / "new")], capture_output=True)
    assert refused.returncode != 0
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir")
    run(*as_reader, *pip, *NO_CUDA, "-w", tmp_path, checkout, cwd=tmp_path, FASTGAN_REQUIRE_NATIVE="1")
    assert sorted(checkout.rglob("*")) == files
    install_and_train(tmp_path, "OFF")
    for path in (checkout, *files):  # so that pytest may remove it
        path.chmod(0o755)


NO_CUDA = ("-C", "cmake.define.FASTGAN_CUDA=OFF")


def install_and_train(folder: Path, cuda: str) -> None:
    """The wheel in the folder, installed in an environment of its own."""
    (wheel,) = folder.glob("*.whl")
    python = environment_of(folder / "venv")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "-q", "--no-deps", wheel, cwd=folder)
    assert "trained" in run(python, "-c", TRAIN, folder / "venv", cuda, cwd=folder)


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
    run(*pip, "wheel", *options, sdist, cwd=tmp_path, FASTGAN_REQUIRE_NATIVE="1")
    install_and_train(tmp_path, cuda)
