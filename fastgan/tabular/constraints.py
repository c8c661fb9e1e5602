"""Rules that rows must keep; rows that break one are drawn again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._errors import Invalid
from fastgan.data import DataError
from fastgan.data.frames import Table

from . import dates
from .storage import pandas, read


@dataclass(frozen=True)
class Constraint:
    """Base class of the rules."""

    @property
    def columns(self) -> tuple[Hashable, ...]:
        """The columns that the rule concerns."""
        raise NotImplementedError

    def holds(self, frame: Any) -> NDArray[np.bool_]:
        """Whether each row of a DataFrame keeps the rule, (n,) bool. A row with a missing value keeps it."""
        raise NotImplementedError

    def fit(self, frame: Any) -> Constraint:
        """The rule fitted to the data, which must keep it.

        Raises:
            DataError: a row breaks the rule.
        """
        kept = self.holds(frame)
        if not kept.all():
            row = int((~kept).argmax())
            got = ", ".join(f"{name} = {frame[name].iloc[row]}" for name in self.columns)
            broken = int((~kept).sum())
            raise Invalid("fit")(
                DataError, f"row {row}", f"must keep the constraint {self}, got {got} ({broken:,} rows break it)"
            )
        return self

    def as_dict(self) -> dict[str, Any]:
        return {"type": type(self).__name__} | vars(self)


@dataclass(frozen=True)
class Inequality(Constraint):
    """One column is at most another: `Inequality("start", "end")` means start <= end.

    Args:
        low, high: names of columns of numbers or dates.
        strict: whether equal values break the rule.
        formats: formats of dates in text, set by `fit`.
    """

    low: Hashable
    high: Hashable
    strict: bool = False
    formats: tuple[str | None, str | None] = field(default=(None, None), repr=False)

    def __str__(self) -> str:
        return f"{self.low} {'<' if self.strict else '<='} {self.high}"

    @property
    def columns(self) -> tuple[Hashable, ...]:
        return self.low, self.high

    def fit(self, frame: Any) -> Constraint:
        numbers = any(pandas().api.types.is_numeric_dtype(frame[name]) for name in self.columns)
        low, high = (None if numbers else _format(frame[name], name) for name in self.columns)
        return Constraint.fit(replace(self, formats=(low, high)), frame)

    def holds(self, frame: Any) -> NDArray[np.bool_]:
        low, high = (
            frame[name] if format is None else dates.read(frame[name].astype(object), format)
            for name, format in zip(self.columns, self.formats, strict=True)
        )
        kept = (low < high) if self.strict else (low <= high)
        return _plain(kept) | _missing(frame, self.columns)


@dataclass(frozen=True)
class Positive(Constraint):
    """A column is at least 0, or above it.

    Args:
        column: its name.
        strict: whether 0 breaks the rule.
    """

    column: Hashable
    strict: bool = False

    def __str__(self) -> str:
        return f"{self.column} {'>' if self.strict else '>='} 0"

    @property
    def columns(self) -> tuple[Hashable, ...]:
        return (self.column,)

    def holds(self, frame: Any) -> NDArray[np.bool_]:
        values = frame[self.column]
        return _plain((values > 0) if self.strict else (values >= 0)) | _missing(frame, self.columns)


@dataclass(frozen=True)
class FixedCombinations(Constraint):
    """Columns have only combinations of values that occur in the data, such as city and country.

    Args:
        names: of two or more columns.
        seen: the combinations in the data, set by `fit`.
    """

    names: tuple[Hashable, ...]
    seen: frozenset[tuple[str, ...]] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.names, str) or len(self.names) < 2:
            raise Invalid("FixedCombinations").value("names", f"must be two or more columns, got {self.names!r}")
        object.__setattr__(self, "names", tuple(self.names))

    def __str__(self) -> str:
        return f"fixed combinations of {', '.join(map(str, self.names))}"

    @property
    def columns(self) -> tuple[Hashable, ...]:
        return self.names

    def fit(self, frame: Any) -> FixedCombinations:
        return FixedCombinations(self.names, frozenset(self._tuples(frame)))

    def holds(self, frame: Any) -> NDArray[np.bool_]:
        return np.array([found in self.seen for found in self._tuples(frame)], dtype=bool)

    def _tuples(self, frame: Any) -> list[tuple[str, ...]]:
        """As text, so that saved combinations compare equal, and missing values too."""
        pd = pandas()
        text = [[None if pd.isna(value) else str(value) for value in frame[name]] for name in self.names]
        return list(zip(*text, strict=True))

    def as_dict(self) -> dict[str, Any]:
        return {"type": "FixedCombinations", "names": list(self.names), "seen": sorted(map(list, self.seen), key=repr)}


def _format(series: Any, name: Hashable) -> str | None:
    """The format of dates in text; None for other columns.

    Raises:
        DataError: a text is not a date.
    """
    present = series.dropna().astype(object)
    if pandas().api.types.infer_dtype(present) != "string":
        return None
    return read(present, name, as_time=True).storage.format


def _plain(kept: Any) -> NDArray[np.bool_]:
    return kept.fillna(False).to_numpy(dtype=bool)


def _missing(frame: Any, names: Sequence[Hashable]) -> NDArray[np.bool_]:
    return np.logical_or.reduce([frame[name].isna().to_numpy(dtype=bool) for name in names])


def fit_all(constraints: Sequence[Constraint], table: Table) -> tuple[Constraint, ...]:
    """The rules fitted to a table.

    Raises:
        DataError: a column is missing, cannot be compared, or a row breaks a rule.
    """
    pd = pandas()
    fitted = []
    for rule in constraints:
        for name in rule.columns:
            if name not in table.names:
                raise Invalid("fit")(
                    DataError, f"the constraint {rule}", f"must name columns of the table, got {name!r}"
                )
        frame = pd.DataFrame({name: table.column(table.names.index(name)) for name in rule.columns})
        try:
            fitted.append(rule.fit(frame))
        except TypeError as error:
            kinds = ", ".join(f"{name} of {frame[name].dtype}" for name in rule.columns)
            raise Invalid("fit")(
                DataError, f"the constraint {rule}", f"must be of columns that compare, got {kinds}"
            ) from error
    return tuple(fitted)


def from_dict(values: dict[str, Any]) -> Constraint:
    """The constraint that `as_dict` described.

    Raises:
        KeyError, TypeError: `values` is not such a dictionary.
    """
    fields = {name: value for name, value in values.items() if name != "type"}
    if values["type"] == "FixedCombinations":
        return FixedCombinations(tuple(fields["names"]), frozenset(map(tuple, fields["seen"])))
    if "formats" in fields:
        fields["formats"] = tuple(fields["formats"])
    return {"Inequality": Inequality, "Positive": Positive}[values["type"]](**fields)
