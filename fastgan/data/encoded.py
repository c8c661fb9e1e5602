"""Encoded rows of a table in compact form: a float for a scalar, an index for a one-hot code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HeadKind = Literal["tanh", "softmax"]


@dataclass(frozen=True)
class Head:
    """Outputs of a generator that belong together.

    Args:
        start: the first of them.
        width: how many.
        kind: "tanh" for a scalar, "softmax" for a one among zeros.
    """

    start: int
    width: int
    kind: HeadKind

    @property
    def stop(self) -> int:
        return self.start + self.width


@dataclass(frozen=True, eq=False)
class EncodedTable:
    """Rows of float32, expanded from a compact form when they are gathered.

    A table of a million rows with thirty mixtures of ten modes takes 180 MB so, and 1.3 GB as float32.

    Args:
        scalars: (n, tanh heads) float32.
        codes: (n, softmax heads) int16 or int32: which one of each is one.
        heads: of a row, in order.
    """

    scalars: Tensor
    codes: Tensor
    heads: tuple[Head, ...]

    def __post_init__(self) -> None:
        tanh = [head.start for head in self.heads if head.kind == "tanh"]
        softmax = [head.start for head in self.heads if head.kind == "softmax"]
        object.__setattr__(self, "_tanh", torch.tensor(tanh, dtype=torch.int64))
        object.__setattr__(self, "_softmax", torch.tensor(softmax, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.scalars)

    @property
    def width(self) -> int:
        """The length of a row."""
        return self.heads[-1].stop if self.heads else 0

    def places(self) -> dict[str, Tensor]:
        """The index of each scalar, and of the first feature of each group; int64."""
        return {"scalar_at": self._tanh, "group_at": self._softmax}  # type: ignore[attr-defined]

    def rows(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The rows at these indices, (len(index), width). index: int64."""
        out = torch.zeros(len(index), self.width, dtype=dtype)
        out[:, self._tanh] = self.scalars[index].to(dtype)  # type: ignore[attr-defined]
        return out.scatter_(1, self.codes[index].long() + self._softmax, 1.0)  # type: ignore[attr-defined]


def pack(rows: NDArray[np.floating] | Tensor, heads: tuple[Head, ...]) -> EncodedTable:
    """The compact form of a generator's rows (n, width): the largest output of each softmax."""
    x = torch.as_tensor(rows)
    scalars = [x[:, head.start] for head in heads if head.kind == "tanh"]
    codes = [x[:, head.start : head.stop].argmax(1) for head in heads if head.kind == "softmax"]
    return EncodedTable(
        torch.stack(scalars, 1) if scalars else x[:, :0],
        torch.stack(codes, 1) if codes else torch.zeros(len(x), 0, dtype=torch.int64),
        heads,
    )
