"""Training-by-sampling: conditions that name every label of every column often enough, and rows that meet them.

Source: Xu et al. (2019), section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastgan import random
from fastgan.random import Purpose

from .encoded import EncodedTable


class Conditions(NamedTuple):
    """A condition for each row of a batch: a column of labels, and one of its labels; (m,) int64 both."""

    column: Tensor
    code: Tensor


class ConditionSampler:
    """Draws conditions, and rows of the table that meet them.

    Args:
        table: the rows.
        places: of the columns of labels among the softmax heads of the table.
        sizes: how many labels each has.
    """

    def __init__(self, table: EncodedTable, places: Sequence[int], sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.starts = torch.tensor(np.concatenate([[0], np.cumsum(sizes)])[:-1], dtype=torch.int64)
        self.rows = len(table)
        self.order = torch.empty(len(places), self.rows, dtype=torch.int32)  # row numbers, sorted by label
        counts, logs, real = [], [], []
        for number, (place, size) in enumerate(zip(places, sizes, strict=True)):
            codes = table.codes[:, place]
            self.order[number] = torch.argsort(codes, stable=True).to(torch.int32)
            count = torch.bincount(codes.long(), minlength=size).double()
            counts.append(count)
            logs.append(number + _cumulative(torch.log1p(count)))
            real.append(number + _cumulative(count))
        self._counts = torch.cat(counts) if counts else torch.empty(0, dtype=torch.float64)
        self._set(logs, real)

    @classmethod
    def without_rows(cls, counts: Sequence[Sequence[int]]) -> ConditionSampler:
        """Of saved counts of the labels, column by column: draws conditions, no rows."""
        made = cls.__new__(cls)
        made.sizes = tuple(map(len, counts))
        made.starts = torch.tensor(np.concatenate([[0], np.cumsum(made.sizes)])[:-1], dtype=torch.int64)
        made.rows, made.order = 0, torch.empty(len(counts), 0, dtype=torch.int32)
        each = [torch.tensor(count, dtype=torch.float64) for count in counts]
        made._counts = torch.cat(each) if each else torch.empty(0, dtype=torch.float64)
        made._set(
            [number + _cumulative(torch.log1p(count)) for number, count in enumerate(each)],
            [number + _cumulative(count) for number, count in enumerate(each)],
        )
        return made

    def _set(self, logs: list[Tensor], real: list[Tensor]) -> None:
        empty = torch.empty(0, dtype=torch.float64)
        self._balanced, self._real = (torch.cat(part) if part else empty for part in (logs, real))
        before = torch.cat([self._counts.new_zeros(1), self._counts]).cumsum(0)[:-1]
        columns = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes, dtype=torch.int64))
        self._first = (before - columns * self.rows).long()  # of a label, in its column's order
        self._counts = self._counts.long()

    @property
    def width(self) -> int:
        """Numbers of a condition as the networks see it."""
        return sum(self.sizes)

    @property
    def counts(self) -> list[list[int]]:
        """Rows of each label, column by column."""
        return [part.tolist() for part in self._counts.split(list(self.sizes))] if self.sizes else []

    def draw(
        self, m: int, *, seed: int, purpose: Purpose, step: int, offset: int = 0, real: bool = False
    ) -> Conditions:
        """m conditions: any column as likely, a label by the logarithm of its frequency, or by its frequency if `real`.

        The logarithm is that of one more than its rows, so that a label of one row is drawn too.
        """
        if not self.sizes:
            empty = torch.empty(m, 0, dtype=torch.int64)
            return Conditions(empty, empty)
        first, second = (
            random.uniform(
                m, seed=seed, purpose=purpose, step=step, substream=substream, offset=offset, dtype=torch.float64
            )
            for substream in (1, 2)
        )
        column = (first * len(self.sizes)).long()
        found = torch.searchsorted(self._real if real else self._balanced, column + second)
        return Conditions(column, torch.minimum(found, self._last(column)) - self.starts[column])

    def _last(self, column: Tensor) -> Tensor:
        """Rounding must not lead into the next column."""
        return self.starts[column] + torch.tensor(self.sizes, dtype=torch.int64)[column] - 1

    def matching(self, conditions: Conditions, *, seed: int, purpose: Purpose, step: int) -> Tensor:
        """A row for each condition, of those that meet it any as likely; any row without conditions. (m,) int64."""
        m = len(conditions.column)
        uniform = random.uniform(m, seed=seed, purpose=purpose, step=step, substream=3, dtype=torch.float64)
        if not self.sizes:
            return (uniform * self.rows).long()
        label = self.starts[conditions.column] + conditions.code
        position = self._first[label] + (uniform * self._counts[label]).long()
        return self.order[conditions.column, position].long()

    def one_hot(self, conditions: Conditions, dtype: torch.dtype = torch.float32) -> Tensor:
        """Conditions as the networks see them, (m, width): one-hot."""
        out = torch.zeros(len(conditions.column), self.width, dtype=dtype)
        if not self.sizes:
            return out
        return out.scatter_(1, (self.starts[conditions.column] + conditions.code)[:, None], 1.0)


def _cumulative(weights: Tensor) -> Tensor:
    return weights.cumsum(0) / weights.sum()
