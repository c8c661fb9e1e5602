"""Dates in text: every format is found, learnt as a date, compared as one, and written as it was."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fastgan.data import DataError
from fastgan.data.frames import open_table
from fastgan.tabular import Inequality, TableTransformer, dates
from fastgan.tabular.conditions import Wanted
from fastgan.tabular.constraints import fit_all, from_dict

pd = pytest.importorskip("pandas")


def text_of(format: str, n: int = 200) -> Any:
    return dates.write(pd.Series(pd.date_range("1999-01-05 01:02:03", periods=n, freq="37h")), format)


@pytest.mark.parametrize("format", dates.FORMATS)
def test_dates_come_back_as_they_were_written(format: str) -> None:
    table = pd.DataFrame({"day": text_of(format), "n": np.arange(200) % 7})
    transformer = TableTransformer().fit(table)
    assert transformer.columns[0].kind == "datetime"
    back = transformer.inverse(transformer.transform(table))
    assert back.dtypes.equals(table.dtypes) and back.equals(table)


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("%-m/%-d/%Y", "1/5/1999"),
        ("%-d.%-m.%Y %-H:%M", "5.1.1999 1:02"),
        ("%-H:%M:%S", "1:02:03"),
        ("%b %-d, %Y", "Jan 5, 1999"),
        ("%d/%m/%y", "05/01/99"),
    ],
)
def test_what_the_directives_write(format: str, expected: str) -> None:
    assert text_of(format, 1).tolist() == [expected]
    assert dates.read(expected, format).day in (1, 5)  # hours are of the first of January


@pytest.mark.parametrize(
    "text",
    [
        "1.2.3 2.10.4 3.1.11",
        "1,234 2,345 3,456",
        "12:5 13:7 14:9",
        "30/2/2020 1/2/2020 2/2/2020",
        "3-2020 4-2020 5-2020",
        "1/5/2020 01/06/2020 3/5/2020",
    ],
)
def test_what_no_format_writes_is_no_date(text: str) -> None:
    assert dates.find(pd.Series(text.split() * 9), required=False) is None


def test_dates_in_text_are_read_in_the_format_of_their_column() -> None:
    table = pd.DataFrame({"day": pd.date_range("2020-01-01", periods=60, freq="5D").strftime("%d/%m/%Y")})
    transformer = TableTransformer().fit(table)
    rows, codes = pd.DataFrame({"day": ["02/05/2020", "05/02/2020", "31/03/2020"]}), np.zeros((3, 0), dtype=np.int64)
    for low, high in (("2020-01-01", "2020-03-31"), ("01/01/2020", "31/03/2020")):
        assert Wanted({"day": (low, high)}, transformer).holds(rows, codes).tolist() == [False, True, True]
    with pytest.raises(ValueError, match=r"conditions\['day'\] must have no time zone, as the column"):
        Wanted({"day": "2020-01-01T00:00:00Z"}, transformer)


def test_dates_in_text_are_compared_as_dates() -> None:
    days = pd.date_range("2020-01-01", periods=40, freq="7D")
    table = pd.DataFrame({"s": days.strftime("%d/%m/%Y"), "e": (days + pd.Timedelta("40D")).strftime("%Y-%m-%d")})
    (rule,) = fit_all([Inequality("s", "e")], open_table(table))
    rows = pd.DataFrame({"s": ["03/12/2020", "03/12/2020", None], "e": ["2020-01-25", "2020-12-04", "2020-01-01"]})
    assert rule.holds(rows).tolist() == [False, True, True]
    again = from_dict(json.loads(json.dumps(rule.as_dict())))
    assert again == rule and again.holds(rows).tolist() == [False, True, True]
    with pytest.raises(DataError, match="column 's' must hold dates of one format"):
        fit_all([Inequality("s", "e")], open_table(table.assign(s="soon")))
