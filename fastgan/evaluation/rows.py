"""Samples as rows, checked, and their squared distances block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgan._errors import Invalid
from fastgan.data import Dataset

Rows = Tensor | NDArray[Any] | Dataset
Back = Callable[[Tensor], Any]
Blocks = Iterator[tuple[slice, Tensor]]
Result = TypeVar("Result")

_LARGEST = 1e150  # whose square is still finite


def take_rows(caller: str, **named: Rows) -> tuple[list[Tensor], Back]:
    """Rows as float64 tensors (n, features) on one device, and a function that converts results back.

    A row of several axes is flattened; a one-dimensional array holds one feature a row. Results are tensors if any
    argument is a tensor or a Dataset.

    Raises:
        TypeError: no rows of real numbers. ValueError: none at all, different widths, NaN or infinity.
    """
    rows = {name: _matrix(caller, name, x) for name, x in named.items()}
    first, width = next((name, x.shape[1]) for name, x in rows.items())
    for name, x in rows.items():
        if x.shape[1] != width:
            raise Invalid(caller).value(name, f"must have the {width} features of {first}, got {x.shape[1]}")
    device = next((x.device for x in named.values() if not isinstance(x, np.ndarray)), torch.device("cpu"))
    arrays = all(isinstance(x, np.ndarray) for x in named.values())
    return [x.to(device) for x in rows.values()], lambda t: t.cpu().numpy() if arrays else t


def _matrix(caller: str, name: str, x: Rows) -> Tensor:
    if isinstance(x, Dataset):
        x = x.tensor()
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
        x = torch.from_numpy(x.astype(np.float64))
    if not isinstance(x, Tensor) or x.is_complex():
        got = getattr(x, "dtype", type(x).__name__)
        raise Invalid(caller).type(name, f"must be a tensor, array or Dataset of real numbers, got {got}")
    if x.ndim == 0 or x.numel() == 0:
        raise Invalid(caller).value(name, f"must have rows, got shape {tuple(x.shape)}")
    matrix = x.detach().double().reshape(len(x), -1)
    if not float(matrix.abs().max()) <= _LARGEST:
        raise Invalid(caller).value(name, "must be finite and below 1e150, got NaN, infinity or more")
    return matrix


# ---------------------------------------------------------------- distances

# Every product is of whole blocks, padded where rows run out: a product of another size takes another kernel and
# rounds differently, so the bits of a distance would depend on how many rows were asked about at once. Both sizes are
# multiples of the tiles (4 to 24 rows and columns) that matrix kernels cut them into, so they do not depend on a row's
# place in its block either.
_ROWS, _COLUMNS = 240, 960


def map_distances(visit: Callable[[slice, Blocks], Result], x: Tensor, y: Tensor) -> list[Result]:
    """Squared distances of rows x from rows y, handed to `visit` block by block.

    Through |x|^2 + |y|^2 - 2 x.y about the mean of y, in float64. A distance is off by a few units in the last place
    of the largest |x|^2 + |y|^2 about that mean. On the CPU torch's threads each take blocks of their own: inside an
    operation as short as these, threads that wait for each other would cost more than they compute.

    Args:
        visit: called with at most 240 rows of x and their blocks: pairs of at most 960 rows of y and distances
            (240, 960), infinite where y has run out, meaningless where x has. It may overwrite a block; calls come
            from several threads.
        x: (n, features) float64.
        y: (m, features) float64.

    Returns:
        What the visits returned, in the order of the rows.
    """
    origin = centre(y)
    columns = [_padded(part - origin, _COLUMNS) for part in y.split(_COLUMNS)]
    squares = [part.square().sum(1) for part in columns]
    squares[-1][(len(y) - 1) % _COLUMNS + 1 :] = torch.inf

    def one(start: int) -> Result:
        chunk = x[start : start + _ROWS]
        rows = _padded(chunk - origin, _ROWS)
        return visit(slice(start, start + len(chunk)), _blocks(rows, columns, squares))

    starts = range(0, len(x), _ROWS)
    threads = torch.get_num_threads()
    if threads == 1 or len(starts) == 1 or x.device.type != "cpu":
        return [one(start) for start in starts]
    torch.set_num_threads(1)  # for the threads that are new, too
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, starts))
    finally:
        torch.set_num_threads(threads)


def _blocks(rows: Tensor, columns: list[Tensor], squares: list[Tensor]) -> Blocks:
    own = rows.square().sum(1, keepdim=True)
    for number, (part, square) in enumerate(zip(columns, squares, strict=True)):
        block = (rows @ part.T).mul_(-2).add_(square).add_(own).clamp_(min=0.0)
        yield slice(number * _COLUMNS, (number + 1) * _COLUMNS), block


def centre(y: Tensor) -> Tensor:
    """The mean of the rows, rounded to single precision: taking it from nearby numbers then rounds nothing away."""
    return y.mean(0).clamp(-1e38, 1e38).float().double()


def _padded(rows: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, size - len(rows)))
