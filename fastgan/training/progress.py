"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgan.training.callbacks import Callback, Run

if TYPE_CHECKING:
    from fastgan.training.result import TrainResult


_COLUMNS = 80  # of a line that is no bar's
_TIME_LEFT = 5  # characters of "12:34"


def progress(steps: int, *, quiet: bool) -> list[Display]:
    """The display that fits standard error: none when quiet."""
    if quiet:
        return []
    return [Bar()] if sys.stderr.isatty() else [Lines(steps)]


def readout(rows: dict[str, np.ndarray], room: int = 1000) -> str:
    """The means of some iterations: D's verdicts, and the losses where so many characters have room for them."""

    def mean(name: str) -> float:
        values = rows[name][np.isfinite(rows[name])]
        return float(values.mean()) if len(values) else math.nan

    verdicts = f"D(x) {mean('d_real'):.2f}  D(G(z)) {mean('d_fake'):.2f}"
    whole = f"{verdicts}  loss_d {mean('loss_d'):.3f}  loss_g {mean('loss_g'):.3f}"
    return next((text for text in (whole, verdicts) if len(text) <= room), "")


class Display(Callback):
    """Shows how far a run is."""

    reads_networks = False

    def close(self) -> None:
        """Give the terminal back; also after an error, when `on_end` is not called."""


class Bar(Display):
    """A bar with rate, time left and the read-out of the last iterations."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._begun, self._first = 0.0, 0

    def on_start(self, run: Run) -> None:
        self._bar = _rich_bar()
        self._task = self._bar.add_task("training", total=run.config.steps, completed=run.step, rate="", readout="")
        self._begun, self._first = time.perf_counter(), run.step
        self._bar.start()

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        rate = (run.step - self._first) / max(time.perf_counter() - self._begun, 1e-9)
        shown = f"{rate:,.0f} it/s"
        room = _room(self._bar, len("training") + 2 * len(str(run.config.steps)) + 1 + len(shown))
        self._bar.update(self._task, completed=run.step, rate=shown, readout=readout(rows, room))

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
        begun = f"{run.step:>{len(str(run.config.steps))}}/{run.config.steps}  {rate:,.0f} it/s  {left:,.0f} s left  "
        print(f"{begun}{readout(merged, _COLUMNS - len(begun))}".rstrip(), file=sys.stderr, flush=True)
        self._since = []


def population_progress(members: int, steps: int, *, quiet: bool) -> list[Display]:
    """As `progress`, for members that have `steps` iterations to do in all."""
    if quiet:
        return []
    return [PopulationBar(members, steps)] if sys.stderr.isatty() else [PopulationLines(members, steps)]


class PopulationDisplay(Display):
    """Counts the iterations of all members, those of earlier calls apart, and the members that are done."""

    def __init__(self, members: int, steps: int) -> None:
        self.members, self.steps = members, steps
        self.done = self.resumed = self.ended = 0
        self._begun = time.perf_counter()
        self._latest: dict[int, dict[str, np.ndarray]] = {}  # of the members under way
        self._said = ""

    def show(self) -> None:
        """After each change."""

    @property
    def rate(self) -> float:
        """Iterations a second of all members together."""
        return (self.done - self.resumed) / max(time.perf_counter() - self._begun, 1e-9)

    def readout(self, room: int = 1000) -> str:
        """Means over the latest iterations of the members under way; when there are none, those of the last ones."""
        if parts := list(self._latest.values()):
            self._said = readout({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, room)
        return self._said

    def on_start(self, run: Run) -> None:
        self.done += run.step
        self.resumed += run.step
        self.show()

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        self.done += len(rows["step"])
        self._latest[run.member] = {name: values[-100:] for name, values in rows.items()}
        self.show()

    def on_end(self, run: Run, result: TrainResult) -> None:
        self.ended += not result.interrupted
        self._latest.pop(run.member, None)
        self.show()

    def on_failure(self, run: Run, why: str) -> None:
        self.steps -= run.config.steps - run.step  # they will not be done
        self.ended += 1
        self._latest.pop(run.member, None)
        self.show()


class PopulationBar(PopulationDisplay):
    """A bar over the iterations of all members, with their total rate."""

    def __init__(self, members: int, steps: int) -> None:
        super().__init__(members, steps)
        self._bar: Any = None

    def on_start(self, run: Run) -> None:
        if self._bar is None:
            self._bar = _rich_bar()
            self._task = self._bar.add_task("", total=self.steps, rate="", readout="")
            self._bar.start()
        super().on_start(run)

    def show(self) -> None:
        done, rate = f"{self.ended} of {self.members} GANs done", f"{self.rate:,.0f} it/s"
        room = _room(self._bar, len(done) + 2 * len(str(self.steps)) + 1 + len(rate))
        self._bar.update(
            self._task,
            description=done,
            total=self.steps,
            completed=self.done,
            rate=rate,
            readout=self.readout(room),
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class PopulationLines(PopulationDisplay):
    """Ten lines for all members."""

    def __init__(self, members: int, steps: int) -> None:
        super().__init__(members, steps)
        self._next = 0.1

    def show(self) -> None:
        reached = self.done >= self._next * self.steps
        if self.done >= self.steps and self.ended < self.members:
            return  # the last line waits for the last member to be saved
        while self._next < 1.05 and self.done >= self._next * self.steps:
            self._next += 0.1
        if not reached or self.done == self.resumed:
            return
        left = (self.steps - self.done) / max(self.rate, 1e-9)
        begun = (
            f"{self.done:>{len(str(self.steps))}}/{self.steps}  {self.ended} of {self.members} GANs done  "
            f"{self.rate:,.0f} it/s  {left:,.0f} s left  "
        )
        print(f"{begun}{self.readout(_COLUMNS - len(begun))}".rstrip(), file=sys.stderr, flush=True)


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=_bar_width(console.width)),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.fields[readout]}"),
        console=console,
    )


def _bar_width(columns: int) -> int:
    return 24 if columns >= 120 else 8


def _room(bar: Any, taken: int) -> int:
    """Characters that a line of the terminal has for the read-out, beside a bar, a time left and the texts given."""
    return int(bar.console.width) - taken - _bar_width(bar.console.width) - _TIME_LEFT - 5  # a blank between columns
