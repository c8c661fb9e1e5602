"""Where the time of an iteration goes in the CPU engine, by a sampling profiler: Linux's perf.

    pip install -C install.strip=false -e .        keeps the names of functions in the compiled module
    python bench/profile_engine.py mnist-256 original [--seconds 10]

Each workload of `fastgan bench` trains in a process of its own, pinned; perf looks at it 2,000 times a second. Shares
are of the samples in the compiled module, and so are the times: start-up and Python are not in them.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fastgan import train
from fastgan.apps.bench import fastgan_side, flops, harness
from fastgan.apps.bench.workloads import WORKLOADS

SAMPLES = 2000  # a second
RATE = 1e11  # operations a second of a core, about: how many iterations take the requested time
# The part of a function is the first one whose pattern its name begins with, without namespaces.
PARTS = {
    "products, gradients": "multiply_|tile_function|each_block<float, multiply_rows",
    "transposing, packing": "transpose_|pack_",
    "activations": "activate_|each_block<float, maxout|dropout",
    "waits at barriers": "Barrier::",
    "optimiser": "update_",
}
OTHER = "other"


def part_of(function: str) -> str:
    """The part that a function of the compiled module belongs to."""
    name = re.sub(r"fastgan::|\w+::(?=\(anonymous)|\(anonymous namespace\)::|v\d::|portable::", "", function)
    return next((part for part, pattern in PARTS.items() if re.match(pattern, name)), OTHER)


def training(name: str, iterations: int) -> None:
    """Train a workload."""
    workload = WORKLOADS[name]
    with harness.pinned(workload.threads):
        train(workload.gan(), workload.data(), fastgan_side.config(workload, iterations))


def samples_of(name: str, iterations: int) -> Counter[str]:
    """Samples in functions of the compiled module, by part."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "perf.data")
        record = ["perf", "record", "-q", "-F", str(SAMPLES), "-e", "cpu-clock", "-o", str(data), "--"]
        subprocess.run([*record, sys.executable, __file__, name, "--train", str(iterations)], check=True)
        fields = ["--sort", "dso,symbol", "-F", "sample,dso,symbol", "-t", "\t"]
        told = subprocess.check_output(["perf", "report", "-q", "--stdio", "-i", str(data), *fields], text=True)
    found: Counter[str] = Counter()
    for line in told.splitlines():
        count, module, function = (line.split("\t") + ["", ""])[:3]
        if "_native" in module:
            found[part_of(function.strip().removeprefix("[.] "))] += int(count)
    return found


def line(name: str, seconds: float) -> list[str]:
    """A row of the table: the shares, milliseconds an iteration and the rate of the products."""
    workload = WORKLOADS[name]
    iterations = max(10, round(seconds * RATE * workload.threads / flops.iteration(workload)))
    found = samples_of(name, iterations)
    every = sum(found.values())
    each = every / SAMPLES / iterations  # processor seconds of all threads
    products = found["products, gradients"] / every
    rate = flops.iteration(workload) / (each * products) / 1e9
    shares = [f"{found[part] / every:.0%}" for part in (*PARTS, OTHER)]
    return [name, *shares, f"{1e3 * each / workload.threads:.3g}", f"{rate:.0f}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Profile, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", choices=[*WORKLOADS], metavar="WORKLOAD")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each training (10)")
    parser.add_argument("--train", type=int, metavar="N", help="only train, N iterations of each")
    arguments = parser.parse_args(argv)
    if arguments.train:
        for name in arguments.workloads:
            training(name, arguments.train)
        return 0
    if shutil.which("perf") is None:
        parser.error("perf must be installed (linux-perf, linux-tools)")
    rows = [["", *PARTS, OTHER, "ms", "GFLOP/s of products, a core"]]
    rows += [line(name, arguments.seconds) for name in arguments.workloads]
    print(harness.table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
