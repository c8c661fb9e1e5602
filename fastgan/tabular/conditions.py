"""Conditions of `TabularGAN.sample`: labels and ranges of numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._errors import Invalid

from .columns import Category, Number
from .storage import pandas
from .transformer import TableTransformer

invalid = Invalid("sample")


class Wanted:
    """Conditions on columns, checked against the fitted table.

    Args:
        conditions: as of `TabularGAN.sample`.
        transformer: of the table.

    Raises:
        ValueError: an unknown column or label, a range of labels, or a column that is not learnt.
    """

    def __init__(self, conditions: Mapping[Hashable, Any], transformer: TableTransformer) -> None:
        self.labels: dict[int, int] = {}  # place among the columns of labels: code
        self.ranges: dict[Hashable, tuple[Any, Any]] = {}
        self._formats: dict[Hashable, str | None] = {}  # of dates in text
        columns = {column.name: column for column in transformer.columns}
        places = {column.name: place for place, (column, _) in enumerate(transformer.categories)}
        for name, value in conditions.items():
            column = columns.get(name)
            if column is None:
                known = ", ".join(map(str, list(columns)[:8])) + (", ..." if len(columns) > 8 else "")
                raise invalid.value("conditions", f"must name columns of the table ({known}), got {name!r}")
            if isinstance(column, Category):
                self.labels[places[name]] = column.code(value)
            elif isinstance(column, Number):
                self.ranges[name] = self._range(name, column, value)
                self._formats[name] = column.storage.format
            else:
                raise invalid.value(f"conditions[{name!r}]", f"must be of a column that is learnt, got a {column.kind}")

    @staticmethod
    def _range(name: Hashable, column: Number, value: Any) -> tuple[Any, Any]:
        pair = value if isinstance(value, tuple | list) else (value, value)
        if len(pair) != 2:
            raise invalid.value(f"conditions[{name!r}]", f"must be a value or a pair (low, high), got {value!r}")
        pd = pandas()
        convert: Callable[[Any], Any] = float
        if column.kind == "datetime":
            is_span = column.storage.dtype.startswith("timedelta")
            convert = pd.Timedelta if is_span else functools.partial(_time, column.storage.format)
        try:
            low, high = (None if part is None or part == "" else convert(part) for part in pair)
        except (ValueError, TypeError) as error:
            rule = "a date" if column.kind == "datetime" else "a number"
            got = f"got {value!r}"
            raise invalid.value(f"conditions[{name!r}]", f"must be {rule} or a pair of them, {got}") from error
        if any(getattr(part, "tzinfo", None) for part in (low, high)) and ", " not in column.storage.dtype:
            raise invalid.value(f"conditions[{name!r}]", f"must have no time zone, as the column, got {value!r}")
        return low, high

    def holds(self, frame: Any, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row meets all conditions, (n,) bool.

        Args:
            frame: n rows; only the columns with ranges are read.
            codes: (n, columns), of the columns of labels.
        """
        kept = np.ones(len(codes), dtype=bool)
        for place, code in self.labels.items():
            kept &= codes[:, place] == code
        for name, (low, high) in self.ranges.items():
            bound = low if low is not None else high
            values = self._comparable(frame[name], bound, self._formats[name])
            if low is not None:
                kept &= (values >= low).fillna(False).to_numpy(dtype=bool)
            if high is not None:
                kept &= (values <= high).fillna(False).to_numpy(dtype=bool)
        return kept

    @staticmethod
    def _comparable(values: Any, bound: Any, format: str | None) -> Any:
        pd = pandas()
        if isinstance(bound, pd.Timestamp):
            if not pd.api.types.is_datetime64_any_dtype(values.dtype):  # dates in text, or Python's
                values = pd.to_datetime(values, format=format or "mixed")
            zone = getattr(values.dtype, "tz", None)
            return values.dt.tz_localize(None) if zone is not None and bound.tzinfo is None else values
        return values


def _time(format: str | None, value: Any) -> Any:
    """A bound of dates: text in the column's format, else what pandas can read."""
    pd = pandas()
    if format is not None and isinstance(value, str):
        try:
            return pd.to_datetime(value, format=format)
        except ValueError:
            pass
    return pd.Timestamp(value)
