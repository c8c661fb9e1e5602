"""Many toy GANs at once on all threads, against one on one thread: iterations a second of all members together (C8)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from fastgan import training
from fastgan.benchmark import harness, ours
from fastgan.benchmark.measure import torch_threads
from fastgan.benchmark.workloads import WORKLOADS, Workload

NAME = "population-2t"
MEMBERS, THREADS, LEAST = 64, 2, 1.9
GATE_STEPS = 20


class Population:
    """`fastgan.train_population` on copies of one workload, each with a seed of its own."""

    def __init__(self, workload: Workload, members: int = MEMBERS) -> None:
        self.workload, self.seeds, self.data = workload, range(members), workload.data()

    def train(self, steps: int) -> Any:
        """Train all members."""
        return training.train_population(  # type: ignore[attr-defined, unused-ignore]
            self.workload.gan, self.data, ours.config(self.workload, steps), seeds=self.seeds
        )

    def seconds(self, steps: int) -> float:
        """How long that takes."""
        started = time.perf_counter()
        self.train(steps)
        return time.perf_counter() - started

    def gate(self) -> None:
        """Some members, trained alone, must come out with the same bits."""
        members = self.train(GATE_STEPS).members
        for seed in {self.seeds[0], self.seeds[len(self.seeds) // 2], self.seeds[-1]}:
            alone, trained = self.workload.gan(seed), members[seed].gan.state_dict()
            training.train(alone, self.data, ours.config(self.workload, GATE_STEPS, seed=seed))
            for name, value in alone.state_dict().items():
                if not torch.equal(value, trained[name]):
                    raise harness.GateFailed(f"population: {name} of member {seed} is not what it is alone")


def measure(
    settings: harness.Settings, workload: Workload = WORKLOADS["toy-32"], say: Callable[[str], None] = harness.progress
) -> dict[str, Any]:
    """Throughput of a population and of one GAN, in turn.

    A window of the population is the difference between a long call and a short one, so that building 64 networks,
    which a run of any length does once, is not counted.

    Raises:
        GateFailed: a member differs from its solo run.
    """
    with harness.pinned(THREADS) as cpus:
        population = Population(workload)
        say(f"{NAME}: checking {MEMBERS} members")
        population.gate()
        with torch_threads(1):
            every = ours.pace(workload, population.data, settings.window_s)
        say(f"{NAME}: timing")
        one = ours.LongRun(
            workload.gan(), population.data, ours.config(workload, ours.ENDLESS), every, 1, cpus and cpus[:1]
        )
        try:
            return _time(population, one, every, settings) | {"engine": one.engine, "cpus": cpus}
        finally:
            one.close()


def _time(population: Population, one: ours.LongRun, every: int, settings: harness.Settings) -> dict[str, Any]:
    short, long = max(1, every // 4), every + max(1, every // 4)
    one.advance()
    population.seconds(short)
    rates: dict[str, list[float]] = {"population": [], "one": []}
    for _ in range(settings.windows):
        started = time.perf_counter()
        one.advance()
        rates["one"].append(every / (time.perf_counter() - started))
        seconds = population.seconds(long) - population.seconds(short)
        rates["population"].append(MEMBERS * (long - short) / seconds)
    halves = [statistics.median(found[i::2]) for found in rates.values() for i in (0, 1)]
    spread = max(max(a, b) / min(a, b) - 1 for a, b in (halves[:2], halves[2:]))
    median = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "workload": NAME,
        "members": MEMBERS,
        "threads": THREADS,
        "iterations/s": median,
        "iterations/s, 90th percentile": {name: harness.quantile(found, 0.9) for name, found in rates.items()},
        "windows": settings.windows,
        "ratio": median["population"] / median["one"],
        "spread": spread,
        "least": LEAST,
    }
