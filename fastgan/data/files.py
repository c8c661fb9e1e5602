"""Read the user's own files as a Dataset."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastgan._errors import Invalid

from . import arrays, cifar, idx, images, parquet, tables
from .checks import check_shape, check_values, real_array
from .dataset import DataError, Dataset, Fault
from .layout import GZIP

invalid = Invalid("read")

FORMATS = ".npy, .npz, .csv or .tsv (also .gz), .parquet, IDX (also .gz), CIFAR-10 .bin, or a folder of images"
"""The formats of files that `read` knows, in words."""
_TEXT = frozenset({".csv", ".tsv", ".txt", ".dat", ".tab"})
_PACKED, _SHEET, _PICKLE = "unpack it", "save it as .csv", "save it as .npy (pickle is never read)"
_HDF, _ARROW, _PICTURE = "save its array as .npy", "save it as .parquet", "convert it to .png"
_INSTEAD = {  # what to do with files of other kinds
    **dict.fromkeys((".zip", ".bz2", ".xz", ".zst", ".7z", ".tar", ".tgz"), _PACKED),
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".json", ".jsonl", ".sav", ".dta", ".db", ".sqlite"), _SHEET),
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".pt", ".pth"), _PICKLE),
    **dict.fromkeys((".h5", ".hdf5", ".mat"), _HDF),
    **dict.fromkeys((".feather", ".arrow", ".orc"), _ARROW),
    **dict.fromkeys((".heic", ".avif", ".svg", ".pdf"), _PICTURE),
}


class _Content(NamedTuple):
    array: NDArray[Any]  # (n, ...)
    labels: NDArray[Any] | None = None  # (n,)
    divisor: float | None = None
    names: tuple[str, ...] = ()  # of a table's columns


def read(
    path: str | os.PathLike[str],
    *,
    array: str | None = None,
    split: str = "train",
    header: bool | None = None,
    divisor: float | None = None,
    image_shape: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
    flatten: bool = True,
    background: str | int | tuple[int, ...] = "white",
    labels: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Read a file or folder as samples of p_data, one per row.

    .npy (memory-mapped), .npz, a table in text (.csv, .tsv, .txt, gzipped too), .parquet, IDX (memory-mapped unless
    gzipped), CIFAR-10's binary version, a folder with MNIST's or CIFAR-10's file names, a folder of images of one
    size, or a folder of table parts as Spark writes it. Labels are found beside images in MNIST's
    naming. Values stay as stored and are converted batch by batch; tables stay in float64, see `Standardizer`. A
    missing value is refused. Pickle is never read.

    Args:
        path: the file or folder. A CSV row or column is counted from 1 in messages, an array's from 0.
        array: which array of a .npz with several.
        split: "train" or "test", for folders that hold both.
        header: whether row 1 of a text table holds names. By default it does when none of its cells is a number,
            or they are numbers like 2019, 2020, 2021 unlike the rows below.
        divisor: stored values are divided by it. By default 255 for images stored as bytes, 65535 for 16-bit
            image files, 1 for everything else and for byte arrays that hold only 0 and 1. Bytes are images where
            a row has the shape of one, or `image_shape` says so; in rows of a table they are numbers.
        image_shape: (height, width), for files whose rows are flattened images, channels first.
        dtype: torch.float32 or torch.float64, the type of the rows.
        flatten: rows are flat (features), an image's channels one after another; False gives
            (channels, height, width) for images and the file's own shape for other arrays.
        background: under transparent pixels of image files: a colour's name, a grey level or (red, green, blue).
        labels: a file with one whole number a row, for data that have none beside them in MNIST's naming: .npy, IDX, or
            a table of one column. -1 is for a row whose label is not known.

    Raises:
        DataWarning: (a warning) something was left out: titles, pandas' index, or half of 16-bit colour.
        FileNotFoundError: there is no such file.
        DataError: the content cannot be used; one line names file, row or byte, and rule.
        ImportError: the format needs a package that is not installed.
    """
    if dtype not in (torch.float32, torch.float64):
        raise invalid.type("dtype", f"must be torch.float32 or torch.float64, got {dtype}")
    if split not in ("train", "test"):
        raise invalid.value("split", f"must be 'train' or 'test', got {split!r}")
    if divisor is not None and not 0 < divisor < float("inf"):
        raise invalid.value("divisor", f"must be positive and finite, got {divisor}")
    source = Path(path)
    if not source.exists():
        raise invalid(FileNotFoundError, f"no such file: {source}")
    if array is not None and source.suffix.lower() != ".npz":
        raise invalid.value("array", f"names one of a .npz file's, got {source}")
    if source.is_dir():
        content = _read_folder(source, split, header, dtype, background)
    else:
        content = _read_file(source, array, header, dtype)
    if labels is not None:
        content = content._replace(labels=_read_labels(Path(labels), header))
    n, found = len(content.array), content.labels
    if found is not None and len(found) != n:
        beside = "" if labels is None else f" in {labels}"
        raise invalid(DataError, source, f"must have a label a row ({n}){beside}, got {len(found)}")
    if image_shape is not None:
        content = content._replace(array=_unflatten(content.array, image_shape, source), names=())
    if divisor is not None:
        content = content._replace(divisor=divisor)
    return _dataset(content, source, dtype, flatten)


def _read_labels(path: Path, header: bool | None) -> NDArray[Any]:
    """(n,) whole numbers of a file of labels."""
    if not path.exists():
        raise invalid(FileNotFoundError, f"no such file of labels: {path}")
    array = _read_file(path, None, header, torch.float64).array
    if array.ndim != 1 and array.shape != (len(array), 1):
        raise invalid(DataError, path, f"must hold one label a row, got shape {tuple(array.shape)}")
    values = array.reshape(-1)
    wrong = values != np.round(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    if wrong.any():  # a NaN too
        row = int(wrong.argmax())
        raise invalid(DataError, path, f"must hold whole numbers, got {values[row]:g} at row {row}")
    if (low := int(values.min())) < -1 or int(values.max()) >= 2**31:
        raise invalid(DataError, path, f"must hold labels from -1 to {2**31 - 1}, got {low} to {int(values.max())}")
    return values.astype(np.int64)


def _unflatten(content: NDArray[Any], image_shape: tuple[int, int], path: Path) -> NDArray[Any]:
    """(n, channels * height * width) as images; a view. Images of that shape stay as they are."""
    height, width = image_shape
    if content.ndim in (3, 4) and (height, width) in (content.shape[1:3], content.shape[-2:]):
        return content
    features = content.shape[1] if content.ndim == 2 else 0
    area = height * width if min(height, width) > 0 else 0
    if not area or features not in (area, 3 * area, 4 * area):
        shape = tuple(content.shape)
        raise invalid.value("image_shape", f"must fit the rows of {path}, got {image_shape} for {shape}")
    if features == area:
        return content.reshape(-1, height, width)
    return content.reshape(-1, features // area, height, width)


def _read_file(path: Path, array: str | None, header: bool | None, dtype: torch.dtype) -> _Content:
    if not path.is_file():
        raise invalid(DataError, path, "must be a regular file or a folder")
    if path.stat().st_size == 0:
        raise invalid(DataError, path, "must not be empty, got 0 bytes")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _Content(arrays.read_npy(path))
    if suffix == ".npz":
        return _Content(arrays.read_npz(path, array))
    largest = float(torch.finfo(dtype).max)
    if suffix in (".csv", ".tsv"):
        return _table(*tables.read_csv(path, header, largest))
    if suffix == ".parquet":
        return _table(*parquet.read_parquet(path, largest))
    if suffix == ".bin":
        return _Content(*cifar.read_batches([path]), 255.0)
    if suffix in images.SUFFIXES:
        raise invalid(DataError, path, "is a single image; give the folder of images")
    return _read_unnamed(path, header, largest)


def _table(table: NDArray[np.float64], names: tuple[str, ...]) -> _Content:
    """The content of a table, in float64: a column may need its digits until it is standardised."""
    return _Content(table, names=names)


def _read_unnamed(path: Path, header: bool | None, largest: float) -> _Content:
    """IDX files seldom have a telling suffix, and text has many, so the first bytes decide."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(arrays.MAGIC):
        return _Content(arrays.read_npy(path))
    if start.startswith(parquet.MAGIC):
        return _table(*parquet.read_parquet(path, largest))
    packed = start.startswith(GZIP)
    inside = _unpacked(path) if packed else start
    named = "ubyte" in path.name or "idx" in path.name
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if named or idx.is_idx(inside) or (packed and not _is_text(inside)):
        return _read_idx(path, idx.find_labels(path))
    if suffixes and suffixes[-1] in _INSTEAD:
        raise invalid(DataError, path, f"cannot be read: {_INSTEAD[suffixes[-1]]}")
    if _TEXT.intersection(suffixes[-2:]) or _is_text(inside):
        return _table(*tables.read_csv(path, header, largest))
    raise invalid(DataError, path, f"must be one of {FORMATS} (pickle is never read)")


def _read_idx(path: Path, label_file: Path | None) -> _Content:
    labels = None if label_file is None else idx.read_idx(label_file)
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        raise invalid(DataError, label_file, f"must be a list of integer labels, got shape {labels.shape}")
    return _Content(idx.read_idx(path), labels)


def _unpacked(path: Path) -> bytes:
    """The first bytes inside a gzip file; none of a damaged one."""
    try:
        with gzip.open(path, "rb") as file:
            return file.read(512)
    except (OSError, EOFError, zlib.error):
        return b""


def _is_text(start: bytes) -> bool:
    """Whether the first bytes can be those of a table in text: a digit, and no byte that text lacks."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True
    return bool(re.search(rb"\d", start)) and not re.search(rb"[\x00-\x08\x0e-\x1f]", start)


def _read_parts(folder: Path, header: bool | None, dtype: torch.dtype) -> _Content | None:
    """A table in parts: part-00000-....parquet beside _SUCCESS, as Spark writes it, or .csv; None: there is none."""
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))
    if partitions := [path for path in visible if path.is_dir() and "=" in path.name]:
        raise invalid(
            DataError,
            folder,
            f"is partitioned by a column ({partitions[0].name}); give one of its folders, or write it "
            "without partitions",
        )
    found = [path for path in visible if path.is_file() and {".csv", ".parquet"}.intersection(path.suffixes)]
    if not found:
        return None
    marked = any((folder / name).exists() for name in ("_SUCCESS", "_metadata", "_common_metadata"))
    if not marked and not all(re.match(r"part|data_?\d", path.name) for path in found):
        raise invalid(DataError, folder, f"holds tables; give one of them, got {len(found)} ({found[0].name}, ...)")
    found.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)])
    full = [path for path in found if path.stat().st_size and (path.suffix != ".parquet" or parquet.row_count(path))]
    parts: list[_Content] = []
    for path in full or found[:1]:
        parts.append(_read_file(path, None, header, dtype))
        header = bool(parts[0].names) if path.suffix != ".parquet" else header
        if parts[-1].names != parts[0].names or parts[-1].array.shape[1] != parts[0].array.shape[1]:
            raise invalid(DataError, path, f"must have the columns of {full[0].name}, got others")
    return _Content(np.concatenate([part.array for part in parts]), names=parts[0].names)


def _read_folder(
    folder: Path, split: str, header: bool | None, dtype: torch.dtype, background: str | int | tuple[int, ...]
) -> _Content:
    if (folder / "checkpoint").is_dir() and (folder / "config.json").is_file():
        raise invalid(DataError, folder, "must be data, got the run folder of a training")
    mnist = idx.find_images(folder, split)
    if mnist is not None:
        return _read_idx(*mnist)
    batches = cifar.find_batches(folder, split)
    if batches:
        return _Content(*cifar.read_batches(batches), 255.0)
    pictures = images.find_images(folder)
    if not pictures and (table := _read_parts(folder, header, dtype)) is not None:
        return table
    if not pictures:
        inside = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and images.find_images(path)]
        got = "none directly in it"
        if len(inside) == 1:
            got = f"images in its folder {inside[0]}: give that"
        elif inside:
            got = (
                f"images in {len(inside)} folders such as {inside[0]}: put those to learn into one folder, "
                "their classes into a file of labels"
            )
        raise invalid(
            DataError,
            folder,
            f"must hold images, or {split} files of MNIST (*-images-idx3-ubyte) or CIFAR-10 (*.bin), got {got}",
        )
    content = images.read_images(pictures, background)
    return _Content(content, divisor=65535.0 if content.dtype == np.uint16 else 255.0)


def _dataset(found: _Content, path: Path, dtype: torch.dtype, flatten: bool) -> Dataset:
    content, labels, divisor, names = found
    fault: Fault = invalid.of(DataError, path)
    check_shape(content.shape, fault)
    boolean = content.dtype.kind == "b"
    if boolean:  # as bytes, since a damaged file's booleans may be neither 0 nor 1
        content = content.view(np.uint8)
    stored = torch.from_numpy(real_array(content, fault))
    stored = stored.reshape(-1, 1) if stored.ndim == 1 else stored
    low, high = check_values(stored, fault, dtype)
    if boolean and high > 1:
        raise fault(f"must hold booleans of 0 or 1, got a byte of {high:g}")
    stored, image_shape = _channels_first(stored)
    if divisor is None:
        is_image = stored.dtype == torch.uint8 and image_shape is not None
        divisor = 255.0 if is_image and high > 1 else 1.0
    row_shape = tuple(stored.shape[1:])
    if flatten:
        row_shape = (stored[0].numel(),)
        # Fortran order and channels last allow no flat view: there each batch is flattened as it is read.
        stored = stored.flatten(1) if stored.is_contiguous() else stored
    elif image_shape is not None and stored.ndim == 3:
        row_shape = (1, *row_shape)
    return Dataset(
        stored,
        name=path.stem or path.name,
        image_shape=image_shape,
        value_range=_value_range(low / divisor, high / divisor, content, image_shape is not None),
        labels=None if labels is None else torch.from_numpy(labels.astype(np.int64)),
        divisor=divisor,
        dtype=dtype,
        row_shape=row_shape,
        column_names=names,
    )


def _channels_first(stored: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int] | None]:
    """(n, height, width) and (n, channels, height, width) are images; channels are moved from last to first."""
    if stored.ndim == 3:
        return stored, (stored.shape[1], stored.shape[2])
    if stored.ndim != 4:
        return stored, None
    first, last = stored.shape[1] in (1, 3, 4), stored.shape[3] in (1, 3, 4)
    if first and last:  # either reading is possible: the one whose pictures are square
        first = stored.shape[2] == stored.shape[3]
    if not first and last:
        stored = stored.permute(0, 3, 1, 2)
    return stored, (stored.shape[2], stored.shape[3]) if first or last else None


def _value_range(low: float, high: float, content: NDArray[Any], image: bool) -> tuple[float, float] | None:
    """Bounds that the generator's output unit may rely on: sigmoid for [0, 1], tanh for [-1, 1]."""
    if not image and content.dtype.kind == "f":
        return None  # the extremes of a sample are not those of the distribution
    if 0 <= low and high <= 1:
        return (0.0, 1.0)
    return (-1.0, 1.0) if -1 <= low and high <= 1 else None
