"""Tables of numbers in text: .csv, .tsv and their like."""

from __future__ import annotations

import csv
import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._errors import Invalid

from .dataset import DataError, DataWarning, NotANumberError
from .layout import INDEX_NAMES, Layout, find_layout, lines_of, number, open_text, rows_of

invalid = Invalid("read")

Table = tuple[NDArray[np.float64], tuple[str, ...]]  # (rows, columns), and the columns' names, () if there are none


def read_csv(path: Path, header: bool | None, largest: float) -> Table:
    """The numbers of a text file, its cells parted by comma, semicolon, tab, bar or blanks; gzipped or not.

    Args:
        header: whether row 1 holds names; None: it does when none of its cells is a number, or they are whole
            numbers in even steps (2019, 2020, 2021) unlike the rows below.
        largest: magnitude above which a number is refused.

    Raises:
        DataError: a cell that is not a finite number or a row of another length, by row (line of the file,
            counted from 1) and column (counted from 1, and by name); no rows; not UTF-8 text; damaged gzip.
    """
    try:
        table, layout = _read_csv(path, header, largest)
    except UnicodeError as error:
        raise invalid(DataError, f"{path} row {_undecodable(path)}", "must be UTF-8 text") from error
    except csv.Error as error:
        raise invalid(DataError, path, f"must be a table of numbers, got: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise invalid(DataError, path, f"must be a whole gzip file, got: {error}") from error
    if layout.titles is not None:
        rule = f"lines {layout.titles[0]} to {layout.titles[1]} are left out: titles"
        warnings.warn(invalid(DataWarning, path, rule), stacklevel=4)
    if layout.numeric_names:
        shown = ", ".join((layout.names or ())[:3])
        rule = f"row 1 ({shown}, ...) is taken for names; header=False or --no-header if it holds data"
        warnings.warn(invalid(DataWarning, path, rule), stacklevel=4)
    return without_index(path, table, layout.names or ())


def without_index(path: Path, table: NDArray[np.float64], names: tuple[str, ...]) -> Table:
    """The table without the unnamed index that pandas writes first: whole numbers, none twice."""
    if len(names) < 2 or names[0].strip() not in INDEX_NAMES:
        return table, names
    first = table[:, 0]
    if (first < 0).any() or (first != np.floor(first)).any() or len(np.unique(first)) < len(first):
        return table, names
    rule = f"column 1 ({names[0].strip()!r}) is left out: an index written by pandas"
    warnings.warn(invalid(DataWarning, path, rule), stacklevel=5)
    return table[:, 1:], names[1:]


def _read_csv(path: Path, header: bool | None, largest: float) -> tuple[NDArray[np.float64], Layout]:
    layout = find_layout(path, header)
    with open_text(path) as file:
        if next(rows_of(lines_of(file, layout), layout.delimiter), None) is None:
            raise invalid(DataError, path, "must have at least one row below its header")
    try:
        with open_text(path) as file:
            table = np.loadtxt(
                lines_of(file, layout), delimiter=layout.delimiter, comments=None, quotechar='"', ndmin=2
            )
    except UnicodeError:
        raise
    except ValueError as error:
        _find_fault(path, layout, largest)
        raise invalid(DataError, path, f"must be a table of numbers, got: {error}") from error
    if not (np.abs(table) <= largest).all() or (layout.names is not None and table.shape[1] != len(layout.names)):
        _find_fault(path, layout, largest)
    return table, layout


def _undecodable(path: Path) -> int:
    """The first line, counted from 1, that is not UTF-8."""
    line = 0
    with open_text(path) as file:
        stream: Any = file.buffer
        for content in iter(stream.readline, b""):
            line += 1
            try:
                content.decode(file.encoding)
            except UnicodeError:
                break
    return line


def _find_fault(path: Path, layout: Layout, largest: float) -> None:
    """Raise for the first cell or row that cannot be; the fast reader only says that there is one."""
    names = layout.names
    width = None if names is None else len(names)
    with open_text(path) as file:
        lines = lines_of(file)
        for _ in range(layout.skipped):
            next(lines, None)
        for line, cells in rows_of(lines, layout.delimiter, before=layout.skipped):
            width = len(cells) if width is None else width
            if len(cells) != width:
                raise invalid(DataError, f"{path} row {line}", f"must have {width} cells, got {len(cells)}")
            for column, cell in enumerate(cells):
                value = number(cell, layout.decimal)
                if value is not None and abs(value) <= largest:  # False for NaN too
                    continue
                name = "" if names is None else f" ({names[column]!r})"
                place = f"row {line}, column {column + 1}{name}"
                kind = NotANumberError if value is None else DataError
                raise invalid(kind, f"{path} {place}", f"must be {_must(cell, value, line, layout, largest)}")


def _must(cell: str, value: float | None, line: int, layout: Layout, largest: float) -> str:
    got = "an empty cell" if not cell.strip() else repr(cell[:40])
    hint = ""
    if value is None and layout.delimiter == "," and number(cell, ",") is not None:
        hint = " (decimal commas are read where semicolons or tabs part the cells)"
    elif value is None and number(cell, ",."[layout.decimal == ","]) is not None:
        hint = " (numbers must have decimal points or decimal commas, not both)"
    elif value is None and line == 1:
        hint = " (if row 1 holds names: header=True, or --header)"
    return f"{'a number' if value is None else rule(value, largest)}, got {got}{hint}"


def rule(value: float, largest: float) -> str:
    """What a number that is no use must be."""
    return f"at most {largest:.4g} in magnitude" if math.isfinite(value) else "a finite number"
