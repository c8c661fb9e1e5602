"""Every format round-trips; every wrong file gets one line that names file, place and rule."""

from __future__ import annotations

import gzip
import math
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import PIXELS, RNG, TABLE, idx_bytes, mapped, refused
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastgan.data import read

# --- round trips -----------------------------------------------------------------------------------------


def write(path: Path, table: np.ndarray) -> None:
    """A table of three columns in the format of the suffix; those of text and Parquet have names."""
    suffix = path.suffix.removeprefix(".")
    if suffix == "npy":
        np.save(path, table)
    elif suffix == "npz":
        np.savez_compressed(path, table)
    elif suffix in ("csv", "tsv"):
        np.savetxt(path, table, delimiter="," if suffix == "csv" else "\t", header="a,b,c" * (suffix == "csv"))
    elif suffix == "parquet":
        import pandas

        pandas.DataFrame(table, columns=["a", "b", "c"], index=range(5, 25)).to_parquet(path)
    else:
        path.write_bytes(idx_bytes(table))


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "tsv", "parquet", "idx"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_table_round_trip(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    path = tmp_path / f"table.{suffix}"
    table = TABLE.astype(np.float64) if dtype == torch.float64 else TABLE
    write(path, table)
    dataset = read(path, dtype=dtype)
    assert dataset.shape == (20, 3) and dataset.name == "table" and dataset.value_range is None
    rows = dataset.rows(torch.tensor([19, 0]))
    assert rows.dtype == dtype
    assert torch.equal(rows, torch.from_numpy(table[[19, 0]]))


@pytest.mark.parametrize("kind", ["?", "i1", "i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", ">f4", ">i8"])
def test_npy_of_every_number(tmp_path: Path, kind: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)
    np.save(tmp_path / "x.npy", array)
    rows = read(tmp_path / "x.npy").rows(torch.tensor([1, 0]))
    assert rows.dtype == torch.float32
    assert rows.tolist() == [[1, 0, 1], [0, 1, 1]]


def test_one_dimension_is_one_feature(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(7, dtype=np.uint8))
    dataset = read(tmp_path / "x.npy")
    assert torch.equal(dataset.tensor(), torch.arange(7.0).reshape(7, 1))  # a list of bytes is no image


def test_fortran_order(tmp_path: Path) -> None:
    array = np.asfortranarray(RNG.normal(size=(6, 2, 3)).astype(np.float32))
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", array)
    for name in ("x.npy", "x.npz"):
        dataset = read(tmp_path / name)
        assert torch.equal(dataset.tensor(), torch.from_numpy(array.reshape(6, 6)))
        assert torch.equal(dataset.head(2).rows(torch.tensor([1])), torch.from_numpy(array[1:2].reshape(1, 6)))


def test_npz_chooses(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, one=TABLE, two=PIXELS)
    assert read(path, array="one").shape == (20, 3)
    assert read(path, array="two").shape == (10, 20)
    refused(path, r"holds several arrays; choose one of one, two \(array=\.\.\. or FILE\.npz:NAME\)")
    refused(path, "array must be one of one, two, got 'three'", array="three")
    np.save(tmp_path / "y.npy", TABLE)
    for other in (tmp_path / "y.npy", tmp_path):
        with pytest.raises(ValueError, match="array names one of a .npz file's, got "):
            read(other, array="one")


# --- memory maps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npy", "x.idx"])
def test_memory_map_stays_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    np.save(path, PIXELS) if name == "x.npy" else path.write_bytes(idx_bytes(PIXELS))
    dataset = read(path)
    assert mapped(dataset, path)
    assert mapped(dataset.head(3), path)
    dataset.data.zero_()  # private pages: neither a crash nor a changed file
    assert torch.equal(read(path).tensor(), torch.from_numpy(PIXELS.reshape(10, 20)).float() / 255)


class Largest(TorchDispatchMode):
    """The most bytes that any operation inside allocated for one result."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {x.untyped_storage().data_ptr() for x in tree_leaves(args) if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return result


def test_memory_map_is_checked_and_read_in_parts(tmp_path: Path) -> None:
    """A sparse 32 MiB file is found finite, and gathered from, with little of it copied."""
    path = tmp_path / "big.npy"
    rows, width = 1 << 12, 1 << 12
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 2 * rows * width)
        file.seek(-2, 2)
        file.write(struct.pack("<e", math.nan))
    refused(path, rf"row {rows - 1}, column {width - 1} \(counted from 0\) must be a finite number, got nan")
    with path.open("r+b") as file:
        file.seek(-2, 2)
        file.write(struct.pack("<e", 2.5))
    with Largest() as largest:
        dataset = read(path)
        batch = dataset.rows(torch.tensor([rows - 1]))
    assert batch[0, -1] == 2.5 and mapped(dataset, path)
    assert 0 < largest.bytes < 1 << 24


# --- wrong files -----------------------------------------------------------------------------------------


def test_missing_file_and_odd_places(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^read: no such file: .*nothing\.npy$"):
        read(tmp_path / "nothing.npy")
    refused(tmp_path, "must hold images, or train files of MNIST .* got none directly in it")
    if hasattr(__import__("os"), "mkfifo"):
        __import__("os").mkfifo(tmp_path / "pipe.npy")
        refused(tmp_path / "pipe.npy", "must be a regular file or a folder")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv", "x.parquet", "x-idx3-ubyte", "x.bin", "x"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    refused(tmp_path / name, "must not be empty, got 0 bytes")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("x.npy", r"must begin with the \.npy magic bytes at byte 0"),
        ("x.npz", r"must be a whole \.npz file, got: "),
        ("x.parquet", "must be a whole Parquet file, got: "),
        ("x-idx3-ubyte", "must begin with the IDX magic 00 00 TYPE DIMENSIONS at byte 0, got 61 20 6e 65"),
        ("x.bin", "must be whole CIFAR-10 records of 3073 bytes"),
        ("x.pkl", r"cannot be read: save it as \.npy \(pickle is never read\)"),
        ("x", r"must be one of \.npy, .* \(pickle is never read\)"),
    ],
)
def test_wrong_magic(tmp_path: Path, name: str, rule: str) -> None:
    (tmp_path / name).write_text("a new day, and not what the name says")
    refused(tmp_path / name, rule)


@pytest.mark.parametrize("options", [{"split": "valid"}, {"divisor": 0.0}, {"divisor": math.nan}])
def test_wrong_options(tmp_path: Path, options) -> None:
    np.save(tmp_path / "x.npy", TABLE)
    with pytest.raises(ValueError, match=r"^read: (split must be|divisor must be)"):
        read(tmp_path / "x.npy", **options)
    with pytest.raises(TypeError, match="dtype must be torch.float32 or torch.float64, got torch.int64"):
        read(tmp_path / "x.npy", dtype=torch.int64)


def test_truncated_and_trailing_npy(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, TABLE)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(path, "is truncated: its header needs 240 bytes of numbers, got 239")
    path.write_bytes(whole + b"\0")
    refused(path, "must end after 240 bytes of numbers, got 1 more")
    path.write_bytes(whole[:5])
    refused(path, "must begin with the .npy magic")
    path.write_bytes(whole[:40])
    refused(path, "must have a readable .npy header from byte 8")
    path.write_bytes(whole[:6] + b"\x09\x00" + whole[8:])
    refused(path, r"must be \.npy version 1\.0, 2\.0 or 3\.0, got bytes \(9, 0\) at byte 6")


@pytest.mark.parametrize(
    ("shape", "rule"),
    [
        ((0, 3), r"at least one row, got shape \(0, 3\)"),
        ((3, 0), r"at least one number in a row, got shape \(3, 0\)"),
        ((), "must have rows, got a single number"),
        ((1,) * 9, "at most 8 dimensions, got 9"),
        ((-1, -3), r"must not have a negative dimension, got shape \(-1, -3\)"),
        ((1 << 40, 1 << 40), "is truncated: its header needs "),
    ],
)
def test_impossible_shapes_before_allocation(tmp_path: Path, shape, rule: str) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.write(b"\0\0\0\0")
    refused(tmp_path / "x.npy", rule)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "arr_0.npy")
    refused(tmp_path / "x.npz", rule)


@pytest.mark.parametrize(
    ("array", "rule"),
    [
        (np.array([[None, 1]], dtype=object), r"must hold numbers, got objects \(pickle is never read\)"),
        (np.array([["a", "b"]]), "must hold real numbers of at most 8 bytes, got <U1"),
        (np.ones((2, 2), complex), "must hold real numbers of at most 8 bytes, got complex128"),
        (np.zeros(3, "datetime64[s]"), "must hold real numbers"),
        (np.zeros(3, [("x", "f4"), ("y", "i4")]), "must be a plain array, got one with fields x, y"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_not_numbers(tmp_path: Path, array: np.ndarray, rule: str, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    np.save(path, array, allow_pickle=True) if suffix == "npy" else np.savez(path, array)
    refused(path, rule)


def test_booleans_that_are_not(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3), bool))
    with (tmp_path / "x.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x07")
    refused(tmp_path / "x.npy", "must hold booleans of 0 or 1, got a byte of 7")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("suffix", ["npy", "npz", "idx", "csv", "parquet"])
def test_not_finite(tmp_path: Path, value: float, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    table = TABLE.copy()
    table[17, 2] = value
    write(path, table)
    if suffix == "parquet":  # pandas stores NaN as a missing value
        refused(path, r"row 17 \(counted from 0\), column 'c' must be a (finite )?number, got")
        return
    place = r"row 19, column 3 \('c'\)" if suffix == "csv" else r"row 17, column 2 \(counted from 0\)"
    refused(path, f"{place} must be a finite number, got '?{value}")


def test_not_finite_in_three_dimensions(tmp_path: Path) -> None:
    array = np.zeros((4, 3, 2), np.float16)
    array[3, 1, 0] = np.nan
    np.save(tmp_path / "x.npy", array)
    refused(tmp_path / "x.npy", r"row 3, element \[1, 0\] \(counted from 0\) must be a finite number, got nan")


def test_too_large_for_float32(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[0.0, 1e39]]))
    refused(tmp_path / "x.npy", r"row 0, column 1 .* must be within the range of torch.float32, got 1e\+39")
    assert read(tmp_path / "x.npy", dtype=torch.float64).tensor()[0, 1] == 1e39
    (tmp_path / "x.csv").write_text("0,1\n1e39,2\n")
    refused(tmp_path / "x.csv", r"row 2, column 1 must be at most 3\.403e\+38 in magnitude, got '1e39'")
    assert read(tmp_path / "x.csv", dtype=torch.float64).tensor()[1, 0] == 1e39


def test_bad_idx(tmp_path: Path) -> None:
    path = tmp_path / "x-idx3-ubyte"
    whole = idx_bytes(PIXELS)
    for pack in (bytes, gzip.compress):
        path.write_bytes(pack(whole[:-1]))
        refused(path, "is truncated: its header needs 200 bytes of numbers")
        path.write_bytes(pack(whole + b"\0"))
        refused(path, "must end after 200 bytes of numbers, got")
        path.write_bytes(pack(whole[:9]))
        refused(path, "is truncated in its header: 3 sizes must follow byte 4")
        path.write_bytes(pack(b"\0\0\x08\x03" + struct.pack(">3I", 0, 4, 5)))
        refused(path, r"at least one row, got shape \(0, 4, 5\)")
        path.write_bytes(pack(b"\0\0\x0a\x03" + whole[4:]))
        refused(path, "must begin with the IDX magic 00 00 TYPE DIMENSIONS at byte 0, got 00 00 0a 03")
        path.write_bytes(pack(b"\0\0\x08\x03" + struct.pack(">3I", 1 << 31, 1 << 31, 1 << 31)))
        refused(path, "is truncated: its header|claims [0-9]+ bytes, more than [0-9]+ gzipped can hold")
    path.write_bytes(gzip.compress(whole)[:-20])
    refused(path, "must be a whole gzip file, got: |is truncated")
    path.write_bytes(b"\x1f\x8b" + whole)
    refused(path, "must be a whole gzip file, got: ")


def test_bad_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, TABLE)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, r"must be a whole \.npz file, got: File is not a zip file")
    at = whole.index(b"NUMPY") + 200
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    refused(path, r"must be a whole \.npz file, got: Bad CRC-32")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no arrays here")
    refused(path, "must hold an array, got none")


@pytest.mark.parametrize(
    ("module", "name", "package"),
    [("pyarrow.parquet", "x.parquet", "pyarrow"), ("PIL.Image", "x.png", "pillow")],
)
def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, package: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"^fastgan\.data\.read of .* needs {package}: pip install {package}$"):
        read(tmp_path / name if name != "x.png" else tmp_path)
