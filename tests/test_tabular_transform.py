"""Tables to rows of a GAN and back: dtypes, bounds, labels and names come back exactly."""

from __future__ import annotations

import datetime
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgan.data import DataError, DataWarning
from fastgan.tabular import TableTransformer, transformer
from fastgan.tabular.columns import Category, Number
from fastgan.tabular.numeric import Whole

pd = pytest.importorskip("pandas")

QUIET = settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck), derandomize=True)


def quietly(table: Any, **options: Any) -> TableTransformer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return TableTransformer(**options).fit(table)


# ---------------------------------------------------------------- any table comes back

NAMES = st.text("abc é$_", min_size=1, max_size=5)
WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "Int8", "Int64", "UInt64")
REAL = ("float32", "float64", "Float64", "Float32")
TIMES = ("datetime64[ns]", "datetime64[s]", "datetime64[us, UTC]", "datetime64[ns, Europe/Paris]", "timedelta64[us]")


@st.composite
def columns(draw: st.DrawFn, n: int) -> Any:
    kind = draw(st.sampled_from(("whole", "real", "time", "text", "bool", "category", "object", "constant", "date")))
    gaps = draw(st.lists(st.booleans(), min_size=n, max_size=n)) if draw(st.booleans()) else [False] * n
    many = {"min_size": n, "max_size": n}
    if kind == "whole":
        dtype = draw(st.sampled_from(WHOLE))
        info = np.iinfo(dtype.lower())
        numbers = draw(st.lists(st.integers(int(info.min), int(info.max)), **many))
        column = pd.Series(pd.array(np.array(numbers, dtype=dtype.lower()), dtype=dtype))
        return column.mask(np.array(gaps)) if dtype[0] in "IU" else column
    if kind == "real":
        dtype = draw(st.sampled_from(REAL))
        width = 32 if "32" in dtype else 64
        numbers = draw(st.lists(st.floats(-(2.0**99), 2.0**99, width=width), **many))
        if draw(st.booleans()):
            numbers = [round(number % 1000, 2) for number in numbers]
        column = pd.Series(pd.array(np.array(numbers, dtype=dtype.lower()), dtype=dtype))
        return column.mask(np.array(gaps))
    if kind == "time":
        dtype = draw(st.sampled_from(TIMES))
        seconds = np.array(draw(st.lists(st.integers(-(10**9), 4 * 10**9), **many)))
        bare = dtype.split(",")[0].rstrip("]") + "]"
        column = pd.Series(seconds.astype("datetime64[s]" if dtype[0] == "d" else "timedelta64[s]").astype(bare))
        if "," in dtype:
            column = column.dt.tz_localize("UTC").astype(dtype)
        return column.mask(np.array(gaps))
    labels = st.sampled_from(draw(st.lists(st.text("xyz 0,ü", max_size=4), min_size=1, max_size=6)))
    text = draw(st.lists(labels, **many))
    if kind == "text":
        return pd.Series(text, dtype=draw(st.sampled_from(("str", "string", "object")))).mask(np.array(gaps))
    if kind == "bool":
        return pd.Series(
            draw(st.lists(st.booleans(), **many)), dtype=draw(st.sampled_from(("bool", "boolean", "object")))
        )
    if kind == "category":
        unused = ["never"] if draw(st.booleans()) else []
        known = [*dict.fromkeys(text), *unused]
        return pd.Series(pd.Categorical(text, categories=known, ordered=draw(st.booleans()))).mask(np.array(gaps))
    if kind == "object":
        return pd.Series([None if gap else value for gap, value in zip(gaps, text, strict=True)], dtype=object)
    if kind == "date":
        days = draw(st.lists(st.integers(1, 3_000_000), **many))
        return pd.Series([datetime.date.fromordinal(day) for day in days], dtype=object)
    return pd.Series([draw(st.sampled_from((5, 2.5, "one", True)))] * n)


@st.composite
def tables(draw: st.DrawFn) -> Any:
    n = draw(st.integers(1, 25))
    names = draw(st.lists(st.one_of(NAMES, st.integers(0, 9)), min_size=1, max_size=4, unique=True))
    frame = pd.concat([draw(columns(n)) for _ in names], axis=1)
    frame.columns = pd.Index(names, dtype=object)
    return frame


@QUIET
@given(tables(), st.sampled_from(("modes", "quantile")))
def test_any_table_comes_back(table: Any, normalization: Any) -> None:
    """Names, order, dtypes, gaps and labels exactly; numbers and times within their range."""
    fitted = quietly(table, normalization=normalization)
    rows = fitted.transform(table)
    assert rows.dtype == np.float32 and rows.shape == (len(table), fitted.width)
    assert (np.abs(rows) <= 1).all()
    back = fitted.inverse(rows)
    assert list(back.columns) == list(table.columns)
    for number, column in enumerate(fitted.columns):
        was, now = table.iloc[:, number], back.iloc[:, number]
        assert now.dtype == was.dtype, column
        if column.kind == "identifier":
            continue
        assert (now.isna().to_numpy() == was.isna().to_numpy()).all(), column
        was, now = was.dropna(), now.dropna()
        if isinstance(column, Number):
            assert (now >= was.min()).all() and (now <= was.max()).all()
            continue
        assert now.tolist() == was.tolist(), column
    again = TableTransformer.from_dict(json.loads(json.dumps(fitted.as_dict())))
    assert (again.transform(table) == rows).all() and again.inverse(rows).equals(back)


@QUIET
@given(st.integers(0, 2**32), st.sampled_from(("modes", "quantile")))
def test_numbers_come_back_to_the_precision_of_a_scalar(seed: int, normalization: Any) -> None:
    rng = np.random.default_rng(seed)
    n = 300
    frame = pd.DataFrame({
        "tail": rng.lognormal(0, 3, n),
        "cents": rng.normal(1000, 300, n).round(2),
        "age": rng.integers(17, 90, n),
        "thousands": rng.integers(-50, 50, n) * 1000 + 7,
        "spiky": np.where(rng.random(n) < 0.7, 0.0, rng.exponential(1e4, n)),
        "day": pd.Timestamp("2020-02-29") + pd.to_timedelta(rng.integers(0, 3000, n), "D"),
        "big": 2**62 + rng.integers(0, 2000, n),
    })  # fmt: skip
    fitted = quietly(frame, normalization=normalization)
    back = fitted.inverse(fitted.transform(frame))
    for name in ("age", "day", "thousands", "big"):
        assert (back[name] == frame[name]).all(), name
    assert ((back["spiky"] == 0) == (frame["spiky"] == 0)).all()
    assert (back["cents"] == back["cents"].round(2)).all()
    assert np.abs(back["cents"] - frame["cents"]).max() <= 0.011
    positive = frame["tail"].to_numpy()
    slack = 2e-6 * max(positive.max() ** 0.5, 1) if normalization == "quantile" else 0
    close = np.abs(np.log(back["tail"].to_numpy()) - np.log(positive)) < 0.05
    assert slack or close.mean() > 0.98


def test_large_numbers_keep_their_digits() -> None:
    stamps = pd.Series(
        pd.Timestamp("2024-05-01 12:00:00.123456789") + pd.to_timedelta(np.arange(90) * 1_000_000_007, "ns")
    )
    frame = pd.DataFrame(
        {"stamp": stamps, "n": 2**63 - 1 - 10 * np.arange(90), "u": np.uint64(2**64 - 1) - np.arange(90).astype("u8")}
    )
    fitted = quietly(frame, kinds={"n": "integer", "u": "integer"})
    assert fitted.inverse(fitted.transform(frame)).equals(frame)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_whole_numbers_of_the_whole_range(dtype: str) -> None:
    info = np.iinfo(dtype)
    values = np.array([info.min, info.max, 0, 17], dtype=dtype)
    grid = Whole.fit(values)
    back = grid.from_float(grid.to_float(values))
    assert back[0] == info.min and back[1] == info.max and back.dtype == dtype
    assert np.abs(back[2:].astype(object) - values[2:].astype(object)).max() <= 2**11  # what float64 holds of 2**64


def test_rare_labels_are_kept_and_gaps_are_learnt() -> None:
    frame = pd.DataFrame({"a": ["often"] * 999 + ["once"], "b": [1.5, None] * 500})
    fitted = quietly(frame)
    assert isinstance(label := fitted.columns[0], Category) and label.labels == ("often", "once")
    rows = fitted.transform(frame)
    back = fitted.inverse(rows)
    assert back.equals(frame)
    assert fitted.columns[1].size == 2 and not fitted.columns[1].has_scalar  # 1.5, or nothing: no density


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.linspace(0, 1, 50), "continuous"),
        (np.arange(50) % 30, "integer"),
        (np.where(np.arange(200) % 9 == 0, np.arange(200) ** 4, 0) + np.arange(200) % 13, "count"),
        (np.arange(60) % 3, "categorical"),
        (np.arange(60) + 1000, "identifier"),
        ([True, False] * 20, "boolean"),
        ([f"u{i % 7}" for i in range(60)], "categorical"),
        ([f"u{i:03}" for i in range(60)], "identifier"),
        (pd.date_range("2020-01-01", periods=40), "datetime"),
        ([f"2020-01-{i % 28 + 1:02}" for i in range(60)], "datetime"),
        ([f"{i % 28 + 1:02}/02/2020" for i in range(60)], "datetime"),
        ([f"{i % 24:02}:{i % 60:02}" for i in range(60)], "datetime"),
        ([f"2020-01-{i % 28 + 1:02}T12:00:{i % 60:02}Z" for i in range(60)], "datetime"),
        (pd.date_range("2020-01-01", periods=60, freq="7h", tz="UTC").astype(str), "datetime"),
        ([f"2020-01-{i % 28 + 1:02}T12:{i % 60:02}" for i in range(60)], "datetime"),
        ([7] * 30, "constant"),
        ([None] * 30, "constant"),
    ],
)  # fmt: skip
def test_kinds_are_found_out(values: Any, kind: str) -> None:
    frame = pd.DataFrame({"x": values})
    fitted = quietly(frame)
    assert fitted.columns[0].kind == kind
    if kind not in ("identifier", "continuous", "count"):
        assert fitted.inverse(fitted.transform(frame)).equals(frame)


def test_kinds_can_be_given() -> None:
    frame = pd.DataFrame(
        {"zip": [10115, 80331, 20095] * 20, "year": [2000.0, 2001.0, 2002.0] * 20, "day": ["2020-01-01"] * 60}
    )
    fitted = quietly(frame, kinds={"zip": "categorical", "year": "categorical", "day": "categorical"})
    assert {column.kind for column in fitted.columns} == {"categorical"}
    assert fitted.inverse(fitted.transform(frame)).equals(frame)
    assert quietly(frame, kinds={"zip": "integer"}).columns[0].kind == "integer"


def test_identifiers_are_new_and_all_different() -> None:
    frame = pd.DataFrame({
        "code": [f"AB-{i:04}" for i in range(500)],
        "uuid": [f"{i * 2654435761 % 2**32:08x}-{i:04x}" for i in range(500)],
        "name": ["x" * (i % 7) + str(i) for i in range(500)],
        "row": np.arange(500) + 2**60,
        "v": np.arange(500) % 13,
    })  # fmt: skip
    fitted = quietly(frame)
    assert [column.kind for column in fitted.columns[:4]] == ["identifier"] * 4
    back = fitted.inverse(fitted.transform(frame), first=3)
    assert all(back[name].is_unique for name in ("code", "uuid", "name", "row"))
    assert (
        back["code"].str.fullmatch(r"AB-\d{4}").all() and back["uuid"].str.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}").all()
    )
    assert back["row"].min() == 2**60 + 503


def test_rows_of_the_small_form_are_those_of_the_large_one() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=200), "l": rng.choice(list("abc"), 200), "k": rng.integers(0, 40, 200)})
    fitted = quietly(frame)
    encoded, rows = fitted.encode(frame), fitted.transform(frame)
    for head in fitted.heads:
        part = rows[:, head.start : head.stop]
        if head.kind == "softmax":
            assert ((part == 0) | (part == 1)).all() and (part.sum(1) == 1).all()
    assert fitted.decode(encoded).equals(fitted.inverse(rows))


# ---------------------------------------------------------------- bad tables


def refused(table: Any, *parts: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        quietly(table, **options)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def test_bad_tables_are_refused_in_a_sentence() -> None:
    refused(pd.DataFrame({"a": []}), "at least one row")
    refused(pd.DataFrame(index=range(3)), "at least one column")
    refused(pd.DataFrame([[1, 2]], columns=["a", "a"]), "'a' in columns 0 and 1")
    refused(pd.DataFrame({"a": [1.0, 2.0, np.inf]}), "column 'a' row 2", "finite")
    refused(pd.DataFrame({"a": [1.0, -np.inf]}), "column 'a' row 1", "finite")
    refused(pd.DataFrame({"a": [1.0, None, 1e200]}), "column 'a' row 2", "1e+150")
    refused(pd.DataFrame({"a": ["x", None, 5, "y"]}), "column 'a' row 2", "must hold str", "5 (int)")
    refused(pd.DataFrame({"a": [[1], [2]]}), "column 'a' row 0", "list")
    refused(pd.DataFrame({"a": [1j, 2j]}), "column 'a'", "complex128")
    refused(
        pd.DataFrame({"a": [str(i // 2) for i in range(200_000)]}),
        "column 'a'",
        "1,000 categories",
        "100,000",
        "row 2000",
    )
    refused(pd.DataFrame({"a": [1, 2]}), "'b'", kinds={"b": "integer"})
    refused(pd.DataFrame({"a": ["x", "y"]}), "column 'a' row 0", "number", kinds={"a": "integer"})
    refused(pd.DataFrame({"a": [1.0, 2.5]}), "column 'a' row 1", "whole", kinds={"a": "integer"})
    refused(pd.DataFrame({"a": [3, -1]}), "column 'a' row 1", "at least 0", kinds={"a": "count"})
    refused(pd.DataFrame({"a": [3, 4]}), "column 'a' row 1", kinds={"a": "constant"})
    refused(pd.DataFrame({"a": [0.5, 4.0]}), "must be 0.5 as the first", "got 4.0", kinds={"a": "constant"})
    refused(pd.DataFrame({"a": [2.0, 4.5]}), "column 'a' row 1 must be whole or text", kinds={"a": "identifier"})
    refused(pd.DataFrame({"a": [None, "x"]}), "column 'a' row 0", kinds={"a": "identifier"})
    refused(pd.DataFrame({"a": ["x", "y", "z"]}), "column 'a' row 2", "two values", kinds={"a": "boolean"})
    refused(pd.DataFrame({(1, 2): [3]}), "column names must be text")
    with pytest.raises(TypeError, match="table must be a DataFrame"):
        TableTransformer().fit([[1, 2]])
    with pytest.raises(ValueError, match=r"kinds\['a'\] must be one of continuous"):
        TableTransformer(kinds={"a": "numeric"})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"kinds must be a kind by column name, got \['a'\]"):
        TableTransformer(kinds=["a"])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="fitted first"):
        TableTransformer().transform(pd.DataFrame({"a": [1]}))


def test_a_table_unlike_the_fitted_one_is_refused() -> None:
    fitted = quietly(pd.DataFrame({"a": ["x", "y"] * 9, "b": np.arange(18) % 11 / 3}))
    for frame, parts in (
        (pd.DataFrame({"a": ["x", "q"], "b": [1.0, 2.0]}), ("column 'a' row 1", "2 categories", "'q'")),
        (pd.DataFrame({"a": ["x"]}), ("must have the column 'b'",)),
        (pd.DataFrame({"a": ["x", None], "b": [1.0, 2.0]}), ("column 'a' row 1", "got none")),
        (pd.DataFrame({"a": ["x", "y"], "b": [1.0, None]}), ("column 'b' row 1", "got none")),
        (pd.DataFrame({"a": ["x", "y"], "b": ["1", "2"]}), ("column 'b'", "float64")),
    ):
        with pytest.raises(DataError) as caught:
            fitted.transform(frame)
        assert all(part in str(caught.value) for part in parts), caught.value
    outside = fitted.transform(pd.DataFrame({"b": [-100.0, 100.0], "a": ["x", "y"]}))  # any order, any number
    assert np.abs(outside).max() == 1
    with pytest.raises(ValueError, match=r"rows must be \(n, "):
        fitted.inverse(np.zeros((3, 1)))


def test_columns_that_several_threads_fit_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"x{i}": rng.normal(size=300) + 9 * rng.integers(0, 1 + i % 3, 300) for i in range(12)})
    one = quietly(frame, threads=1).as_dict()
    used: list[int] = []
    pool = transformer.ThreadPoolExecutor
    monkeypatch.setattr(transformer, "ThreadPoolExecutor", lambda n: (used.append(n), pool(n))[1])
    assert quietly(frame, threads=3).as_dict() == one  # too few rows: threads would wait for one another
    monkeypatch.setattr(transformer, "_MANY_ROWS", 300)
    assert quietly(frame, threads=3).as_dict() == one and used == [1, 3]


def test_what_is_not_learnt_is_said() -> None:
    with pytest.warns(DataWarning) as caught:
        TableTransformer().fit(pd.DataFrame({"code": [f"k{i}" for i in range(30)], "gone": [None] * 30}))
    assert "column 'code' is taken for an identifier" in str(caught[0].message)
    assert "column 'gone' has no value" in str(caught[1].message)


@pytest.mark.parametrize(
    "form", ["{:,}", "${:,.2f}", "{:.1f}%", "{:.2f} \u20ac", "({})", "\u2212{}", "CHF {}", "{:_}", "{},05", "{},000"]
)
def test_numbers_as_people_write_them_are_named(form: str) -> None:
    """They are text: a column of prices was made anew as price-000001, and nothing said why."""
    values = np.arange(60) * 1237 + 1001
    prices = pd.DataFrame({"price": [form.format(k) for k in values], "n": np.arange(60) % 7})
    with pytest.warns(DataWarning, match=r"'price' is taken for an identifier.* are numbers, write them without"):
        TableTransformer().fit(prices)
    twice = pd.concat([prices, prices], ignore_index=True)
    with pytest.warns(DataWarning, match=r"'price' is learnt as labels; if texts such as .* are numbers"):
        TableTransformer().fit(twice)


@pytest.mark.parametrize("form", ["1.2.{}", "{}-{}", "{:05}", "A{}", "10.0.{}.1", "{} m"])
def test_codes_are_not_taken_for_numbers(form: str) -> None:
    texts = [form.format(k % 30, k % 30) for k in range(60)]
    TableTransformer().fit(pd.DataFrame({"code": texts, "n": np.arange(60) % 7}))  # a warning would fail


def test_numbers_among_which_is_a_text_are_named() -> None:
    texts = ["?" if i % 9 == 7 else str(i % 40 / 4) for i in range(200)]
    with pytest.warns(DataWarning) as caught:
        TableTransformer().fit(pd.DataFrame({"x": texts}))
    says = [str(warning.message) for warning in caught]
    assert says == ["fit: column 'x' is learnt as labels: most of the 41 are numbers, but not '?'"]
    refused(pd.DataFrame({"x": texts}), "row 7 must hold a number", "got the str '?'", kinds={"x": "continuous"})
    refused(pd.DataFrame({"x": texts[:7]}), "row 0 must hold a number", "got the str '0.0'", kinds={"x": "continuous"})
    many = ["?" if i == 5 else str(i % 2000) for i in range(9000)]
    refused(pd.DataFrame({"x": many}), "at most 1,000 categories, got 2,001", "most are numbers, but not '?'")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TableTransformer().fit(
            pd.DataFrame(
                {"x": ["0", "1", "2", "3+"] * 20, "zip": [f"{i % 40:05}" if i % 7 else "none" for i in range(80)]}
            )
        )
        TableTransformer(kinds={"x": "categorical"}).fit(pd.DataFrame({"x": texts}))


def test_saved_tables_are_whole_or_refused(tmp_path: Path) -> None:
    fitted = quietly(pd.DataFrame({"a": ["x", "y"] * 9, "b": np.arange(18) % 11 / 3}))
    path = tmp_path / "table.json"
    fitted.save(path)
    assert TableTransformer.load(path).as_dict() == fitted.as_dict()
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ValueError, match=r"must be a table saved by"):
        TableTransformer.load(path)
    path.write_text('{"format": 1}')
    with pytest.raises(ValueError, match=r"must be whole"):
        TableTransformer.load(path)


@pytest.mark.parametrize(("module", "package"), [("pandas", "pandas"), ("sklearn.mixture", "scikit-learn")])
def test_a_missing_library_is_named(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"x": [0.1, 0.25, 0.7]})
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {package}: pip install {package}"):
        TableTransformer().fit(frame)


@pytest.mark.parametrize("dtype", ["int64[pyarrow]", "timestamp[us][pyarrow]", "double[pyarrow]", "bool[pyarrow]"])
@pytest.mark.parametrize("gaps", [False, True])
def test_dtypes_of_arrow_come_back(dtype: str, gaps: bool) -> None:
    pytest.importorskip("pyarrow")
    values: Any = pd.Series(pd.date_range("2020", periods=40)) if "time" in dtype else pd.Series(range(40)) ** 2
    column = (values % 2 == 0 if "bool" in dtype else values).astype(dtype)
    table = pd.DataFrame({"x": column.where(np.arange(40) % 5 > 0) if gaps else column})
    transformer = quietly(table)
    back = transformer.inverse(transformer.transform(table))
    assert back["x"].dtype == table["x"].dtype
    assert back["x"].isna().equals(table["x"].isna())
    if transformer.columns[0].kind != "identifier" and "double" not in dtype:
        pd.testing.assert_frame_equal(back, table)


def test_text_of_arrow_comes_back_and_a_type_without_a_name_is_refused() -> None:
    arrow = pytest.importorskip("pyarrow")
    text = pd.Series(["a", None, "b"] * 8)
    table = pd.DataFrame({"x": text.astype(pd.ArrowDtype(arrow.string()))})
    transformer = quietly(table)
    pd.testing.assert_frame_equal(transformer.inverse(transformer.transform(table)), table)
    labels = text.astype(pd.ArrowDtype(arrow.dictionary(arrow.int32(), arrow.string())))
    refused(pd.DataFrame({"x": labels}), "column 'x' must be of an Arrow type that pandas knows by name", "dictionary")


@pytest.mark.parametrize(("values", "message"), [
    (["a", "\ud800", "b"], r"column 'x' row 1 must be text that UTF-8 can write, got '\\ud800'"),
    ([1, 2**63, 2], "column 'x' row 1 must be a whole number of at most 64 bits, got 9223372036854775808"),
])  # fmt: skip
def test_objects_that_no_table_holds_are_refused(values: list[Any], message: str) -> None:
    if isinstance(values[0], int):
        values = [*values, -1]  # or pandas stores uint64
    with pytest.raises(DataError, match=message):
        quietly(pd.DataFrame({"x": pd.Series(values, dtype=object)}))


def test_a_sparse_column_is_refused() -> None:
    with pytest.raises(DataError, match=r"column 'x' must be dense \(series.sparse.to_dense\(\)\), got Sparse"):
        quietly(pd.DataFrame({"x": pd.arrays.SparseArray([0, 1, 0, 2])}))
