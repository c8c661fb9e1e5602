"""Does training keep its rate on data whose inputs are partly always 0, as MNIST's border pixels are?

    python bench/bench_subnormals.py [--data FOLDER] [--steps 6000] [--engines fused eager pytorch] [--out FOLDER]

Adam's first moments of the weights of such inputs decay into the subnormal range (below 1.2e-38) after some 1,000
updates, and many processors compute with subnormal numbers several times more slowly. The network is of MNIST's size,
64-512-512-784 against 784-512-512-1, dropout 0.3, batch 64, Adam, one thread. FOLDER holds MNIST's
train-images-idx3-ubyte; without it, rows have as many columns that are always 0. "fused" and "eager" are fastgan's
engines, "pytorch" is the loop of tutorials on plain torch.nn layers, as `fastgan bench` times it. Times are those of
this thread on the processor (time.thread_time), so that other processes of a shared machine count less; `windows` are
means of 200 iterations. JSON goes to bench/results, named by processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastgan import GAN, Adam, TrainConfig, nn, train
from fastgan.apps.bench import baselines_torch, harness, machine
from fastgan.apps.bench.results import Report
from fastgan.apps.bench.workloads import BETAS, EPS, LEARNING_RATE
from fastgan.training import Callback, Run

WINDOW = 200
BATCH, LATENT = 64, 64
DEAD_PIXELS = 67  # of MNIST's 784 columns, over the 60,000 training rows


class Windows(Callback):
    """Milliseconds an iteration, a window at a time."""

    every = WINDOW

    def __init__(self) -> None:
        self.milliseconds: list[float] = []
        self.last, self.step = 0.0, 0

    def on_start(self, run: Run) -> None:
        self.last, self.step = time.thread_time(), run.step

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        if run.step % WINDOW == 0:
            now = time.thread_time()
            self.milliseconds.append(1e3 * (now - self.last) / (run.step - self.step))
            self.last, self.step = now, run.step


def data(folder: Path | None) -> tuple[torch.Tensor, str]:
    """MNIST's training rows in [-1, 1], or random ones with as many columns that never change."""
    if folder is None:
        rows = torch.rand(60000, 784, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
        rows[:, :DEAD_PIXELS] = 0
        return rows, f"random, {DEAD_PIXELS} columns always 0"
    raw = np.fromfile(folder / "train-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 784)
    return torch.from_numpy(raw).float().div_(255), "MNIST, pixels in [0, 1]"


def measure(rows: torch.Tensor, engine: Any, steps: int) -> list[float]:
    """Milliseconds an iteration, window by window, from the same first weights for every side."""
    torch.manual_seed(0)
    generator = nn.MLP([LATENT, 512, 512, 784], activation="relu", output_activation="sigmoid")
    discriminator = nn.MLP([784, 512, 512, 1], activation="leaky_relu", dropout=0.3)
    if engine == "pytorch":
        return measure_pytorch(rows, nn.to_torch(generator).train(), nn.to_torch(discriminator).train(), steps)
    windows = Windows()
    optimizer = Adam(LEARNING_RATE, betas=BETAS, eps=EPS)
    config = TrainConfig(steps, BATCH, optimizer=optimizer, engine=engine, seed=0)
    result = train(GAN(generator, discriminator, latent_dim=LATENT), rows, config, callbacks=[windows])
    print(f"{result.engine}: {result.steps_per_second:.0f} iterations a second", flush=True)
    return windows.milliseconds


def measure_pytorch(
    rows: torch.Tensor, generator: torch.nn.Module, discriminator: torch.nn.Module, steps: int
) -> list[float]:
    step, milliseconds = baselines_torch.eager(generator, discriminator), []
    for _ in range(steps // WINDOW):
        started = time.thread_time()
        for _ in range(WINDOW):
            real = rows[torch.randint(len(rows), (BATCH,))]
            step(real, torch.randn(BATCH, LATENT), torch.randn(BATCH, LATENT))
        milliseconds.append(1e3 * (time.thread_time() - started) / WINDOW)
    return milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--engines", nargs="+", default=["fused", "eager", "pytorch"])
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    parser.add_argument("--machine", default=machine.name(), help="name of this machine in file names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, kind = data(arguments.data)
    settings = harness.Settings(threads=(1,), out=arguments.out, machine=arguments.machine)
    report = Report("subnormals", settings, "engines")
    report.content["data"] = kind
    for engine in arguments.engines:
        milliseconds = measure(rows, engine, arguments.steps)
        first, last = milliseconds[1], float(np.mean(milliseconds[-5:]))
        report.add({"engine": engine, "windows": milliseconds, "first": first, "last": last})
        print(f"{engine}: iterations 200 to 400 {first:.2f} ms, the last 1,000 {last:.2f} ms")
    print(report.path)


if __name__ == "__main__":
    main()
