"""How long does it take to install fastgan from source, and to import it?

    python bench/bench_install.py [--quick] [--imports 15] [--variants cpu cuda] [--source FOLDER]
    python bench/bench_install.py --variants cuda       the CUDA build alone, in results/install-cuda-<machine>

Copies the sources to a temporary folder and does there what a user does: an sdist, a wheel from it in pip's isolated
build (fetching the build requirements included, so a slow network shows), the installation, the import from another
folder. "cpu" builds with FASTGAN_CUDA=OFF; "cuda" with ON, by the nvcc of CUDACXX or of the path; where there is none,
it is left out, or refused if it was requested. Before a time counts, the installed package must load its native core
and give the discriminator's loss. Import times are those of `import fastgan` in a fresh interpreter that has imported
torch before. --quick builds nothing.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastgan.apps.bench import harness, pictures, timing
from fastgan.apps.bench.results import Report, guarded

ROOT = Path(__file__).resolve().parent.parent
LEFT_BEHIND = (
    ".git",
    ".venv",
    "build",
    "dist",
    "runs",
    "results",
    "__pycache__",
    "*.so",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
)
VARIANTS = {"cpu": ["-C", "cmake.define.FASTGAN_CUDA=OFF"], "cuda": ["-C", "cmake.define.FASTGAN_CUDA=ON"]}
LIMITS = {"cpu": 60.0, "cuda": 240.0}
IMPORT_LIMIT = 0.3
NO_NVCC = "no nvcc here: neither CUDACXX nor the path names one"
CHECK = """
import json, sys, time, torch
start = time.perf_counter()
import fastgan
seconds = time.perf_counter() - start
names = "matplotlib", "pandas", "pyarrow", "sklearn", "scipy", "PIL", "rich", "torch._dynamo"
heavy = [name for name in names if name in sys.modules]
loss = float(fastgan.discriminator_loss(torch.tensor([2.0, -1.0]), torch.tensor([0.5])))
native = fastgan.backend_info()["native"]
print(json.dumps({"seconds": seconds, "loaded": heavy, "loss": loss, "native": native, "file": fastgan.__file__}))
"""
TRUE_LOSS = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(1.0))) / 2 + math.log1p(math.exp(0.5))


class StepFailed(Exception):
    """A command of the installation did not succeed."""


def timed(
    what: str, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a command: wall and processor seconds of it and its children. Raises StepFailed with the last it said."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise StepFailed(f"{what} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "output": done.stdout}


def copy_sources(source: Path, to: Path) -> Path:
    """The sources as a clone has them."""
    return shutil.copytree(source, to, ignore=shutil.ignore_patterns(*LEFT_BEHIND))


def only_file(folder: Path, pattern: str) -> Path:
    """The one file that a step has made."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise StepFailed(f"expected one {pattern}, found {[f.name for f in found]}")
    return found[0]


def make_sdist(copy: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    """An sdist by the project's own backend, which must be installed here (pip cannot make one)."""
    import tomllib

    backend = tomllib.loads((copy / "pyproject.toml").read_text())["build-system"]["build-backend"]
    if importlib.util.find_spec(backend.split(".")[0]) is None:
        raise StepFailed(f"the sdist needs {backend.split('.')[0]}: pip install {backend.split('.')[0]}")
    out.mkdir()
    code = f"import {backend} as backend; backend.build_sdist({str(out)!r})"
    took = timed("sdist", [sys.executable, "-c", code], copy)
    return only_file(out, "*.tar.gz"), took


def build(variant: str, source: Path, scratch: Path) -> dict[str, Any]:
    """sdist or sources -> wheel -> installed package that works; seconds of each step."""
    copy = copy_sources(source, scratch / "source")
    record: dict[str, Any] = {"variant": variant}
    start_from: Path = copy
    try:
        start_from, record["sdist"] = make_sdist(copy, scratch / "sdist")
        record["sdist_kB"] = start_from.stat().st_size / 1e3
    except StepFailed as failure:
        harness.progress(f"no sdist, building from the sources themselves: {failure}")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels, installed = scratch / "wheels", scratch / "installed"
    command = [*pip, "wheel", "--no-deps", "--no-cache-dir", *VARIANTS[variant], "-w", str(wheels), str(start_from)]
    record["wheel"] = timed("wheel", command, scratch, os.environ | {"FASTGAN_REQUIRE_NATIVE": "1"})
    wheel = only_file(wheels, "*.whl")
    record["wheel_kB"] = wheel.stat().st_size / 1e3
    command = [*pip, "install", "--no-deps", "--target", str(installed), str(wheel)]
    record["install"] = timed("install", command, scratch)
    record["wall_s"] = record["wheel"]["wall_s"] + record["install"]["wall_s"]
    record["cpu_s"] = record["wheel"]["cpu_s"] + record["install"]["cpu_s"]
    return record


def import_once(package: Path | None) -> dict[str, Any]:
    """One fresh interpreter: what CHECK prints, and ResultsDiffer where the package is not the one meant or is
    wrong."""
    environment, options = dict(os.environ), []
    if package is not None:  # -S: an editable fastgan hooks itself in through site, ahead of every path
        others = [path for path in sys.path if path.endswith("-packages")]  # also where .pth files brought in more
        environment["PYTHONPATH"] = os.pathsep.join((str(package), *others))
        options = ["-S"]
    with tempfile.TemporaryDirectory() as elsewhere:
        took = timed("import", [sys.executable, *options, "-c", CHECK], Path(elsewhere), environment)
    found: dict[str, Any] = json.loads(took["output"])
    if package is not None and not Path(found["file"]).is_relative_to(package):
        raise harness.ResultsDiffer(f"imported {found['file']}, not the package built here")
    if package is not None and not isinstance(found["native"], dict):
        raise harness.ResultsDiffer(f"the installed package has no native core: {found['native']}")
    if not abs(found["loss"] - TRUE_LOSS) < 1e-6:
        raise harness.ResultsDiffer(f"discriminator_loss gives {found['loss']}, the truth is {TRUE_LOSS}")
    return found


def imports(package: Path | None, count: int) -> dict[str, Any]:
    """Seconds that `import fastgan` adds to `import torch`; the first start, which fills caches, is left out."""
    found = [import_once(package) for _ in range(count + 1)]
    seconds = [f["seconds"] for f in found[1:]]
    return timing.quantiles(seconds) | {
        "first_s": found[0]["seconds"],
        "starts": count,
        "imported with it": found[0]["loaded"],
        "installed": package is not None,
    }


def nvcc() -> str | None:
    """The CUDA compiler that CMake will find."""
    return os.environ.get("CUDACXX") or shutil.which("nvcc")


def measure(settings: harness.Settings, variants: Sequence[str], count: int, source: Path) -> dict[str, Any]:
    """Build each variant, then import the last one built, or this checkout's where none was."""
    result: dict[str, Any] = {"builds": [], "left out": {}}
    with tempfile.TemporaryDirectory(prefix="fastgan-bench-") as scratch:
        package = None
        for variant in variants:
            if settings.quick or variant == "cuda" and nvcc() is None:
                result["left out"][variant] = "quick run" if settings.quick else NO_NVCC
                continue
            harness.progress(f"building: {variant}")
            folder = Path(scratch) / variant
            folder.mkdir()
            record = build(variant, source, folder)
            package = folder / "installed"
            native = import_once(package)["native"]
            if variant == "cuda" and not native["cuda"]:
                raise harness.ResultsDiffer("the cuda variant was built without CUDA")
            result["builds"].append({**record, "native": native})
        harness.progress(f"importing {count} times")
        result["import"] = imports(package, count)
    for record in result["builds"]:
        for step in ("sdist", "wheel", "install"):
            record.get(step, {}).pop("output", None)
    return result


def rows(builds: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Seconds of each step."""
    header = ["build", "sdist", "wheel", "install", "wheel + install", "processor", "wheel size", "limit", "met"]
    body = []
    for b in builds:
        steps = [f"{b[s]['wall_s']:.1f} s" if s in b else "-" for s in ("sdist", "wheel", "install")]
        met = "met" if b["wall_s"] < LIMITS[b["variant"]] else "missed"
        size = f"{b['wheel_kB']:.0f} kB"
        total = [f"{b['wall_s']:.1f} s", f"{b['cpu_s']:.1f} s", size, f"{LIMITS[b['variant']]:.0f} s", met]
        body.append([b["variant"], *steps, *total])
    return [header, *body]


def picture(result: Mapping[str, Any], notes: Sequence[str]) -> Any:
    """Seconds of the installation and of the import beside their limits."""
    fig, axes = pictures.figure(9, 1.5 + 0.55 * max(1, len(result["builds"])), 1, 2, width_ratios=[3, 2])
    bars = [(b["variant"], b["wall_s"], LIMITS[b["variant"]]) for b in result["builds"]]
    _limit_bars(axes[0, 0], bars, "seconds from sdist to installed package")
    _limit_bars(axes[0, 1], [("import", result["import"]["median_s"], IMPORT_LIMIT)], "seconds added to import torch")
    pictures.title(fig, "Installing fastgan from source, and importing it", notes)
    return fig


def _limit_bars(ax: Any, bars: Sequence[tuple[str, float, float]], label: str) -> None:
    ax.set_xlabel(label)
    ax.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    ax.set_ylim(len(bars) - 0.4, -0.6)
    if not bars:
        ax.text(0.5, 0.5, "not built in this run", transform=ax.transAxes, ha="center")
        return
    for i, (_, seconds, limit) in enumerate(bars):
        ax.barh(i, seconds, height=0.4, color=pictures.COLOURS[0 if seconds < limit else 1])
        ax.plot([limit, limit], [i - 0.35, i + 0.35], color=pictures.INK, linewidth=1.5)
        ax.annotate(f"limit {limit:g}", (limit, i - 0.36), ha="center", va="bottom", fontsize=7.5)
        ax.annotate(f" {seconds:.0f}" if seconds >= 10 else f" {seconds:.2g}", (seconds, i), va="center", fontsize=7.5)
    ax.set_xlim(0, 1.1 * max(max(s, limit) for _, s, limit in bars))


def bench(settings: harness.Settings, variants: Sequence[str], count: int, source: Path) -> None:
    """Measure, print, write."""
    name = "install" if set(variants) == set(VARIANTS) else "-".join(["install", *sorted(variants)])
    report = Report(name, settings)
    result = measure(settings, variants, count, source)
    if result["builds"]:
        print(f"Installation from source on {os.cpu_count()} processors (wall seconds; processor: of all cores)\n")
        print(harness.table(rows(result["builds"])))
    for variant, why in result["left out"].items():
        print(f"not built: {variant} ({why})")
    found = result["import"]
    met = "met" if found["median_s"] < IMPORT_LIMIT else "missed"
    print(
        f"\nimport fastgan adds {found['median_s']:.3f} s to import torch (p10 {found['p10_s']:.3f}, first start "
        f"{found['first_s']:.3f}; median of {found['starts']} starts); limit {IMPORT_LIMIT} s, {met}"
    )
    print(f"imported with it: {', '.join(found['imported with it']) or 'none of the heavy packages'}")
    print(report.disturbances())
    report.write(result, picture(result, [report.disturbances()]))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = harness.parser("installation from source and import time")
    p.add_argument("--imports", type=int, default=15, help="fresh interpreters to import in")
    p.add_argument(
        "--variants",
        nargs="+",
        choices=list(VARIANTS),
        help="what to build; default: cpu, and cuda where there is nvcc",
    )
    p.add_argument("--source", type=Path, default=ROOT, help="folder of the sources")
    args = p.parse_args(argv)
    if "cuda" in (args.variants or ()) and nvcc() is None:
        p.error(f"--variants cuda: {NO_NVCC}")
    variants = args.variants or list(VARIANTS)
    count = 1 if args.quick else args.imports
    settings = harness.settings_from(args)
    try:
        return guarded("bench_install", lambda: bench(settings, variants, count, args.source))
    except StepFailed as failure:
        print(f"bench_install: {failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
