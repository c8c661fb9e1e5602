"""Every format round-trips; every wrong file gets one line that names file, place and rule."""

from __future__ import annotations

import gzip
import math
import pickle
import re
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastgan.data import DataError, Dataset, read

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(20, 3)).astype(np.float32)
PIXELS = RNG.integers(0, 256, size=(10, 4, 5), dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def refused(path: Path, rule: str, **options: object) -> None:
    """`read` refuses in one line that names the file and the rule (a regular expression)."""
    with pytest.raises(DataError) as caught:
        read(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith("read: ") and str(path) in message and "\n" not in message
    assert re.search(rule, message), message


def mapped(dataset: Dataset, path: Path) -> bool:
    """Whether the storage lies in the file's own pages."""
    if sys.platform != "linux":
        pytest.skip("needs /proc/self/maps to see what is mapped")
    address = dataset.data.untyped_storage().data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line.endswith(str(path))
    return False


# --- round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "tsv", "parquet", "idx"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_table_round_trip(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    path = tmp_path / f"table.{suffix}"
    table = TABLE.astype(np.float64) if dtype == torch.float64 else TABLE
    if suffix == "npy":
        np.save(path, table)
    elif suffix == "npz":
        np.savez_compressed(path, table)
    elif suffix in ("csv", "tsv"):
        np.savetxt(
            path, table, delimiter="," if suffix == "csv" else "\t", header="a,b,c" * (suffix == "csv")
        )
    elif suffix == "parquet":
        import pandas

        pandas.DataFrame(table, columns=["a", "b", "c"], index=range(5, 25)).to_parquet(path)
    else:
        path.write_bytes(idx_bytes(table))
    dataset = read(path, dtype=dtype)
    assert dataset.shape == (20, 3) and dataset.name == "table" and dataset.value_range is None
    rows = dataset.rows(torch.tensor([19, 0]))
    assert rows.dtype == dtype
    assert torch.equal(rows, torch.from_numpy(table[[19, 0]]))


@pytest.mark.parametrize(
    "kind", ["?", "i1", "i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", ">f4", ">i8"]
)
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
        assert torch.equal(
            dataset.head(2).rows(torch.tensor([1])), torch.from_numpy(array[1:2].reshape(1, 6))
        )


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


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "train-images-idx3-ubyte", "x.gz"])
def test_bytes_are_images_scaled_by_255(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, PIXELS)
    elif name.endswith("npz"):
        np.savez(path, PIXELS)
    else:
        path.write_bytes(gzip.compress(idx_bytes(PIXELS)) if name.endswith("gz") else idx_bytes(PIXELS))
    dataset = read(path)
    assert dataset.data.dtype == torch.uint8  # bytes stay bytes until a batch asks for them
    assert dataset.image_shape == (4, 5) and dataset.value_range == (0.0, 1.0) and dataset.divisor == 255
    assert torch.equal(
        dataset.rows(torch.tensor([3])), torch.from_numpy(PIXELS[3].reshape(1, 20)).float() / 255
    )
    assert read(path, flatten=False).rows(torch.tensor([3, 4])).shape == (2, 1, 4, 5)
    raw = read(path, divisor=1.0)
    assert raw.value_range is None and raw.tensor().max() == float(PIXELS.max())


def test_binary_images_are_not_scaled(tmp_path: Path) -> None:
    binary = (PIXELS > 127).astype(np.uint8)
    np.save(tmp_path / "x.npy", binary)
    dataset = read(tmp_path / "x.npy")
    assert dataset.divisor == 1 and dataset.value_range == (0.0, 1.0) and dataset.tensor().max() == 1


@pytest.mark.parametrize(
    ("shape", "image_shape", "row_shape"),
    [
        ((6, 3, 4, 5), (4, 5), (3, 4, 5)),
        ((6, 4, 5, 3), (4, 5), (3, 4, 5)),
        ((6, 3, 3, 1), (3, 3), (1, 3, 3)),
        ((6, 4, 4, 4), (4, 4), (4, 4, 4)),
        ((6, 7, 5, 5), None, (7, 5, 5)),
        ((6, 2, 2, 2, 2), None, (2, 2, 2, 2)),
    ],
)
def test_colour_is_channels_first(tmp_path: Path, shape, image_shape, row_shape) -> None:
    array = RNG.random(shape).astype(np.float32)
    np.save(tmp_path / "x.npy", array)
    flat, whole = read(tmp_path / "x.npy"), read(tmp_path / "x.npy", flatten=False)
    assert flat.image_shape == whole.image_shape == image_shape
    assert whole.shape[1:] == row_shape and flat.shape[1:] == (math.prod(row_shape),)
    expected = array if array.shape[1:] == row_shape else np.moveaxis(array, -1, 1)
    assert torch.equal(whole.rows(torch.tensor([5])), torch.from_numpy(expected[5:].copy()))
    assert torch.equal(flat.rows(torch.tensor([5])), torch.from_numpy(expected[5:].reshape(1, -1)))
    assert mapped(flat, tmp_path / "x.npy")
    assert flat.value_range == ((0.0, 1.0) if image_shape else None)


def test_flattened_images_named_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, PIXELS.reshape(10, 20))
    assert read(path).image_shape is None and read(path).divisor == 255
    named = read(path, image_shape=(4, 5))
    assert named.image_shape == (4, 5) and named.shape == (10, 20) and mapped(named, path)
    assert torch.equal(named.tensor(), read(path).tensor())
    assert read(path, image_shape=(1, 5), flatten=False).shape == (10, 4, 1, 5)
    for wrong in ((4, 4), (0, 5), (-4, -5), (2, 5)):
        with pytest.raises(ValueError, match=r"image_shape must fit the rows of .*x\.npy, got"):
            read(path, image_shape=wrong)


def test_images_in_minus_1_to_1(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RNG.uniform(-1, 1, size=(9, 4, 4)))
    assert read(tmp_path / "x.npy").value_range == (-1.0, 1.0)


def test_idx_folder_with_labels(tmp_path: Path) -> None:
    labels = np.arange(10, dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(PIXELS))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    (tmp_path / "t10k-images.idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(PIXELS[:3])))
    dataset = read(tmp_path)
    assert dataset.shape == (10, 20) and dataset.labels is not None
    assert dataset.labels.tolist() == list(range(10))
    test = read(tmp_path, split="test")
    assert test.shape == (3, 20) and test.labels is None
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels[:9])))
    refused(tmp_path, r"must have a label a row \(10\), got 9")
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(PIXELS)))
    refused(tmp_path, r"must be a list of integer labels, got shape \(10, 4, 5\)")


def cifar_bytes(labels: list[int]) -> tuple[bytes, np.ndarray]:
    pixels = RNG.integers(0, 256, size=(len(labels), 3, 32, 32), dtype=np.uint8)
    return b"".join(
        bytes([label]) + image.tobytes() for label, image in zip(labels, pixels, strict=True)
    ), pixels


def test_cifar(tmp_path: Path) -> None:
    first, pixels = cifar_bytes([3, 9])
    second, _ = cifar_bytes([0, 1, 2])
    (tmp_path / "data_batch_1.bin").write_bytes(first)
    (tmp_path / "data_batch_2.bin").write_bytes(second)
    (tmp_path / "test_batch.bin").write_bytes(first)
    dataset = read(tmp_path)
    assert (
        dataset.shape == (5, 3072) and dataset.image_shape == (32, 32) and dataset.value_range == (0.0, 1.0)
    )
    assert dataset.labels is not None and dataset.labels.tolist() == [3, 9, 0, 1, 2]
    assert torch.equal(
        dataset.rows(torch.tensor([1])), torch.from_numpy(pixels[1].reshape(1, -1)).float() / 255
    )
    single = read(tmp_path / "data_batch_1.bin", flatten=False)
    assert single.rows(torch.tensor([0])).shape == (1, 3, 32, 32)
    assert mapped(single, tmp_path / "data_batch_1.bin")
    assert len(read(tmp_path, split="test")) == 2


def test_bad_cifar(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(cifar_bytes([1, 2])[0][:-1])
    refused(path, "must be whole CIFAR-10 records of 3073 bytes, got 6145 bytes")
    path.write_bytes(cifar_bytes([1, 77])[0])
    refused(path, "label at byte 3073 must be between 0 and 9, got 77")
    path.unlink()
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))
    refused(tmp_path, r"must hold CIFAR-10's binary version \(data_batch_\*\.bin\), got pickle files")


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "RGBA", "P", "I;16"])
def test_folder_of_images(tmp_path: Path, mode: str) -> None:
    from PIL import Image

    expected = []
    for position in range(3):
        if mode == "I;16":
            image = Image.fromarray(RNG.integers(0, 65536, size=(4, 6)).astype(np.uint16))
        else:
            image = Image.fromarray(RNG.integers(0, 256, size=(4, 6, 3), dtype=np.uint8)).convert(mode)
        image.save(tmp_path / f"{position}.png")
        plain = image if mode == "I;16" else image.convert("L" if mode in ("1", "L") else "RGB")
        pixels = np.asarray(plain) / (65535 if mode == "I;16" else 255)
        expected.append(pixels if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))
    (tmp_path / "notes.txt").write_text("not an image")
    dataset = read(tmp_path)
    assert dataset.image_shape == (4, 6) and dataset.value_range == (0.0, 1.0)
    assert torch.allclose(dataset.tensor(), torch.from_numpy(np.stack(expected).reshape(3, -1)).float())
    assert read(tmp_path, flatten=False).shape == (3, 3 if mode in ("RGB", "RGBA", "P") else 1, 4, 6)


def test_bad_images(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (6, 4)).save(tmp_path / "a.png")
    Image.new("L", (7, 4)).save(tmp_path / "b.png")
    refused(tmp_path, r"b\.png must be 6x4 grey like a\.png, got 7x4 grey")
    Image.new("RGB", (6, 4)).save(tmp_path / "b.png")
    refused(tmp_path, r"b\.png must be 6x4 grey like a\.png, got 6x4 colour")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:40])
    refused(tmp_path, r"b\.png must be a whole image, got: ")
    (tmp_path / "b.png").write_bytes(b"text")
    refused(tmp_path, r"b\.png must be a whole image, got: ")
    refused(tmp_path / "a.png", "is a single image; give the folder of images")
    Image.new("F", (6, 4)).save(tmp_path / "b.tiff")
    (tmp_path / "b.png").unlink()
    refused(tmp_path, r"b\.tiff must have 8-bit channels or 16-bit grey, got Pillow mode F")


@pytest.mark.parametrize("limit", [30, 15])  # Pillow warns above its limit, refuses above twice
def test_images_of_huge_claimed_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    from PIL import Image

    Image.new("L", (8, 5)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    refused(tmp_path, r"a\.png must be a whole image, got: Image size \(40 pixels\) exceeds limit of")


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
        ("x.pkl", r"must be one of \.npy, .* \(pickle is never read\)"),
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
    place = r"row 17, column 2 \(counted from 0\)"
    if suffix == "npy":
        np.save(path, table)
    elif suffix == "npz":
        np.savez(path, table)
    elif suffix == "idx":
        path.write_bytes(idx_bytes(table))
    elif suffix == "csv":
        np.savetxt(path, table, delimiter=",")
        place = "row 18, column 3"
    else:
        import pandas

        pandas.DataFrame(table, columns=["a", "b", "c"]).to_parquet(path)
        # pandas stores NaN as a missing value
        return refused(path, r"row 17 \(counted from 0\), column 'c' must be a (finite )?number, got")
    refused(path, f"{place} must be a finite number, got '?{value}")


def test_not_finite_in_three_dimensions(tmp_path: Path) -> None:
    array = np.zeros((4, 3, 2), np.float16)
    array[3, 1, 0] = np.nan
    np.save(tmp_path / "x.npy", array)
    refused(
        tmp_path / "x.npy", r"row 3, element \[1, 0\] \(counted from 0\) must be a finite number, got nan"
    )


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


# --- tables of text --------------------------------------------------------------------------------------


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
        ("1,x\n3,4\n", r"row 1, column 2 must be a number, got 'x' \(if row 1 holds names: header=True\)$"),
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
    refused(
        path, r"row 1 \(counted from 0\), column 'b' must be at most 3\.403e\+38 in magnitude, got -1e\+39"
    )
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
    assert read(path).tensor().tolist() == [[1, 0.5, 1], [2, 1.5, 0]]


@pytest.mark.parametrize(
    ("module", "name", "package"),
    [("pyarrow.parquet", "x.parquet", "pyarrow"), ("PIL.Image", "x.png", "pillow")],
)
def test_missing_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, package: str
) -> None:
    (tmp_path / name).write_bytes(b"something")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=rf"^fastgan\.data\.read of .* needs {package}: pip install fastgan\[data\]$"
    ):
        read(tmp_path / name if name != "x.png" else tmp_path)
