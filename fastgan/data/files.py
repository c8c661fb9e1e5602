"""Read the user's own files as a Dataset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from . import arrays, cifar, idx, images, tables
from .checks import check_shape, check_values, real_array
from .dataset import DataError, Dataset

FORMATS = ".npy, .npz, .csv, .tsv, .parquet, IDX (also .gz), CIFAR-10 .bin, or a folder of images"


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
) -> Dataset:
    """Read a file or folder as samples of p_data, one per row.

    .npy (memory-mapped), .npz, .csv or .tsv, .parquet, IDX (memory-mapped unless gzipped), CIFAR-10's binary
    version, a folder with MNIST's or CIFAR-10's file names, or a folder of images of one size. Values stay as
    stored and are converted batch by batch. Pickle is never read.

    Arguments:
        path: the file or folder. A CSV row or column is counted from 1 in messages, an array's from 0.
        array: which array of a .npz with several.
        split: "train" or "test", for folders that hold both.
        header: whether row 1 of a CSV holds names; found out by default.
        divisor: stored values are divided by it. By default 255 for images stored as bytes, 65535 for 16-bit
            image files, 1 for everything else and for byte arrays that hold only 0 and 1.
        image_shape: (height, width), for files whose rows are flattened images, channels first.
        dtype: torch.float32 or torch.float64, the type of the rows.
        flatten: rows are flat (features), an image's channels one after another; False gives
            (channels, height, width) for images and the file's own shape for other arrays.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the content cannot be used; one line names file, row or byte, and rule.
        ImportError: the format needs a package that is not installed.
    """
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"read: dtype must be torch.float32 or torch.float64, got {dtype}")
    if split not in ("train", "test"):
        raise ValueError(f"read: split must be 'train' or 'test', got {split!r}")
    if divisor is not None and not 0 < divisor < float("inf"):
        raise ValueError(f"read: divisor must be positive and finite, got {divisor}")
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"read: no such file: {source}")
    if array is not None and source.suffix.lower() != ".npz":
        raise ValueError(f"read: array names one of a .npz file's, got {source}")
    if source.is_dir():
        content = _read_folder(source, split)
    else:
        content = _read_file(source, array, header, dtype)
    n, labels = len(content.array), content.labels
    if labels is not None and len(labels) != n:
        raise DataError(f"read: {source} must have a label a row ({n}), got {len(labels)}")
    if image_shape is not None:
        content = content._replace(array=_unflatten(content.array, image_shape, source), names=())
    if divisor is not None:
        content = content._replace(divisor=divisor)
    return _dataset(content, source, dtype, flatten)


def _unflatten(content: NDArray[Any], image_shape: tuple[int, int], path: Path) -> NDArray[Any]:
    """(n, channels * height * width) as images; a view."""
    height, width = image_shape
    features = content.shape[1] if content.ndim == 2 else 0
    area = height * width if min(height, width) > 0 else 0
    if not area or features not in (area, 3 * area, 4 * area):
        shape = tuple(content.shape)
        raise ValueError(f"read: image_shape must fit the rows of {path}, got {image_shape} for {shape}")
    if features == area:
        return content.reshape(-1, height, width)
    return content.reshape(-1, features // area, height, width)


def _read_file(path: Path, array: str | None, header: bool | None, dtype: torch.dtype) -> _Content:
    if not path.is_file():
        raise DataError(f"read: {path} must be a regular file or a folder")
    if path.stat().st_size == 0:
        raise DataError(f"read: {path} must not be empty, got 0 bytes")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _Content(arrays.read_npy(path))
    if suffix == ".npz":
        return _Content(arrays.read_npz(path, array))
    if suffix in (".csv", ".tsv"):
        return _table(*tables.read_csv(path, header, torch.finfo(dtype).max), dtype)
    if suffix == ".parquet":
        return _table(*tables.read_parquet(path, torch.finfo(dtype).max), dtype)
    if suffix == ".bin":
        return _Content(*cifar.read_batches([path]), 255.0)
    if suffix in images.SUFFIXES:
        raise DataError(f"read: {path} is a single image; give the folder of images")
    return _read_unnamed(path)


def _table(table: NDArray[np.float64], names: tuple[str, ...], dtype: torch.dtype) -> _Content:
    """A table is in memory: keep it in the type that training asks for."""
    return _Content(table if dtype == torch.float64 else table.astype(np.float32), names=names)


def _read_unnamed(path: Path) -> _Content:
    """IDX files seldom have a telling suffix, so the first bytes decide."""
    with path.open("rb") as file:
        start = file.read(6)
    if start == arrays.MAGIC:
        return _Content(arrays.read_npy(path))
    named = "ubyte" in path.name or "idx" in path.name
    if named or idx.is_idx(start) or start[:2] == b"\x1f\x8b":
        return _Content(idx.read_idx(path))
    raise DataError(f"read: {path} must be one of {FORMATS} (pickle is never read)")


def _read_folder(folder: Path, split: str) -> _Content:
    mnist = idx.find_images(folder, split)
    if mnist is not None:
        image_file, label_file = mnist
        labels = None if label_file is None else idx.read_idx(label_file)
        if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
            raise DataError(f"read: {label_file} must be a list of integer labels, got shape {labels.shape}")
        return _Content(idx.read_idx(image_file), labels)
    batches = cifar.find_batches(folder, split)
    if batches:
        return _Content(*cifar.read_batches(batches), 255.0)
    pictures = images.find_images(folder)
    if not pictures:
        raise DataError(
            f"read: {folder} must hold images, or {split} files of MNIST (*-images-idx3-ubyte)"
            " or CIFAR-10 (*.bin), got none directly in it"
        )
    content = images.read_images(pictures)
    return _Content(content, divisor=65535.0 if content.dtype == np.uint16 else 255.0)


def _dataset(found: _Content, path: Path, dtype: torch.dtype, flatten: bool) -> Dataset:
    content, labels, divisor, names = found
    where = f"read: {path}"
    check_shape(content.shape, where)
    boolean = content.dtype.kind == "b"
    if boolean:  # as bytes, since a damaged file's booleans may be neither 0 nor 1
        content = content.view(np.uint8)
    stored = torch.from_numpy(real_array(content, where))
    stored = stored.reshape(-1, 1) if stored.ndim == 1 else stored
    low, high = check_values(stored, where, dtype)
    if boolean and high > 1:
        raise DataError(f"{where} must hold booleans of 0 or 1, got a byte of {high:g}")
    if divisor is None:
        is_image = stored.dtype == torch.uint8 and stored[0].numel() > 1
        divisor = 255.0 if is_image and high > 1 else 1.0
    stored, image_shape = _channels_first(stored)
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
    """(n, height, width) and (n, channels, height, width) are images; channels last is turned to first."""
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
        return None  # the extremes of a sample say nothing of the distribution's
    if 0 <= low and high <= 1:
        return (0.0, 1.0)
    return (-1.0, 1.0) if -1 <= low and high <= 1 else None
