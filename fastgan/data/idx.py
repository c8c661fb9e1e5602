"""IDX, the format of MNIST: big-endian header, then the numbers; gzipped or plain."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._errors import Invalid

from .arrays import MAX_EXPANSION
from .checks import check_length, check_shape
from .dataset import DataError, Fault
from .mapping import Stream, map_array, read_array

# Third byte of the file: the type of the numbers.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PREFIXES = {"train": "train", "test": "t10k"}

Header = tuple["np.dtype[Any]", tuple[int, ...]]


def is_idx(start: bytes) -> bool:
    """Whether a file that begins with these four bytes can be IDX."""
    return len(start) >= 4 and start[:2] == b"\0\0" and start[2] in _TYPES and 1 <= start[3] <= 8


def read_idx(path: Path) -> NDArray[Any]:
    """The array of an IDX file; memory-mapped unless gzipped.

    Raises:
        DataError: wrong magic, truncated, trailing bytes, damaged gzip, or no rows.
    """
    fault: Fault = Invalid("read").of(DataError, path)
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            return _read_gzipped(path, fault)
        file.seek(0)
        dtype, shape = _read_header(file, fault)
        offset = file.tell()
    check_length(math.prod(shape) * dtype.itemsize, path.stat().st_size - offset, fault)
    return map_array(path, dtype, shape, offset=offset)


def find_images(folder: Path, split: str) -> tuple[Path, Path | None] | None:
    """(image file, label file or None) of a folder in MNIST's naming, or None."""
    images = _find(folder, f"{_PREFIXES[split]}-images", 3)
    return None if images is None else (images, find_labels(images))


def find_labels(images: Path) -> Path | None:
    """The label file beside a file of images in MNIST's naming, or None."""
    stem, found, _ = images.name.partition("-images")
    return _find(images.parent, f"{stem}-labels", 1) if found else None


def _find(folder: Path, stem: str, dims: int) -> Path | None:
    names = [f"{stem}{mark}idx{dims}-ubyte{end}" for end in ("", ".gz") for mark in ("-", ".")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_gzipped(path: Path, fault: Fault) -> NDArray[Any]:
    try:
        with gzip.open(path, "rb") as stream:
            dtype, shape = _read_header(stream, fault)
            claimed, packed = math.prod(shape) * dtype.itemsize, path.stat().st_size
            if claimed > MAX_EXPANSION * packed:
                raise fault(f"claims {claimed} bytes, more than {packed} gzipped can hold")
            array = read_array(stream, dtype, shape)
            trailing = stream.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise fault(f"must be a whole gzip file, got: {error}") from error
    if array is None:
        raise fault(f"is truncated: its header needs {claimed} bytes of numbers")
    if trailing:
        raise fault(f"must end after {claimed} bytes of numbers, got more")
    return array


def _read_header(stream: Stream, fault: Fault) -> Header:
    magic = stream.read(4)
    if not is_idx(magic):
        raise fault(f"must begin with the IDX magic 00 00 TYPE DIMENSIONS at byte 0, got {magic.hex(' ') or 'nothing'}")
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise fault(f"is truncated in its header: {magic[3]} sizes must follow byte 4")
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    check_shape(shape, fault)
    return np.dtype(_TYPES[magic[2]]), shape
