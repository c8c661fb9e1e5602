"""A paper's row, fastgan's and the ceiling, with the distance in standard errors; as text and as files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastgan._files import finite, write_atomically
from fastgan.training import mean_and_error

PAPER, FASTGAN, APART = "paper", "fastgan", "apart"


@dataclass(frozen=True)
class Figure:
    """A mean and its standard error.

    Args:
        mean: of the trials.
        error: its standard error; NaN if unknown.
        trials: how many there were.
    """

    mean: float
    error: float = math.nan
    trials: int = 1

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """The figure of some trials; those that are not finite are left out."""
        mean, error = mean_and_error(np.asarray(values, float))
        return cls(float(mean), float(error), int(np.isfinite(values).sum()))

    @property
    def spread(self) -> float:
        """Standard deviation of one trial."""
        return self.error * math.sqrt(self.trials)

    def __str__(self) -> str:
        if not math.isfinite(self.mean):
            return "-"
        if not math.isfinite(self.error):
            return f"{self.mean:,.3g}" if abs(self.mean) < 1000 else f"{self.mean:,.0f}"
        digits = min(max(1 - math.floor(math.log10(self.error or 0.1)), 1), 4)  # two figures of the error
        return f"{self.mean:.{digits}f} +- {self.error:.{digits}f}"


def apart(measured: Figure, paper: Figure) -> float:
    """How many standard errors of the difference fastgan's mean is above the paper's.

    If fastgan's trials have no spread, because there is one or all are equal, the paper's spread is used.
    """
    own = (
        measured.error
        if math.isfinite(measured.error) and measured.error > 0
        else paper.spread / math.sqrt(measured.trials)
    )
    error = math.hypot(own, paper.error)
    difference = measured.mean - paper.mean
    return difference / error if error else math.copysign(math.inf, difference) if difference else 0.0


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        group: what it belongs to, as "ring".
        method: whose row, as "PacGAN2".
        kind: "paper", "fastgan", or what else it is.
        figures: by column.
    """

    group: str
    method: str
    kind: str
    figures: Mapping[str, Figure]


def lines(rows: Sequence[Row], columns: Sequence[str], *, verdict: bool = True) -> list[str]:
    """The table in columns, and after each of fastgan's rows how far it is from the paper's.

    Args:
        rows: of one group.
        columns: names of the figures.
        verdict: say also whether that is within two standard errors.
    """

    def far(errors: float | None) -> str:
        if errors is None or math.isnan(errors):
            return "" if errors is None else "-"
        within = f": {'within 2' if abs(errors) <= 2 else 'NOT within 2'}"
        return f"{errors:+.1f} SE{within if verdict else ''}"

    table = [["", "", *columns]]
    for row in rows:
        table.append([row.method, row.kind, *(str(row.figures.get(name, "")) for name in columns)])
        if distances := _distances(row, rows):
            table.append(["", APART, *(far(distances.get(name)) for name in columns)])
    return aligned(table)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells padded to the widths of the columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _distances(row: Row, rows: Sequence[Row]) -> dict[str, float]:
    """`apart` by column, of a row of fastgan's whose paper's row is there too."""
    same = [other for other in rows if other.kind == PAPER and (other.group, other.method) == (row.group, row.method)]
    if row.kind != FASTGAN or not same:
        return {}
    return {
        name: apart(measured, same[0].figures[name])
        for name, measured in row.figures.items()
        if name in same[0].figures
    }


def write(folder: Path, rows: Sequence[Row], columns: Sequence[str], about: Mapping[str, Any]) -> list[Path]:
    """table.csv, table.md and table.json in a folder."""
    groups = list(dict.fromkeys(row.group for row in rows))

    def markdown() -> Iterator[bytes]:
        for group in groups:
            yield f"| {group} | | {' | '.join(columns)} |\n|{'---|' * (2 + len(columns))}\n".encode()
            for row in (row for row in rows if row.group == group):
                cells = [str(row.figures.get(name, "")).replace("+-", "±") for name in columns]
                yield f"| {row.method} | {row.kind} | {' | '.join(cells)} |\n".encode()
            yield b"\n"

    def plain(row: Row) -> Any:
        figures = {n: {"mean": f.mean, "standard_error": f.error, "trials": f.trials} for n, f in row.figures.items()}
        named = {"group": row.group, "method": row.method, "row": row.kind, "figures": figures}
        distances = _distances(row, rows)
        return finite(named | ({"standard_errors_apart": distances} if distances else {}))

    body = json.dumps({**about, "rows": [plain(row) for row in rows]}, indent=1) + "\n"
    parts = {"table.csv": [_csv(rows, columns)], "table.md": markdown(), "table.json": [body.encode()]}
    for name, part in parts.items():
        write_atomically(folder / name, part)
    return [folder / name for name in parts]


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """A line a row, mean and standard error of each column beside each other."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["group", "method", "row", *(part for name in columns for part in (name, f"{name} SE")), "trials"])
    for row in rows:
        found = [row.figures.get(name, Figure(math.nan)) for name in columns]
        numbers = [number for figure in found for number in (figure.mean, figure.error)]
        writer.writerow([row.group, row.method, row.kind, *numbers, max(figure.trials for figure in found)])
    return file.getvalue().encode()
