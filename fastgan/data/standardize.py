"""Standardisation of a table's columns to mean 0 and standard deviation 1, and back."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from fastgan._errors import Invalid

from .dataset import DataError, Dataset
from .sources import as_dataset

_CHUNK = 1 << 22  # numbers looked at together
_IN_MEMORY = 1 << 28  # bytes of rows that are standardised once, before training
_ROUNDING = 2.0**-50  # of a mean in float64


@dataclass(frozen=True)
class Standardizer:
    """Mean and standard deviation of each column.

    Computed in float64 and rounded once, after the mean is subtracted: Unix times within an hour differ only in the
    last 12 of the 31 bits of 1.7e9, and float32 has 24.

    Equivalent to `sklearn.preprocessing.StandardScaler`, except for a constant column: its standard deviation is 0,
    `transform` gives zeros and `inverse` gives its value.

        scaler = Standardizer.fit(data.read("table.csv"))
        result = train(gan, scaler.transform(table))
        samples = scaler.inverse(gan.sample(1000))

    Args:
        mean, std: one number a column.

    Raises:
        ValueError: not as many standard deviations as means, a number that is not finite, or std below 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            counts = f"{len(self.std)} for {len(self.mean)}"
            raise Invalid("Standardizer").value("columns", f"must have a std for each mean, got {counts}")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std, default=0.0) < 0:
            raise Invalid("Standardizer").value("mean", "must be finite, and std finite and not negative")

    @classmethod
    def fit(cls, data: Dataset | Tensor | np.ndarray[Any, Any]) -> Standardizer:
        """Compute mean and standard deviation of all rows, in chunks: a memory-mapped file is never copied whole.

        Args:
            data: (n, columns) of any real dtype. Of a Dataset, the stored numbers are read, not the converted rows.

        Raises:
            DataError: the rows are not finite, or so large that their squares are not.
        """
        rows = as_dataset(data).double()
        n, step = len(rows), max(1, _CHUNK // rows.shape[1:].numel())
        starts = range(0, n, step)

        def chunk(start: int) -> Tensor:
            return rows.rows(torch.arange(start, min(start + step, n))).flatten(1)

        # Relative to the first row: in a sum of many large numbers, rounding would lose their differences.
        first = chunk(0)[0].clone()
        mean = first + torch.stack([(chunk(start) - first).sum(0) for start in starts]).sum(0) / n
        variance = torch.stack([(chunk(start) - mean).square().sum(0) for start in starts]).sum(0) / n
        std = variance.sqrt()
        std[std <= _ROUNDING * mean.abs()] = 0.0
        if not bool((mean.isfinite() & std.isfinite()).all()):
            raise Invalid("Standardizer.fit")(
                DataError, "data", "must have a finite mean and standard deviation in every column"
            )
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    @overload
    def transform(self, x: Tensor) -> Tensor: ...
    @overload
    def transform(self, x: Dataset) -> Dataset | StandardizedRows: ...
    def transform(self, x: Tensor | Dataset) -> Tensor | Dataset | StandardizedRows:
        """(x - mean) / std in float64, rounded to float32.

        Args:
            x: (m, columns); or a Dataset, whose rows are standardised at once, or batch by batch where they would
                take more than 256 MiB.

        Returns: (m, columns) float32; for a Dataset what `fastgan.train` takes as data, with the same labels.
        """
        if not isinstance(x, Dataset):
            mean, std = self._tensors
            return ((x.double() - mean) / torch.where(std == 0.0, 1.0, std)).float()
        rows = StandardizedRows(x, self)
        if len(x) * x.shape[1:].numel() * 4 > _IN_MEMORY:
            return rows
        return dataclasses.replace(
            x,
            data=torch.cat(
                [rows.rows(index) for index in torch.arange(len(x)).split(max(1, _CHUNK // len(self.mean)))]
            ),
            dtype=torch.float32,
            divisor=1.0,
            row_shape=None,
            value_range=None,
            centres=None,
            std=None,
        )

    def inverse(self, x: Tensor) -> Tensor:
        """x * std + mean. x: (m, columns). Returns: float64, because float32 may lose digits of a column."""
        mean, std = self._tensors
        return x.double() * std + mean

    @functools.cached_property
    def _tensors(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.std, dtype=torch.float64)

    def as_dict(self) -> dict[str, list[float]]:
        """Plain values for JSON; `from_dict` gives an object with the same bits."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Standardizer:
        """The Standardizer that `as_dict` described.

        Raises:
            KeyError, TypeError, ValueError: it is not such a dictionary.
        """
        mean, std = (tuple(float(value) for value in values[name]) for name in ("mean", "std"))
        return cls(mean, std)


class StandardizedRows:
    """A data set whose rows are standardised as they are gathered: a mapped file stays on the disk."""

    def __init__(self, dataset: Dataset, standardizer: Standardizer) -> None:
        self._dataset, self._standardizer = dataset.double(), standardizer
        self.labels = dataset.labels

    def __len__(self) -> int:
        return len(self._dataset)

    def rows(self, index: Tensor) -> Tensor:
        """The rows at these indices, (len(index), columns) float32. index: int64."""
        return self._standardizer.transform(self._dataset.rows(index).flatten(1))
