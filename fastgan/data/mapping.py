"""Bytes of a file as an array: memory-mapped, or read from a stream."""

from __future__ import annotations

import math
import mmap
import sys
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Without it Linux counts a private mapping against memory and refuses files larger than that.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def map_array(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], *, offset: int, fortran: bool = False
) -> NDArray[Any]:
    """The file's bytes from `offset` on, mapped copy-on-write: writing changes this process, never the file.

    Writable on purpose: torch cannot mark memory read-only, so a write to a read-only mapping would crash.
    A file truncated by someone else while mapped still does (SIGBUS).
    """
    with path.open("rb") as file:
        if sys.platform == "win32":
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        else:
            mapped = mmap.mmap(
                file.fileno(),
                0,
                flags=mmap.MAP_PRIVATE | _NORESERVE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
            )
    flat: NDArray[Any] = np.frombuffer(mapped, dtype=dtype, count=math.prod(shape), offset=offset)
    return flat.reshape(shape, order="F" if fortran else "C")


def read_array(stream: Stream, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """The next numbers of a stream, or None when it ends before the last of them."""
    buffer = np.empty(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    filled = 0
    while filled < len(buffer):
        part = stream.read(min(1 << 20, len(buffer) - filled))
        if not part:
            return None
        buffer[filled : filled + len(part)] = np.frombuffer(part, dtype=np.uint8)
        filled += len(part)
    return buffer.view(dtype).reshape(shape)
