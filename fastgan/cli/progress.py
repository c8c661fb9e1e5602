"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import numpy as np

from fastgan.training import Callback, Run


def progress(steps: int, *, quiet: bool) -> list[Display]:
    """The display that fits standard error: none when quiet."""
    if quiet:
        return []
    return [Bar()] if sys.stderr.isatty() else [Lines(steps)]


def readout(rows: dict[str, np.ndarray]) -> str:
    """The means of some iterations."""

    def mean(name: str) -> float:
        values = rows[name][np.isfinite(rows[name])]
        return float(values.mean()) if len(values) else math.nan

    return (
        f"D(x) {mean('d_real'):.2f}  D(G(z)) {mean('d_fake'):.2f}  "
        f"loss_d {mean('loss_d'):.3f}  loss_g {mean('loss_g'):.3f}"
    )


class Display(Callback):
    """Shows how far a run is."""

    def close(self) -> None:
        """Give the terminal back; also after an error, when `on_end` is not called."""


class Bar(Display):
    """A bar with rate, time left and the read-out of the last iterations."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._begun, self._first = 0.0, 0

    def on_start(self, run: Run) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[readout]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=run.config.steps, completed=run.step, rate="", readout="")
        self._begun, self._first = time.perf_counter(), run.step
        self._bar.start()

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        rate = (run.step - self._first) / max(time.perf_counter() - self._begun, 1e-9)
        self._bar.update(self._task, completed=run.step, rate=f"{rate:,.0f} it/s", readout=readout(rows))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class Lines(Display):
    """Ten lines a run, each with the read-out of the iterations since the last."""

    def __init__(self, steps: int) -> None:
        self.every = max(1, steps // 10)
        self._since: list[dict[str, np.ndarray]] = []
        self._begun, self._first = 0.0, 0

    def on_start(self, run: Run) -> None:
        self._begun, self._first = time.perf_counter(), run.step

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        self._since.append(rows)
        if run.step % self.every and run.step < run.config.steps:
            return
        rate = (run.step - self._first) / max(time.perf_counter() - self._begun, 1e-9)
        left = (run.config.steps - run.step) / rate
        merged = {name: np.concatenate([part[name] for part in self._since]) for name in rows}
        print(
            f"{run.step:>{len(str(run.config.steps))}}/{run.config.steps}  {rate:,.0f} it/s  "
            f"{left:,.0f} s left  {readout(merged)}",
            file=sys.stderr,
            flush=True,
        )
        self._since = []
