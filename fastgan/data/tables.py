"""Tables of numbers: .csv and .parquet."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import DataError
from .extras import need

_ENCODING = "utf-8-sig"  # spreadsheets begin UTF-8 with a byte order mark
_INDEX_COLUMN = re.compile(r"__index_level_\d+__")  # pandas stores a frame's index so; it is no feature


Table = tuple[NDArray[np.float64], tuple[str, ...]]  # (rows, columns), and the columns' names, () where there are none


def read_csv(path: Path, header: bool | None, largest: float) -> Table:
    """The numbers of a comma-, semicolon- or tab-separated file.

    Arguments:
        header: whether row 1 holds names; None: it does when none of its cells is a number.
        largest: magnitude above which a number is refused.

    Raises:
        DataError: a cell that is not a finite number or a row of another length, by row (line of the file,
            counted from 1) and column (counted from 1, and by name); no rows; not UTF-8 text.
    """
    try:
        return _read_csv(path, header, largest)
    except UnicodeDecodeError as error:
        raise DataError(f"read: {path} row {_undecodable(path)} must be UTF-8 text") from error
    except csv.Error as error:
        raise DataError(f"read: {path} must be a table of numbers, got: {error}") from error


def _read_csv(path: Path, header: bool | None, largest: float) -> Table:
    delimiter = _delimiter(path)
    first = next(_rows(path, delimiter), None)
    if first is None:
        raise DataError(f"read: {path} must have at least one row, got an empty file")
    line, cells = first
    if header is None:
        header = all(_number(cell) is None for cell in cells)
    names = cells if header else None
    skipped = line if header else 0
    if next(_rows(path, delimiter, after=skipped), None) is None:
        raise DataError(f"read: {path} must have at least one row below its header")
    try:
        table = np.loadtxt(
            path,
            delimiter=delimiter,
            skiprows=skipped,
            comments=None,
            quotechar='"',
            ndmin=2,
            encoding=_ENCODING,
        )
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        _find_fault(path, delimiter, skipped, names, largest)
        raise DataError(f"read: {path} must be a table of numbers, got: {error}") from error
    if not (np.abs(table) <= largest).all() or (names is not None and table.shape[1] != len(names)):
        _find_fault(path, delimiter, skipped, names, largest)
    return table, tuple(names or ())


def _undecodable(path: Path) -> int:
    """The first line, counted from 1, that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(_ENCODING)
            except UnicodeDecodeError:
                return number
    return 0


def _delimiter(path: Path) -> str:
    """Whichever of comma, semicolon and tab is most frequent in the first line that is not blank."""
    with path.open(encoding=_ENCODING) as file:
        line = next((line for line in file if line.strip()), "")
    counts = Counter(character for character in line if character in ",;\t")
    return counts.most_common(1)[0][0] if counts else ","


def _rows(path: Path, delimiter: str, *, after: int = 0) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every row below line `after` that is not blank."""
    with path.open(encoding=_ENCODING, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        for cells in reader:
            if cells and reader.line_num > after:
                yield reader.line_num, cells


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _find_fault(path: Path, delimiter: str, skipped: int, names: list[str] | None, largest: float) -> None:
    """Raise for the first cell or row that cannot be; the fast reader only says that there is one."""
    width = None if names is None else len(names)
    for line, cells in _rows(path, delimiter, after=skipped):
        width = len(cells) if width is None else width
        if len(cells) != width:
            raise DataError(f"read: {path} row {line} must have {width} cells, got {len(cells)}")
        for column, cell in enumerate(cells):
            value = _number(cell)
            if value is not None and abs(value) <= largest:  # False for NaN too
                continue
            name = "" if names is None else f" ({names[column]!r})"
            got = "an empty cell" if not cell.strip() else repr(cell[:40])
            hint = " (if row 1 holds names: header=True)" if line == 1 and value is None else ""
            rule = "a number" if value is None else _rule(value, largest)
            place = f"row {line}, column {column + 1}{name}"
            raise DataError(f"read: {path} {place} must be {rule}, got {got}{hint}")


def _rule(value: float, largest: float) -> str:
    return f"at most {largest:.4g} in magnitude" if math.isfinite(value) else "a finite number"


def read_parquet(path: Path, largest: float) -> Table:
    """The numbers of a .parquet file.

    Arguments:
        largest: magnitude above which a number is refused.

    Raises:
        DataError: not a Parquet file, a column that is not numbers (by name), a missing value, or no rows.
        ImportError: pyarrow is not installed.
    """
    parquet = need("pyarrow.parquet", what="fastgan.data.read of .parquet", package="pyarrow")
    arrow = need("pyarrow", what="fastgan.data.read of .parquet", package="pyarrow")
    try:
        with parquet.ParquetFile(str(path)) as file:
            schema = file.schema_arrow
            columns = [name for name in schema.names if not _INDEX_COLUMN.fullmatch(name)]
            _check_schema(path, arrow, schema, columns)
            table = file.read(columns=columns)
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"read: {path} must be a whole Parquet file, got: {reason}") from error
    if table.num_rows == 0:
        raise DataError(f"read: {path} must have at least one row, got none")
    result = np.empty((table.num_rows, len(columns)))
    for position, name in enumerate(columns):
        result[:, position] = _column(path, arrow, table.column(position), name, largest)
    return result, tuple(columns)


def _check_schema(path: Path, arrow: Any, schema: Any, columns: list[str]) -> None:
    if not columns:
        raise DataError(f"read: {path} must have at least one column, got none")
    if len(set(columns)) < len(columns):
        twice = next(name for name, count in Counter(columns).items() if count > 1)
        raise DataError(f"read: {path} column names must differ, got {twice!r} twice")
    types = arrow.types
    for name in columns:
        kind = schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise DataError(f"read: {path} column {name!r} must hold numbers, got {kind}")


def _column(path: Path, arrow: Any, column: Any, name: str, largest: float) -> NDArray[Any]:
    where = f"read: {path} row {{row}} (counted from 0), column {name!r} must be"
    if column.null_count:
        row = column.is_null().index(arrow.scalar(True)).as_py()
        raise DataError(f"{where.format(row=row)} a number, got none")
    values: NDArray[Any] = column.to_numpy()
    wrong = np.flatnonzero(~(np.abs(values.astype(np.float64)) <= largest))  # NaN is not at most anything
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"{where.format(row=row)} {_rule(float(values[row]), largest)}, got {values[row]:g}")
    return values
