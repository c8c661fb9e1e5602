"""Whether a file is a table with columns of any kind, or one of numbers alone."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from pathlib import Path
from typing import Any

from fastgan._extras import need
from fastgan.data import DataError, DataWarning, NotANumberError, read_frame

_TABLES = {".csv", ".tsv", ".txt", ".tab", ".dat", ".parquet"}
_NUMERIC = 0.5  # of a column's cells: with fewer numbers than that, a column is text, not numbers with faults


def is_mixed(arguments: argparse.Namespace, refusal: DataError) -> bool:
    """Whether SOURCE, which the reader of numbers refused, is a table that a TabularGAN learns.

    Raises:
        DataError: no table can be read from it, which is why the reader of numbers met a text.
    """
    path = Path(arguments.source or "")
    if arguments.tabular is False or arguments.resume or not path.is_file() or not _suffixes(path) & _TABLES:
        return False
    return _not_all_numbers(path, arguments.header, met_text=isinstance(refusal, NotANumberError))


def _suffixes(path: Path) -> set[str]:
    return {suffix.lower() for suffix in path.suffixes}


def _not_all_numbers(path: Path, header: bool | None, met_text: bool) -> bool:
    """Whether a table has text, dates or empty cells. A file that cannot be read is left to the reader of numbers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            if path.suffix.lower() == ".parquet":
                arrow = need("pyarrow", what="fastgan.data.read of .parquet", package="pyarrow")
                with contextlib.suppress(arrow.ArrowException):  # of a damaged file
                    return _of_parquet(path)
                return False
            frame = read_frame(path, header=header)
    except DataError:
        if met_text:
            raise
        return False
    except ImportError:
        return False
    return any(_is_other(frame[name]) for name in frame.columns)


def _of_parquet(path: Path) -> bool:
    parquet = need("pyarrow.parquet", what="fastgan.data.read of .parquet", package="pyarrow")
    types = need("pyarrow", what="fastgan.data.read of .parquet", package="pyarrow").types
    with parquet.ParquetFile(str(path)) as file:
        kinds = [field.type for field in file.schema_arrow]
        if any(types.is_nested(kind) for kind in kinds):
            return False
        plain = [
            types.is_integer(k) or types.is_floating(k) or types.is_boolean(k) or types.is_decimal(k) for k in kinds
        ]
        if not all(plain):
            return True
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        return any(chunk.statistics is not None and (chunk.statistics.null_count or 0) > 0 for chunk in chunks)


def _is_other(series: Any) -> bool:
    if series.dtype.kind in "iuf":
        return bool(series.isna().any())
    if series.dtype.kind == "b":
        return True
    pd = need("pandas", what="fastgan train", package="pandas")
    numbers = pd.to_numeric(series, errors="coerce")
    return bool(numbers.notna().mean() < _NUMERIC)
