"""Data of PyTorch's kinds: rows by index, or streams of batches in their own order."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fastgan._errors import Invalid

_AMBIGUOUS = (list, tuple, dict, set, frozenset, str, bytes)  # of rows, of batches, of columns?


class ByIndex:
    """A map-style dataset, or the first parts of its samples, with the protocol of `rows(index)`.

    Args:
        dataset: with a length; `dataset[i]` is a row, or a tuple of a row, a label and more.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def rows(self, index: Tensor) -> Tensor:
        """The samples at these indices, stacked."""
        return torch.stack([as_tensor(first_of(self.dataset[i])) for i in index.tolist()])

    @property
    def labels(self) -> list[int] | None:
        """Second parts of all samples, read one by one; None if samples have one part."""
        second = [sample[1] for sample in map(self.dataset.__getitem__, range(len(self))) if _parts(sample) > 1]
        return [int(label) for label in second] if len(second) == len(self) else None


class Labelled:
    """Rows in memory with a label each: what `TensorDataset(x, y)` holds."""

    def __init__(self, x: Tensor, labels: Tensor) -> None:
        self.x, self.labels = x, labels

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, index: Tensor) -> Tensor:
        return self.x.index_select(0, index.to(self.x.device))


def adapted(data: Any) -> Any:
    """Data in a form that `Minibatches` takes; unknown data are returned unchanged."""
    if isinstance(data, Tensor | np.ndarray) or hasattr(data, "rows"):
        return data
    if type(data) is TensorDataset:
        x, *others = data.tensors
        return Labelled(x, others[0]) if others and others[0].dim() == 1 else x
    if hasattr(data, "to_numpy") and hasattr(data, "columns"):  # a DataFrame of pandas or polars
        return _numbers(data)
    if isinstance(data, _AMBIGUOUS) or is_stream(data):
        return data
    return ByIndex(data) if hasattr(data, "__getitem__") and hasattr(data, "__len__") else data


def is_stream(data: Any) -> bool:
    """Whether data are batches or an iterable dataset, with an order of their own."""
    if isinstance(data, DataLoader | IterableDataset):
        return True
    numbered = isinstance(data, _AMBIGUOUS) or hasattr(data, "__getitem__") or hasattr(data, "rows")
    return isinstance(data, Iterable) and not numbered


def hint(data: Any) -> str:
    """What makes data of a kind that is refused, or nothing."""
    if isinstance(data, list | tuple):
        return ": torch.stack makes a Tensor of rows, itertools.cycle a stream of batches"
    if isinstance(data, str):
        return ": fastgan.data.read reads a file, fastgan.data.load a data set"
    return ": call it" if inspect.isfunction(data) else ""


def batches_of(data: Any, size: int) -> Iterable[Any]:
    """Batches of this size; those of a loader or a generator are unchanged."""
    return DataLoader(data, size, drop_last=True) if isinstance(data, IterableDataset) else data


def first_of(sample: Any) -> Any:
    """The first part of a sample or batch with several parts: its rows."""
    return sample[0] if _parts(sample) else sample


def _parts(sample: Any) -> int:
    return len(sample) if isinstance(sample, tuple | list) else 0


def as_tensor(part: Any) -> Tensor:
    """Numbers as a Tensor.

    Raises:
        TypeError: they are none.
    """
    try:
        return torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError):
        got = (
            f"dict of {', '.join(map(repr, part))}: give the rows alone"
            if isinstance(part, dict)
            else type(part).__name__
        )
        raise Invalid("train").type("data", f"must give Tensors or arrays, got {got}") from None


def _numbers(frame: Any) -> np.ndarray:
    """A frame's values; in float64 where they are not all floating-point of one kind."""
    for name, kind in zip(frame.columns, map(str, frame.dtypes), strict=True):
        if not kind.lower().startswith(("float", "int", "uint", "bool")):
            raise Invalid("train").type("data", f"must have columns of numbers, got column {str(name)!r} of {kind}")
    table: np.ndarray = frame.to_numpy()
    return table if table.dtype.kind == "f" else frame.to_numpy(dtype=np.float64, na_value=np.nan)
