"""What the tests of files share: a table, some images, and how a refusal and a memory map are recognised."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

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
    """Whether the storage is in the file's own pages."""
    if sys.platform != "linux":
        pytest.skip("needs /proc/self/maps to see what is mapped")
    address = dataset.data.untyped_storage().data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line.endswith(str(path))
    return False
