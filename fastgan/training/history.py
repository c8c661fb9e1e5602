"""The history of a run: one row an iteration, in memory and as a CSV file that survives a resume."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastgan._files import write_atomically

COLUMNS = ("step", "loss_d", "loss_g", "d_real", "d_fake", "accuracy_real", "accuracy_fake")
Columns = dict[str, np.ndarray]


def as_columns(table: np.ndarray) -> Columns:
    """A table (rows, len(COLUMNS)) as named columns; the step as integers."""
    columns: Columns = {name: table[:, i].copy() for i, name in enumerate(COLUMNS)}
    columns["step"] = columns["step"].astype(np.int64)
    return columns


class History:
    """All rows so far; appended to a CSV file as well where a path is given.

    Args:
        path: of the CSV file, or None.
        earlier: rows (steps, len(COLUMNS)) of the run that is resumed; the file is rewritten to hold exactly
            these, so that rows written after the last checkpoint do not appear twice.
    """

    def __init__(self, path: Path | None, earlier: np.ndarray | None = None) -> None:
        self._tables = [np.empty((0, len(COLUMNS))) if earlier is None else earlier]
        self._file = None
        if path is not None:
            text = ",".join(COLUMNS) + "\n" + _lines(self._tables[0])
            write_atomically(path, [text.encode()])
            self._file = path.open("a", encoding="ascii", newline="")

    def append(self, table: np.ndarray) -> None:
        """Add rows (m, len(COLUMNS)); the file is flushed, so a killed process loses nothing."""
        self._tables.append(table)
        if self._file is not None:
            self._file.write(_lines(table))
            self._file.flush()

    def sync(self) -> None:
        """Force the rows to the disk: a checkpoint must not outlive them in a power cut."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def columns(self) -> Columns:
        """Everything as named columns."""
        self._tables = [np.concatenate(self._tables)]
        return as_columns(self._tables[0])


def read_history(run_dir: str | os.PathLike[str]) -> Columns:
    """The history of a run folder, also of a run that is under way.

    Args:
        run_dir: as of `train`.

    Returns:
        Array by column, as `TrainResult.history`; empty ones where nothing was recorded.
    """
    return as_columns(read_rows(Path(run_dir) / "history.csv", up_to=2**62))


def read_rows(path: Path, up_to: int) -> np.ndarray:
    """The rows of steps <= up_to in a history file, up to the first line that is none (cut off by a kill)."""
    rows: list[list[float]] = []
    try:
        lines = path.read_text(encoding="ascii", errors="replace").split("\n")
    except FileNotFoundError:
        lines = []
    for line in lines[1:-1]:  # behind the last newline there is nothing, or a line cut short
        try:
            row = [float(cell) for cell in line.split(",")]
        except ValueError:
            break
        if len(row) != len(COLUMNS) or row[0] > up_to:
            break
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(COLUMNS))


def _lines(table: np.ndarray) -> str:
    # repr is the shortest text that reads back as the same number
    return "".join(",".join([str(int(row[0])), *map(repr, row[1:])]) + "\n" for row in table.tolist())
