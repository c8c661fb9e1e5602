"""Columns of a table brought to mean 0 and standard deviation 1, and back."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgan.data import Dataset

_CHUNK = 1 << 22  # numbers looked at together
_IN_MEMORY = 1 << 28  # bytes of rows that are standardised once, before training


@dataclass(frozen=True)
class Columns:
    """Mean and standard deviation of each column.

    A column that never changes has standard deviation 0: G learns zeros there, and `restore` gives its value.

    Args:
        mean, std: one number a column.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> Columns:
        """Measured on the whole data set in float64, in two passes over chunks of rows."""
        n, dim = len(dataset), dataset.shape[1:].numel()
        step = max(1, _CHUNK // dim)
        starts = range(0, n, step)

        def chunk(start: int) -> Tensor:
            return dataset.rows(torch.arange(start, min(start + step, n))).double()

        mean = torch.stack([chunk(start).sum(0) for start in starts]).sum(0) / n
        square = torch.stack([(chunk(start) - mean).square().sum(0) for start in starts]).sum(0) / n
        std = square.sqrt()
        std[std <= 1e-12 * mean.abs()] = 0.0  # rounding of the mean, no spread
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def standardize(self, x: Tensor) -> Tensor:
        """(x - mean) / std, computed in float64. x: (m, columns)."""
        mean, std = self._tensors
        return ((x.double() - mean) / torch.where(std == 0.0, 1.0, std)).to(x.dtype)

    def restore(self, x: Tensor) -> Tensor:
        """x * std + mean, computed in float64. x: (m, columns)."""
        mean, std = self._tensors
        return (x.double() * std + mean).to(x.dtype)

    @functools.cached_property
    def _tensors(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.std, dtype=torch.float64)

    def as_dict(self) -> dict[str, Any]:
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Columns:
        mean, std = (tuple(float(v) for v in values[name]) for name in ("mean", "std"))
        if len(mean) != len(std):
            raise ValueError(f"columns must have a std for each mean, got {len(std)} for {len(mean)}")
        return cls(mean, std)


class StandardizedRows:
    """A data set whose rows are standardised as they are gathered: a mapped file stays on the disk."""

    def __init__(self, dataset: Dataset, columns: Columns) -> None:
        self._dataset, self._columns = dataset, columns
        self.labels = dataset.labels

    def __len__(self) -> int:
        return len(self._dataset)

    def rows(self, index: Tensor) -> Tensor:
        return self._columns.standardize(self._dataset.rows(index))


def training_rows(dataset: Dataset, columns: Columns | None) -> Any:
    """The data as the networks see them; small ones standardised at once in memory, as the fused engine wants them."""
    if columns is None:
        return dataset
    rows = StandardizedRows(dataset, columns)
    first = rows.rows(torch.zeros(1, dtype=torch.int64))
    if len(rows) * first.nbytes > _IN_MEMORY:
        return rows
    return Dataset(rows.rows(torch.arange(len(rows))), labels=dataset.labels, dtype=dataset.dtype)
