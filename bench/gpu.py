"""Build, test, sanitise and measure on a machine with a GPU and without a network; a short table comes last.

    python3 bench/gpu.py [--quick] [--only bench pacgan] [--rows wide-2048 wide-4096] [--out bench/results/gpu.json]

Needed: nvcc, PyTorch with CUDA, cmake, ninja, pybind11, scikit-build-core, pytest, hypothesis, and what fastgan itself
needs (numpy, safetensors, rich). Nothing is fetched, and nothing outside `build/gpu` is written but the results, which
are written again after each step; the training times have a file of their own beside them. Where $OUT names a folder,
the results are there, and all logs in one file with them. Each step has a limit of its own, and all together have one
deadline, under 9 minutes (--quick: 3); what there is no time for is reported and counts as failed. --only runs that
afterwards, on what was built before, and --rows those rows of the bench that are missing: steps whose limits leave
something of the time share it. The exit code is 0 when every step that could run passed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "gpu"
SITE = BUILD / "site"
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
# One row of each kernel: what compute-sanitizer sees must stay short.
SHORT = (
    "(float32 and (pair or noise or masks or optimiser)) or sums or (every_network and (relu or maxout)) or lane"
    " or (kernel and check) or (persistent_equals and plain and not torch)"
)
SECONDS, QUICK_SECONDS = 520.0, 170.0  # for everything: a lent GPU may be there for ten minutes only
GRACE_S = 8.0  # between the end of a step's time and force
# Seconds of each part, in full and with --quick; 0: it is not run.
PARTS = {
    "build": (150, 80), "kernels": (90, 60), "tests": (150, 0), "bench": (200, 60), "pacgan": (80, 0),
    "losses": (90, 35), "sanitize": (120, 0),
}  # fmt: skip
# What the targets speak of, with the baselines that they name.
ROWS = "toy-32 toy-32x132 mnist-1024 original wide-1024 wide-2048 wide-4096 toy-32x1056 pacgan-ringx10".split()
SETUP_S, ROW_S = 60.0, 120.0  # of a side; of a row, whose kernel may never end
BASELINES = "eager graph jax vmap autocast compile-autocast".split()
# PacGAN's table 1: 8 cells of 10 GANs, which train as a population, of which these represent all, at two short lengths
# . Whole thousands: the looks at the modes come as often as in a full run, and both lengths capture every graph.
CELLS, CELL_STEPS, LENGTHS, MINUTES = 8, 400_000, (2000, 5000), 30.0
LOG_BYTES = 1 << 20  # of each log's end, beside the results
METHODS = ("GAN", "PacGAN4")  # the shortest and the longest iteration of four, whose lengths are evenly spread


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
            command,
            cwd=BUILD,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
            _end(process)
    text = log.read_text(errors="replace").strip()
    last = text.splitlines()[-1][-160:] if text else ""
    outcome = "passed" if code == 0 else "timed out" if code is None else "failed"
    if outcome != "passed":
        print("\n".join(text.splitlines()[-40:]), flush=True)
    return Step(name, outcome, time.monotonic() - start, last)


def _end(process: subprocess.Popen[bytes]) -> None:
    """By Ctrl-C, after which a command may tell what it has; then, with all that it has started, by force."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(GRACE_S)


@dataclass
class Session:
    """All that was found so far, in a file that is always whole, and the time until the deadline.

    Args:
        out: the file.
        end: the deadline, by `time.monotonic`.
        logs: a file that the logs of all steps are copied to.
    """

    out: Path
    end: float
    steps: list[Step] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    logs: Path | None = None

    def run(self, name: str, command: list[str], limit_s: float, **environment: str) -> Step:
        """One step, for which there is `limit_s` or what is left."""
        left = self.end - time.monotonic()
        if left > 1:
            step = run(name, command, min(limit_s, left), **environment)
        else:
            step = Step(name, "timed out", 0.0, "no time was left for it")
        self.steps.append(step)
        self.write()
        return step

    def write(self) -> None:
        """Replace the file at once."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.out.with_name(f".{self.out.name}.tmp")
        temporary.write_text(json.dumps({"steps": [asdict(s) for s in self.steps], **self.figures}, indent=1) + "\n")
        temporary.replace(self.out)
        if self.logs is not None:
            found = sorted(BUILD.glob("*.log"), key=lambda log: log.stat().st_mtime)
            self.logs.write_bytes(b"".join(b"=== %s\n%s\n" % (log.stem.encode(), tail(log)) for log in found))


def tail(log: Path) -> bytes:
    """The end of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        return file.read()


def device() -> tuple[str, str]:
    """The compute capability as CMake names it, and the device's name; both empty where torch sees none."""
    code = (
        "import torch; there = torch.cuda.is_available(); "
        "print('%d%d' % torch.cuda.get_device_capability() if there else ''); "
        "print(torch.cuda.get_device_name() if there else '')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    arch, name = (done.stdout.splitlines() + ["", ""])[:2]
    return arch.strip(), name.strip()


def build(session: Session, arch: str, limit_s: float) -> Step:
    shutil.rmtree(SITE, ignore_errors=True)
    options = (f"CMAKE_CUDA_ARCHITECTURES={arch}-real", "FASTGAN_CUDA=ON")
    defines = [part for option in options for part in ("-C", f"cmake.define.{option}")]
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--target"]
    command = [*pip, str(SITE), "-C", f"build-dir={BUILD / 'cmake'}", *defines, str(ROOT)]
    return session.run("build", command, limit_s, FASTGAN_REQUIRE_NATIVE="1")


def settings() -> str:
    """pyproject.toml for pytest, which refuses the settings of a plugin that is not there."""
    text = (ROOT / "pyproject.toml").read_text()
    if importlib.util.find_spec("pytest_timeout") is None:
        text = re.sub(r"^timeout = .*\n", "", text, flags=re.M)
    return text


def pytest(session: Session, name: str, files: list[str], limit_s: float, *more: str, **environment: str) -> Step:
    """Tests of the installed package: the checkout's `fastgan` folder, which has no core, must stay out of the way."""
    tests = BUILD / "tests"
    if not tests.exists():
        shutil.copytree(ROOT / "tests", tests)
        shutil.copytree(ROOT / "csrc", BUILD / "csrc")
        (BUILD / "pyproject.toml").write_text(settings())
        (BUILD / "simt").mkdir()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *more]
    environment |= {"PYTHONPATH": str(SITE), "FASTGAN_SIMT_FOLDER": str(BUILD / "simt")}
    return session.run(name, [*command, *(f"tests/{f}" for f in files)], limit_s, **environment)


def sanitize(session: Session, limit_s: float) -> None:
    """compute-sanitizer's tools over the emulator's rows, which need no torch on the device."""
    if shutil.which("compute-sanitizer") is None:
        session.steps.append(Step("compute-sanitizer", "left out: it is not installed", 0.0, ""))
        return
    files = [f"test_simt_{part}.py" for part in ("loss", "layers", "optimizers", "matrix", "graph", "train")]
    for tool in SANITIZERS:
        prefix = f"compute-sanitizer --tool {tool} --error-exitcode 9"
        step = pytest(session, tool, files, limit_s / len(SANITIZERS), "-x", "-k", SHORT, FASTGAN_GPU_TOOL=prefix)
        log = BUILD / f"{tool}.log"
        if log.exists() and "Device not supported" in log.read_text(errors="replace"):
            step.outcome = "left out: compute-sanitizer does not support this device here"


def measure(session: Session, script: str, quick: bool, limit_s: float) -> None:
    """A script's times; it writes after each case, so what it had no time for is all that is missing."""
    out = BUILD / f"{script}.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "bench" / f"{script}.py"), str(out), *(["--quick"] if quick else [])]
    session.run(script, command, limit_s, PYTHONPATH=str(SITE))
    found = json.loads(out.read_text()) if out.exists() else {}
    records = [*session.figures.get("records", []), *found.get("records", [])]
    session.figures |= {**found, "records": records}
    session.write()


def bench(session: Session, machine: str, quick: bool, limit_s: float, chosen: Sequence[str] = ()) -> None:
    """`fastgan bench` writes its file after each row, so what it had no time for is all that is missing.

    The file of chosen rows has the first one's name in its own: that of the run before stays.
    """
    machine = "-".join([machine, *chosen[:1]])
    command = [sys.executable, "-m", "fastgan", "bench", "--device", "cuda", "--machine", machine]
    rows, baselines = (ROWS[:2], BASELINES[:1]) if quick else (ROWS, BASELINES)
    command += ["--out", str(session.out.parent), "--workload", *(chosen or rows), "--baselines", *baselines]
    command += ["--quick"] if quick else ["--windows", "10", "--window-ms", "50"]
    command += ["--setup-limit", str(SETUP_S), "--row-limit", str(ROW_S)]
    file = session.out.parent / f"train-{machine}{'-quick' if quick else ''}.json"
    file.unlink(missing_ok=True)
    session.run("bench", command, limit_s, PYTHONPATH=str(SITE))
    if file.exists():
        found = json.loads(file.read_text())
        told = {key: found[key] for key in ("lower_bounds", "targets") if key in found}
        session.figures["train"] = {"file": file.name, **told}
    session.write()


def pacgan(session: Session, limit_s: float) -> None:
    """How long PacGAN's table 1 takes, by the slope between two short lengths of `fastgan reproduce pacgan`."""
    command = [sys.executable, "-m", "fastgan", "reproduce", "pacgan", "--device", "cuda", "--dataset", "ring"]
    command += ["--methods", ",".join(METHODS), "--quiet", "--no-pictures"]
    folders = [BUILD / f"pacgan-{steps}" for steps in LENGTHS]
    for steps, folder in zip(LENGTHS, folders, strict=True):
        shutil.rmtree(folder, ignore_errors=True)
        more = ["--steps", str(steps), "--out", str(folder)]
        session.run(f"pacgan {steps}", [*command, *more], limit_s / len(LENGTHS), PYTHONPATH=str(SITE))
    if all((folder / f"ring-{METHODS[-1]}" / "training.json").exists() for folder in folders):
        minutes = whole_table(folders)
        verdict = "met" if minutes <= MINUTES else "missed"
        told = f"{minutes:.0f} minutes for PacGAN's table 1, extrapolated, at most {MINUTES:.0f}: {verdict}"
        session.figures["pacgan"] = {"minutes": minutes, "target": told}
    session.write()


def whole_table(folders: list[Path]) -> float:
    """Minutes of all cells at full length: what the shorter runs took, and the rest by the slope to the longer ones."""
    few, many = LENGTHS
    cells = []
    for method in METHODS:
        noted = [json.loads((folder / f"ring-{method}" / "training.json").read_text()) for folder in folders]
        short, longer = (n["seconds"] for n in noted)
        cells.append(short + (longer - short) * (CELL_STEPS - few) / (many - few))
    return CELLS * sum(cells) / len(cells) / 60


def report(session: Session) -> None:
    """The table, last."""
    session.write()
    print(f"\nwritten: {session.out}; logs: {BUILD}/*.log\n")
    log = BUILD / "bench.log"
    if log.exists():
        told = log.read_text(errors="replace")
        print(told[told.find("lower bounds of ") :] if "lower bounds of " in told else "")
    for found in session.figures.get("train", {}).get("targets", []):
        bound = f"at most {found['most']:.3g}" if "most" in found else f"at least {found['least']:.3g}"
        told = f"{found['rule']}: {found['value']:.3g}, {bound}: {found['verdict']}"
        print(f"{found['workload']}: {told}")
    if "pacgan" in session.figures:
        print(session.figures["pacgan"]["target"])
    for record in session.figures.get("records", []):
        if record["target"]:
            print(f"{record['case']}, {record.get('n') or record.get('width')}: {record['target']}")
    print()
    for step in session.steps:
        print(f"{step.name:18} {step.outcome:10} {step.seconds:6.0f} s  {step.detail}")


def share(session: Session, part: str, quick: bool, only: Sequence[str]) -> float:
    """Seconds of a part: its own, or more where what is left is more than those of all chosen parts from it on."""
    names = list(PARTS)
    own = {name: PARTS[name][quick] for name in names[names.index(part) :] if name in only}
    return own[part] * max(1.0, (session.end - time.monotonic()) / sum(own.values()))


def steps(session: Session, machine: str, quick: bool, only: Sequence[str], rows: Sequence[str]) -> None:
    """What follows the build."""
    chosen = [part for part in list(PARTS)[1:] if part in only and PARTS[part][quick]]
    for part in chosen:
        step(session, part, share(session, part, quick, chosen), machine, quick, rows)


def step(session: Session, part: str, limit_s: float, machine: str, quick: bool, rows: Sequence[str]) -> None:
    """One part in so many seconds."""
    if part == "kernels":
        harness = ("", "_loss", "_layers", "_matrix", "_graph", "_train", "_lower_bounds")
        pytest(session, "kernels", [f"test_simt{name}.py" for name in harness], limit_s)
    elif part == "tests":
        on_device = ("cuda", "edges", "losses", "loss_accuracy", "ops", "training_loop")
        pytest(session, "tests", [f"test_{name}.py" for name in on_device], 0.6 * limit_s)
        # alone: it leaves a broken capture behind
        pytest(session, "graph tests", ["test_cuda_graph.py"], 0.4 * limit_s)
    elif part == "bench":
        bench(session, machine, quick, limit_s, rows)
    elif part == "pacgan":
        pacgan(session, limit_s)
    elif part == "losses":
        measure(session, "gpu_losses", quick, limit_s)
    elif part == "sanitize":
        sanitize(session, limit_s)


def main() -> int:
    """The command line."""
    begun = time.monotonic()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="under 3 minutes: no sanitizers, fewer sizes")
    p.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these steps alone, of all")
    p.add_argument("--rows", nargs="+", default=(), metavar="NAME", help="these rows of the bench alone")
    p.add_argument("--out", type=Path, default=None, help="None: gpu-<device>.json in $OUT or bench/results")
    args = p.parse_args()
    arch, name = device()
    if not arch or shutil.which("nvcc") is None:
        print("gpu: PyTorch sees no CUDA device" if not arch else "gpu: nvcc is not on the PATH", file=sys.stderr)
        return 1
    machine = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if "build" not in args.only and not SITE.exists():
        print(f"gpu: --only must name build too: nothing has been built in {SITE}", file=sys.stderr)
        return 1
    folder = os.environ.get("OUT")
    name = f"gpu-{machine}{'-quick' if args.quick else ''}.json"
    out = (args.out or Path(folder or ROOT / "bench" / "results") / name).resolve()
    logs = Path(folder) / "logs.txt" if folder else None
    session = Session(out, begun + (QUICK_SECONDS if args.quick else SECONDS), logs=logs)
    session.out.parent.mkdir(parents=True, exist_ok=True)
    if "build" in args.only:
        shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    if "build" not in args.only or build(session, arch, PARTS["build"][args.quick]).outcome == "passed":
        steps(session, machine, args.quick, args.only, args.rows)
    report(session)
    return 0 if all(s.outcome == "passed" or s.outcome.startswith("left out") for s in session.steps) else 1


if __name__ == "__main__":
    raise SystemExit(main())
