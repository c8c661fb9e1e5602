"""Dataset converts the rows it gathers; load and as_dataset find them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgan import data
from fastgan.data import DataError, Dataset


def test_rows_gathers_and_converts() -> None:
    stored = torch.arange(24, dtype=torch.uint8).reshape(6, 2, 2)
    dataset = Dataset(stored, divisor=255.0, row_shape=(4,))
    index = torch.tensor([5, 0, 5])
    assert torch.equal(dataset.rows(index), stored[index].float().reshape(3, 4) / 255)
    assert torch.equal(dataset.rows(index.int()), dataset.rows(index))
    assert torch.equal(dataset.tensor(), stored.float().reshape(6, 4) / 255)
    assert len(dataset) == 6 and dataset.shape == (6, 4)
    assert dataset.rows(torch.tensor([], dtype=torch.int64)).shape == (0, 4)


@pytest.mark.parametrize("divisor", [1.0, 2.0])
def test_rows_and_tensor_are_the_callers_own(divisor: float) -> None:
    stored = torch.ones(4, 2)
    dataset = Dataset(stored, divisor=divisor)
    dataset.rows(torch.tensor([0, 1])).zero_()
    dataset.tensor().zero_()
    assert torch.equal(stored, torch.ones(4, 2))


@pytest.mark.parametrize(
    "index", [[0, 1], torch.tensor([0.0]), torch.tensor([[0]]), torch.tensor(0), torch.tensor([True])]
)
def test_rows_refuses_a_wrong_index(index: object) -> None:
    with pytest.raises(TypeError, match=r"^Dataset.rows: index must be a one-dimensional integer tensor, got "):
        Dataset(torch.ones(4, 2)).rows(index)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", [4, -1])
def test_rows_refuses_an_index_out_of_range(row: int) -> None:
    with pytest.raises(IndexError):
        Dataset(torch.ones(4, 2)).rows(torch.tensor([row]))


def test_dataset_refuses_parts_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"data must have rows and features \(n, ...\), got shape \(3,\)"):
        Dataset(torch.ones(3))
    with pytest.raises(DataError, match=r"data must not be empty, got shape \(0, 2\)"):
        Dataset(torch.ones(0, 2))
    with pytest.raises(DataError, match=r"labels must be one per row \(3\), got 2"):
        Dataset(torch.ones(3, 2), labels=torch.tensor([0, 1]))


def test_head_and_to_keep_everything_else() -> None:
    ring = data.ring(100)
    head = ring.head(10)
    assert head.shape == (10, 2) and head.labels is not None and len(head.labels) == 10
    assert head.data.data_ptr() == ring.data.data_ptr() and head.std == ring.std
    for n in (0, 101, True, 1.0):
        with pytest.raises(ValueError, match=rf"n must be from 1 to the 100 rows there are, got {n}$"):
            ring.head(n)  # type: ignore[arg-type]
    meta = ring.to("meta")
    assert meta.device.type == "meta" and meta.centres is not None and meta.centres.device.type == "meta"
    assert repr(ring) == "Dataset('ring', shape=(100, 2), stored=torch.float32)"


def test_as_dataset() -> None:
    x = torch.randn(5, 3, dtype=torch.float64)
    dataset = data.as_dataset(x)
    assert dataset.dtype == torch.float64 and dataset.data.data_ptr() == x.data_ptr()
    assert data.as_dataset(dataset) is dataset
    assert data.as_dataset(np.arange(4)).shape == (4, 1)
    assert torch.equal(data.as_dataset(np.arange(4)[::-1]).tensor()[:, 0], torch.tensor([3.0, 2.0, 1.0, 0.0]))
    half = data.as_dataset(torch.ones(2, 2, dtype=torch.float16))
    assert half.rows(torch.tensor([0])).dtype == torch.float32
    frozen = np.ones((2, 2))
    frozen.flags.writeable = False
    assert data.as_dataset(frozen).shape == (2, 2)
    grown = torch.ones(2, 2, requires_grad=True)
    assert not data.as_dataset(grown).rows(torch.tensor([1])).requires_grad


def test_as_dataset_refuses() -> None:
    with pytest.raises(TypeError, match="data must be a Dataset, tensor, array or DataFrame, got list"):
        data.as_dataset([[1.0]])
    with pytest.raises(TypeError, match="data must be real, got torch.complex64"):
        data.as_dataset(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(DataError, match="must hold numbers, got objects"):
        data.as_dataset(np.array([["a"], [None]], dtype=object))
    with pytest.raises(DataError, match=r"row 1, column 2 \(counted from 0\) must be a finite number, got nan"):
        data.as_dataset(torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, math.nan]]))
    with pytest.raises(DataError, match=r"row 2 \(counted from 0\) must be a finite number, got -inf"):
        data.as_dataset(np.array([0.0, 1.0, -math.inf]))


def test_load_by_name_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("ring.npy", np.ones((5, 3), np.float32))
    (tmp_path / "ring.npy").rename("ring")
    assert data.load("ring", n=7, modes=3).shape == (7, 2)
    assert data.load("./ring").shape == (5, 3)
    assert data.load(tmp_path / "ring", n=2).shape == (2, 3)
    with pytest.raises(ValueError, match="n must be from 1 to the 5 rows there are, got 6"):
        data.load("./ring", n=6)
    with pytest.raises(FileNotFoundError, match=r"^load: no data set or file 'rings'; did you mean 'ring'\?"):
        data.load("rings")
    with pytest.raises(FileNotFoundError, match=r"^load: no data set or file 'no/such.npy' \(data sets: digits, "):
        data.load("no/such.npy")
    np.savez("two.npz", a=np.ones((2, 2)), b=np.zeros((3, 1)))
    assert data.load("two.npz:b").shape == (3, 1)
    with pytest.raises(DataError, match="array must be one of a, b, got 'c'"):
        data.load("two.npz:c")
