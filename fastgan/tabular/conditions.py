"""Conditions of `TabularGAN.sample`: labels and ranges of numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._errors import Invalid

from . import dates
from .columns import Category, Number
from .storage import is_missing, pandas
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
        self.ranges: dict[Hashable, tuple[Any, Any] | None] = {}  # None: the value is missing
        self._formats: dict[Hashable, str | None] = {}  # of dates in text
        if not isinstance(conditions, Mapping):
            raise invalid.type("conditions", f"must be a value or a pair by column name, got {conditions!r}")
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
                self._formats[name] = column.storage.format
                self.ranges[name] = None if is_missing(value) else self._range(name, column, value)
                self._check_range(name, column, value)
            else:
                raise invalid.value(
                    f"conditions[{name!r}]", f"must be of a column that is learnt, got one of kind {column.kind!r}"
                )

    @staticmethod
    def _range(name: Hashable, column: Number, value: Any) -> tuple[Any, Any]:
        pair = value if isinstance(value, tuple | list) else (value, value)
        if len(pair) != 2:
            raise invalid.value(f"conditions[{name!r}]", f"must be a value or a pair (low, high), got {value!r}")
        pd = pandas()
        convert: Callable[[Any], Any] = _number
        if column.kind == "datetime":
            is_span = column.storage.dtype.startswith("timedelta")
            convert = pd.Timedelta if is_span else functools.partial(_time, column.storage.format)
        try:
            low, high = (None if part is None else convert(part) for part in pair)
            if pd.isna(low) and low is not None or pd.isna(high) and high is not None:
                raise ValueError("not a number or date")
        except (ValueError, TypeError) as error:
            rule = "a date" if column.kind == "datetime" else "a number"
            got = f"got {value!r}"
            raise invalid.value(f"conditions[{name!r}]", f"must be {rule} or a pair of them, {got}") from error
        if any(getattr(part, "tzinfo", None) for part in (low, high)) and ", " not in column.storage.dtype:
            raise invalid.value(f"conditions[{name!r}]", f"must have no time zone, as the column, got {value!r}")
        return low, high

    def _check_range(self, name: Hashable, column: Number, value: Any) -> None:
        """Refuse at once what no row can meet: rows are within the column's own range."""
        subject = f"conditions[{name!r}]"
        if (pair := self.ranges[name]) is None:
            if not column.has_missing:
                raise invalid.value(subject, f"must not be a missing value, as no row lacks one, got {value!r}")
            return
        ends = column.storage.restore(column.grid.from_float(np.array(column.grid.bounds)), np.zeros(2, dtype=bool))
        try:
            low, high = pair
            in_order = low is None or high is None or low <= high
            reached = all(part.any() for part in self._within(name, ends, pair))
        except TypeError as error:
            raise invalid.value(subject, f"must be of one type, got {value!r}") from error
        if not in_order:
            raise invalid.value(subject, f"must have the lower value first, got {value!r}")
        if not reached:
            raise invalid.value(subject, f"must reach into the column's range, {ends[0]} to {ends[1]}, got {value!r}")

    def holds(self, frame: Any, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row meets all conditions, (n,) bool.

        Args:
            frame: n rows; only the columns with ranges are read.
            codes: (n, columns), of the columns of labels.
        """
        kept = np.ones(len(codes), dtype=bool)
        for place, code in self.labels.items():
            kept &= codes[:, place] == code
        for name, pair in self.ranges.items():
            if pair is None:
                kept &= frame[name].isna().to_numpy(dtype=bool)
                continue
            for part in self._within(name, frame[name], pair):
                kept &= part
        return kept

    def _within(self, name: Hashable, values: Any, pair: tuple[Any, Any]) -> Iterator[NDArray[np.bool_]]:
        """Of each value, whether it is at least the lower bound, and whether it is at most the upper one."""
        low, high = pair
        values = self._comparable(values, low if low is not None else high, self._formats[name])
        if low is not None:
            yield (values >= low).fillna(False).to_numpy(dtype=bool)
        if high is not None:
            yield (values <= high).fillna(False).to_numpy(dtype=bool)

    @staticmethod
    def _comparable(values: Any, bound: Any, format: str | None) -> Any:
        pd = pandas()
        if isinstance(bound, pd.Timestamp):
            if not pd.api.types.is_datetime64_any_dtype(values.dtype):  # dates in text, or Python's
                values = dates.read(values, format or "mixed")
            zone = getattr(values.dtype, "tz", None)
            return values.dt.tz_localize(None) if zone is not None and bound.tzinfo is None else values
        return values


def _number(value: Any) -> float:
    if isinstance(value, bool | np.bool_):
        raise TypeError("a bool is no number")
    return float(value)


def _time(format: str | None, value: Any) -> Any:
    """A bound of dates: text in the column's format, else what pandas can read."""
    pd = pandas()
    if format is not None and isinstance(value, str):
        try:
            return dates.read(value, format)
        except ValueError:
            pass
    return pd.Timestamp(value)
