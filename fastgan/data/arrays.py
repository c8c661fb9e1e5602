"""NumPy's own files: .npy, memory-mapped, and .npz."""

from __future__ import annotations

import math
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fastgan._errors import Invalid, first_line

from .checks import check_dtype, check_length, check_shape
from .dataset import DataError, Fault
from .mapping import map_array, read_array

invalid = Invalid("read")

MAGIC = npy.MAGIC_PREFIX
# Deflate cannot shrink more than 1032 times; a member that claims more is not worth allocating for.
MAX_EXPANSION = 1100

Header = tuple[tuple[int, ...], bool, "np.dtype[Any]"]


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a .npy file, memory-mapped.

    Raises:
        DataError: not a .npy file, truncated, trailing bytes, no rows, or not real numbers.
    """
    fault: Fault = invalid.of(DataError, path)
    with path.open("rb") as file:
        shape, fortran, dtype = _read_header(file, fault)
        offset = file.tell()
    check_length(math.prod(shape) * dtype.itemsize, path.stat().st_size - offset, fault)
    return map_array(path, dtype, shape, offset=offset, fortran=fortran)


def read_npz(path: Path, name: str | None) -> NDArray[Any]:
    """One array of a .npz file, in memory.

    Args:
        name: which array; may be None when there is only one.

    Raises:
        DataError: not a .npz file, damaged, several arrays and no name, or as for `read_npy`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = _choose(archive, name, path)
            return _read_member(archive, member, invalid.of(DataError, f"{path} array {member.filename[:-4]!r}"))
    except DataError:
        raise
    # The zip reader answers a damaged archive with any of these.
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
        ValueError,
    ) as error:
        raise invalid(DataError, path, f"must be a whole .npz file, got: {error}") from error


def _choose(archive: zipfile.ZipFile, name: str | None, path: Path) -> zipfile.ZipInfo:
    members = {info.filename[:-4]: info for info in archive.infolist() if info.filename.endswith(".npy")}
    if not members:
        raise invalid(DataError, path, "must hold an array, got none")
    names = ", ".join(members)
    if name is not None and name not in members:
        raise invalid(DataError, f"{path} array", f"must be one of {names}, got {name!r}")
    if name is None and len(members) > 1:
        raise invalid(DataError, path, f"holds several arrays; choose one of {names} (array=... or FILE.npz:NAME)")
    return members[name] if name is not None else next(iter(members.values()))


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, fault: Fault) -> NDArray[Any]:
    if member.file_size > MAX_EXPANSION * (member.compress_size + 1):
        raise fault(f"claims {member.file_size} bytes, more than {member.compress_size} compressed can hold")
    with archive.open(member) as stream:
        shape, fortran, dtype = _read_header(stream, fault)  # type: ignore[arg-type]
        check_length(math.prod(shape) * dtype.itemsize, member.file_size - stream.tell(), fault)
        array = read_array(stream, dtype, shape[::-1] if fortran else shape)
    if array is None:
        raise fault("is truncated")
    return array.T if fortran else array


def _read_header(stream: BinaryIO, fault: Fault) -> Header:
    """(shape, Fortran order?, dtype), all checked but the length of what follows."""
    if stream.read(len(MAGIC)) != MAGIC:
        raise fault("must begin with the .npy magic bytes at byte 0")
    version = tuple(stream.read(2))
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise fault(f"must be .npy version 1.0, 2.0 or 3.0, got bytes {version} at byte 6")
    shape, fortran, dtype = _parse_header(stream, version, fault)
    check_dtype(dtype, fault)
    check_shape(shape, fault)
    return shape, fortran, dtype


def _parse_header(stream: BinaryIO, version: tuple[int, ...], fault: Fault) -> Header:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # files of Python 2 are read, without NumPy's warning
            if version == (1, 0):
                shape, fortran, dtype = npy.read_array_header_1_0(stream)
            else:
                shape, fortran, dtype = npy.read_array_header_2_0(stream)
    # NumPy evaluates the header as a Python literal: damaged ones raise SyntaxError, TypeError, ...
    except Exception as error:
        raise fault(f"must have a readable .npy header from byte 8, got: {first_line(error)}") from error
    return tuple(int(size) for size in shape), bool(fortran), dtype
