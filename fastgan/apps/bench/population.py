"""Many toy GANs at once: iterations a second of all members together, against one at a time or JAX's `vmap`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fastgan import training
from fastgan._torch_settings import torch_threads
from fastgan.apps.bench import fastgan_side, harness, timing
from fastgan.apps.bench.workloads import WORKLOADS, Workload

NAME = "population-2t"
MEMBERS, THREADS = 64, 2
CHECKED_STEPS = 20


class Population:
    """`fastgan.train_population` on copies of one workload, each with a seed of its own.

    Args:
        workload, members: what is trained, and how many of it.
        device: where they train.
        changes: of the config.
    """

    def __init__(self, workload: Workload, members: int = MEMBERS, device: str = "cpu", **changes: Any) -> None:
        self.workload, self.seeds = workload, range(members)
        self.changes: dict[str, Any] = {"device": device, **changes}
        self.data = workload.data().to(device)

    def train(self, steps: int) -> Any:
        """Train all members."""
        config = fastgan_side.config(self.workload, steps, **self.changes)
        return training.train_population(  # type: ignore[attr-defined, unused-ignore]
            self.workload.gan, self.data, config, seeds=self.seeds
        )

    def seconds(self, steps: int) -> float:
        """The seconds of so many iterations of all members."""
        started = time.perf_counter()
        self.train(steps)
        return time.perf_counter() - started

    def rate(self, short: int, more: int) -> float:
        """Iterations a second of all members: the difference between a long call and a short one.

        Building the networks, which a run of any length does once, is so not counted.
        """
        while (longer := self.seconds(short + more) - self.seconds(short)) <= 0:
            more *= 4  # on a busy machine a beginning may take longer than all of the rest
        return len(self.seeds) * more / longer

    @property
    def some(self) -> list[int]:
        """The seeds of the members that are looked at: the first, one in the middle, the last."""
        return sorted({self.seeds[0], self.seeds[len(self.seeds) // 2], self.seeds[-1]})

    def check(self) -> tuple[str, str]:
        """Some members, trained alone, must come out with the same bits. Gives the engine, and why it ran."""
        result = self.train(CHECKED_STEPS)
        for seed in self.some:
            alone, trained = self.workload.gan(seed), result.members[seed].gan.state_dict()
            config = fastgan_side.config(self.workload, CHECKED_STEPS, seed=seed, **self.changes)
            training.train(alone, self.data, config)
            for name, value in alone.state_dict().items():
                if not torch.equal(value, trained[name]):
                    raise harness.ResultsDiffer(f"population: {name} of member {seed} is not what it is alone")
        return result.engine, result.engine_reason


def in_turn(
    rates: Mapping[str, Callable[[], float]], first: str, windows: int, setup_s: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """`timing.summary` of sides that tell iterations a second, window by window; times are of one iteration."""
    sides = {**rates, first + timing.AGAIN: rates[first]}
    taken = timing.interleave([lambda rate=rate: 1 / rate() for rate in sides.values()], windows)  # type: ignore[misc]
    record = timing.summary(dict(zip(sides, taken, strict=True)), first)
    for name, side in record["sides"].items():
        side["first_call_s"] = (setup_s or {}).get(name, 0.0)
    return record


def measure(
    settings: harness.Settings, workload: Workload = WORKLOADS["toy-32"], say: Callable[[str], None] = harness.progress
) -> dict[str, Any]:
    """Throughput of a population on all threads and of one GAN on one, in turn.

    Raises:
        ResultsDiffer: a member differs from its solo run.
    """
    with harness.pinned(THREADS) as cpus:
        population = Population(workload)
        say(f"{NAME}: checking {MEMBERS} members")
        population.check()
        with torch_threads(1):
            every = fastgan_side.pace(workload, population.data, settings.window_s)
        say(f"{NAME}: timing")
        one = fastgan_side.LongRun(
            workload.gan(),
            population.data,
            fastgan_side.config(workload, fastgan_side.ENDLESS),
            every,
            1,
            cpus and cpus[:1],
        )
        try:
            return _time(population, one, every, settings) | {"engine": one.engine, "cpus": cpus}
        finally:
            one.close()


def _time(population: Population, one: fastgan_side.LongRun, every: int, settings: harness.Settings) -> dict[str, Any]:
    short = max(1, every // 4)
    one.advance()
    population.seconds(short)

    def alone() -> float:
        started = time.perf_counter()
        one.advance()
        return every / (time.perf_counter() - started)

    sides = {"population": lambda: population.rate(short, every), "one": alone}
    record = in_turn(sides, "population", settings.windows)
    return {
        "workload": NAME,
        "members": MEMBERS,
        "threads": THREADS,
        "iterations/s": {name: 1 / side["median_s"] for name, side in record["sides"].items()},
        "times one": record["ratio"]["one"],
        **record,
    }
