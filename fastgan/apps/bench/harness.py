"""The benchmark harness: check equal results, pin, warm up, interleave, report medians with their spread.

A case is a list of sides that do the same work, `sides[0]` being fastgan's. Before anything is timed, each side's
results are compared with those of the first (`Tolerance`); a side that differs ends the run without a time. The sides
are then timed in turn, window by window, in one process, so that whatever disturbs the machine disturbs them all; the
first side takes part twice, and how much its two medians differ is the spread: a smaller difference between sides is
noise.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan.apps.bench import machine
from fastgan.files import write_atomically

RESULTS = (machine.CHECKOUT or Path()) / "bench" / "results"
AGAIN = " again"


class ResultsDiffer(Exception):
    """The sides of a case compute different results, so their times cannot be compared."""


# ---------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings:
    """How to measure, the same for every benchmark."""

    threads: tuple[int, ...] = (1, 2)
    windows: int = 40
    window_s: float = 0.02
    warmup_s: float = 0.3
    seed: int = 0
    quick: bool = False
    out: Path = RESULTS
    machine: str = ""


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts to measure with")
    p.add_argument("--windows", type=int, default=40, help="timed windows of each side, at least 30 for a figure")
    p.add_argument("--window-ms", type=float, default=20.0, help="length of a window")
    p.add_argument("--seed", type=int, default=0, help="of the random data")
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
        return Settings(tuple(args.threads), 3, 0.001, 0.001, args.seed, True, out, args.machine)
    return Settings(tuple(args.threads), args.windows, args.window_ms / 1e3, 0.3, args.seed, False, out, args.machine)


# ---------------------------------------------------------------- where it runs


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[list[int] | None]:
    """Run with this many PyTorch threads, every thread of the process held on as many processors.

    Gives the processors, or None where the system cannot pin or has too few.
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


# ---------------------------------------------------------------- equal results first


@dataclass(frozen=True)
class Tolerance:
    """Tolerances: per tensor, ||fastgan - baseline|| <= norm * ||baseline||, and, where `element` has its name,
    |fastgan - baseline| <= element * (|baseline| + max|baseline|) for each element."""

    norm: float
    element: Mapping[str, float] = field(default_factory=dict)

    def check(
        self, case: str, found: Mapping[str, Tensor], side: str, baseline: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """The relative differences, tensor by tensor; raises ResultsDiffer where one is too large."""
        if not found or set(found) != set(baseline):
            raise ResultsDiffer(f"{case}: fastgan gives {sorted(found)}, {side} gives {sorted(baseline)}")
        return {name: self._check_one(f"{case}: {name}", found[name], side, baseline[name]) for name in found}

    def _check_one(self, what: str, found: Tensor, side: str, baseline: Tensor) -> float:
        if found.shape != baseline.shape or found.dtype != baseline.dtype:
            raise ResultsDiffer(
                f"{what} is {found.dtype} {tuple(found.shape)}, by {side} {baseline.dtype} {tuple(baseline.shape)}"
            )
        a, b = found.detach().double(), baseline.detach().double()
        if not (a.isfinite().all() and b.isfinite().all() and b.any()):
            raise ResultsDiffer(f"{what} is not finite, or all zero, by fastgan or by {side}")
        difference = float((a - b).norm() / b.norm())
        if difference > self.norm:
            raise ResultsDiffer(
                f"{what} differs from {side} by {difference:.2g} of its norm; allowed is {self.norm:.2g}"
            )
        limit = self.element.get(what.rsplit(": ", 1)[-1])
        if limit is not None:
            worst = float(((a - b).abs() / (b.abs() + b.abs().max())).max())
            if worst > limit:
                raise ResultsDiffer(f"{what} differs from {side} by {worst:.2g} at an element; allowed is {limit:.2g}")
        return difference


# ---------------------------------------------------------------- timing


@dataclass(frozen=True)
class Side:
    """One way to do the work of a case. `run` is what is timed; `results` does it once and returns what came out.

    A call may do the work several times (`per_call`); a side of another precision has a check of its own.
    """

    name: str
    run: Callable[[], object]
    results: Callable[[], Mapping[str, Tensor]]
    per_call: int = 1
    tolerance: Tolerance | None = None


@dataclass(frozen=True)
class Timing:
    """One side of a case; times are of one call, or of one piece of work where a call does several."""

    median_s: float
    p10_s: float
    p90_s: float
    windows: int
    calls_per_window: int
    first_call_s: float  # compilation included
    warmup_s: float
    warmup_calls: int


def _window(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in itertools.repeat(None, calls):
        run()
    return (time.perf_counter() - start) / calls


def _warm_up(run: Callable[[], object], seconds: float) -> tuple[float, int, float]:
    """(seconds spent, calls made, seconds of the fastest call)."""
    fastest, calls, start = math.inf, 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or calls < 3:
        fastest = min(fastest, _window(run, 1))
        calls += 1
    return spent, calls, fastest


def interleave(runs: Sequence[Callable[[], object]], calls: Sequence[int], windows: int) -> list[list[float]]:
    """Seconds a call, window by window; each round in another random order, so that none always follows the same."""
    times: list[list[float]] = [[] for _ in runs]
    order, shuffler = list(range(len(runs))), random.Random(0)
    for _ in range(windows):
        shuffler.shuffle(order)
        for i in order:
            times[i].append(_window(runs[i], calls[i]))
    return times


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile, linearly interpolated."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def compare(case: str, sides: Sequence[Side], tolerance: Tolerance, settings: Settings) -> dict[str, Any]:
    """Check, then time the sides of a case; `sides[0]` is fastgan's. Raises ResultsDiffer before anything is timed."""
    first_call, results = {}, {}
    for side in sides:
        start = time.perf_counter()
        results[side.name] = {k: v.detach().clone() for k, v in side.results().items()}
        first_call[side.name] = time.perf_counter() - start
    first = sides[0]
    differences = {
        s.name: (s.tolerance or tolerance).check(case, results[first.name], s.name, results[s.name]) for s in sides[1:]
    }

    contenders = [*sides, replace(first, name=first.name + AGAIN)]
    warm = [_warm_up(s.run, settings.warmup_s) for s in contenders]
    calls = [max(1, round(settings.window_s / fastest)) for _, _, fastest in warm]
    before, started, cpu = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), time.process_time()
    per_call = interleave([s.run for s in contenders], calls, settings.windows)
    times = [[t / s.per_call for t in found] for s, found in zip(contenders, per_call, strict=True)]
    after = resource.getrusage(resource.RUSAGE_SELF)
    share = (time.process_time() - cpu) / (time.perf_counter() - started)

    timings = {
        s.name: Timing(
            statistics.median(t), quantile(t, 0.1), quantile(t, 0.9), len(t), c, first_call.get(s.name, 0.0), w[0], w[1]
        )
        for s, t, c, w in zip(contenders, times, calls, warm, strict=True)
    }
    base, again = timings[first.name], timings[first.name + AGAIN]
    return {
        "case": case,
        "ratio": {s.name: timings[s.name].median_s / base.median_s for s in sides[1:]},
        "ratio_p10": {s.name: timings[s.name].p10_s / base.p10_s for s in sides[1:]},
        "spread": max(base.median_s, again.median_s) / min(base.median_s, again.median_s) - 1.0,
        "sides": {name: asdict(t) for name, t in timings.items()},
        "tolerance": {
            "allowed": {s.name: asdict(s.tolerance or tolerance) for s in sides[1:]},
            "relative difference from": differences,
        },
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
    """A time in microseconds with three digits that count."""
    value = seconds * 1e6
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"


def median(record: Mapping[str, Any], side: str) -> str:
    """The median of one side of a compared case in microseconds; a dash where it took no part."""
    return microseconds(record["sides"][side]["median_s"]) if side in record["sides"] else "-"


def threads(count: int) -> str:
    """The count with its noun."""
    return f"{count} thread{'s' if count > 1 else ''}"


def progress(text: str) -> None:
    """A line on stderr: what is measured now, never a time."""
    print(text, file=sys.stderr, flush=True)


def plain(value: Any) -> Any:
    """Times and ratios to six digits; infinities and NaN, which JSON has not, as words."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


class Report:
    """The output of a benchmark: JSON, a picture, their paths, and a note on disturbances."""

    quick = "QUICK RUN: it checks that the benchmark works; its times are not measurements."

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self.load_before = machine.load_average()
        self.started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    @property
    def stem(self) -> Path:
        quick = "-quick" if self.settings.quick else ""
        return self.settings.out / f"{self.name}-{self.settings.machine}{quick}"

    def save(self, content: Mapping[str, Any]) -> Path:
        """Write the JSON, also of what is not finished; where it is."""
        settings = {k: v for k, v in asdict(self.settings).items() if k != "out"}
        record = {
            "benchmark": self.name,
            "started": self.started,
            "command": Path(sys.argv[0]).name,
            "settings": settings,
            "machine": machine.describe(),
            "load average": {"before": self.load_before, "after": machine.load_average()},
            **content,
        }
        text = json.dumps(plain(record), indent=1, allow_nan=False) + "\n"
        self.settings.out.mkdir(parents=True, exist_ok=True)
        path = self.stem.with_name(self.stem.name + ".json")
        write_atomically(path, [text.encode()])
        return path

    def write(self, content: Mapping[str, Any], figure: Any) -> None:
        """Write both files, and say so on the terminal."""
        path = self.save(content)
        print(f"\nwritten: {path}")
        if figure is not None:
            import io

            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=150)
            write_atomically(path.with_suffix(".png"), [picture.getvalue()])
            print(f"picture: {path.with_suffix('.png')}")

    def disturbances(self) -> str:
        """One line on what makes these figures untrustworthy; empty where nothing does."""
        if self.settings.quick:
            return self.quick
        load = self.load_before
        if load and load[0] > 0.5:
            return f"The machine was not idle: load average {load[0]} before the run. Trust these figures accordingly."
        return ""


def guarded(name: str, body: Callable[[], None]) -> int:
    """Run a benchmark; a failed check is one line on stderr and exit code 1: no time is printed, no file written."""
    try:
        body()
    except ResultsDiffer as failure:
        print(f"{name}: results differ, so no result is given. {failure}", file=sys.stderr)
        return 1
    return 0
