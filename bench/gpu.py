"""Build, test, sanitise and measure on a machine with a GPU and without a network; a short table comes last.

    python3 bench/gpu.py [--quick] [--out bench/results/gpu.json]

Needed: nvcc, PyTorch with CUDA, cmake, ninja, pybind11, scikit-build-core, pytest. Nothing is fetched, and nothing
outside `build/gpu` is written but the results. Each step has a limit of its own, so that all together stay under 9
minutes (--quick: 3). The exit code is 0 when every step that could run passed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "gpu"
SITE = BUILD / "site"
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
# One row of each kernel: what compute-sanitizer sees must stay short.
SHORT = "(float32 and (pair or noise or masks or optimiser)) or sums or (every_network and (relu or maxout)) or lane"


@dataclass
class Step:
    """What was asked and what came of it."""

    name: str
    outcome: str  # "passed", "failed", "timed out", "left out: reason"
    seconds: float
    detail: str


def run(name: str, command: list[str], limit_s: float, **environment: str) -> Step:
    """One step; its output goes to build/gpu/<name>.log."""
    print(f"--- {name}: {' '.join(command)}", flush=True)
    start = time.monotonic()
    log = BUILD / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=BUILD, env=os.environ | environment, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, 9)
            process.wait()
    text = log.read_text(errors="replace").strip()
    last = text.splitlines()[-1][-160:] if text else ""
    outcome = "passed" if code == 0 else "timed out" if code is None else "failed"
    if outcome != "passed":
        print("\n".join(text.splitlines()[-40:]), flush=True)
    return Step(name, outcome, time.monotonic() - start, last)


def architecture() -> str:
    """The compute capability of the device, as CMake names it; empty where torch sees none."""
    code = "import torch; print('%d%d' % torch.cuda.get_device_capability() if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip()


def build(arch: str, limit_s: float) -> Step:
    shutil.rmtree(SITE, ignore_errors=True)
    options = (f"CMAKE_CUDA_ARCHITECTURES={arch}-real", "FASTGAN_CUDA=ON")
    defines = [part for option in options for part in ("-C", f"cmake.define.{option}")]
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--target"]
    return run("build", [*pip, str(SITE), "-C", f"build-dir={BUILD / 'cmake'}", *defines, str(ROOT)], limit_s)


def pytest(name: str, files: list[str], limit_s: float, *more: str, **environment: str) -> Step:
    """Tests of the installed package: the checkout's `fastgan` folder, which has no core, must stay out of the way."""
    tests = BUILD / "tests"
    if not tests.exists():
        shutil.copytree(ROOT / "tests", tests)
        shutil.copytree(ROOT / "csrc", BUILD / "csrc")
        shutil.copy(ROOT / "pyproject.toml", BUILD)
        (BUILD / "simt").mkdir()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "cuda", *more]
    environment |= {"PYTHONPATH": str(SITE), "FASTGAN_SIMT_FOLDER": str(BUILD / "simt")}
    return run(name, [*command, *(f"tests/{f}" for f in files)], limit_s, **environment)


def sanitize(limit_s: float) -> list[Step]:
    """compute-sanitizer's tools over the emulator's rows, which need no torch on the device."""
    if shutil.which("compute-sanitizer") is None:
        return [Step("compute-sanitizer", "left out: it is not installed", 0.0, "")]
    steps = []
    for tool in SANITIZERS:
        prefix = f"compute-sanitizer --tool {tool} --error-exitcode 9"
        files = ["test_simt_loss.py", "test_simt_layers.py", "test_simt_matrix.py"]
        step = pytest(tool, files, limit_s / len(SANITIZERS), "-x", "-k", SHORT, FASTGAN_GPU_TOOL=prefix)
        if "Device not supported" in (BUILD / f"{tool}.log").read_text(errors="replace"):
            step.outcome = "left out: compute-sanitizer does not support this device here"
        steps.append(step)
    return steps


def measure(script: str, quick: bool, limit_s: float) -> tuple[Step, dict[str, object]]:
    out = BUILD / f"{script}.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "bench" / f"{script}.py"), str(out), *(["--quick"] if quick else [])]
    step = run(script, command, limit_s, PYTHONPATH=str(SITE))
    return step, json.loads(out.read_text()) if out.exists() else {}


def report(steps: list[Step], figures: dict[str, object], out: Path) -> None:
    """JSON first, the table last."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"steps": [asdict(s) for s in steps], **figures}, indent=1) + "\n")
    print(f"\nwritten: {out}; logs: {BUILD}/*.log\n")
    for record in figures.get("records", []):  # type: ignore[attr-defined]
        if record["target"]:
            print(f"{record['case']}, {record.get('n') or record.get('width')}: {record['target']}")
    print()
    for step in steps:
        print(f"{step.name:18} {step.outcome:10} {step.seconds:6.0f} s  {step.detail}")


def main() -> int:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="under 3 minutes: no sanitizers, fewer sizes")
    p.add_argument("--out", type=Path, default=None, help="None: bench/results/gpu-<device>.json")
    args = p.parse_args()
    arch = architecture()
    if not arch or shutil.which("nvcc") is None:
        print("gpu: PyTorch sees no CUDA device" if not arch else "gpu: nvcc is not on the PATH", file=sys.stderr)
        return 1
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    figures: dict[str, object] = {}
    steps = [build(arch, 80 if args.quick else 150)]
    if steps[0].outcome == "passed":
        harness = [f"test_simt{part}.py" for part in ("", "_loss", "_layers", "_matrix", "_train")]
        steps.append(pytest("kernels", harness, 60 if args.quick else 90))
        if not args.quick:
            on_device = ("cuda", "edges", "losses", "loss_accuracy", "ops", "training_loop")
            steps.append(pytest("tests", [f"test_{name}.py" for name in on_device], 90))
            steps += sanitize(100)
        step, figures = measure("gpu_losses", args.quick, 35 if args.quick else 105)
        steps.append(step)
        step, training = measure("gpu_train", args.quick, 40 if args.quick else 120)
        steps.append(step)
        figures["records"] = [*figures.get("records", []), *training.get("records", [])]  # type: ignore[misc]
    device = re.sub(r"[^a-z0-9]+", "-", str(figures.get("device", f"sm-{arch}")).lower()).strip("-")
    name = f"gpu-{device}{'-quick' if args.quick else ''}.json"
    report(steps, figures, args.out or ROOT / "bench" / "results" / name)
    return 0 if all(s.outcome == "passed" or s.outcome.startswith("left out") for s in steps) else 1


if __name__ == "__main__":
    raise SystemExit(main())
