"""Tables of numbers: .csv and .parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import refused

from fastgan.data import DataWarning, read


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("a,b\n1,2\n3,4", [[1, 2], [3, 4]]),
        ('"x, y",b\n"1",2\n', [[1, 2]]),
        ("\ufeffa;b\n1;2\n\n3;4\n\n", [[1, 2], [3, 4]]),
        ("\n\na\tb\r\n1\t 2e3\r\n", [[1, 2000]]),
        ("x\n5\n6\n", [[5], [6]]),
        ("-1.5,+2,.5\n", [[-1.5, 2, 0.5]]),
        ('"two\nlines",b\n1,2\n', [[1, 2]]),
    ],
)
def test_csv(tmp_path: Path, text: str, rows: list[list[float]]) -> None:
    (tmp_path / "x.csv").write_bytes(text.encode())
    assert read(tmp_path / "x.csv").tensor().tolist() == rows


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("age,height\n1,2\n3,tall\n", "row 3, column 2 \\('height'\\) must be a number, got 'tall'$"),
        ("1,2\n3,x\n", "row 2, column 2 must be a number, got 'x'$"),
        ("1,x\n3,4\n", r"row 1, column 2 must be a number, got 'x' \(.* 1 holds names: header=True, or --header\)$"),
        ("a,b\n1,2\n\n3,\n", r"row 4, column 2 \('b'\) must be a number, got an empty cell$"),
        ("a,b\n1,2\n3\n", "row 3 must have 2 cells, got 1$"),
        ("1,2\n3,4,5\n", "row 2 must have 2 cells, got 3$"),
        ("a,b\n1,2,3\n", "row 2 must have 2 cells, got 3$"),
        ("a,b\n1,nan\n", r"row 2, column 2 \('b'\) must be a finite number, got 'nan'$"),
        ("a,b\n1,-Infinity\n", r"row 2, column 2 \('b'\) must be a finite number, got '-Infinity'$"),
        ("a,b\n1,1_000\n", r"row 2, column 2 \('b'\) must be a number, got '1_000'$"),
        ("a,b\n", "must have at least one row below its header$"),
        ("\n\n", "must have at least one row, got an empty file$"),
        ("a,b\n1,\xe9\n", r"row 2, column 2 \('b'\) must be a number, got '\xe9'$"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, rule: str) -> None:
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    refused(tmp_path / "x.csv", rule)


def test_csv_header_by_hand(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("0,1,2\n5,6,7\n")
    assert len(read(tmp_path / "x.csv")) == 2
    assert read(tmp_path / "x.csv", header=True).tensor().tolist() == [[5, 6, 7]]
    (tmp_path / "x.csv").write_text("a,b\n5,6\n")
    refused(tmp_path / "x.csv", "row 1, column 1 must be a number, got 'a'", header=False)


def test_csv_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"a,b\n1,2\n\xff\xfe,3\n")
    refused(tmp_path / "x.csv", "row 3 must be UTF-8 text$")


def test_bad_parquet(tmp_path: Path) -> None:
    import pandas

    path = tmp_path / "x.parquet"
    pandas.DataFrame({"a": [1.0, 2.0], "name": ["x", "y"]}).to_parquet(path)
    refused(path, "column 'name' must hold numbers, got (large_)?string")
    pandas.DataFrame({"a": [1, None]}, dtype="Int64").to_parquet(path)
    refused(path, r"row 1 \(counted from 0\), column 'a' must be a number, got none")
    pandas.DataFrame({"a": [1.0, 2.0], "b": [0.0, -1e39]}).to_parquet(path)
    refused(path, r"row 1 \(counted from 0\), column 'b' must be at most 3\.403e\+38 in magnitude, got -1e\+39")
    assert read(path, dtype=torch.float64).tensor()[1, 1] == -1e39
    pandas.DataFrame({"a": np.array([], np.float32)}).to_parquet(path)
    refused(path, "must have at least one row, got none")
    pandas.DataFrame(index=range(3)).to_parquet(path)
    refused(path, "must have at least one column, got none")
    pandas.DataFrame({"a": [1.0] * 50}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-9])
    refused(path, "must be a whole Parquet file, got: ")


def test_parquet_mixed_numbers_and_index(tmp_path: Path) -> None:
    import pandas

    path = tmp_path / "x.parquet"
    frame = pandas.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False]}, index=[7, 3])
    frame.to_parquet(path)
    with pytest.warns(DataWarning, match="column '__index_level_0__' is left out: an index written by pandas$"):
        table = read(path)
    assert table.tensor().tolist() == [[1, 0.5, 1], [2, 1.5, 0]]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_names_of_columns_are_kept(tmp_path: Path, suffix: str) -> None:
    pandas = pytest.importorskip("pandas")
    path, frame = tmp_path / f"x.{suffix}", pandas.DataFrame({"a, b": [1, 2], "c": [0.5, 1.5]})
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    assert read(path).column_names == ("a, b", "c") == read(path).head(1).column_names
    bare = tmp_path / "bare.csv"
    bare.write_text("1,2\n3,4\n")
    assert read(bare).column_names == ()
    assert read(path, image_shape=(1, 2)).column_names == ()
