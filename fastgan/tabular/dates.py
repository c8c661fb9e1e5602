"""Dates in text: the format of a column, found, read and written."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._extras import need

# A format fits only if it writes every cell exactly. %-d, %-m, %-H: without a leading zero.
FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y",
           "%d.%m.%Y", "%d-%m-%Y", "%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%Y%m%dT%H%M%S", "%H:%M:%S",
           "%H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+00:00", "%-d/%-m/%Y", "%-m/%-d/%Y",
           "%-d.%-m.%Y", "%-d-%-m-%Y", "%Y-%-m-%-d", "%Y/%-m/%-d", "%-d/%-m/%Y %-H:%M", "%-m/%-d/%Y %-H:%M",
           "%-d.%-m.%Y %-H:%M", "%-H:%M", "%-H:%M:%S", "%d/%m/%y", "%m/%d/%y", "%-d/%-m/%y", "%-m/%-d/%y", "%d.%m.%y",
           "%d-%b-%Y", "%d %b %Y", "%d-%b-%y", "%b %d, %Y", "%B %d, %Y", "%b %-d, %Y", "%B %-d, %Y",
           "%-d %B %Y")  # fmt: skip
_LEAST = 3  # different dates in a column of text, for it to be taken for dates
_UNPADDED = {"%-d": "day", "%-m": "month", "%-H": "hour"}


def read(text: Any, format: str, **options: Any) -> Any:
    """`pandas.to_datetime` of text, or of a Series of it, in one of `FORMATS`."""
    pd = need("pandas", what="fastgan.tabular", package="pandas")
    return pd.to_datetime(text, format=format.replace("%-", "%"), **options)  # it reads numbers of one digit too


def write(dates: Any, format: str) -> Any:
    """A Series of dates -> one of text. strftime of C has %-d on some platforms only."""
    text: Any = ""
    for part in re.split(f"({'|'.join(_UNPADDED)})", format):
        if part in _UNPADDED:
            text = text + getattr(dates.dt, _UNPADDED[part]).astype(str)
        elif part:
            text = text + dates.dt.strftime(part)
    return text


def find(text: Any, *, required: bool) -> tuple[str, NDArray[np.int64]] | None:
    """The format of a Series of text and its seconds since 1970; None if no format writes every cell exactly.

    Args:
        text: without missing cells.
        required: of two dates, too.
    """
    shape = _shape(str(text.iloc[0])) if len(text) else ""
    for format in FORMATS:
        if _SHAPES[format] != shape or _exactly(text.iloc[:50], format) is None:
            continue
        dates = _exactly(text, format)
        if dates is not None and (required or dates.nunique() >= _LEAST):
            return format, dates.to_numpy().astype("datetime64[s]").astype("int64")
    return None


def _shape(text: str) -> str:
    """A text with 9 for each run of digits and a for each of letters."""
    return re.sub(r"[A-Za-z]+", "a", re.sub(r"[0-9]+", "9", text))


_SHAPES = {format: _shape(re.sub("%[bB]", "a", re.sub("%-?[YymdHMS]", "9", format))) for format in FORMATS}


def _exactly(text: Any, format: str) -> Any:
    """The dates; None unless the format writes every cell exactly."""
    dates = read(text, format, errors="coerce")
    fits = not dates.isna().any() and (write(dates, format).to_numpy() == text.to_numpy()).all()
    return dates if fits else None
