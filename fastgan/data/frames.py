"""Tables with columns of any kind: DataFrames, text, and .parquet, which is read column by column."""

from __future__ import annotations

import bz2
import csv
import io
import lzma
import os
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastgan._errors import Invalid, first_line
from fastgan._extras import need

from .dataset import DataError, DataWarning, Fault
from .layout import DELIMITERS, ENCODINGS, GZIPPED, INDEX_NAMES, Line, number, open_text, rows_of, sample
from .parquet import INDEX_COLUMN, MAGIC

invalid = Invalid("read")

_WHAT = "fastgan.data.open_table"
_PACKED: dict[bytes, Any] = {**GZIPPED, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
MOST_COLUMNS = 10_000  # each is fitted by itself: a tenth of a second, so this many take a quarter of an hour
_TYPED_ROWS = 10_000  # checked for codes such as 00123, which are not numbers
_CODE = re.compile(r"[+-]?0\d+")


class Table(Protocol):
    """A table whose columns are read one by one.

    Attributes:
        label: what to call it in messages.
        names: of the columns.
        rows: how many.
    """

    label: str
    names: tuple[Hashable, ...]
    rows: int

    def column(self, number: int) -> Any:
        """One column, as a Series of pandas."""


class _Frame:
    def __init__(self, frame: Any, label: str = "the table") -> None:
        self._frame, self.label = frame, label
        self.names = tuple(frame.columns)
        self.rows = len(frame)

    def column(self, number: int) -> Any:
        return self._frame.iloc[:, number].reset_index(drop=True)


class _Parquet:
    def __init__(self, path: Path) -> None:
        parquet = need("pyarrow.parquet", what=_WHAT, package="pyarrow")
        self._arrow = need("pyarrow", what=_WHAT, package="pyarrow")
        need("pandas", what=_WHAT, package="pandas")
        self._path, self.label = path, str(path)
        try:
            self._file = parquet.ParquetFile(str(path))  # stays open with this object: opening reads all names
            names = self._file.schema_arrow.names
            self.rows = int(self._file.metadata.num_rows)
        except (self._arrow.ArrowException, OSError) as error:
            raise invalid(DataError, path, f"must be a whole Parquet file, got: {first_line(error)}") from error
        self.names = tuple(name for name in names if not INDEX_COLUMN.fullmatch(name))

    def column(self, number: int) -> Any:
        name = self.names[number]
        try:
            column = self._file.read(columns=[name], use_pandas_metadata=False).column(0)
        except (self._arrow.ArrowException, OSError) as error:
            raise invalid(
                DataError, f"{self._path} column {name!r}", f"must be whole, got: {first_line(error)}"
            ) from error
        types = self._arrow.types
        if types.is_decimal(column.type):
            column = column.cast(self._arrow.float64())
        if types.is_nested(column.type):
            raise invalid(DataError, f"{self._path} column {name!r}", f"must hold one value a row, got {column.type}")
        if types.is_integer(column.type) and column.null_count:  # not as float64, which would lose digits
            kind = "UInt64" if column.type == self._arrow.uint64() else "Int64"
            pd = need("pandas", what=_WHAT, package="pandas")
            missing = column.is_null().to_numpy()
            numbers = column.fill_null(0).to_numpy().astype(kind.lower())
            return pd.Series(pd.arrays.IntegerArray(numbers, missing), dtype=kind)
        return column.to_pandas()


def open_table(table: Any) -> Table:
    """A table of columns of any kind.

    Args:
        table: a DataFrame; or the path of a .parquet file, or of text whose cells commas, semicolons, tabs or bars
            part: gzipped too, bz2 or xz. Decimal commas, a first line `sep=;` and the index that pandas writes are
            recognised. Row 1 of text holds names unless one of its cells is a number.

    Returns:
        Table; of a .parquet file a column at a time is in memory.

    Raises:
        FileNotFoundError: there is no such file. TypeError: it is no table. ImportError: pandas or pyarrow is missing.
        DataError: the file cannot be read as a table.
    """
    if isinstance(table, str | os.PathLike):
        path = Path(table)
        if not path.is_file():
            raise invalid(FileNotFoundError, f"no such file: {path}")
        with path.open("rb") as file:
            is_parquet = file.read(4) == MAGIC
        return _Parquet(path) if is_parquet else _Frame(read_frame(path), str(path))
    pd = need("pandas", what="fastgan.tabular", package="pandas")
    if isinstance(table, pd.DataFrame):
        return _Frame(table)
    if all(hasattr(table, name) for name in ("names", "rows", "column")):
        return table
    raise Invalid("fit").type("table", f"must be a DataFrame of pandas or a path, got {type(table).__name__}")


def check_width(fault: Fault, columns: int) -> None:
    """Refuse a table of so many columns that reading and fitting one after the other would seem to hang."""
    if columns > MOST_COLUMNS:
        raise fault(f"must have at most {MOST_COLUMNS:,} columns, got {columns:,}")


def read_frame(path: str | os.PathLike[str], *, header: bool | None = None) -> Any:
    """The table of a text file or .parquet as `fastgan.TabularGAN` reads it.

    Cells with leading zeros stay text. Dates stay text, too.

    Args:
        path: of the file; text may be gzipped, bz2 or xz, its cells parted by commas, semicolons, tabs or bars.
        header: whether row 1 of text holds names; None: it does unless one of its cells is a number.

    Returns:
        DataFrame.

    Raises:
        FileNotFoundError: there is no such file. ImportError: pandas or pyarrow is missing.
        DataError: the file cannot be read as a table.
    """
    pd = need("pandas", what=_WHAT, package="pandas")
    path = Path(path)
    with path.open("rb") as file:
        is_parquet = file.read(4) == MAGIC
    if is_parquet:
        source = _Parquet(path)
        columns = [source.column(number) for number in range(len(source.names))]
        frame = pd.concat(columns, axis=1)
        frame.columns = pd.Index(source.names)
        return frame
    try:
        return _read_text(pd, path, header)
    except UnicodeError as error:
        raise invalid(DataError, path, f"must be UTF-8 text, or UTF-16 with a byte order mark, got: {error}") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        why = first_line(error).removeprefix("Error tokenizing data. C error: ")
        raise invalid(DataError, path, f"must be a table, got: {why}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise invalid(DataError, path, f"must be a whole file, got: {error}") from error


def _open(path: Path) -> io.TextIOWrapper:
    with path.open("rb") as file:
        begin = file.read(6)
    is_text = begin.startswith(tuple(_PACKED)) or begin[:2] in ENCODINGS or b"\x00" not in begin
    if begin.startswith(b"PK\x03\x04") or not is_text:
        raise invalid(DataError, path, "must be text or .parquet, got an archive or binary file: unpack or convert it")
    return open_text(path, _PACKED)


def _read_text(pd: Any, path: Path, header: bool | None) -> Any:
    with _open(path) as file:
        lines, named = sample(path, file)
    delimiter, decimal, numbered = _layout(lines, named)
    titles = _titles(numbered, decimal)
    begin = numbered[titles - 1][0] if titles else 0
    rows = [cells for _, cells in numbered[titles:]]
    if titles:
        place = "line 1 is" if begin == 1 else f"lines 1 to {begin} are"
        warnings.warn(invalid(DataWarning, path, f"{place} left out: titles"), stacklevel=2)
    check_width(invalid.of(DataError, path), len(rows[0]))
    if header is None:
        header = all(number(cell, decimal) is None for cell in rows[0])
        header = header or rows[0][0].strip() in INDEX_NAMES
    if header:
        twice = [name for name, count in Counter(rows[0]).items() if count > 1]
        if twice:  # pandas would rename them
            raise invalid(DataError, f"{path} column", f"names must differ, got {twice[0]!r} twice")
    options = {
        "sep": delimiter,
        "decimal": decimal,
        "skiprows": begin + (1 if named else 0),
        "header": 0 if header else None,
        "skipinitialspace": True,
        "low_memory": False,
    }
    with _open(path) as file:
        first = pd.read_csv(file, dtype=str, nrows=_TYPED_ROWS, **options)
    codes = [name for name in first.columns if first[name].dropna().str.fullmatch(_CODE.pattern).any()]
    with _open(path) as file:
        frame = pd.read_csv(file, dtype=dict.fromkeys(codes, str), **options)
    if not header:
        frame.columns = pd.Index([f"column_{number + 1}" for number in range(frame.shape[1])])
    return _without_index(path, frame)


def _without_index(path: Path, frame: Any) -> Any:
    first = frame.columns[0]
    if frame.shape[1] < 2 or str(first).strip() not in INDEX_NAMES or frame[first].dtype.kind not in "iu":
        return frame
    values = frame[first].to_numpy()
    if (values < 0).any() or len(np.unique(values)) < len(values):
        return frame
    rule = f"column 1 ({str(first)!r}) is left out: an index written by pandas"
    warnings.warn(invalid(DataWarning, path, rule), stacklevel=2)
    return frame.iloc[:, 1:]


def _titles(rows: list[Line], decimal: str) -> int:
    """How many rows above the names of several columns hold one text or none; spreadsheets fill them up with commas."""
    width, _ = Counter(len(cells) for _, cells in rows).most_common(1)[0]
    first = next((i for i, (_, cells) in enumerate(rows) if len(cells) == width and sum(map(bool, cells)) > 1), 0)
    above, names = [cells for _, cells in rows[:first]], rows[first][1]
    short = all(len(cells) != width for cells in above)
    named = all(cells[0] or not any(cells) for cells in above) and all(number(cell, decimal) is None for cell in names)
    return first if width > 1 and (short or named) else 0


def _layout(lines: list[str], named: str | None) -> tuple[str, str, list[Line]]:
    """Delimiter, decimal mark and rows: those of one width, with most numbers, most columns and as many names."""
    best: tuple[tuple[float, int, int, bool], str, str, list[Line]] | None = None
    for delimiter in (named,) if named else DELIMITERS:
        try:
            rows = list(rows_of(lines, delimiter))
        except csv.Error:
            continue
        if not rows:
            continue
        width, agreeing = Counter(len(cells) for _, cells in rows).most_common(1)[0]
        regular = agreeing >= 0.9 * len(rows) and (width > 1 or named is not None)
        for decimal in (".",) if delimiter == "," else (".", ","):
            numbers = sum(number(cell, decimal) is not None for _, cells in rows for cell in cells)
            score = (float(regular), numbers, width, len(rows[0][1]) == width)
            if best is None or score > best[0]:
                best = (score, delimiter, decimal, rows)
    assert best is not None
    return best[1:]
