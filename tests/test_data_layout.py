"""Tables as people's programs write them: every layout is read, or refused in one sentence that says what to do."""

from __future__ import annotations

import gzip
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, check_refusal
from data_files import refused

from fastgan.data import DataError, Dataset, DataWarning, as_dataset, layout, read

RNG = np.random.default_rng(0)


def rows_of(path: Path, **options: object) -> list[list[float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return read(path, dtype=torch.float64, **options).tensor().tolist()  # type: ignore[arg-type]


# ---------------------------------------------------------------- delimiters, marks, titles


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ('"height, cm";"weight, kg"\n180;75\n165;60\n', ("height, cm", "weight, kg"), [[180, 75], [165, 60]]),
        ('"height, cm";"weight, kg"\n1,5;2,5\n', ("height, cm", "weight, kg"), [[1.5, 2.5]]),
        ("a;b\n1,5;2\n-,5;3,25e2\n", ("a", "b"), [[1.5, 2], [-0.5, 325]]),
        ("a\tb\n1,5\t2\n", ("a", "b"), [[1.5, 2]]),
        ('"1,5";"2"\n', (), [[1.5, 2]]),
        ("sep=;\na;b\n1;2\n", ("a", "b"), [[1, 2]]),
        ("sep=,\n1,2\n", (), [[1, 2]]),
        ("sep=|\r\nx|y\r\n1|2\r\n", ("x", "y"), [[1, 2]]),
        ("Weather of Oslo\n\nday,degrees\n1,2.5\n2,3\n", ("day", "degrees"), [[1, 2.5], [2, 3]]),
        ("Weather of Oslo,,\nsource: a, b and c\nday,degrees,wind\n1,2,3\n", None, None),
        ("Weather of Oslo,,\n,,\nday,degrees,wind\n1,2,3\n", ("day", "degrees", "wind"), [[1, 2, 3]]),
        ("# by hand\n# a,b\n1,2\n", ("a", "b"), [[1, 2]]),
        ("# a b\n1.0 2.0\n3.0  4.0 \n", ("a", "b"), [[1, 2], [3, 4]]),
        (" 1 2\n 3 4\n", (), [[1, 2], [3, 4]]),
        ("1|2\n3|4\n", (), [[1, 2], [3, 4]]),
        ("title\n1;2\n", (), [[1, 2]]),
        ("a,b\r1,2\r3,4\r", ("a", "b"), [[1, 2], [3, 4]]),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.txt", "table"])
def test_layouts_of_text(
    tmp_path: Path, name: str, text: str, names: tuple[str, ...] | None, rows: list[list[float]] | None
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    if rows is None:
        refused(path, "row 1, column 1 .* must be a number|row 2 must have 3 cells, got 2")
        return
    assert rows_of(path) == rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        assert read(path).column_names == names


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('a,b\n"1,5",2\n', r"row 2, column 1 \('a'\) must be a number, got '1,5' \(decimal commas are read where"),
        (
            "a;b\n1,5;2\n1.5;2\n",
            r"row 2, column 1 \('a'\) must be a number, got '1,5' \(numbers must have decimal points or",
        ),
        ("a;b\n1,5;2\n1.234,5;2\n", r"row 3, column 1 \('a'\) must be a number, got '1\.234,5'"),
        ("sep=;\na;b\n1;x\n", r"row 3, column 2 \('b'\) must be a number, got 'x'"),
        ("Title\n\na,b\n1,2\n3,x\n", r"row 5, column 2 \('b'\) must be a number, got 'x'"),
        ("a,b\n1,2\n3,NA\n", r"row 3, column 2 \('b'\) must be a number, got 'NA'"),
        ("a,b\n1,2\n3,\n", r"row 3, column 2 \('b'\) must be a number, got an empty cell"),
    ],
)
def test_faults_in_such_text_are_named_by_line_and_column(tmp_path: Path, text: str, rule: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        refused(path, rule)


def test_titles_are_said(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("Weather of Oslo\n\nday,degrees\n1,2.5\n")
    with pytest.warns(DataWarning, match=r"^read: .*x\.csv lines 1 to 1 are left out: titles$"):
        read(tmp_path / "x.csv")


def test_utf_16_of_a_spreadsheet(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("größe\tb\r\n1,5\t2\r\n".encode("utf-16"))
    assert rows_of(tmp_path / "x.txt") == [[1.5, 2]] and read(tmp_path / "x.txt").column_names == ("größe", "b")


def test_damaged_gzip_of_text(tmp_path: Path) -> None:
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 5000)
    (tmp_path / "x.csv.gz").write_bytes(whole[:-9])
    refused(tmp_path / "x.csv.gz", "must be a whole gzip file, got: ")


def test_a_line_that_no_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_LONGEST", 1000)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n" + b"1" * 10_000))
    refused(tmp_path / "x.csv.gz", "row 3 must have 2 cells, got 1")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("x.xlsx", r"save it as \.csv"),
        ("x.pkl", r"save it as \.npy \(pickle is never read\)"),
        ("x.csv.zip", "unpack it"),
        ("x.h5", r"save its array as \.npy"),
        ("x.feather", r"save it as \.parquet"),
    ],
)
def test_other_formats_are_refused_with_advice(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_bytes(b"\x01\x02 binary 7")
    refused(tmp_path / name, rf"cannot be read: {advice}$")


# ---------------------------------------------------------------- names and indices


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("2019,2020,2021\n5.5,6,7\n3,2.5,9\n", ("2019", "2020", "2021")),
        ("0,1,2,3\n0.5,-1.25,0.25,1.5\n-0.5,0.75,1.25,2.5\n", ("0", "1", "2", "3")),
        ("10,20,30\n1,2,4\n5,2,9\n", ("10", "20", "30")),
        ("0,1,2\n5,6,7\n", ()),  # a second row of the same kind
        ("1,2,3\n4,5,1\n1,1,5\n3,3,3\n", ()),  # answers from 1 to 5
        ("2019,2020\n1,2\n5,9\n", ()),  # two are too few to tell
        ("1,2,4\n9,9,9\n8,8,8\n", ()),
    ],
)
def test_numeric_names(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    if names:
        shown = ", ".join(names[:3])
        said = rf"row 1 \({shown}, \.\.\.\) is taken for names; header=False or --no-header if it holds data$"
        with pytest.warns(DataWarning, match=said):
            assert read(path).column_names == names
    else:
        assert read(path).column_names == names
    for header in (True, False):
        assert len(read(path, header=header)) == text.count("\n") - header


def test_no_row_of_numbers_is_taken_for_names(tmp_path: Path) -> None:
    """Random tables of few whole numbers, where even steps are likeliest."""
    found = 0
    for _ in range(2000):
        width, low, high = RNG.integers(2, 6), RNG.integers(0, 3), RNG.integers(3, 12)
        table = RNG.integers(low, high + 1, size=(RNG.integers(10, 40), width))
        found += layout._numeric_names(tuple([str(v) for v in row] for row in table), ".")
    assert found <= 2


@pytest.mark.parametrize("names", [["a", "b"], [0, 1], [2019, 2020]])
@pytest.mark.parametrize("index", [None, [7, 3, 12, 0, 5]], ids=["range", "some rows of a frame"])
def test_the_index_of_pandas_is_left_out(tmp_path: Path, names: list[object], index: list[int] | None) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(RNG.normal(size=(5, 2)), columns=names, index=index)
    frame.to_csv(tmp_path / "t.csv")
    pandas.read_csv(tmp_path / "t.csv").to_csv(tmp_path / "again.csv", index=False)
    pandas.read_csv(tmp_path / "t.csv").to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "again.csv", "t.parquet"):
        with pytest.warns(DataWarning, match=r"column 1 \('.*'\) is left out: an index written by pandas$"):
            table = read(tmp_path / name, dtype=torch.float64)
        assert table.column_names == tuple(map(str, names))
        assert table.tensor().tolist() == frame.to_numpy().tolist()


@pytest.mark.parametrize(
    "text",
    [
        "id,b\n0,5\n1,6\n2,7\n",  # a name is not guessed at
        ",b\n0.5,5\n1.5,6\n",
        ",b\n3,5\n3,6\n",
        "b,\n5,0\n6,1\n",
    ],
)
def test_other_columns_are_no_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert read(tmp_path / "t.csv").shape[1] == 2


def test_header_flags_of_the_command_line(run: Run, tmp_path: Path) -> None:
    """--header makes row 1 names, for every command that reads the run's data again."""
    table = RNG.integers(1, 9, size=(40, 2))
    np.savetxt(tmp_path / "t.csv", table, delimiter=",", fmt="%d", header="2019,2020", comments="")
    quick = ("--steps", "5", "--width", "4", "--batch-size", "4", "--no-pictures", "--quiet")
    assert run("train", "t.csv", "--header", *quick, "--out", "r")[0] == 0
    assert run("sample", "r", "--n", "3", "--out", "x.csv")[0] == 0
    assert (tmp_path / "x.csv").read_text().startswith("2019,2020\n")
    code, out, _ = run("evaluate", "r", "--n", "20", "--held-out", "t.csv")
    assert code == 0 and "of 36 training rows" in out  # a tenth is held out
    check_refusal(
        run("train", "--resume", "--out", "r", "--no-header", *quick),
        "--header must be True as in r/config.json, got False",
    )
    assert run("train", "t.csv", *quick, "--out", "plain")[0] == 0
    code, out, _ = run("evaluate", "plain", "--n", "20")
    assert "of 37 training rows" in out
    check_refusal(
        run("train", "ring", "--header", *quick), "fastgan train: --header must be used with a file, got ring\n"
    )


def test_what_is_left_out_is_said_on_the_command_line_once(run: Run, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(RNG.normal(size=(40, 2)), columns=["a", "b"]).to_csv(tmp_path / "t.csv")
    quick = ("--steps", "5", "--width", "4", "--batch-size", "4")
    code, _, err = run("train", "t.csv", *quick, "--out", "r", "--no-pictures")
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert code == 0 and notes == ["note: t.csv column 1 ('') is left out: an index written by pandas"]
    for command in (("evaluate", "r", "--n", "20"), ("plot", "samples", "r")):
        assert "note" not in run(*command)[2]


# ---------------------------------------------------------------- Parquet


def test_parquet_decimals_and_lists(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    table = {
        "price": arrow.array([Decimal("1.25"), Decimal("-3.50")], arrow.decimal128(10, 2)),
        "place": arrow.array([[1.0, 2.0], [3.0, 4.0]], arrow.list_(arrow.float64())),
        "fixed": arrow.array([[5, 6, 7], [8, 9, 10]], arrow.list_(arrow.int32(), 3)),
    }
    parquet.write_table(arrow.table(table), path)
    dataset = read(path)
    assert dataset.column_names == ("price", "place[0]", "place[1]", "fixed[0]", "fixed[1]", "fixed[2]")
    assert dataset.tensor().tolist() == [[1.25, 1, 2, 5, 6, 7], [-3.5, 3, 4, 8, 9, 10]]
    for values, rule in (
        ([[1.0, 2.0], [3.0]], r"row 1 \(counted from 0\), column 'v' must be a list of 2 numbers, got 1$"),
        (
            arrow.array([[], []], arrow.list_(arrow.int8())),
            r"row 0 \(counted from 0\), column 'v' must be a list of 1 numbers, got 0$",
        ),
        ([[1.0, 2.0], None], r"row 1 \(counted from 0\), column 'v' must be a number, got none$"),
        (
            [[1.0, 2.0], [3.0, None]],
            r"row 1 \(counted from 0\), column 'v' must be a list of numbers, got one with none",
        ),
        ([[[1.0]], [[2.0]]], r"column 'v' must hold numbers, got list<"),
    ):
        parquet.write_table(arrow.table({"v": values}), path)
        refused(path, rule)
    parquet.write_table(arrow.table({"when": arrow.array([1, 2], arrow.timestamp("s"))}), path)
    refused(path, r"column 'when' must hold numbers, got timestamp\[.*\] \(write it as seconds since a date\)$")


def test_parquet_without_its_suffix(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"a": [1.0, 2.0]}).to_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.parquet").rename(tmp_path / "x.parq")
    assert rows_of(tmp_path / "x.parq") == [[1], [2]]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_folder_that_spark_wrote(tmp_path: Path, kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    for number, rows in enumerate(([[1, 2], [3, 4]], [], [[5, 6]])):
        frame = pandas.DataFrame(np.array(rows, float).reshape(-1, 2), columns=["a", "b"])
        path = tmp_path / f"part-{number:05d}-0123.{kind}"
        frame.to_parquet(path) if kind == "parquet" else frame.to_csv(path, index=False, header=bool(rows))
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".part-00000-0123.crc").write_bytes(b"crc")
    if kind == "csv":
        (tmp_path / "part-00001-0123.csv").write_bytes(b"")
    dataset = read(tmp_path)
    assert dataset.tensor().tolist() == [[1, 2], [3, 4], [5, 6]] and dataset.column_names == ("a", "b")


def test_folders_of_tables_that_are_refused(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    one, other = pandas.DataFrame({"a": [1.0]}), pandas.DataFrame({"b": [1.0]})
    one.to_parquet(tmp_path / "train.parquet")
    other.to_parquet(tmp_path / "test.parquet")
    refused(tmp_path, r"holds tables; give one of them, got 2 \(test\.parquet, \.\.\.\)$")
    (tmp_path / "train.parquet").rename(tmp_path / "part-0.parquet")
    (tmp_path / "test.parquet").rename(tmp_path / "part-1.parquet")
    refused(tmp_path, r"part-1\.parquet must have the columns of part-0\.parquet, got others$")
    (tmp_path / "year=2020").mkdir()
    refused(tmp_path, r"is partitioned by a column \(year=2020\); give one of its folders, or write it without")


# ---------------------------------------------------------------- integers, masks, frames


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x-idx2-ubyte"])
def test_a_table_of_bytes_is_no_picture(tmp_path: Path, name: str) -> None:
    from data_files import idx_bytes

    table = RNG.integers(0, 200, size=(50, 3), dtype=np.uint8)
    path = tmp_path / name
    if name.endswith("ubyte"):
        path.write_bytes(idx_bytes(table))
    else:
        np.save(path, table) if name.endswith("npy") else np.savez(path, table)
    dataset = read(path)
    assert dataset.divisor == 1 and dataset.value_range is None
    assert dataset.tensor().tolist() == table.tolist()


def test_samples_of_integers_are_in_their_units(run: Run, tmp_path: Path) -> None:
    table = RNG.integers(50, 60, size=(200, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", table)
    assert run("train", "x.npy", "--steps", "20", "--no-pictures", "--quiet", "--out", "r")[0] == 0
    assert run("sample", "r", "--n", "200", "--out", "s.npy")[0] == 0
    assert abs(np.load(tmp_path / "s.npy").mean() - table.mean()) < 10


def test_flattened_pictures_are_declared_on_the_command_line(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RNG.integers(0, 256, size=(40, 30), dtype=np.uint8))
    quick = ("--steps", "5", "--width", "4", "--batch-size", "4", "--no-pictures", "--quiet")
    assert run("train", "x.npy", "--image-shape", "5,6", *quick, "--out", "r")[0] == 0
    assert run("sample", "r", "--n", "9", "--out", "s.npy")[0] == 0
    assert 0 <= np.load(tmp_path / "s.npy").min() and np.load(tmp_path / "s.npy").max() <= 1
    assert run("sample", "r", "--n", "9", "--out", "s.png")[0] == 0
    assert run("train", "--resume", "--out", "r", "--image-shape", "5,6", *quick)[0] == 0
    check_refusal(
        run("train", "x.npy", "--image-shape", "30", *quick),
        "fastgan train: --image-shape must be height,width, got 30\n",
    )
    check_refusal(
        run("train", "x.npy", "--image-shape", "5,5", *quick),
        "--image-shape must fit the rows of x.npy, got (5, 5) for (40, 30)",
    )


def test_data_that_lost_a_column_since_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n" + "1,2,3\n4,5,7\n" * 20)
    quick = ("--steps", "5", "--width", "4", "--batch-size", "4", "--no-pictures", "--quiet")
    assert run("train", "t.csv", *quick, "--out", "r")[0] == 0
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n4,5\n" * 20)
    for command in (("evaluate", "r"), ("train", "--resume", "--out", "r", "--steps", "9")):
        check_refusal(run(*command), "t.csv must have 3 features a row, got 2\n")


def test_masked_arrays_are_refused(tmp_path: Path) -> None:
    import fastgan

    hidden = np.ma.masked_equal(np.arange(12, dtype=np.float32).reshape(6, 2), 4)
    with pytest.raises(DataError, match=r"^as_dataset: data must hide no value, got 1 masked ones: fill them in"):
        as_dataset(hidden)
    gan = fastgan.models.mlp_gan(2)
    with pytest.raises(DataError, match=r"^train: data must hide no value, got 1 masked ones"):
        fastgan.train(gan, hidden, fastgan.TrainConfig(steps=1, batch_size=2))
    open_ = np.ma.masked_equal(np.arange(12, dtype=np.float32).reshape(6, 2), 99)
    assert as_dataset(open_).tensor().tolist() == open_.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's: a prototype
        tensor = torch.masked.masked_tensor(torch.ones(2, 2), torch.tensor([[True, False], [True, True]]))
    with pytest.raises(DataError, match="must hide no value, got 1 masked ones"):
        as_dataset(tensor)


def test_frames_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"t": [1_700_000_000, 1_700_000_001], "b": [True, False]}, index=[5, 9])
    dataset = as_dataset(frame)
    assert isinstance(dataset, Dataset) and dataset.column_names == ("t", "b")
    assert dataset.double().tensor().tolist() == [[1_700_000_000, 1], [1_700_000_001, 0]]
    for column, rule in (
        (
            pandas.array([1, None], dtype="Int64"),
            r"row 1, column 0 \(counted from 0\) must be a finite number, got nan",
        ),
        ([1.0, float("nan")], r"row 1, column 0 \(counted from 0\) must be a finite number, got nan"),
        (["x", "y"], "column 'v' must hold numbers, got (str|object)"),
    ):
        with pytest.raises(DataError, match=rule):
            as_dataset(pandas.DataFrame({"v": column, "w": [1.0, 2.0]}))
