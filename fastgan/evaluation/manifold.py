"""Precision and recall of a generator: how much of its support is real, and how much of the real support it reaches."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from fastgan._errors import Invalid

from .rows import Blocks, Rows, map_distances, take_rows


@dataclass(frozen=True)
class PrecisionRecall:
    """The result of `precision_recall`; a perfect generator of many rows has coverage near 1 - 2^-k and density 1.

    Args:
        precision: share of fake rows in a neighbourhood of a real row.
        recall: share of real rows in a neighbourhood of a fake row.
        density: mean number of real rows' neighbourhoods that contain a fake row, divided by k.
        coverage: share of real rows whose neighbourhood contains a fake row.
        neighbours: k: a neighbourhood reaches to the k-th nearest row.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    neighbours: int


def precision_recall(real: Rows, fake: Rows, *, neighbours: int = 5) -> PrecisionRecall:
    """Precision, recall, density and coverage; a row's neighbourhood reaches to its k-th nearest row of the same kind.

    Args:
        real: (n, ...) rows, more than neighbours.
        fake: (m, ...) rows, more than neighbours.
        neighbours: k; 5 in the paper.

    Returns:
        PrecisionRecall.

    Raises:
        TypeError, ValueError: rows that are not finite numbers or differ in width, or too few of them.

    Source: Naeem et al. (2020), section 3; precision and recall are those of Kynkaanniemi et al. (2019).
    """
    caller = "precision_recall"
    if not isinstance(neighbours, int) or isinstance(neighbours, bool) or neighbours < 1:
        raise Invalid(caller).value("neighbours", f"must be an integer of at least 1, got {neighbours!r}")
    (x, y), _ = take_rows(caller, real=real, fake=fake)
    for name, n in (("real", len(x)), ("fake", len(y))):
        if n <= neighbours:
            raise Invalid(caller).value(name, f"must have more rows than neighbours {neighbours}, got {n}")
    radius_real, radius_fake = _radius(x, neighbours), _radius(y, neighbours)
    holding = torch.zeros(len(y), dtype=torch.int64, device=x.device)  # neighbourhoods of real rows about each fake one
    adding = Lock()

    def visit(rows: slice, blocks: Blocks) -> tuple[int, int]:
        radius = radius_real[rows]
        covered = recalled = torch.zeros(len(radius), dtype=torch.bool, device=x.device)
        for columns, padded in blocks:
            block = padded[: len(radius), : len(y) - columns.start]
            within = block < radius[:, None]
            with adding:
                holding[columns] += within.sum(0)
            covered = covered | within.any(1)
            recalled = recalled | (block < radius_fake[columns]).any(1)
        return int(covered.sum()), int(recalled.sum())

    covered, recalled = (sum(counts) for counts in zip(*map_distances(visit, x, y), strict=True))
    return PrecisionRecall(
        precision=float((holding > 0).double().mean()),
        recall=recalled / len(x),
        density=float(holding.double().mean()) / neighbours,
        coverage=covered / len(x),
        neighbours=neighbours,
    )


def _radius(x: Tensor, neighbours: int) -> Tensor:
    """Squared distance of each row to its k-th nearest among the others; the row itself is the nearest of all."""
    radius = x.new_empty(len(x))

    def visit(rows: slice, blocks: Blocks) -> None:
        held = x.new_empty(rows.stop - rows.start, 0)
        for _, padded in blocks:
            held = torch.cat([held, padded[: len(held)]], 1).topk(neighbours + 1, largest=False).values
        radius[rows] = held[:, -1]

    map_distances(visit, x, x)
    return radius
