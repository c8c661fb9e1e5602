"""The benchmark harness: check each side against a float64 run, pin, warm up, time in turn, report.

A case is a list of sides that do the same work, `sides[0]` being fastgan's. Before anything is timed, the results of
each side are compared with those of a float64 run (`Tolerance`). A side that departs from it gets no time and costs no
other side its own. The others are timed in turn (`timing`).
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan.apps.bench import machine
from fastgan.apps.bench.timing import AGAIN, interleave, summary, timed

RESULTS = (machine.CHECKOUT or Path()) / "bench" / "results"


class ResultsDiffer(Exception):
    """A side computes something else than it should, so its time means nothing."""


# ---------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings:
    """How to measure, the same for every benchmark.

    `clock` is that of one-thread cases: "wall", or "cpu", the time of this process on its processor, from which other
    processes take least.
    """

    threads: tuple[int, ...] = (1, 2)
    windows: int = 40
    window_s: float = 0.02
    warmup_s: float = 0.3
    seed: int = 0
    quick: bool = False
    clock: str = "wall"
    out: Path = RESULTS
    machine: str = ""


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts to measure with")
    p.add_argument("--windows", type=int, default=40, help="timed windows of each side, at least 30 for a figure")
    p.add_argument("--window-ms", type=float, default=20.0, help="length of a window")
    p.add_argument("--seed", type=int, default=0, help="of the random data")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: one-thread cases in processor time")
    p.add_argument("--quick", action="store_true", help="tiny run that checks the benchmark itself; no measurement")
    p.add_argument("--out", type=Path, help="folder of the results; None: bench/results, a temporary one if --quick")
    p.add_argument("--machine", default=machine.name(), help="name of this machine in file names")
    return p


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings of a parsed command line."""
    if min(args.threads) < 1 or args.windows < 2 or args.window_ms <= 0:
        raise SystemExit("bench: --threads must be at least 1, --windows at least 2, --window-ms positive")
    out = args.out or (Path(tempfile.gettempdir()) / "fastgan-bench" if args.quick else RESULTS)
    if args.quick:
        return Settings(tuple(args.threads), 3, 0.001, 0.001, args.seed, True, args.clock, out, args.machine)
    window_s = args.window_ms / 1e3
    return Settings(
        tuple(args.threads),
        args.windows,
        window_s,
        min(0.3, 15 * window_s),
        args.seed,
        False,
        args.clock,
        out,
        args.machine,
    )


# ---------------------------------------------------------------- where it runs


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[list[int] | None]:
    """Run with this many PyTorch threads, every thread of the process held on as many processors.

    Gives the processors, or None if the system cannot pin or has too few.
    """
    before, cpus = torch.get_num_threads(), machine.allowed_cpus()
    can_pin = hasattr(os, "sched_setaffinity") and len(cpus) >= threads
    torch.set_num_threads(threads)
    if can_pin:
        _hold(cpus[:threads])
    try:
        yield cpus[:threads] if can_pin else None
    finally:
        torch.set_num_threads(before)
        if can_pin:
            _hold(cpus)


def _hold(cpus: Sequence[int]) -> None:
    # the workers of earlier runs too: each keeps the mask of the moment it was made
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cpus)


@contextlib.contextmanager
def cold_compiler() -> Iterator[None]:
    """torch.compile with an empty cache, so that a first call's time is that of a real compilation."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="fastgan-bench-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        try:
            yield
        finally:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


# ---------------------------------------------------------------- right results first


@dataclass(frozen=True)
class Tolerance:
    """How far a side may depart from a float64 run.

    Args:
        norm: of each tensor, ||side - truth|| <= norm * ||truth||.
        element: name -> of each element, |side - truth| <= element * (|truth| + max|truth|).
        ulp: of each element, in units in the last place of the truth in float32; None: no such limit.
        norms: name -> of that tensor, instead of `norm`.
    """

    norm: float
    element: Mapping[str, float] = field(default_factory=dict)
    ulp: float | None = None
    norms: Mapping[str, float] = field(default_factory=dict)

    def check(self, case: str, side: str, found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float]:
        """The relative differences, tensor by tensor; raises ResultsDiffer where one is too large."""
        if not found or set(found) != set(truth):
            raise ResultsDiffer(f"{case}: {side} gives {sorted(found)}, a float64 run {sorted(truth)}")
        return {name: self._check_one(f"{case}: {name} of {side}", name, found[name], truth[name]) for name in found}

    def _check_one(self, what: str, name: str, found: Tensor, truth: Tensor) -> float:
        if found.shape != truth.shape or not found.is_floating_point():
            raise ResultsDiffer(f"{what} is {found.dtype} {tuple(found.shape)}, by a float64 run {tuple(truth.shape)}")
        a, b = (x.detach().double().to(truth.device) for x in (found, truth))
        if not (a.isfinite().all() and b.isfinite().all() and b.any()):
            raise ResultsDiffer(f"{what} is not finite, or the truth is all zero")
        limits = [("of its norm", departure(a, b), self.norms.get(name, self.norm))]
        if (limit := self.element.get(name)) is not None:
            limits.append(("at an element", float(((a - b).abs() / (b.abs() + b.abs().max())).max()), limit))
        if self.ulp is not None:
            limits.append(("ULP at an element", ulps(a, b), self.ulp))
        for how, difference, allowed in limits:
            if not difference <= allowed:
                told = f"departs from a float64 run by {difference:.2g} {how}; allowed is {allowed:.2g}"
                raise ResultsDiffer(f"{what} {told}")
        return limits[0][1]


def departure(found: Tensor, truth: Tensor) -> float:
    """The norm of the difference, as a part of the truth's."""
    return float((found - truth).norm() / truth.norm())


def ulps(found: Tensor, truth: Tensor) -> float:
    """The largest difference from a float64 truth, in units in the last place of float32 at it."""
    near = truth.float().abs()
    spacing = torch.nextafter(near, torch.full_like(near, torch.inf)).double() - near.double()
    return float(((found.double() - truth).abs() / spacing).max())


# ---------------------------------------------------------------- timing


@dataclass(frozen=True)
class Side:
    """One way to do the work of a case.

    Args:
        name: in tables and records.
        run: what is timed.
        results: does the work once and returns what came out.
        per_call: how many times a call does the work.
        tolerance: of a side of another precision; None: that of the case.
        calls_before: calls that come before the first timed one, such as the iterations before the 5,000th.
    """

    name: str
    run: Callable[[], object]
    results: Callable[[], Mapping[str, Tensor]]
    per_call: int = 1
    tolerance: Tolerance | None = None
    calls_before: int = 0


def _warm_up(side: Side, seconds: float, clock: Callable[[], float]) -> tuple[float, int, float]:
    """(seconds spent, calls made, seconds of the fastest call)."""
    fastest, calls, start = math.inf, 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or calls < max(3, side.calls_before):
        fastest = min(fastest, timed(side.run, 1, clock))
        calls += 1
    return spent, calls, fastest


def compare(
    case: str,
    sides: Sequence[Side],
    truth: Mapping[str, Tensor],
    tolerance: Tolerance,
    settings: Settings,
    threads: int = 1,
) -> dict[str, Any]:
    """Check the sides of a case, then time those that are right; `sides[0]` is fastgan's.

    Args:
        case: its name.
        sides: what is compared.
        truth: the results of a float64 run.
        tolerance: how far a side may depart from it.
        settings: how to measure.
        threads: of the case; those of more than one are timed by the wall clock.

    Returns:
        dict: `timing.summary`'s record, with "wrong": side -> why it has no time. Without fastgan's side, no ratio.
    """
    first_call: dict[str, float] = {}
    differences: dict[str, dict[str, float]] = {}
    wrong: dict[str, str] = {}
    right = []
    for side in sides:
        start = time.perf_counter()
        found = side.results()
        first_call[side.name] = time.perf_counter() - start
        try:
            differences[side.name] = (side.tolerance or tolerance).check(case, side.name, found, truth)
            right.append(side)
        except ResultsDiffer as failure:
            wrong[side.name] = str(failure).removeprefix(f"{case}: ")
    checked = {
        "allowed": {s.name: asdict(s.tolerance or tolerance) for s in sides},
        "relative difference from float64": differences,
    }
    record = {"case": case, "wrong": wrong, "tolerance": checked, "sides": {}, "ratio": {}, "spread": 0.0, "states": {}}
    return record | (_time(right, sides[0] in right, first_call, settings, threads) if right else {})


def _time(
    sides: Sequence[Side],
    has_first: bool,
    first_call: Mapping[str, float],
    settings: Settings,
    threads: int,
) -> dict[str, Any]:
    clock = time.process_time if settings.clock == "cpu" and threads == 1 else time.perf_counter
    contenders = {side.name: side for side in sides} | {sides[0].name + AGAIN: sides[0]}
    warm = {name: _warm_up(side, settings.warmup_s, clock) for name, side in contenders.items() if AGAIN not in name}
    warm[sides[0].name + AGAIN] = warm[sides[0].name]
    calls = {name: max(1, round(settings.window_s / fastest)) for name, (_, _, fastest) in warm.items()}

    def measure(name: str, side: Side) -> Callable[[], float]:
        return lambda: timed(side.run, calls[name], clock) / side.per_call

    before, started, cpu = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), time.process_time()
    taken = interleave([measure(name, side) for name, side in contenders.items()], settings.windows, threads)
    after = resource.getrusage(resource.RUSAGE_SELF)
    share = (time.process_time() - cpu) / (time.perf_counter() - started)
    record = summary(dict(zip(contenders, taken, strict=True)), sides[0].name)
    for name, side in record["sides"].items():
        side |= {
            "calls_per_window": calls[name],
            "first_call_s": first_call.get(name, 0.0),  # compilation included
            "warmup_s": warm[name][0],
            "warmup_calls": warm[name][1],
        }
    if not has_first:
        record |= {"ratio": {}, "ratio_p10": {}}
        record["states"] = {name: found | {"ratio": {}} for name, found in record["states"].items()}
    return record | {
        "clock": "cpu" if clock is time.process_time else "wall",
        "processors got": share,  # on average, by all threads together
        "preemptions per window": (after.ru_nivcsw - before.ru_nivcsw) / (settings.windows * len(contenders)),
    }


# ---------------------------------------------------------------- targets


def verdict(ratio: float, target: float, spread: float) -> str:
    """Whether a ratio meets its target, or is nearer to it than the measurement can tell."""
    if abs(ratio / target - 1.0) <= spread:
        return "within the spread"
    return "met" if ratio > target else "missed"


# ---------------------------------------------------------------- output


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows (the first is the header) in aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    header, *body = rows
    return "\n".join([line(header), "-" * len(line(header)), *map(line, body)])


def microseconds(seconds: float) -> str:
    """A time in microseconds with three significant digits."""
    value = seconds * 1e6
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"


def median(record: Mapping[str, Any], side: str) -> str:
    """The median of one side of a compared case in microseconds; a dash where it took no part."""
    return microseconds(record["sides"][side]["median_s"]) if side in record["sides"] else "-"


def ratio(record: Mapping[str, Any], side: str, base: str) -> float:
    """The ratio of a side's time to the base side's, in a compared case or in one state of the core."""
    found: float = record["sides"][side]["median_s"] / record["sides"][base]["median_s"]
    return found


def times(record: Mapping[str, Any], side: str, base: str) -> str:
    """`ratio` with three significant digits; a dash if a side has no time."""
    if not {side, base} <= set(record["sides"]):
        return "-"
    found = ratio(record, side, base)
    return f"{found:.0f}x" if found >= 99.95 else f"{found:.1f}x" if found >= 9.995 else f"{found:.2f}x"


def threads(count: int) -> str:
    """The count with its noun."""
    return f"{count} thread{'s' if count > 1 else ''}"


def progress(text: str) -> None:
    """A line on stderr: what is measured now, never a time."""
    print(text, file=sys.stderr, flush=True)
