"""Training-by-sampling: conditions, in which every label of every column is frequent enough, and rows that meet them.

A condition is a label among those of all columns, so that a conditional GAN sees it as one of its classes.

Source: Xu et al. (2019), section 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastgan import random
from fastgan._errors import Invalid
from fastgan.data.encoded import EncodedTable
from fastgan.nn import Heads
from fastgan.random import Purpose


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
        self.places, self.sizes = tuple(places), tuple(sizes)
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
        """A sampler from saved counts of the labels, column by column. It draws conditions, but no rows."""
        made = cls.__new__(cls)
        made.places, made.sizes = (), tuple(map(len, counts))
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
        """The length of a condition as an input of the networks."""
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

    def tables(self) -> dict[str, Tensor]:
        """The arrays that the compiled core reads, by name."""
        ends = self.starts.new_tensor([self.width])
        if not hasattr(self, "_edges"):
            self._edges = torch.cat([self.starts, ends]), torch.tensor(self.places, dtype=torch.int64)
        starts, places = self._edges
        return {
            "starts": starts, "places": places, "cumulative": self._balanced, "first": self._first,
            "counts": self._counts, "order": self.order,
        }  # fmt: skip

    def _last(self, column: Tensor) -> Tensor:
        """Clip to the last label of the column, which rounding might exceed."""
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

    def labels(self, conditions: Conditions) -> Tensor:
        """The number of each condition's label among those of all columns, (m,) int64."""
        return self.starts[conditions.column] + conditions.code


class SampledRows:
    """A table for `train`, whose rows are drawn by their labels: `gan.classes` is how many labels there are.

    G's loss gets the cross-entropy of the requested labels, of G's outputs before their `nn.Heads`.

    Args:
        table: the rows.
        sampler: of conditions, and of rows that meet them.

    Raises:
        ValueError: a code that its head has not.
    """

    def __init__(self, table: EncodedTable, sampler: ConditionSampler) -> None:
        self.table, self.sampler = table, sampler
        heads = [head for head in table.heads if head.kind == "softmax"]
        if len(table) and heads:
            widths = torch.tensor([head.width for head in heads])
            least, most = table.codes.amin(0), table.codes.amax(0)
            if wrong := ((least < 0) | (most >= widths)).nonzero().flatten().tolist():
                place = wrong[0]
                rule = f"must lie in [0, {int(widths[place])}), got {int(least[place])} to {int(most[place])}"
                raise Invalid("SampledRows").value(f"codes of softmax head {place}", rule)
        owners = [heads[place] for place in sampler.places]
        self.columns = torch.repeat_interleave(
            torch.arange(len(owners)), torch.tensor(sampler.sizes, dtype=torch.int64)
        )
        features = [head.start + code for head in owners for code in range(head.width)]
        self.features = torch.tensor(features, dtype=torch.int64)  # G's output for each label
        self._placed: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
        self.inside = torch.zeros(len(owners), table.width, dtype=torch.bool)  # outputs for the labels of a column
        for row, head in zip(self.inside, owners, strict=True):
            row[head.start : head.stop] = True

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, index: Tensor) -> Tensor:
        """The rows at these indices, (len(index), width) float32."""
        return self.table.rows(index)

    def on(self, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The arrays that compiled engines read, on a device, by their names in a plan; "data" are the scalars.

        Where they had to be copied, runs share the copy.
        """
        if (device, dtype) not in self._placed:
            arrays = {"codes": self.table.codes, **self.sampler.tables(), **self.table.places()}
            placed = {name: array.to(device) for name, array in arrays.items()}
            data = self.table.scalars.to(device, dtype).contiguous()
            self._placed[device, dtype] = placed | {"data": data}
        return self._placed[device, dtype]

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of -log p(requested label).

        Args:
            logits: G's outputs before its heads, (m, width).
            labels: among those of all columns, int64 (m,).

        Returns:
            Scalar Tensor.

        Source: Xu et al. (2019), section 4.3.
        """
        inside, features = self.inside.to(logits.device), self.features.to(logits.device)
        own = logits.masked_fill(~inside[self.columns.to(logits.device)[labels]], -math.inf)
        wanted = logits.gather(1, features[labels][:, None])[:, 0]
        return (torch.logsumexp(own, 1) - wanted).mean()


def body_and_heads(generator: nn.Module) -> tuple[nn.Module, Heads] | None:
    """A generator without its last `Heads`, and these heads; None if it does not end in `Heads`."""
    if not isinstance(generator, nn.Sequential) or len(generator) < 2 or not isinstance(generator[-1], Heads):
        return None
    return generator[:-1], generator[-1]


def _cumulative(weights: Tensor) -> Tensor:
    return weights.cumsum(0) / weights.sum()
