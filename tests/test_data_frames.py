"""Tables of any columns from files: delimiters, decimal marks, compression, indexes, codes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastgan.data import DataError, DataWarning
from fastgan.data.frames import open_table, read_frame

pd = pytest.importorskip("pandas")

FRAME = pd.DataFrame({"age": [39, 50, 38], "work": ["State", "Self, not inc", "Private"], "hours": [40.5, 13.25, 40.0]})


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(("name", "options"), [("a.csv", {}), ("a.tsv", {"sep": "\t"}), ("a.txt", {"sep": "|"}),
                                               ("a.csv", {"sep": ";", "decimal": ","})])  # fmt: skip
def test_delimiters_and_decimal_marks_are_found(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    FRAME.to_csv(tmp_path / name, index=False, **options)
    assert read_frame(tmp_path / name).equals(FRAME)


def test_decimal_commas_outnumber_semicolons(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a;b;c;d\n1,5;2,25;3,5;x\n2,5;1,25;0,5;y\n")
    assert read_frame(path).to_dict("list") == {"a": [1.5, 2.5], "b": [2.25, 1.25], "c": [3.5, 0.5], "d": ["x", "y"]}


def test_the_names_decide_between_two_delimiters(tmp_path: Path) -> None:
    """The comma makes two columns of one number a row, too, but the names are not parted by it."""
    path = write(tmp_path / "a.csv", "price;n\n" + "".join(f"{k},05 \u20ac;{k}\n" for k in range(30)))
    frame = read_frame(path)
    assert list(frame.columns) == ["price", "n"] and frame["n"].tolist() == list(range(30))


def test_titles_above_the_names_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "# made by x\n\n# version 2\na,b\n1,x\n2,y\n3,x\n4,\n")
    with pytest.warns(DataWarning, match="lines 1 to 3 are left out: titles"):
        frame = read_frame(path)
    assert frame.fillna("-").to_dict("list") == {"a": [1, 2, 3, 4], "b": ["x", "y", "x", "-"]}
    path = write(tmp_path / "c.csv", "Sales report,\n,\na,b\n1,x\n2,y\n3,z\n")
    with pytest.warns(DataWarning, match="lines 1 to 2 are left out: titles"):
        assert read_frame(path).to_dict("list") == {"a": [1, 2, 3], "b": ["x", "y", "z"]}
    for names, found in ((",b", ["b"]), ("a,", ["a", "Unnamed: 1"])):  # an index, and a column without a name
        path = write(tmp_path / "d.csv", f"{names}\n1,x\n2,y\n3,z\n")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*an index written by pandas")
            assert list(read_frame(path).columns) == found
    path = write(tmp_path / "b.csv", "sep=;\nsales\na;b\n1;x\n2;y\n3;z\n")
    with pytest.warns(DataWarning, match="line 1 is left out"):
        assert read_frame(path).to_dict("list") == {"a": [1, 2, 3], "b": ["x", "y", "z"]}


def test_a_line_may_name_the_separator(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sep=;\nname;city\nx, y;Rome\nz;Oslo\n")
    assert read_frame(path).to_dict("list") == {"name": ["x, y", "z"], "city": ["Rome", "Oslo"]}


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open])
def test_compressed_text_is_read(tmp_path: Path, opener: Any) -> None:
    with opener(tmp_path / "a.csv.packed", "wt") as file:
        FRAME.to_csv(file, index=False)
    assert read_frame(tmp_path / "a.csv.packed").equals(FRAME)


def test_utf16_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-8-sig"):
        (tmp_path / "a.csv").write_bytes("größe,n\nä,1\nß,2\n".encode(encoding))
        assert read_frame(tmp_path / "a.csv").to_dict("list") == {"größe": ["ä", "ß"], "n": [1, 2]}


def test_the_index_of_pandas_is_left_out(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "a.csv")
    with pytest.warns(DataWarning, match=r"column 1 .* is left out: an index"):
        assert read_frame(tmp_path / "a.csv").equals(FRAME)


def test_codes_with_leading_zeros_stay_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "zip,n\n01067,1\n80331,0\n")
    assert read_frame(path)["zip"].tolist() == ["01067", "80331"]
    assert read_frame(path)["n"].tolist() == [1, 0]


def test_large_numbers_keep_their_digits(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"n,x\n{2**63 - 1},a\n{2**62 + 1},b\n")
    assert read_frame(path)["n"].tolist() == [2**63 - 1, 2**62 + 1]
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"n": pd.array([2**62 + 1, None], dtype="Int64")})
    frame.to_parquet(tmp_path / "a.parquet")
    assert open_table(tmp_path / "a.parquet").column(0).tolist() == [2**62 + 1, pd.NA]


def test_names_are_found_or_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1,x\n2,y\n")
    assert list(read_frame(path).columns) == ["column_1", "column_2"]
    assert list(read_frame(path, header=True).columns) == ["1", "x"]
    named = write(tmp_path / "b.csv", "a,b\nx,y\n")
    assert len(read_frame(named)) == 1 and len(read_frame(named, header=False)) == 2


def test_parquet_is_read_a_column_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = FRAME.assign(when=pd.date_range("2020-01-01", periods=3, tz="UTC"), work=pd.Categorical(FRAME["work"]))
    frame.index = [7, 8, 9]
    frame.to_parquet(tmp_path / "a.parquet")
    table = open_table(str(tmp_path / "a.parquet"))
    assert table.names == tuple(frame.columns) and table.rows == 3
    for number, name in enumerate(table.names):
        assert table.column(number).tolist() == frame[name].tolist()
    assert read_frame(tmp_path / "a.parquet")["work"].dtype == "category"


def test_bad_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    for content, rule in (
        (b"", "at least one row"),
        (b"\n \n", "at least one row"),
        (b"PK\x03\x04abcdefgh", "archive"),
        (b"\x00\x01\x02\x03\x04\x05", "binary"),
        (b"a,b\nx,\xff\xfe\xfa\n", "UTF-8"),
        (b"a,a\n1,x\n", "'a' twice"),
        (b"a,b\n1,x\n1,2,3,4\n", "must be a table"),
        (gzip.compress(b"a,b\n" + b"1,x\n" * 900)[:-30], "whole file"),
        (b"PAR1" + b"\x00" * 30, "Parquet"),
    ):
        path = tmp_path / "a.csv"
        path.write_bytes(content)
        with pytest.raises(DataError, match=rule) as caught:
            open_table(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_table(tmp_path / "none.csv")
    with pytest.raises(TypeError, match="must be a DataFrame"):
        open_table(np.zeros((2, 2)))
