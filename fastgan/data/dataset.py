"""The rows a GAN trains on, converted batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan._errors import Invalid


class DataError(ValueError):
    """A file or array cannot be training data; one line names the file, the place in it, and the reason."""


class NotANumberError(DataError):
    """A cell of a table of numbers is empty or text, which a `TabularGAN` may learn."""


Fault = Callable[[str], DataError]  # makes the error of a broken rule, about one file or argument


class DataWarning(UserWarning):
    """A part of a file was left out or read differently; one line names it."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Samples of p_data, one per row.

    `data` has the stored type (bytes stay bytes, a memory-mapped file stays mapped); `rows` converts the rows that it
    gathers. So read by `rows`, `tensor` or `head`, not from `data`.

    Args:
        data: (n, ...) storage, any real dtype.
        name: name in titles and file names.
        image_shape: (height, width) when a row is an image; a flat row holds its channels one after another.
        value_range: (lowest, highest) possible value of a converted row, None when unbounded or unknown.
        centres: (modes, features) means of a mixture whose modes are known.
        std: standard deviation of each mode.
        labels: (n,) int64 class or mode of each row; -1: unknown.
        divisor: stored values are divided by this (255 for bytes).
        dtype: floating point type of converted rows.
        row_shape: shape of one converted row; that of a stored row by default.
        column_names: of a table's columns, if they have names.

    Raises:
        DataError: no rows, or parts that do not fit together.
    """

    data: Tensor
    name: str = "data"
    image_shape: tuple[int, int] | None = None
    value_range: tuple[float, float] | None = None
    centres: Tensor | None = None
    std: float | None = None
    labels: Tensor | None = None
    divisor: float = 1.0
    dtype: torch.dtype = torch.float32
    row_shape: tuple[int, ...] | None = None
    column_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.data.ndim < 2:
            shape = tuple(self.data.shape)
            raise Invalid("Dataset")(DataError, "data", f"must have rows and features (n, ...), got shape {shape}")
        if self.data.numel() == 0:
            raise Invalid("Dataset")(DataError, "data", f"must not be empty, got shape {tuple(self.data.shape)}")
        if self.labels is not None and len(self.labels) != len(self.data):
            raise Invalid("Dataset")(
                DataError, "labels", f"must be one per row ({len(self.data)}), got {len(self.labels)}"
            )
        if self.row_shape is None:
            object.__setattr__(self, "row_shape", tuple(self.data.shape[1:]))

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        parts = [f"{self.name!r}", f"shape={tuple(self.shape)}", f"stored={self.data.dtype}"]
        if self.image_shape is not None:
            parts.append(f"image_shape={self.image_shape}")
        if self.value_range is not None:
            parts.append(f"value_range={self.value_range}")
        return f"Dataset({', '.join(parts)})"

    @property
    def shape(self) -> torch.Size:
        """(n, ...) of all rows as `rows` gives them."""
        assert self.row_shape is not None
        return torch.Size((len(self.data), *self.row_shape))

    @property
    def device(self) -> torch.device:
        return self.data.device

    def rows(self, index: Tensor) -> Tensor:
        """Gather rows and convert them; the result is the caller's own memory.

        Equivalent to `(data[index].to(dtype) / divisor).reshape(len(index), *row_shape)`.

        Args:
            index: (batch,) int64 or int32 row numbers from 0 to n - 1.

        Returns: (batch, ...) of type `dtype`, on the device of `data`.

        Raises:
            TypeError: index is not a one-dimensional integer tensor.
            IndexError: a row number is out of range (on the CPU).
        """
        if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32) or index.ndim != 1:
            got = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
            raise Invalid("Dataset.rows").type("index", f"must be a one-dimensional integer tensor, got {got}")
        gathered = self.data.index_select(0, index.to(self.data.device))
        return self._convert(gathered)

    def _convert(self, stored: Tensor) -> Tensor:
        """Stored rows, not shared with `data`, as training sees them."""
        rows = stored.to(self.dtype)
        if self.divisor != 1.0:
            rows = rows.div_(self.divisor)
        return rows.reshape(len(stored), *self.shape[1:])

    def tensor(self) -> Tensor:
        """All rows, converted, in memory."""
        return self._convert(self.data.clone())

    def head(self, n: int) -> Dataset:
        """The first n rows; shares storage.

        Raises:
            ValueError: n is not between 1 and the number of rows.
        """
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(self):
            raise Invalid("Dataset.head").value("n", f"must be from 1 to the {len(self)} rows there are, got {n}")
        labels = None if self.labels is None else self.labels[:n]
        return dataclasses.replace(self, data=self.data[:n], labels=labels)

    def take(self, index: Tensor) -> Dataset:
        """A copy of the rows at these indices, (n,) int64.

        Raises:
            DataError: no numbers. IndexError: a number is out of range.
        """
        index = index.to(self.data.device)
        labels = None if self.labels is None else self.labels[index.to(self.labels.device)]
        return dataclasses.replace(self, data=self.data[index], labels=labels)

    def double(self) -> Dataset:
        """The same rows in float64, with all digits of the storage; shares storage."""
        return dataclasses.replace(self, dtype=torch.float64)

    def to(self, device: str | torch.device) -> Dataset:
        """The same rows on another device; bytes are copied as bytes."""
        moved = {
            field: value.to(device)
            for field in ("data", "labels", "centres")
            if (value := getattr(self, field)) is not None
        }
        return dataclasses.replace(self, **moved)
