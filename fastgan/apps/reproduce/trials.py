"""The trials of one cell of a table: their modes over time, their last samples, and how fast they trained."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import evaluation, theory
from fastgan._files import write_atomically
from fastgan.data import Dataset
from fastgan.training import Callback, PopulationResult, Run, TrainResult

SAMPLES = 2500  # of one evaluation
EPOCH = 1000  # iterations: 100,000 rows in batches of 100
MEASURES = ("modes", "high_quality", "reverse_kl")
_MODES, _SAMPLES, _FAILED, _TRAINING = "modes.csv", "samples.npy", "failed.json", "training.json"


def measure(samples: Tensor, dataset: Dataset) -> dict[str, float]:
    """Modes with a sample within three standard deviations, share of such samples, and KL(p_g||uniform) over them.

    As the code of PacGAN does, the divergence counts only the samples near a mode; with none at all it is log(modes),
    the most it can be.
    """
    assert dataset.centres is not None and dataset.std is not None
    coverage = evaluation.mode_coverage(samples, dataset.centres, dataset.std)
    distance = torch.cdist(samples.double(), dataset.centres.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.min(1)
    counts = torch.bincount(nearest.indices[nearest.values < 3 * dataset.std], minlength=coverage.modes)
    uniform = torch.full((coverage.modes,), 1 / coverage.modes, dtype=torch.float64)
    near = int(counts.sum())
    kl = float(theory.kl_divergence(counts.double() / near, uniform)) if near else math.log(coverage.modes)
    return {"modes": float(coverage.covered), "high_quality": coverage.high_quality, "reverse_kl": kl}


class Recorder(Callback):
    """Measures G of each trial every so many iterations, and at its end.

    Args:
        every: iterations between two looks.
        measure: from (2500, features) samples to the numbers of a row, in the order they are kept.
    """

    def __init__(self, every: int, measure: Callable[[Tensor], dict[str, float]]) -> None:
        self.every = every
        self.rows: dict[int, list[list[float]]] = {}  # by member: iteration, numbers
        self._measure = measure

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        if run.step % self.every == 0 and np.isfinite(rows["loss_d"][-1] + rows["loss_g"][-1]):
            self.look(run)

    def on_end(self, run: Run, result: TrainResult) -> None:
        if not result.interrupted:
            self.look(run)

    def look(self, run: Run) -> Tensor:
        """Measure G's samples, once an iteration and only if finite; gives them either way."""
        samples = run.gan.sample(SAMPLES, seed=0, batch_size=SAMPLES, device="cpu")
        known = self.rows.setdefault(run.member, [])
        if not (known and known[-1][0] == run.step) and bool(samples.isfinite().all()):
            known.append([float(run.step), *self._measure(samples).values()])
            self.keep(run, known)
        return samples

    def keep(self, run: Run, rows: list[list[float]]) -> None:
        """The rows of a trial, of which the last is new."""


class Coverage(Recorder):
    """Measures G every thousand iterations, an epoch of the paper, into modes.csv; keeps the last samples.

    Of a run that is shorter than that, every tenth of it.
    """

    def __init__(self, dataset: Dataset, steps: int) -> None:
        super().__init__(EPOCH if steps >= EPOCH else max(1, steps // 10), lambda samples: measure(samples, dataset))

    def on_start(self, run: Run) -> None:
        earlier = rows_of(_folder(run)) if run.step else np.empty((0, 1 + len(MEASURES)))
        self.rows[run.member] = [row for row in earlier.tolist() if row[0] <= run.step]

    def on_end(self, run: Run, result: TrainResult) -> None:
        if not result.interrupted:
            file = io.BytesIO()
            np.save(file, self.look(run).numpy())
            write_atomically(_folder(run) / _SAMPLES, [file.getvalue()])

    def on_failure(self, run: Run, why: str) -> None:
        write_atomically(_folder(run) / _FAILED, [(json.dumps({"step": run.step, "why": why}) + "\n").encode()])

    def keep(self, run: Run, rows: list[list[float]]) -> None:
        lines = [f"{row[0]:.0f},{row[1]:.0f},{row[2]:.6g},{row[3]:.6g}\n" for row in rows]
        write_atomically(_folder(run) / _MODES, [f"step,{','.join(MEASURES)}\n".encode(), "".join(lines).encode()])


def _folder(run: Run) -> Path:
    assert run.run_dir is not None
    return run.run_dir


# ---------------------------------------------------------------- reading them again


def rows_of(member: Path) -> np.ndarray:
    """modes.csv of a trial: (evaluations, 4), step and measures."""
    path = member / _MODES
    if not path.is_file():
        return np.empty((0, 1 + len(MEASURES)))
    try:
        found: np.ndarray = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} must hold numbers, got: {error}") from error
    return found


def samples_of(member: Path) -> Tensor:
    """The samples of a trial that has ended, (2500, 2)."""
    return torch.from_numpy(np.load(member / _SAMPLES))


def members(cell: Path, count: int, step: int) -> list[Path]:
    """The folders of the trials that were measured at an iteration."""
    return [path for path in _all(cell, count) if _row_at(path, step) is not None]


def _all(cell: Path, count: int) -> list[Path]:
    return [cell / f"member-{number:04d}" for number in range(count)]


def failures(cell: Path, count: int, steps: int) -> int:
    """How many trials ended in numbers that are not finite."""
    return sum((path / _FAILED).is_file() and not has_samples(path, steps) for path in _all(cell, count))


def ended(cell: Path, count: int, steps: int) -> bool:
    """Whether every trial has ended, well or not."""
    well = sum(has_samples(path, steps) for path in _all(cell, count))
    return well + failures(cell, count, steps) == count


def measured_at(cell: Path, count: int, step: int) -> list[dict[str, float]]:
    """The measures of all trials at an iteration that they have reached."""
    rows = [_row_at(path, step) for path in _all(cell, count)]
    return [dict(zip(MEASURES, row[1:].tolist(), strict=True)) for row in rows if row is not None]


def _row_at(member: Path, step: int) -> np.ndarray | None:
    rows = rows_of(member)
    found: np.ndarray = rows[rows[:, 0] == step]
    return found[-1] if len(found) else None


def has_samples(member: Path, steps: int) -> bool:
    """Whether a trial has ended well at that iteration, and left its samples."""
    rows = rows_of(member)
    return len(rows) > 0 and rows[-1, 0] == steps and (member / _SAMPLES).is_file()


class Stopwatch(Callback):
    """Iterations, seconds and processor seconds of all trials, from the first start to the last look."""

    reads_networks = False

    def __init__(self) -> None:
        self.iterations, self.seconds, self.processor_seconds = 0, 0.0, 0.0
        self._begun: tuple[float, float] | None = None

    def on_start(self, run: Run) -> None:
        self._begun = self._begun or (time.perf_counter(), time.process_time())

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        assert self._begun is not None
        self.iterations += len(rows["step"])
        self.seconds = time.perf_counter() - self._begun[0]
        self.processor_seconds = time.process_time() - self._begun[1]


def note_training(cell: Path, result: PopulationResult, threads: int, stopwatch: Stopwatch) -> None:
    """training.json: which engine ran and how fast, over all the goes that the trials took.

    Args:
        cell: folder of the trials.
        result: of their training, in this go.
        threads: that it had.
        stopwatch: was among its callbacks.
    """
    if stopwatch.iterations == 0:
        return
    earlier = noted_training(cell) or {}
    sums = ("iterations", "seconds", "processor_seconds")
    body: dict[str, Any] = {name: getattr(stopwatch, name) + earlier.get(name, 0) for name in sums}
    body |= {"threads": threads, "engine": result.engine, "engine_reason": result.engine_reason}
    write_atomically(cell / _TRAINING, [(json.dumps(body) + "\n").encode()])


def noted_training(cell: Path) -> dict[str, Any] | None:
    """The contents that `note_training` wrote, or None."""
    path = cell / _TRAINING
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got: {error}") from error
    return body if "processor_seconds" in body else None
