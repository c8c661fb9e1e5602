"""A million iterations of the ring: does the process stay as large as it was?

Prints and writes the resident memory every 100,000 iterations, and its slope. The engine is asked directly, because
`train` keeps a history of 56 bytes an iteration on purpose.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from fastgan import TrainConfig, data, models
from fastgan.apps.bench import harness
from fastgan.apps.bench.results import Report
from fastgan.training.engines.cpu import CpuEngine
from fastgan.training.rows import Minibatches

CHUNK, CHECKED = 5_000, 100_000


def resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--iterations", type=int, default=1_000_000)
    arguments = parser.parse_args()
    settings = harness.settings_from(arguments)
    torch.set_num_threads(settings.threads[0])
    report = Report("soak", settings)
    gan = models.mlp_gan(2, latent_dim=2, hidden=(128, 128))
    config = TrainConfig(arguments.iterations, 32, seed=settings.seed)
    rows = Minibatches(data.ring(100_000), batch_size=32, seed=settings.seed, device=gan.device, dtype=gan.dtype)
    engine = CpuEngine(gan, rows, config)
    points, files, begun = [], len(os.listdir("/proc/self/fd")), time.perf_counter()
    for done in range(0, arguments.iterations, CHUNK):
        engine.begin(done, CHUNK, lambda: False)()
        if (done + CHUNK) % CHECKED == 0:
            points.append((done + CHUNK, resident()))
            seconds = time.perf_counter() - begun
            print(f"{done + CHUNK:9,d} iterations  {points[-1][1]:.2f} MiB  {seconds:.0f} s", flush=True)
    (first, before), (last, after) = points[0], points[-1]
    slope = (after - before) / max(1, last - first) * 1e5
    open_files = len(os.listdir("/proc/self/fd")) - files
    print(f"{slope:+.4f} MiB in 100,000 iterations, {open_files:+d} open files")
    report.write({"points": points, "slope_mib_per_100000": slope, "open_files": open_files}, None)


if __name__ == "__main__":
    main()
