"""Tables of numbers in .parquet files."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._errors import Invalid, first_line
from fastgan._extras import need

from .checks import check_claim
from .dataset import DataError, DataWarning
from .tables import Table, rule, without_index

invalid = Invalid("read")

MAGIC = b"PAR1"
INDEX_COLUMN = re.compile(r"__index_level_\d+__")  # pandas stores a frame's index so; it is no feature
_WHAT = "fastgan.data.read of .parquet"


def read_parquet(path: Path, largest: float) -> Table:
    """The numbers of a .parquet file; a column of lists of one length gives a column for each place in them.

    Args:
        largest: magnitude above which a number is refused.

    Raises:
        DataError: not a Parquet file, a column that is not numbers (by name), a missing value, or no rows.
        ImportError: pyarrow is not installed.
    """
    parquet = need("pyarrow.parquet", what=_WHAT, package="pyarrow")
    arrow = need("pyarrow", what=_WHAT, package="pyarrow")
    try:
        with parquet.ParquetFile(str(path)) as file:
            schema = file.schema_arrow
            columns = [name for name in schema.names if not INDEX_COLUMN.fullmatch(name)]
            _check_schema(path, arrow, schema, columns)
            rows = file.metadata.num_rows
            check_claim(rows * len(columns) * 8, path.stat().st_size, invalid.of(DataError, path))
            table = file.read(columns=columns)
    except (DataError, MemoryError):
        raise
    # Arrow answers damage with its own exceptions, and with some of Python's.
    except (arrow.ArrowException, OSError, OverflowError, LookupError, TypeError, ValueError) as error:
        raise invalid(DataError, path, f"must be a whole Parquet file, got: {first_line(error)}") from error
    if table.num_rows == 0:
        raise invalid(DataError, path, "must have at least one row, got none")
    parts, names = [], []
    for position, name in enumerate(columns):
        values = _column(path, arrow, table.column(position), name, largest)
        parts.append(values)
        names += [name] if values.ndim == 1 else [f"{name}[{place}]" for place in range(values.shape[1])]
    left_out = sorted(set(schema.names).difference(columns))
    if left_out:
        rule = f"column {left_out[0]!r} is left out: an index written by pandas"
        warnings.warn(invalid(DataWarning, path, rule), stacklevel=4)
    return without_index(path, np.column_stack(parts).astype(np.float64, copy=False), tuple(names))


def row_count(path: Path) -> int:
    """The number of rows in a file's metadata; 1 without it, so that reading the file finds the fault."""
    parquet = need("pyarrow.parquet", what=_WHAT, package="pyarrow")
    try:
        return int(parquet.read_metadata(str(path)).num_rows)
    except Exception:
        return 1


def _check_schema(path: Path, arrow: Any, schema: Any, columns: list[str]) -> None:
    if not columns:
        raise invalid(DataError, path, "must have at least one column, got none")
    if len(set(columns)) < len(columns):
        twice = next(name for name, count in Counter(columns).items() if count > 1)
        raise invalid(DataError, f"{path} column", f"names must differ, got {twice!r} twice")
    for name in columns:
        kind = schema.field(name).type
        if not _is_number(arrow.types, kind.value_type if _is_list(arrow.types, kind) else kind):
            hint = " (write it as seconds since a date)" if arrow.types.is_temporal(kind) else ""
            raise invalid(DataError, f"{path} column {name!r}", f"must hold numbers, got {kind}{hint}")


def _is_list(types: Any, kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_number(types: Any, kind: Any) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def _column(path: Path, arrow: Any, column: Any, name: str, largest: float) -> NDArray[Any]:
    def fault(row: int, rule: str) -> DataError:
        return invalid(DataError, f"{path} row {row} (counted from 0), column {name!r}", f"must be {rule}")

    if column.null_count:
        row = column.is_null().index(arrow.scalar(True)).as_py()
        raise fault(row, "a number, got none")
    width = None
    if _is_list(arrow.types, column.type):
        compute = need("pyarrow.compute", what=_WHAT, package="pyarrow")
        lengths = compute.list_value_length(column).to_numpy()
        width = int(lengths[0])
        wrong = np.flatnonzero(lengths != width)
        if len(wrong) or not width:
            row = int(wrong[0]) if len(wrong) else 0
            raise fault(row, f"a list of {max(width, 1)} numbers, got {lengths[row]}")
        column = compute.list_flatten(column)
        if column.null_count:
            row = column.is_null().index(arrow.scalar(True)).as_py() // width
            raise fault(row, "a list of numbers, got one with none in it")
    if arrow.types.is_decimal(column.type):
        column = column.cast(arrow.float64())
    values: NDArray[Any] = column.to_numpy()
    wrong = np.flatnonzero(~(np.abs(values.astype(np.float64)) <= largest))  # NaN too
    if len(wrong):
        row = int(wrong[0]) // (width or 1)
        found = values[int(wrong[0])]
        raise fault(row, f"{rule(float(found), largest)}, got {found:g}")
    return values if width is None else values.reshape(-1, width)
