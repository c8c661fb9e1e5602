"""How fast does a GPU train small GANs? The persistent engine, alone and in populations, against eager (G1, G2).

    python bench/gpu_train.py OUT.json [--quick] [--device cuda]

Sides take turns, a window each: a whole call of `train`, long enough that its beginning does not count. Before anything
is timed, both engines train the same GAN for a few iterations and must agree.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import fastgan
from fastgan import GAN, Adam, TrainConfig, nn

# name -> widths of G and of D, batch
GANS = {
    "tiny": ([1, 16, 16, 1], [1, 16, 16, 1], 32),
    "toy": ([2, 128, 128, 2], [2, 128, 128, 1], 32),
    "toy, batch 128": ([2, 128, 128, 2], [2, 128, 128, 1], 128),
    "ring": ([2, 128, 128, 2], [2, 128, 128, 1], 256),
}
MEMBERS = (1, 132, 1056)
LEAST = {1: ("G1", 60.0), 132: ("G2", 2000.0)}  # times the eager loop's iterations a second


class Bench:
    """One workload on one device."""

    def __init__(self, name: str, device: str) -> None:
        self.g, self.d, self.batch = GANS[name]
        self.device = device
        self.data = torch.randn(10_000, self.g[-1], device=device)

    def gan(self, seed: int = 0) -> GAN:
        torch.manual_seed(seed)
        networks = (nn.MLP(sizes, activation="leaky_relu") for sizes in (self.g, self.d))
        return GAN(*networks, latent_dim=self.g[0]).to(self.device)

    def config(self, steps: int, engine: str) -> TrainConfig:
        return TrainConfig(steps, self.batch, optimizer=Adam(2e-4, betas=(0.5, 0.999)), engine=engine)

    def check(self) -> None:
        """Both engines must train alike, or no time is worth anything."""
        results = []
        for engine in ("eager", "fused"):
            gan = self.gan()
            fastgan.train(gan, self.data, self.config(20, engine))
            results.append([p.detach().clone() for p in gan.parameters()])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)

    def rate(self, engine: str, members: int, seconds: float, guess: float) -> tuple[float, str]:
        """Iterations a second of all members together, and which engine ran."""
        steps = max(20, int(seconds * guess / members))
        if members == 1:
            alone = fastgan.train(self.gan(), self.data, self.config(steps, engine))
            return alone.steps_per_second, alone.engine
        many = fastgan.train_population(
            lambda seed: self.gan(seed), self.data, self.config(steps, engine), seeds=range(members)
        )
        return many.steps_per_second, many.engine


def measure(name: str, device: str, windows: int, seconds: float, most: int) -> list[dict[str, Any]]:
    """A record for each size of population."""
    bench = Bench(name, device)
    bench.check()
    sides = [("eager", 1), *(("fused", members) for members in MEMBERS if members <= most)]
    guess = {side: bench.rate(*side, seconds=0.01, guess=1000.0)[0] for side in sides}
    rates: dict[tuple[str, int], list[float]] = {side: [] for side in sides}
    engines = {}
    for _ in range(windows):
        for side in sides:
            rate, engines[side] = bench.rate(*side, seconds, guess[side])
            rates[side].append(rate)
            guess[side] = max(guess[side], rate)
    eager = statistics.median(rates["eager", 1])
    records = []
    for side in sides[1:]:
        ratio = statistics.median(rates[side]) / eager
        target, least = LEAST.get(side[1], ("", 0.0))
        verdict = f"{target}: {ratio:.0f}x eager, {'met' if ratio >= least else 'missed'}" if target else ""
        records.append(
            {
                "case": f"train {name}", "n": side[1], "batch": bench.batch, "engine": engines[side],
                "rate": statistics.median(rates[side]), "slowest": min(rates[side]), "eager": eager,
                "ratio": ratio, "target": verdict if name == "toy" else "",
            }
        )  # fmt: skip
    return records


def main() -> None:
    """The command line."""
    p = argparse.ArgumentParser(description="whole training runs on a GPU")
    p.add_argument("out", type=Path)
    p.add_argument("--quick", action="store_true", help="the toy GAN alone, fewer windows")
    p.add_argument("--device", default="cuda")
    p.add_argument("--most", type=int, default=max(MEMBERS), help="members of the largest population")
    args = p.parse_args()
    windows, seconds = (3, 0.5) if args.quick else (7, 1.0)
    records: list[dict[str, Any]] = []
    for name in ["toy"] if args.quick else GANS:
        records += measure(name, args.device, windows, seconds, args.most)
        for r in (r for r in records if r["case"] == f"train {name}"):
            print(f"{r['case']}, {r['n']} of them, {r['engine']}: {r['rate']:.0f} a second, {r['ratio']:.1f}x eager")
        args.out.write_text(json.dumps({"records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
