"""A Dataset from a name, a path, a tensor or an array, for the command line and training."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan._errors import Invalid

from .bundled import digits
from .checks import check_values, check_visible, real_array
from .dataset import DataError, Dataset, Fault
from .files import FORMATS, read
from .mnist_files import NAMES as USERS_OWN
from .mnist_files import load as load_mnist
from .synthetic import gaussian, gaussians, grid, mixture1200d, ring, ring_map

SYNTHETIC: dict[str, tuple[Callable[..., Dataset], int]] = {
    "ring": (ring, 100_000),
    "grid": (grid, 100_000),
    "gaussian": (gaussian, 100_000),
    "gaussians": (gaussians, 100_000),
    "ring_map": (ring_map, 100_000),
    "mixture1200d": (mixture1200d, 10_000),
}
"""The distributions by name: the function of n and seed, and the rows when n is not given."""
NAMES = ("digits", *SYNTHETIC)
"""The data sets that need no file; those of `USERS_OWN` need the user's."""


def load(source: str | os.PathLike[str], *, n: int | None = None, seed: int = 0, **options: Any) -> Dataset:
    """Data by name ("digits", "ring", "grid", "gaussian", "gaussians", "ring_map", "mixture1200d") or path.

    "mnist" and "fashion-mnist" read the user's files; the option `path` is their folder.

    A name wins over a file of that name; write ./ring for the file. FILE.npz:NAME picks one array.

    Args:
        n: rows; by default all, or 100,000 of a synthetic distribution. Of digits and files, the first n.
        seed: of the synthetic distributions.
        options: arguments of the function of that name, or of `read` for a path.

    Raises:
        FileNotFoundError: neither a name nor an existing path.
        DataError, ImportError: as `read`.
        ValueError: n is not between 1 and the number of rows.
    """
    if isinstance(source, str) and source in SYNTHETIC:
        make, default = SYNTHETIC[source]
        return make(default if n is None else n, seed=seed, **options)
    if isinstance(source, str) and source in USERS_OWN:
        dataset = load_mnist(source, **options)
    else:
        dataset = digits(**options) if source == "digits" else _read(source, options)
    return dataset if n is None else dataset.head(n)


def _read(source: str | os.PathLike[str], options: dict[str, Any]) -> Dataset:
    text = os.fspath(source)
    if Path(text).exists():
        return read(text, **options)
    file, colon, array = text.rpartition(":")
    if colon and file.lower().endswith(".npz") and Path(file).exists():
        return read(file, **{"array": array, **options})
    names = (*NAMES, *USERS_OWN)
    close = difflib.get_close_matches(text, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise Invalid("load")(
        FileNotFoundError, f"no data set or file {text!r}{hint} (data sets: {', '.join(names)}; files: {FORMATS})"
    )


def as_dataset(data: Any, *, name: str = "data") -> Dataset:
    """A tensor or array (n, ...), or a pandas DataFrame, as a Dataset; a Dataset passes through.

    Memory is shared, except with a DataFrame, whose columns become float64 and keep their names. A one-dimensional
    input becomes one feature a row. float64 arrays stay float64; all others become float32. Nothing is scaled.

    Raises:
        TypeError: neither a Dataset, a tensor, an array nor a DataFrame, or complex numbers.
        DataError: no rows, not numbers, hidden values, or a NaN, infinity or missing value (named by row and column).
    """
    if isinstance(data, Dataset):
        return data
    fault: Fault = Invalid("as_dataset").of(DataError, "data")
    names: tuple[str, ...] = ()
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        names, data = tuple(map(str, data.columns)), _frame(data)
    if not isinstance(data, Tensor | np.ndarray):
        raise Invalid("as_dataset").type(
            "data", f"must be a Dataset, tensor, array or DataFrame, got {type(data).__name__}"
        )
    check_visible(data, fault)
    if isinstance(data, Tensor) and data.is_complex():
        raise Invalid("as_dataset").type("data", f"must be real, got {data.dtype}")
    tensor = data.detach() if isinstance(data, Tensor) else _share(data)
    tensor = tensor.reshape(-1, 1) if tensor.ndim == 1 else tensor
    dtype = torch.float64 if tensor.dtype == torch.float64 and not names else torch.float32
    dataset = Dataset(tensor, name=name, dtype=dtype, column_names=names)
    check_values(tensor, fault, dtype)
    return dataset


def _frame(frame: Any) -> np.ndarray[Any, Any]:
    """The numbers of a pandas DataFrame; its index is no column. What is missing becomes NaN, to be refused."""
    for name, kind in frame.dtypes.items():
        if getattr(kind, "kind", "O") not in "biuf":
            raise Invalid("as_dataset")(DataError, f"data column {str(name)!r}", f"must hold numbers, got {kind}")
    return np.array(frame.to_numpy(dtype=np.float64, na_value=np.nan))


def _share(array: np.ndarray[Any, Any]) -> Tensor:
    array = real_array(array, Invalid("as_dataset").of(DataError, "data"))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        # torch warns of read-only arrays (a memory map, say); nothing here writes to them.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)
