"""Nearest training rows: whether a generator has memorised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgan._results import Result

from .rows import Blocks, Rows, centre, map_distances, take_rows

_CHUNK = 1 << 22  # numbers compared at once


@dataclass(frozen=True, eq=False, repr=False)
class Neighbours(Result):
    """The nearest row of the data for each sample.

    Args:
        index: (n,) int64 row numbers; the lowest if several are equally near.
        distance: (n,) float64 Euclidean distances; 0 is an exact copy.
    """

    index: Any
    distance: Any


def nearest_neighbours(samples: Rows, data: Rows) -> Neighbours:
    """For each sample the nearest training row, exactly.

    Equivalent to `((samples[:, None] - data)**2).sum(2).argmin(1)` in float64, without an array (n, m, features):
    blocks of matrix products find the candidates, which are then compared directly.

    Args:
        samples: (n, ...).
        data: (m, ...) training rows of the same width.

    Returns:
        Neighbours.

    Raises:
        TypeError, ValueError: rows that are not finite numbers or differ in width.

    Source: Goodfellow et al. (2014), figure 2.
    """
    (y, x), back = take_rows("nearest_neighbours", data=data, samples=samples)
    origin = centre(y)
    reach = (y - origin).square().sum(1).max()
    index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    distance = x.new_full((len(x),), torch.inf)

    def visit(rows: slice, blocks: Blocks) -> None:
        own = x[rows]
        # Twice what rounding can hide, so that no true neighbour is passed over.
        slack = 8 * torch.finfo(torch.float64).eps * (y.shape[1] + 4) * ((own - origin).square().sum(1) + reach)
        lowest = x.new_full((len(own),), torch.inf)
        for columns, padded in blocks:
            block = padded[: len(own)]
            lowest = torch.minimum(lowest, block.amin(1))
            i, j = (block <= (lowest + slack)[:, None]).nonzero(as_tuple=True)
            exact = torch.full_like(block, torch.inf)
            exact[i, j] = _squared(own, y[columns], i, j)
            best = exact.argmin(1)
            found = exact.gather(1, best[:, None])[:, 0]
            nearer = found < distance[rows]
            distance[rows] = torch.where(nearer, found, distance[rows])
            index[rows] = torch.where(nearer, best + columns.start, index[rows])

    map_distances(visit, x, y)
    return Neighbours(back(index), back(distance.sqrt()))


def _squared(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Squared distances of the pairs, from differences."""
    step = max(1, _CHUNK // x.shape[1])
    pairs = zip(i.split(step), j.split(step), strict=True)
    return torch.cat([(x[a] - y[b]).square().sum(1) for a, b in pairs])
