"""CIFAR-10, the binary version: one label byte, then 3 x 32 x 32 pixel bytes, per image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgan._errors import Invalid

from .dataset import DataError
from .mapping import map_array

_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS


def find_batches(folder: Path, split: str) -> list[Path]:
    """The files of CIFAR-10's binary version in a folder, in order; may be empty.

    Raises:
        DataError: the folder has the Python version: pickles, which are never read.
    """
    pattern = "data_batch_*" if split == "train" else "test_batch*"
    batches = sorted(folder.glob(f"{pattern}.bin"))
    pickled = [path for path in folder.glob(pattern) if path.suffix != ".bin"]
    if not batches and pickled:
        raise Invalid("read")(
            DataError, folder, f"must hold CIFAR-10's binary version ({pattern}.bin), got pickle files"
        )
    return batches


def read_batches(paths: list[Path]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(images (n, 3, 32, 32) uint8, labels (n,)); a single file stays memory-mapped.

    Raises:
        DataError: a file that is not whole records, or a label above 9.
    """
    records = [_read_records(path) for path in paths]
    table = records[0] if len(records) == 1 else np.concatenate(records)
    return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0].astype(np.int64)


def _read_records(path: Path) -> NDArray[Any]:
    size = path.stat().st_size
    if size == 0 or size % _RECORD:
        raise Invalid("read")(DataError, path, f"must be whole CIFAR-10 records of {_RECORD} bytes, got {size} bytes")
    table = map_array(path, np.dtype(np.uint8), (size // _RECORD, _RECORD), offset=0)
    wrong = np.flatnonzero(table[:, 0] > 9)
    if len(wrong):
        row = int(wrong[0])
        label = int(table[row, 0])
        raise Invalid("read")(
            DataError, f"{path} label at byte {row * _RECORD}", f"must be between 0 and 9, got {label}"
        )
    return table
