"""Dates in text: every format is found, learnt as a date, compared as one, and written as it was."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fastgan.data import DataError
from fastgan.data.frames import open_table
from fastgan.tabular import Inequality, Report, TableTransformer, dates
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
        ("%-m/%-d/%Y %-I:%M %p", "1/5/1999 1:02 AM"),
        ("%Y-%m-%dT%H:%M:%S.%3fZ", "1999-01-05T01:02:03.000Z"),
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


@pytest.mark.parametrize(
    ("format", "first"),
    [
        ("%Y-%m-%dT%H:%M:%S.%3fZ", "2021-11-26T23:30:00.007Z"),
        ("%Y-%m-%d %H:%M:%S.%f", "2021-11-26 23:30:00.007008"),
        ("%Y-%m-%dT%H:%M:%S+02:00", "2021-11-26T23:30:00+02:00"),
        ("%Y-%m-%d %H:%M-0530", "2021-11-26 23:30-0530"),
        ("%-m/%-d/%Y %-I:%M:%S %p", "11/26/2021 11:30:00 PM"),
    ],
)
def test_times_with_fractions_offsets_and_halves_of_days(format: str, first: str) -> None:
    """They were taken for identifiers, such as 3333-33-33T33:33:33.333Z, or for labels."""
    times = pd.Series(pd.date_range("2021-11-26 23:30:00.007008", periods=300, freq="17h13min7s9ms3us"))
    table = pd.DataFrame({"at": dates.write(times, format), "n": np.arange(300) % 7})
    assert table["at"][0] == first
    transformer = TableTransformer().fit(table)
    assert transformer.columns[0].kind == "datetime" and transformer.columns[0].storage.format == format
    back = transformer.inverse(transformer.transform(table))
    assert (dates.read(back["at"], format) - dates.read(table["at"], format)).abs().max() < pd.Timedelta("50ms")
    bounds = Wanted({"at": ("2021-12-01", "2021-12-31")}, transformer)
    day = times.dt.strftime("%Y-%m-%d")
    kept = bounds.holds(table, np.zeros((300, 0), dtype=np.int64))
    assert kept.tolist() == day.between("2021-12-01", "2021-12-30").tolist()


def test_offsets_that_change_are_no_format() -> None:
    text = [f"2021-0{month}-0{day}T00:00:00+0{1 + (month > 3)}:00" for month in (1, 3, 5) for day in range(1, 9)]
    assert dates.find(pd.Series(text), required=False) is None


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


def test_days_in_a_zone_begin_at_midnight_all_year() -> None:
    """In UTC they begin at 22:00 or 23:00, and rows had any hour."""
    days = pd.Series(pd.date_range("2020-01-01", periods=700, freq="D", tz="Europe/Rome"))
    days[5] = pd.NaT
    table = pd.DataFrame({"day": days, "n": np.arange(700) % 7})
    transformer = TableTransformer().fit(table)
    x = transformer.transform(table)
    assert transformer.inverse(x).equals(table)
    random = transformer.inverse(np.random.default_rng(0).uniform(-1, 1, x.shape).astype(np.float32))["day"].dropna()
    assert len(random) > 100 and set(random.dt.hour) == {0} and random.dtype == days.dtype
    winter = table[:20].assign(day=days[:20].dt.tz_convert("UTC"))  # of which the hours alone say nothing
    assert transformer.inverse(transformer.transform(winter)).equals(table[:20])
    again = type(transformer.columns[0].storage).from_dict(transformer.columns[0].storage.as_dict())
    assert again == transformer.columns[0].storage


def test_hours_that_a_clock_shows_twice_come_back() -> None:
    hours = pd.date_range("2020-01-01", periods=9000, freq="h", tz="Europe/Rome")
    table = pd.DataFrame({"at": hours, "n": np.arange(9000) % 7})
    transformer = TableTransformer().fit(table)
    assert (transformer.inverse(transformer.transform(table))["at"] == hours).mean() > 0.99


@pytest.mark.parametrize("unit", ["s", "ms", "ns", "date", "text"])
def test_dates_stored_otherwise_than_at_fit_are_the_same_dates(unit: str) -> None:
    """Counts of nanoseconds were taken for microseconds: all rows were the last day, and nothing was said."""
    days = pd.date_range("2020-01-01", periods=300, freq="D")
    table = pd.DataFrame({"day": days.as_unit("us"), "n": np.arange(300) % 7})
    transformer = TableTransformer().fit(table)
    other = days.strftime("%Y-%m-%d") if unit == "text" else days.date if unit == "date" else days.as_unit(unit)
    assert (transformer.transform(table.assign(day=other)) == transformer.transform(table)).all()
    pytest.importorskip("sklearn")
    assert Report(transformer, table, table.assign(day=other)).values["mean_ks"] == 0.0
