"""The dtype of a DataFrame's column: read its values, and restore exactly this dtype."""

from __future__ import annotations

import datetime
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastgan._errors import Invalid
from fastgan._extras import need
from fastgan.data import DataError
from fastgan.data.dataset import Fault

from . import dates

LARGEST = 1e150  # whose square is still finite
_NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "D": 86_400 * 10**9}
Family = Literal["whole", "real", "time", "label"]


def pandas() -> Any:
    """The module pandas; an error that says what to install if it is missing."""
    return need("pandas", what="fastgan.tabular", package="pandas")


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT or NA."""
    return bool(pandas().api.types.is_scalar(value) and pandas().isna(value))


@dataclass(frozen=True)
class Storage:
    """How a column was stored, to write it the same way.

    Args:
        dtype: name of the pandas dtype.
        family: whole numbers, real numbers, times (as whole numbers) or labels.
        categories: of a categorical dtype: the dtype of the categories, then the categories, tagged for JSON.
        ordered: whether the categories are ordered.
        string: storage and missing value of a pandas string dtype.
        format: of dates in text, as `dates.find` gives it.
        date: whether an object column has Python dates.
        missing: the missing value of an object column: "None" or "nan".
        arrow: name of the pandas Arrow dtype, if the column has one.
        local: whether times with a zone are counted by its clocks, on which days begin at midnight all year.
    """

    dtype: str
    family: Family
    categories: tuple[Any, ...] | None = None
    ordered: bool = False
    string: tuple[str, str] | None = None
    format: str | None = None
    date: bool = False
    missing: str = "None"
    arrow: str | None = None
    local: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value not in (None, False)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Storage:
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain)

    def unit(self) -> str:
        """Of times: of the whole numbers that stand for them."""
        if self.date:
            return "D"
        return _unit(self.dtype)[0] if self.format is None else dates.unit(self.format)

    def number(self) -> Any:
        """The numpy type of the values, unless they are labels."""
        wide = np.uint64 if self.dtype.lower() == "uint64" else np.int64
        return np.float64 if self.family == "real" else wide

    def restore(self, values: NDArray[Any], missing: NDArray[np.bool_]) -> Any:
        """A Series of this dtype.

        Args:
            values: (n,) int64, uint64, floating or objects, as `Values.present`; ignored where `missing`.
            missing: (n,) bool.
        """
        series = self._restore(values, missing)
        return series if self.arrow is None else series.astype(_arrow_dtype(self.arrow))

    def _restore(self, values: NDArray[Any], missing: NDArray[np.bool_]) -> Any:
        pd = pandas()
        series = self._times(values, missing) if self.family == "time" else None
        if series is None:
            if self.categories is not None:
                kept = pd.Series(values, dtype=object).mask(missing, None)
                return pd.Series(pd.Categorical(kept, dtype=self._dtype()))
            dtype = self._dtype()
            if isinstance(dtype, np.dtype) and dtype.kind in "biufc":
                series = pd.Series(np.asarray(values).astype(dtype))
                return series.mask(missing) if missing.any() else series
            series = pd.Series(values, dtype=object if values.dtype == object else None).astype(dtype)
        if not missing.any():
            return series
        if pd.api.types.is_object_dtype(series.dtype):
            kept = series.to_numpy(copy=True)
            kept[missing] = None if self.missing == "None" else np.nan
            return pd.Series(kept, dtype=object)
        return series.mask(missing)

    def _times(self, values: NDArray[Any], missing: NDArray[np.bool_]) -> Any:
        pd = pandas()
        whole = np.where(missing, np.int64(0), values.astype(np.int64))
        if self.date:
            days = whole.astype("datetime64[D]").astype(object)
            return pd.Series(days, dtype=object)
        if self.format is not None:
            moments = pd.Series(whole.view(f"datetime64[{dates.unit(self.format)}]"))
            return dates.write(moments, self.format).astype(self._dtype())
        unit, zone = _unit(self.dtype)
        kind = "m8" if self.dtype.startswith("timedelta") else "M8"
        series = pd.Series(whole.view(f"{kind}[{unit}]"))
        if zone is not None and self.local:
            return series.dt.tz_localize(zone, ambiguous=np.zeros(len(series), bool), nonexistent="shift_forward")
        return series if zone is None else series.dt.tz_localize("UTC").dt.tz_convert(zone)

    def seconds(self, series: Any) -> NDArray[np.float64]:
        """A Series of this storage's dates or durations, none missing, as seconds; of dates since 1970."""
        pd = pandas()
        if series.dtype.kind == "m":
            return np.asarray(series.dt.total_seconds())
        if self.format is not None:
            series = dates.read(series, self.format)
        times = pd.to_datetime(series, utc=True).dt.tz_localize(None)
        return np.asarray(times.to_numpy().astype("datetime64[s]").astype(np.float64))

    def _dtype(self) -> Any:
        pd = pandas()
        if self.categories is not None:
            dtype, *tagged = self.categories
            index = pd.Index([untag(value) for value in tagged], dtype=None if dtype == "datetime" else dtype)
            return pd.CategoricalDtype(index, ordered=self.ordered)
        if self.string is not None:
            storage, missing = self.string
            return pd.StringDtype(storage, na_value=np.nan if missing == "nan" else pd.NA)
        return pd.api.types.pandas_dtype(self.dtype)


@dataclass(frozen=True)
class Values:
    """The values of a column.

    Args:
        present: (n - missing,) int64 or uint64 (whole, time), floating (real) or objects (label).
        missing: (n,) bool.
        storage: how they were stored.
    """

    present: NDArray[Any]
    missing: NDArray[np.bool_]
    storage: Storage

    def row(self, position: int) -> int:
        """The row of `present[position]`."""
        return int(np.flatnonzero(~self.missing)[position])


def read_as(kept: Storage, series: Any, name: Hashable, caller: str) -> Values:
    """The values of a Series, with times in the unit and by the clock of a fitted column.

    Raises:
        DataError: as `read`.
    """
    pd = pandas()
    if kept.local and isinstance(series.dtype, pd.DatetimeTZDtype):
        series = series.dt.tz_convert(_unit(kept.dtype)[1])
    values = read(series, name, caller=caller, as_time=kept.family == "time", local=kept.local)
    if values.storage.family != "time" or kept.family != "time":
        return values
    own, wanted = _NANOSECONDS[values.storage.unit()], _NANOSECONDS[kept.unit()]
    present = values.present * (own // wanted) if own > wanted else values.present // (wanted // own)
    return replace(values, present=present)


def read(
    series: Any, name: Hashable, *, caller: str = "fit", as_time: bool | None = None, local: bool | None = None
) -> Values:
    """The values of a Series.

    Args:
        series: of pandas.
        name: of the column, for messages.
        caller: for messages.
        as_time: whether text holds dates; None: inferred.
        local: whether times with a zone are read by its clocks; None: where their step is longer so.

    Raises:
        DataError: an infinite value, values of several types in one column, or an unknown dtype.
    """
    pd = pandas()
    dtype = series.dtype
    fault: Fault = Invalid(caller).of(DataError, f"column {name!r}")
    if isinstance(dtype, pd.ArrowDtype):
        plain = read(_out_of_arrow(series), name, caller=caller, as_time=as_time, local=local)
        if _arrow_dtype(str(dtype)) != dtype:
            raise fault(f"must be of an Arrow type that pandas knows by name, got {dtype}")
        return Values(plain.present, plain.missing, replace(plain.storage, arrow=str(dtype)))
    if isinstance(dtype, pd.SparseDtype):
        raise fault(f"must be dense (series.sparse.to_dense()), got {dtype}")
    missing = series.isna().to_numpy(dtype=bool)
    present = series[~missing] if missing.any() else series
    if isinstance(dtype, pd.CategoricalDtype):
        kept = (str(dtype.categories.dtype), *(tag(value, name, caller) for value in dtype.categories))
        if str(dtype.categories.dtype).startswith("datetime"):
            kept = ("datetime", *kept[1:])
        storage = Storage("category", "label", categories=kept, ordered=bool(dtype.ordered))
        return Values(np.asarray(present.astype(object)), missing, storage)
    if pd.api.types.is_bool_dtype(dtype):
        return Values(np.asarray(present.astype(object)), missing, Storage(str(dtype), "label"))
    if pd.api.types.is_integer_dtype(dtype):
        wide = "uint64" if str(dtype).lower() == "uint64" else "int64"
        return Values(present.to_numpy(dtype=wide), missing, Storage(str(dtype), "whole"))
    if pd.api.types.is_float_dtype(dtype):
        numbers = np.asarray(present.to_numpy(dtype=dtype if isinstance(dtype, np.dtype) else str(dtype).lower()))
        found = Values(numbers, missing, Storage(str(dtype), "real"))
        _check_finite(found, fault)
        return found
    if isinstance(dtype, pd.DatetimeTZDtype):
        numbers = present.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().view("int64")
        clock = present.dt.tz_localize(None).to_numpy().view("int64")
        if local is None:
            again = Storage(str(dtype), "time", local=True).restore(clock, missing[~missing])
            local = _step(clock) > _step(numbers) and bool((again.to_numpy() == present.to_numpy()).all())
        return Values(clock if local else numbers, missing, Storage(str(dtype), "time", local=local))
    if isinstance(dtype, np.dtype) and dtype.kind in "mM":
        return Values(present.to_numpy().view("int64"), missing, Storage(str(dtype), "time"))
    if isinstance(dtype, pd.StringDtype):
        na = "nan" if dtype.na_value is not pd.NA else "NA"
        return _text(present, missing, Storage(str(dtype), "label", string=(dtype.storage, na)), as_time, fault)
    if pd.api.types.is_object_dtype(dtype):
        return _objects(series, present, missing, as_time, fault)
    raise fault(f"must hold numbers, text, booleans or dates, got {dtype}")


def _step(times: NDArray[np.int64]) -> int:
    """The largest whole number of which all distances are multiples."""
    return int(np.gcd.reduce(np.diff(times))) if len(times) > 1 else 0


def _objects(series: Any, present: Any, missing: NDArray[np.bool_], as_time: bool | None, fault: Fault) -> Values:
    pd = pandas()
    gaps = series[missing]
    gap = "nan" if len(gaps) and isinstance(gaps.iloc[0], float) else "None"
    kind = pd.api.types.infer_dtype(present, skipna=False)
    if kind in ("string", "empty"):
        return _text(present, missing, Storage("object", "label", missing=gap), as_time, fault)
    if kind == "boolean":
        return Values(np.asarray(present), missing, Storage("object", "label", missing=gap))
    if kind == "integer" and all(-(2**63) <= value < 2**63 for value in present):
        return Values(present.to_numpy(dtype="int64"), missing, Storage("object", "whole", missing=gap))
    if kind == "integer":
        row, wide = next(
            (i, v) for i, v in zip(np.flatnonzero(~missing), present, strict=True) if not -(2**63) <= v < 2**63
        )
        raise fault(f"row {row} must be a whole number of at most 64 bits, got {wide!r:.40}")
    if kind == "floating":
        found = Values(present.to_numpy(dtype="float64"), missing, Storage("object", "real", missing=gap))
        _check_finite(found, fault)
        return found
    if kind == "date":
        days = present.to_numpy(dtype="datetime64[D]").astype("int64")
        return Values(days, missing, Storage("object", "time", date=True, missing=gap))
    first = present.iloc[0]
    for row, value in zip(np.flatnonzero(~missing), present, strict=True):
        if type(value) is not type(first):
            got = f"{value!r:.40} ({type(value).__name__})"
            raise fault(f"row {row} must hold {type(first).__name__} as the rows above it, got {got}")
    got = type(first).__name__
    raise fault(f"row {np.flatnonzero(~missing)[0]} must hold a number, text, boolean or date, got {got}")


def _text(present: Any, missing: NDArray[np.bool_], storage: Storage, as_time: bool | None, fault: Fault) -> Values:
    objects = np.asarray(present.astype(object))
    for row, value in zip(np.flatnonzero(~missing), objects, strict=True):
        if not value.isascii() and not _encodes(value):
            raise fault(f"row {row} must be text that UTF-8 can write, got {value!r:.40}")
    found = None if as_time is False else dates.find(present, required=bool(as_time))
    if found is not None:
        format, moments = found
        return Values(moments, missing, Storage(**vars(storage) | {"family": "time", "format": format}))
    if as_time:
        raise fault(f"must hold dates of one format such as {dates.FORMATS[0]}, got {objects[:1]!r:.60}")
    return Values(objects, missing, storage)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _check_finite(values: Values, fault: Fault) -> None:
    wrong = np.flatnonzero(~(np.abs(values.present.astype(np.float64)) <= LARGEST))
    if len(wrong):
        got, row = values.present[wrong[0]], values.row(int(wrong[0]))
        rule = "a finite number" if np.isinf(got) else f"at most {LARGEST:g} in magnitude"
        raise fault(f"row {row} must be {rule}, got {got:g}")


def _out_of_arrow(series: Any) -> Any:
    arrow = need("pyarrow", what="fastgan.tabular", package="pyarrow")
    array = arrow.array(series)
    if array.null_count and arrow.types.is_integer(array.type):
        return series.astype("UInt64" if str(array.type) == "uint64" else "Int64")
    return array.to_pandas()


def _arrow_dtype(name: str) -> Any:
    """The Arrow dtype that prints as this name; None where pandas knows none."""
    pd = pandas()
    if name == "string[pyarrow]":  # which pandas takes for its own strings
        return pd.ArrowDtype(need("pyarrow", what="fastgan.tabular", package="pyarrow").string())
    try:
        return pd.api.types.pandas_dtype(name)
    except (TypeError, NotImplementedError):
        return None


def _unit(dtype: str) -> tuple[str, str | None]:
    """Of "datetime64[us, Europe/Paris]": "us" and the zone."""
    inside = dtype[dtype.index("[") + 1 : -1]
    unit, _, zone = inside.partition(", ")
    return unit, zone or None


def tag(value: Any, name: Hashable, caller: str = "save") -> Any:
    """A label of the column `name` as a JSON value.

    Raises:
        DataError: the label is not a text, number, boolean or date.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, pandas().Timestamp):
        return {"timestamp": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"date": value.isoformat()}
    got = type(value).__name__
    raise Invalid(caller)(
        DataError, f"column {name!r}", f"must have labels of text, numbers, booleans or dates, got {got}"
    )


def untag(value: Any) -> Any:
    """The label that `tag` wrote."""
    if not isinstance(value, dict):
        return value
    if "timestamp" in value:
        return pandas().Timestamp(value["timestamp"])
    return datetime.date.fromisoformat(value["date"])
