"""Damaged files are read or refused; nothing else can come out of the readers."""

from __future__ import annotations

import gzip
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import idx_bytes
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastgan.data import DataError, read


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, array)
    return buffer.getvalue()


PIXELS = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
TABLE = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
SEEDS = {
    "x.npy": [npy_bytes(PIXELS), npy_bytes(TABLE), npy_bytes(np.asfortranarray(TABLE)), npy_bytes(TABLE > 0)],
    "x-idx3-ubyte": [idx_bytes(PIXELS), idx_bytes(TABLE), idx_bytes(TABLE.astype(np.int16))],
    "x-idx3-ubyte.gz": [gzip.compress(idx_bytes(PIXELS), mtime=0)],
    "x.npz": [npz_bytes(PIXELS)],
    "x.csv": [b"a,b,c\n1,2.5,-3e4\n4,5,6\n", b"1;2\n3;4\n"],
    "x.bin": [bytes([3]) + bytes(3072)],
}

# (position, what to do, byte): a header is where damage matters, so early positions are likelier.
edits = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 140), st.integers(0, 4000)),
        st.sampled_from(["set", "set", "set", "insert", "delete", "cut"]),
        st.integers(0, 255),
    ),
    max_size=5,
)


def damage(whole: bytes, changes: list[tuple[int, str, int]]) -> bytes:
    content = bytearray(whole)
    for position, action, byte in changes:
        at = position % (len(content) + 1)
        if action == "insert":
            content.insert(at, byte)
        elif action == "cut":
            del content[at:]
        elif at < len(content):
            if action == "set":
                content[at] = byte
            else:
                del content[at]
    return bytes(content)


def survives(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        dataset = read(path)
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        rows = dataset.tensor()
        assert rows.ndim == 2 and len(rows) == len(dataset) > 0
        assert rows.dtype == torch.float32 and torch.isfinite(rows).all()


@pytest.mark.parametrize("name", SEEDS)
def test_R35_damaged_files(name: str) -> None:
    @settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(SEEDS[name]), edits)
    @example(SEEDS[name][0], [])
    def run(whole: bytes, changes: list[tuple[int, str, int]]) -> None:
        survives(path, damage(whole, changes))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        run()


@pytest.mark.parametrize("name", ["x.npy", "x-idx3-ubyte"])
def test_R35_every_byte_of_the_header(name: str, tmp_path: Path) -> None:
    """Every single-bit fault in the first 96 bytes, and every length."""
    whole = SEEDS[name][0]
    for at in range(min(96, len(whole))):
        for bit in range(8):
            survives(tmp_path / name, whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
    for length in range(len(whole)):
        with pytest.raises(DataError):
            (tmp_path / name).write_bytes(whole[:length])
            read(tmp_path / name)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet="0123456789.,;\t\"'\n\r -+eEnaif_x\x00\ufeff", max_size=60))
def test_R35_text_as_csv(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        survives(Path(folder) / "x.csv", text.encode())
