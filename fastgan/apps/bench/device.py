"""A row of the GPU's table: one GAN, or many at once, in one precision, against the baselines that compute the same.

A window of one GAN is a piece of training under way that ends with a wait for the device, as a baseline's does. A
window of a population is the difference between a long call and a short one. Waits are part of every time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastgan._probes import blocks_of_the_persistent_kernel
from fastgan.apps.bench import baselines_jax, baselines_torch, counts, fastgan_side, flops, harness, lower_bounds
from fastgan.apps.bench.measure import (
    BF16_TOLERANCE,
    CHECKED_ITERATIONS,
    CUDA_BASELINES,
    FASTGAN,
    FP32_TOLERANCE,
    LEFT_OUT,
    SETUP_LIMIT,
    Say,
    Sides,
    in_short,
    tolerance_of,
)
from fastgan.apps.bench.population import Population, in_turn
from fastgan.apps.bench.products import products_in
from fastgan.apps.bench.workloads import CUDA_WORKLOADS, Draws, Workload, draws

POPULATIONS = {f"toy-32x{members}": ("toy-32", members) for members in (132, 1056)}
POPULATIONS |= {"pacgan-ringx10": ("pacgan-ring", 10)}  # a cell of PacGAN's table 1: graphs, side by side
NAMES = (*CUDA_WORKLOADS, *POPULATIONS)
ORDER = ("toy-32", "toy-32x132", "mnist-1024", "original", "wide-1024", "wide-2048", "wide-4096")  # the targets' first
TF32_TOLERANCE = harness.Tolerance(0.2, {"loss_d": 1e-2, "loss_g": 1e-2})  # as BF16_TOLERANCE, for 11 bits
MOST_WINDOWS = 10  # of a population, which is built anew for each
SHORT = 400  # iterations of a population's short call: a longer one captures and compiles nothing more
COUNTED, COUNT_LIMIT_S = 1000, 8.0  # iterations of a call in which launches are counted; seconds of all such calls
WINDOWS_OF_ONE = 20  # that a window of a population lasts: several chunks of its iterations


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        workload: the GAN.
        members: how many of it at once.
        precision: of fastgan's products, as in `TrainConfig`.
    """

    workload: Workload
    members: int = 1
    precision: str = "fp32"

    @property
    def name(self) -> str:
        return self.workload.name if self.members == 1 else f"{self.workload.name}x{self.members}"

    @property
    def tolerance(self) -> harness.Tolerance:
        """The tolerance of this precision; in float32, before it is known what rounding does (`tolerance_of`)."""
        return {"bf16": BF16_TOLERANCE, "tf32": TF32_TOLERANCE}.get(self.precision, FP32_TOLERANCE)

    def tolerance_of(self, data: Tensor, draws: Draws, truth: Mapping[str, Tensor], seed: int) -> harness.Tolerance:
        """The tolerance of a seed's run."""
        fp32 = self.tolerance is FP32_TOLERANCE
        return tolerance_of(self.workload, data, draws, truth, seed) if fp32 else self.tolerance

    def baselines(self, wanted: Sequence[str]) -> list[str]:
        """The wanted baselines that do the same work. bf16 is compared with eager in float32 too, as on the CPU."""
        if self.members > 1:
            mine: set[str] = {"eager"} if self.precision == "bf16" else {"eager", "vmap"}
        elif self.precision == "bf16":
            mine = {"eager", "autocast", "compile-autocast"}
        else:
            mine = set(CUDA_BASELINES) - {"vmap", "autocast", "compile-autocast"}
        return [baseline for baseline in wanted if baseline in mine]


def row(name: str, precision: str) -> Row:
    """The row of a name among NAMES."""
    workload, members = POPULATIONS.get(name, (name, 1))
    return Row(CUDA_WORKLOADS[workload], members, precision)


def measure(
    row: Row,
    baselines: Sequence[str],
    settings: harness.Settings,
    found_bounds: Mapping[str, Any],
    setup_limit: float = SETUP_LIMIT,
    say: Say = harness.progress,
    device: str = "cuda",
) -> dict[str, Any]:
    """Check and time a row; a side that departs from a float64 run has no time.

    Args:
        row: what is measured.
        baselines: some of CUDA_BASELINES; those that do other work are passed over.
        settings: how.
        found_bounds: of the device, as from `lower_bounds.measure`.
        setup_limit: seconds a side may take to set up.
        say: told what is done now.
        device: where all train.

    Returns:
        dict: a record as of a CPU's workload, with its lower bound and, of one GAN on a GPU, what the host does;
        without "sides" where fastgan cannot train this.
    """
    how = row.baselines(baselines), settings, setup_limit, say, device
    with products_in(row.precision):
        measured = _alone(row, *how) if row.members == 1 else _together(row, *how)
    if "sides" in measured:
        used, there = multiprocessors(row, measured["engine name"], torch.device(device))
        measured |= against_lower_bound(
            row, measured["sides"], lower_bounds.rate(found_bounds, row.precision), used, there
        )
    about = {"workload": row.name, "members": row.members, "precision": row.precision, "device": device}
    return about | {"batch": row.workload.batch, "threads": 1} | measured


def against_lower_bound(row: Row, sides: Mapping[str, Any], rate: float, used: int, there: int) -> dict[str, Any]:
    """The lower bound of an iteration's arithmetic on so many of the multiprocessors, and what share of it each side is
    at.

    The other sides are held against the same lower bound, that of fastgan.
    """
    operations = flops.iteration(row.workload)
    lower_bound_s = operations / (rate * used / there)
    return {
        "operations": operations,
        "lower_bound_s": lower_bound_s,
        "lower bound": {"operations/s": rate, "multiprocessors": used, "of": there},
        "gflops": {name: operations / side["median_s"] / 1e9 for name, side in sides.items()},
        "share_of_peak": {name: lower_bound_s / side["median_s"] for name, side in sides.items()},
    }


def multiprocessors(row: Row, engine: str, device: torch.device) -> tuple[int, int]:
    """How many of the device's multiprocessors an engine may use, and how many there are."""
    if device.type != "cuda":
        return 1, 1
    used, there = blocks_of_the_persistent_kernel(device, row.workload.batch, row.members)
    return (used if engine == "cuda-persistent" else there), there


def _alone(
    row: Row, baselines: Sequence[str], settings: harness.Settings, setup_limit: float, say: Say, device: str
) -> dict[str, Any]:
    """One GAN: every side set up, checked and timed in turn."""
    with Sides(row.workload, settings, setup_limit, say, device) as found:
        found.add(FASTGAN, lambda: found.fastgan(FASTGAN, 1, None, device=device, precision=row.precision))
        if not found.sides:
            return {"left out": found.left_out}
        add_baselines(baselines, found, found.baseline)
        found.say(f"timing {len(found.sides)} sides")
        record = found.compare(found.tolerance if row.tolerance is FP32_TOLERANCE else row.tolerance)
        run = found.runs[FASTGAN]
        if device == "cuda" and FASTGAN in record["sides"]:
            try:
                record["host"] = host(row, found, record["sides"][FASTGAN]["median_s"], device)
            except LEFT_OUT as error:
                found.left_out["counts of the host"] = in_short(error)
        return {"engine": found.engine, "engine name": run.engine, "left out": found.left_out, **record}


def host(row: Row, found: Sides, median_s: float, device: str) -> dict[str, float]:
    """The host's work in an iteration, counted over at least COUNTED iterations.

    Raises:
        RuntimeError: so many take too long here, or the profiler sees nothing.
    """
    run = found.runs[FASTGAN]
    if run.every >= COUNTED:
        return {"iterations": run.every, **counts.per_iteration(run.advance, run.every)}
    if (takes := (counts.CALLS + 1) * COUNTED * median_s) > COUNT_LIMIT_S:
        raise RuntimeError(f"counting over calls of {COUNTED} iterations would take {takes:.0f} s")
    config = fastgan_side.config(row.workload, fastgan_side.ENDLESS, device=device, precision=row.precision)
    with contextlib.closing(fastgan_side.LongRun(row.workload.gan(), found.data, config, COUNTED)) as run:
        run.advance()  # what it captures and compiles is not counted
        return {"iterations": COUNTED, **counts.per_iteration(run.advance, COUNTED)}


def add_baselines(baselines: Sequence[str], found: Sides, make: Callable[[str], tuple[harness.Side, float]]) -> None:
    """Set the baselines up."""
    for name in baselines:
        found.add(name, lambda name=name: make(name), (*LEFT_OUT, harness.ResultsDiffer))  # type: ignore[misc]


def _together(
    row: Row, baselines: Sequence[str], settings: harness.Settings, setup_limit: float, say: Say, device: str
) -> dict[str, Any]:
    """Many GANs at once: members against their solo runs, then iterations a second of all together."""
    say(f"{row.name}: checking {row.members} members")
    population = Population(row.workload, row.members, device, precision=row.precision)
    try:
        engine, reason = population.check()
    except LEFT_OUT as error:
        return {"left out": {FASTGAN: in_short(error)}}
    with Sides(replace(row.workload, name=row.name), settings, setup_limit, say, device) as found:
        check = _members(row, population, found)
        check(
            FASTGAN,
            lambda seen: {
                seed: fastgan_side.replay(row.workload, found.data, drawn, seed, **population.changes)
                for seed, drawn in seen.items()
            },
        )
        rates: dict[str, Callable[[], float]] = {FASTGAN: _population_rate(population, settings)}
        add_baselines(baselines, found, lambda name: _of_members(name, check, found, row, settings))
        rates |= {side.name: _rate(side) for side in found.sides}
        found.say(f"timing {len(rates)} sides")
        return {
            "engine": {FASTGAN: f"{engine} ({reason})"},
            "engine name": engine,
            "left out": found.left_out,
            **in_turn(rates, FASTGAN, min(settings.windows, MOST_WINDOWS), found.setup_s),
        }


def _members(row: Row, population: Population, found: Sides) -> Callable[[str, Callable[..., Any]], None]:
    """Holds some members of a side against float64 runs of theirs, given what replays a seed's draws."""
    seen = {seed: draws(row.workload, found.data.cpu(), CHECKED_ITERATIONS, seed=seed) for seed in population.some}
    truth = {s: baselines_torch.float64_run(row.workload, found.data, of_seed, s) for s, of_seed in seen.items()}
    allowed = {s: row.tolerance_of(found.data, of_seed, truth[s], s) for s, of_seed in seen.items()}

    def check(name: str, replay: Callable[[dict[int, Draws]], Mapping[int, Mapping[str, Tensor]]]) -> None:
        for seed, results in replay(seen).items():
            allowed[seed].check(f"{row.name}, member {seed}", name, results, truth[seed])

    return check


def _of_members(
    name: str, check: Callable[[str, Callable[..., Any]], None], found: Sides, row: Row, settings: harness.Settings
) -> tuple[harness.Side, float]:
    """A baseline of a population, after some members have been checked; a call is so many iterations of all."""
    if name == "eager":  # one member at a time, the first
        side, seconds = found.baseline(name)
        check(name, lambda seen: {0: side.results()})
        return side, seconds
    started = time.perf_counter()
    vmap = baselines_jax.Vmap(row.workload, found.data, settings.window_s, row.members)
    check(name, lambda seen: dict(zip(seen, vmap.replay_members(list(seen), list(seen.values())), strict=True)))
    return harness.Side(name, vmap.run, dict, vmap.per_call * row.members), time.perf_counter() - started


def _population_rate(population: Population, settings: harness.Settings) -> Callable[[], float]:
    short = SHORT if population.data.is_cuda else 2
    more = fastgan_side.length(population.seconds, WINDOWS_OF_ONE * settings.window_s, short)
    return lambda: population.rate(short, more)


def _rate(side: harness.Side) -> Callable[[], float]:
    """Iterations a second of a call."""

    def rate() -> float:
        started = time.perf_counter()
        side.run()
        return side.per_call / (time.perf_counter() - started)

    rate()
    return rate
