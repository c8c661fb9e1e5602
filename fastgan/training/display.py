"""The progress of training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgan.training.callbacks import Callback, Run

if TYPE_CHECKING:
    from fastgan.training.result import TrainResult


_COLUMNS = 80  # of a line that is no bar's
_TIME_LEFT = 5  # characters of "12:34"


@contextlib.contextmanager
def progress(steps: int, *, members: int = 1, quiet: bool = False) -> Iterator[list[Display]]:
    """Callbacks that show the progress on standard error: a bar on a terminal, ten lines elsewhere.

    For one display over several calls; of one call `train(..., progress=True)` does the same.

    Args:
        steps: iterations of all GANs together.
        members: how many GANs are trained.
        quiet: gives no callbacks.

    Returns:
        Context of a list of callbacks, for `train` and `train_population`; its end restores the terminal, also after an
        error.
    """
    displays: list[Display] = []
    if not quiet:
        displays.append(Bar(members, steps) if sys.stderr.isatty() else Lines(members, steps))
    try:
        yield displays
    finally:
        for display in displays:
            display.close()


@contextlib.contextmanager
def counted(total: int, about: str, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A function of how many of `total` rows are done, which shows it in a bar if standard error is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    begun = time.perf_counter()
    with _rich_bar() as bar:
        task = bar.add_task(about, total=total, rate="", readout="")

        def show(done: int) -> None:
            rate = done / max(time.perf_counter() - begun, 1e-9)
            bar.update(task, completed=done, rate=f"{rate:,.0f} rows/s")

        yield show


def readout(rows: dict[str, np.ndarray], room: int = 1000) -> str:
    """The means of some iterations: D's outputs, and the losses if they fit into `room` characters."""

    def mean(name: str) -> float:
        values = rows[name][np.isfinite(rows[name])]
        return float(values.mean()) if len(values) else math.nan

    outputs = f"D(x) {mean('d_real'):.2f}  D(G(z)) {mean('d_fake'):.2f}"
    whole = f"{outputs}  loss_d {mean('loss_d'):.3f}  loss_g {mean('loss_g'):.3f}"
    return next((text for text in (whole, outputs) if len(text) <= room), "")


class Display(Callback):
    """Shows the progress of training."""

    reads_networks = False

    def close(self) -> None:
        """Restore the terminal; also after an error, when `on_end` is not called."""


class Counter(Display):
    """Counts the iterations of all members, those of earlier calls apart, and the members that have ended."""

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

    @property
    def gans(self) -> str:
        """How many members have ended; of a single one nothing."""
        return f"{self.ended} of {self.members} GANs done" if self.members > 1 else ""

    def readout(self, room: int = 1000) -> str:
        """Means over the latest iterations of the members under way; when there are none, those of the last ones."""
        if parts := list(self._latest.values()):
            self._said = readout({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, room)
        return self._said

    def on_start(self, run: Run) -> None:
        if not self.done:
            self._begun = time.perf_counter()
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


class Bar(Counter):
    """A bar over the iterations of all members, with their total rate and the time left."""

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
        about, rate = self.gans or "training", f"{self.rate:,.0f} it/s"
        room = _room(self._bar, len(about) + 2 * len(str(self.steps)) + 1 + len(rate))
        self._bar.update(
            self._task,
            description=about,
            total=self.steps,
            completed=self.done,
            rate=rate,
            readout=self.readout(room),
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class Lines(Counter):
    """Ten lines for all members."""

    def __init__(self, members: int, steps: int) -> None:
        super().__init__(members, steps)
        self.every = max(1, steps // 10) if members == 1 else 0
        self._tenths = 0

    def show(self) -> None:
        tenths = 10 * self.done // max(self.steps, 1)
        if self.done >= self.steps and self.ended < self.members:
            return  # the last line waits for the last member to be saved
        if tenths <= self._tenths or self.done == self.resumed:
            self._tenths = max(tenths, self._tenths)
            return
        self._tenths = tenths
        left = (self.steps - self.done) / max(self.rate, 1e-9)
        parts = (f"{self.done:>{len(str(self.steps))}}/{self.steps}", self.gans, f"{self.rate:,.0f} it/s")
        begun = "  ".join((*filter(None, parts), f"{left:,.0f} s left", ""))
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
