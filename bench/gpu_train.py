"""How fast does a GPU train GANs? Alone and in populations, against eager, compile + CUDA graph, JAX (G1, G2, G3).

    python bench/gpu_train.py OUT.json [--quick] [--device cuda]

The engine is the one that `fastgan.train` chooses: the persistent kernel for the small networks, a captured graph for
the large ones. A rate is the slope between two lengths of a whole call, so that building networks, planning and
capturing do not count. Sides take turns, a window each. Before a side is timed it replays some iterations from the same
weights, minibatches and noise, and must give the same losses and parameters; one that cannot run or differs is left
out, with the reason.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import fastgan
from fastgan.benchmark import harness, ours, peers_jax, peers_torch
from fastgan.benchmark.workloads import WORKLOADS, Workload, draws
from fastgan.training.checkpoint import write_atomically

GANS = ("toy-32", "mnist-1024", "original", "tiny", "toy-128", "ring-2t")
POPULATIONS = (132, 1056)  # of the first GAN
EAGER, COMPILED, JAX = "eager", "compile + CUDA graph", "JAX scan"
# (GAN, members) -> which target, and how many times each peer's iterations a second
LEAST: dict[tuple[str, int], tuple[str, dict[str, float]]] = {
    ("toy-32", 1): ("G1", {EAGER: 60.0, COMPILED: 6.0, JAX: 3.0}),
    ("toy-32", 132): ("G2", {EAGER: 2000.0}),
    ("mnist-1024", 1): ("G3", {EAGER: 20.0, COMPILED: 3.0}),
    ("original", 1): ("G3", {EAGER: 20.0, COMPILED: 3.0}),
}
COMPARED = tuple(dict.fromkeys(name for name, _ in LEAST))  # with all peers; the others with eager alone
SHORT = 20  # calls of the shorter length
GATE_ITERATIONS = 5
JAX_CALL_S = 0.005
LEFT_OUT = (ImportError, RuntimeError, ValueError, TypeError, AttributeError, OSError, harness.GateFailed)


@dataclass
class Side:
    """Something that trains.

    Args:
        run: makes so many calls and waits for their end.
        per_call: iterations of a call, of all members together.
    """

    run: Callable[[int], object]
    per_call: int = 1
    engine: str = ""

    def seconds(self, calls: int) -> float:
        start = time.perf_counter()
        self.run(calls)
        return time.perf_counter() - start

    def length(self, window_s: float) -> int:
        """Calls that take about `window_s` longer than the short ones, and not little beside what does not count."""
        self.run(SHORT)
        short, calls, longer = self.seconds(SHORT), 4 * SHORT, 0.0
        window_s = max(window_s, short / 4)
        while (longer := self.seconds(calls) - short) < window_s / 2:
            calls = int(calls * min(64.0, max(4.0, window_s / max(longer, 1e-9))))
        return max(2 * SHORT, int(calls * window_s / longer))

    def rate(self, calls: int) -> float:
        """Iterations a second, by the slope; of more calls where the difference could be that of two beginnings."""
        short = self.seconds(SHORT)
        while (longer := self.seconds(calls) - short) < short / 8:
            calls *= 4
        return self.per_call * (calls - SHORT) / longer


class Bench:
    """One workload on one device."""

    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.device = workload, device
        self.data = workload.data()
        self.there = self.data.to(device)
        self.draws = draws(workload, self.data, GATE_ITERATIONS, seed=0)
        self.found = ours.replay(workload, self.there, self.draws, engine="fused", device=device)
        self.left_out: dict[str, str] = {}

    def fastgan(self, members: int) -> Side:
        made = self.workload.gan().to(self.device)

        def run(steps: int) -> None:
            config = ours.config(self.workload, steps, engine="fused", device=self.device)
            if members == 1:
                side.engine = fastgan.train(copy.deepcopy(made), self.there, config).engine
            else:
                side.engine = fastgan.train_population(
                    lambda: copy.deepcopy(made), self.there, config, seeds=range(members)
                ).engine

        side = Side(run, members)
        return side

    def peer(self, name: str) -> Side | None:
        """A peer that gives the same numbers; None, with the reason noted, where there is none."""
        try:
            return self.jax() if name == JAX else self.torch(name)
        except LEFT_OUT as error:
            self.left_out[name] = " ".join(str(error).split())[:300] or type(error).__name__
            return None

    def gate(self, name: str, theirs: dict[str, torch.Tensor]) -> None:
        gate = harness.Gate(self.workload.change, {"loss_d": 1e-3, "loss_g": 1e-3})
        gate.check(self.workload.name, self.found, name, theirs)

    def torch(self, name: str) -> Side:
        step = peers_torch.eager if name == EAGER else peers_torch.compiled
        peer = peers_torch.Torch(self.workload, self.there, step)
        self.gate(name, peer.replay(self.draws))
        call = peer.run if name == EAGER else captured(peer.run)

        def run(calls: int) -> None:
            for _ in range(calls):
                call()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return Side(run)

    def jax(self) -> Side:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the rest of the memory is PyTorch's
        import jax

        if (backend := jax.default_backend()) != ("gpu" if self.device == "cuda" else "cpu"):
            raise RuntimeError(f"JAX runs on {backend}")
        with jax.default_matmul_precision("highest"):  # as all sides: products in float32
            peer = peers_jax.Jax(self.workload, self.data, JAX_CALL_S)
            self.gate(JAX, peer.replay(self.draws))
            per_call = peer.per_call

        def run(calls: int) -> None:
            with jax.default_matmul_precision("highest"):
                for _ in range(calls):
                    peer.run()

        return Side(run, per_call)


def captured(call: Callable[[], None]) -> Callable[[], object]:
    """The same call as a CUDA graph; its random numbers go on from replay to replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Callable[[], object] = graph.replay
    return replay


def timed(sides: dict[str, Side], windows: int, window_s: float) -> dict[str, list[float]]:
    """Iterations a second of each side, window by window, the sides in turn."""
    calls = {name: side.length(window_s) for name, side in sides.items()}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(windows):
        for name, side in sides.items():
            rates[name].append(side.rate(calls[name]))
    return rates


def verdict(name: str, members: int, ratio: dict[str, float]) -> str:
    """What the target says of the ratios there are."""
    target, least = LEAST.get((name, members), ("", {}))
    parts = [f"{ratio[p]:.1f}x {p}, {'met' if ratio[p] >= x else 'missed'}" for p, x in least.items() if p in ratio]
    return f"{target}: {'; '.join(parts)}" if parts else ""


def measure(bench: Bench, members: int, peers: tuple[str, ...], windows: int, window_s: float) -> dict[str, Any]:
    """The record of a GAN, or of so many of it."""
    found = {name: bench.peer(name) for name in peers}
    sides = {"fastgan": bench.fastgan(members), **{name: side for name, side in found.items() if side is not None}}
    rates = timed(sides, windows, window_s)
    medians = {name: statistics.median(r) for name, r in rates.items()}
    ratio = {name: medians["fastgan"] / median for name, median in medians.items() if name != "fastgan"}
    return {
        "case": f"train {bench.workload.name}", "n": members, "batch": bench.workload.batch,
        "engine": sides["fastgan"].engine, "rate": medians["fastgan"], "slowest": min(rates["fastgan"]),
        "peers": {name: medians[name] for name in ratio}, "ratio": ratio, "left out": dict(bench.left_out),
        "target": verdict(bench.workload.name, members, ratio),
    }  # fmt: skip


def main() -> None:
    """The command line."""
    p = argparse.ArgumentParser(description="whole training runs on a GPU")
    p.add_argument("out", type=Path)
    p.add_argument("--quick", action="store_true", help="the toy GAN alone, fewer windows, eager as only peer")
    p.add_argument("--device", default="cuda")
    p.add_argument("--most", type=int, default=max(POPULATIONS), help="members of the largest population")
    args = p.parse_args()
    windows, window_s = (3, 0.3) if args.quick else (5, 0.4)
    names, populations = (GANS[:1], POPULATIONS[:1]) if args.quick else (GANS, POPULATIONS)
    all_peers = (EAGER,) if args.quick else (EAGER, COMPILED, JAX)
    cases = [(name, 1, all_peers if name in COMPARED else (EAGER,)) for name in names]
    cases[1:1] = [(names[0], members, (EAGER,)) for members in populations[:1] if members <= args.most]
    cases += [(names[0], members, (EAGER,)) for members in populations[1:] if members <= args.most]
    records: list[dict[str, Any]] = []
    for name, members, peers in cases:
        r = measure(Bench(WORKLOADS[name], args.device), members, peers, windows if members == 1 else 3, window_s)
        records.append(r)
        told = ", ".join(f"{x:.1f}x {peer}" for peer, x in r["ratio"].items())
        print(f"{r['case']}, {members} of them, {r['engine']}: {r['rate']:.0f} a second, {told} {r['left out'] or ''}")
        write_atomically(args.out, [(json.dumps({"records": records}, indent=1) + "\n").encode()])


if __name__ == "__main__":
    main()
