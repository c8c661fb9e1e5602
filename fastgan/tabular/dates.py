"""Dates in text: the format of a column, found, read and written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._extras import need

# A format fits only if it writes every cell exactly. %-d, %-m, %-H, %-I: without a leading zero; %3f: milliseconds.
FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y",
           "%d.%m.%Y", "%d-%m-%Y", "%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%Y%m%dT%H%M%S", "%H:%M:%S",
           "%H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+00:00", "%-d/%-m/%Y", "%-m/%-d/%Y",
           "%-d.%-m.%Y", "%-d-%-m-%Y", "%Y-%-m-%-d", "%Y/%-m/%-d", "%-d/%-m/%Y %-H:%M", "%-m/%-d/%Y %-H:%M",
           "%-d.%-m.%Y %-H:%M", "%-H:%M", "%-H:%M:%S", "%d/%m/%y", "%m/%d/%y", "%-d/%-m/%y", "%-m/%-d/%y", "%d.%m.%y",
           "%d-%b-%Y", "%d %b %Y", "%d-%b-%y", "%b %d, %Y", "%B %d, %Y", "%b %-d, %Y", "%B %-d, %Y",
           "%-d %B %Y", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%3f", "%Y-%m-%dT%H:%M:%S.%f",
           "%Y-%m-%dT%H:%M:%S.%3f", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S.%3fZ", "%d/%m/%Y %H:%M:%S",
           "%m/%d/%Y %H:%M:%S", "%d.%m.%Y %H:%M:%S", "%-d/%-m/%Y %-H:%M:%S", "%-m/%-d/%Y %-H:%M:%S",
           "%d/%m/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M:%S %p", "%d/%m/%Y %I:%M %p", "%m/%d/%Y %I:%M %p",
           "%-d/%-m/%Y %-I:%M:%S %p", "%-m/%-d/%Y %-I:%M:%S %p", "%-d/%-m/%Y %-I:%M %p", "%-m/%-d/%Y %-I:%M %p",
           "%I:%M %p", "%-I:%M %p")  # fmt: skip
_LEAST = 3  # different dates in a column of text, for it to be taken for dates
# What strftime of C has on some platforms only, of the `dt` of a Series.
_OWN: dict[str, Callable[[Any], Any]] = {
    "%-d": lambda t: t.day.astype(str),
    "%-m": lambda t: t.month.astype(str),
    "%-H": lambda t: t.hour.astype(str),
    "%-I": lambda t: ((t.hour - 1) % 12 + 1).astype(str),
    "%3f": lambda t: (t.microsecond // 1000).astype(str).str.zfill(3),
}
_OFFSET = re.compile(r"[+-][0-9]{2}:?[0-9]{2}")  # from UTC, the same in all cells


def read(text: Any, format: str, **options: Any) -> Any:
    """`pandas.to_datetime` of text, or of a Series of it, in a format that `find` gives."""
    pd = need("pandas", what="fastgan.tabular", package="pandas")
    known = format.replace("%-", "%").replace("%3f", "%f")  # it reads numbers of fewer digits too
    return pd.to_datetime(text, format=known, **options)


def unit(format: str) -> str:
    """Of the whole numbers that stand for the dates of a format: "s" or "us"."""
    return "us" if "f" in format else "s"


def write(dates: Any, format: str) -> Any:
    """A Series of dates -> one of text."""
    text: Any = ""
    for part in re.split(f"({'|'.join(_OWN)})", format):
        if part:
            text = text + (_OWN[part](dates.dt) if part in _OWN else dates.dt.strftime(part))
    return text


def find(text: Any, *, required: bool) -> tuple[str, NDArray[np.int64]] | None:
    """The format of a Series of text and its `unit`s since 1970; None if no format writes every cell exactly.

    Args:
        text: without missing cells.
        required: of two dates, too.
    """
    first = str(text.iloc[0]) if len(text) else ""
    candidates = [format for format in FORMATS if _SHAPES[format] == _shape(first)]
    if end := _OFFSET.search(first, max(0, len(first) - 6)):
        shape = _shape(first[: end.start()])
        candidates += [format + end[0] for format in FORMATS if _SHAPES[format] == shape and "%M" in format]
    for format in candidates:
        if _exactly(text.iloc[:50], format) is None:
            continue
        dates = _exactly(text, format)
        if dates is not None and (required or dates.nunique() >= _LEAST):
            return format, dates.to_numpy().astype(f"datetime64[{unit(format)}]").astype("int64")
    return None


def _shape(text: str) -> str:
    """A text with 9 for each run of digits and a for each of letters."""
    return re.sub(r"[A-Za-z]+", "a", re.sub(r"[0-9]+", "9", text))


_SHAPES = {format: _shape(re.sub("%[bBp]", "a", re.sub("%[-3]?[YymdHIMSf]", "9", format))) for format in FORMATS}


def _exactly(text: Any, format: str) -> Any:
    """The dates; None unless the format writes every cell exactly."""
    dates = read(text, format, errors="coerce")
    fits = not dates.isna().any() and (write(dates, format).to_numpy() == text.to_numpy()).all()
    return dates if fits else None
