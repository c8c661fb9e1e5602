"""The noise model of every benchmark: sides take turns window by window, and each window knows the state of its core.

The first side takes part twice. How much its two medians differ is the spread: a smaller difference between sides is
noise. Where a host runs the processors of a virtual machine changes by the second, and no load average shows it: a
core whose other hardware thread is busy with other work is slower by up to a third, and two cores that share no cache
exchange results four times as slowly. So each window records the state of its core or cores, and figures of each state
are kept apart.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgan._probes import additions_per_cycle, line_transfer_ns

AGAIN = " again"
ALONE, SHARED = "core alone", "core shared"  # of a side of one thread
NEAR, FAR = "cores near", "cores far"  # of a side of several
MIXED = "state changed"
ADDERS_ALONE = 3.5  # additions a cycle: at least 4 where a hardware thread has the core alone, at most 3 beside another
NEAR_NS = 120.0  # of a cache line's way between threads: about 50 within a shared cache, about 200 without one
LEAST_WINDOWS = 5  # of each side, for a figure of one state


class Window(NamedTuple):
    """Seconds of one piece of work, and the state of the cores around it: one of the five, or "" where unknown."""

    seconds: float
    state: str = ""


def state_of_cores(threads: int) -> str:
    """Of a side of so many threads, now; "" where that cannot be told."""
    if threads == 1:
        rate = additions_per_cycle()
        return "" if rate == 0 else SHARED if rate < ADDERS_ALONE else ALONE
    nanoseconds = line_transfer_ns()
    return "" if nanoseconds == 0 else FAR if nanoseconds > NEAR_NS else NEAR


def timed(run: Callable[[], object], calls: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds per call."""
    start = clock()
    for _ in itertools.repeat(None, calls):
        run()
    return (clock() - start) / calls


def interleave(measures: Sequence[Callable[[], float]], windows: int, threads: int = 1) -> list[list[Window]]:
    """What each measures, window by window; each round in another random order, so that none always follows the same.

    Args:
        measures: each measures one window and returns the seconds of a piece of work.
        windows: of each.
        threads: that a side uses.
    """
    taken: list[list[Window]] = [[] for _ in measures]
    order, shuffler = list(range(len(measures))), random.Random(0)
    for _ in range(windows):
        shuffler.shuffle(order)
        for i in order:
            before = state_of_cores(threads)
            seconds = measures[i]()
            after = state_of_cores(threads)
            taken[i].append(Window(seconds, before if before == after else MIXED))
    return taken


def summary(taken: Mapping[str, Sequence[Window]], first: str) -> dict[str, Any]:
    """The record of a case: medians, ratios to the first side, spread, and each state of the cores that occurred.

    Args:
        taken: the windows of each side, `first + AGAIN` among them.
        first: the side whose time divides the others'.
    """
    sides = {name: quantiles([w.seconds for w in windows]) for name, windows in taken.items()}
    one, other = sides[first]["median_s"], sides[first + AGAIN]["median_s"]
    states = {}
    for state in (ALONE, SHARED, NEAR, FAR):
        of_state = {name: [w.seconds for w in windows if w.state == state] for name, windows in taken.items()}
        if min(map(len, of_state.values())) >= LEAST_WINDOWS:
            found = {name: quantiles(seconds) for name, seconds in of_state.items()}
            states[state] = {"sides": found, "ratio": _ratios(found, first, "median_s")}
    every = [w.state for windows in taken.values() for w in windows]
    return {
        "sides": sides,
        "ratio": _ratios(sides, first, "median_s"),
        "ratio_p10": _ratios(sides, first, "p10_s"),
        "spread": max(one, other) / min(one, other) - 1.0,
        "windows by state": {
            state: every.count(state) for state in (ALONE, SHARED, NEAR, FAR, MIXED) if state in every
        },
        "states": states,
    }


def quantiles(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, 10th and 90th percentile, linearly interpolated, and their number."""
    p10, median, p90 = np.quantile(seconds, (0.1, 0.5, 0.9)).tolist()
    return {"median_s": median, "p10_s": p10, "p90_s": p90, "windows": len(seconds)}


def _ratios(sides: Mapping[str, Mapping[str, float]], first: str, key: str) -> dict[str, float]:
    return {n: side[key] / sides[first][key] for n, side in sides.items() if n not in (first, first + AGAIN)}
