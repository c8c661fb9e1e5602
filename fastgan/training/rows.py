"""Minibatches of the data, by row number, on any device or on disk."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import random
from fastgan._errors import Invalid
from fastgan._options import Impl
from fastgan.data import DataError, Dataset
from fastgan.data.checks import check_visible
from fastgan.random import Purpose
from fastgan.training import sources
from fastgan.training.sampled import SampledRows

invalid = Invalid("train")

_KINDS = "must be a Tensor, a numpy array, a dataset, a DataLoader or a generator of batches"
_SCAN_BYTES = 1 << 24
_MOST_CONVERTED = 1 << 33  # bytes of a copy of all rows
_NUMPY = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
_WINDOW_ROWS = 1 << 14


def is_finite(x: Tensor) -> bool:
    """Whether x has no NaN and no infinity, in one pass; torch.isfinite(x).all() takes 20 times as long."""
    return not x.numel() or bool(torch.stack(x.aminmax()).isfinite().all())


class Minibatches:
    """The data as training sees it: n rows of one shape, gathered by number, moved to the networks' device.

    Args:
        data: Tensor (n, ...), numpy array (n, ...) (memory-mapped ones stay on disk), a DataFrame of numbers, or an
            object with `rows(index)`, a length and perhaps `labels` (n,), as `fastgan.data.Dataset`; or a map-style
            dataset, whose samples may be tuples (row, label): one by one, looked at when their turn comes.
        batch_size: rows of a minibatch.
        seed: of the order of the rows.
        device, dtype: of the minibatches.
        impl: of the order of the rows: "auto", "native" or "reference".

    Raises:
        TypeError: data is of another kind, or not floating point. ValueError: it is empty, smaller than a
            batch, or holds a NaN or an infinity.
    """

    def __init__(
        self,
        data: Any,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        impl: Impl = "auto",
    ) -> None:
        data = sources.adapted(data)
        self.flawed: int | None = None
        if not isinstance(data, Tensor | np.ndarray) and not (hasattr(data, "rows") and hasattr(data, "__len__")):
            raise invalid.type("data", f"{_KINDS}, got {type(data).__name__}{sources.hint(data)}")
        if isinstance(data, Tensor) and data.layout is not torch.strided:
            raise invalid.type("data", f"must be dense, got a Tensor of {data.layout}: to_dense() gives one")
        if isinstance(data, np.ndarray) and data.dtype.kind not in "fiubc":
            raise invalid.type("data", f"must be numbers, got an array of {data.dtype}")
        if isinstance(data, Tensor | np.ndarray) and data.ndim < 2:
            raise invalid.value("data", f"must have shape (n, ...), a row for each sample, got {tuple(data.shape)}")
        check_visible(data, invalid.of(DataError, "data"))
        self.data = data
        self.sampled = data if isinstance(data, SampledRows) else None
        self._known: Tensor | None = None  # numbers of the rows whose label is known
        self.n = len(data)
        self.device, self.dtype, self.impl = device, dtype, impl
        if self.n < 1:
            raise invalid.value("data", "must have at least one row, got none")
        self._order_by(batch_size, seed)
        first = self._raw(torch.zeros(1, dtype=torch.int64))
        if not first.is_floating_point():
            raise invalid.type("data", f"must be floating point, got {first.dtype}")
        self.shape = tuple(first.shape[1:])
        if not self.shape or 0 in self.shape:
            raise invalid.value("data", f"must have features, got rows of shape {self.shape}")
        self._whole: dict[tuple[torch.dtype, torch.device], Tensor | None] = {}
        self._labels: dict[torch.device, Tensor] = {}
        if not isinstance(data, sources.ByIndex):  # perhaps read from files one by one, which would take too long
            self._check_finite(first)

    def _order_by(self, batch_size: int, seed: int) -> None:
        if batch_size > self.n and self.sampled is None:
            raise invalid.value("batch_size", f"must be at most the {self.n} rows of data, got {batch_size}")
        self.batch_size, self.seed = batch_size, seed
        self.part = slice(None)  # of each minibatch, where several processes share it
        # A minibatch in each epoch; the n % batch_size rows left over wait.
        self.batches = max(1, self.n // batch_size)
        self._window = max(1, _WINDOW_ROWS // batch_size)
        self._held: tuple[int, int] | None = None
        self._order = torch.empty(0, dtype=torch.int64)

    def reordered(self, *, batch_size: int, seed: int, impl: Impl = "auto") -> Minibatches:
        """The same data for another run: neither checked nor, where they had to be converted, held a second time.

        Raises:
            ValueError: fewer rows than a batch.
        """
        rows = copy.copy(self)
        rows._order_by(batch_size, seed)
        rows.impl = impl
        return rows

    @functools.cached_property
    def labels(self) -> Tensor | None:
        """Of all rows, where the data have any; looked at only by a GAN that needs them.

        Raises:
            TypeError: they cannot be a Tensor.
        """
        labels = getattr(self.data, "labels", None)
        try:
            return None if labels is None else torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError):
            got = type(labels).__name__
            raise invalid.type("data.labels", f"must be a Tensor, an array or a list of integers, got {got}") from None

    @property
    def kind(self) -> str:
        """The kind of the data, for messages."""
        return type(self.data.dataset if isinstance(self.data, sources.ByIndex) else self.data).__name__

    def close(self) -> None:
        """Release what only a run needs: a stream's workers."""

    def minibatch(self, draw: int) -> Tensor:
        """Rows of draw q (from 0): batch q % batches of the shuffle of epoch q // batches; none twice."""
        if not isinstance(self.data, sources.ByIndex):  # all were looked at before the first draw
            return self.gather(self._numbers(draw))
        return self._placed(self._watched(self._raw(self._numbers(draw)), draw))

    def labels_of(self, draw: int, purpose: Purpose = Purpose.NOISE_D) -> Tensor:
        """Labels of the rows of draw q, int64 (batch_size,), or of this process's part of them.

        purpose: of sampled rows, NOISE_G for the labels of G's update q.
        """
        if self.sampled is not None:
            drawn = self.sampled.sampler.draw(self.batch_size, seed=self.seed, purpose=purpose, step=draw)
            return self.sampled.sampler.labels(drawn)[self.part].to(self.device)
        assert self.labels is not None
        return self.labels[self._numbers(draw).to(self.labels.device)].to(self.device, torch.int64)

    def labels_in_memory(self, device: torch.device) -> Tensor:
        """Labels of all rows, int32 (n,): a copy, which no caller can change while it trains."""
        if device not in self._labels:
            assert self.labels is not None
            self._labels[device] = self.labels.to(device, torch.int32, copy=True).contiguous()
        return self._labels[device]

    def labelled(self, draw: int) -> tuple[Tensor, Tensor]:
        """Labelled rows of draw q and their labels: batch_size of them, or all where there are fewer, in an order of
        their own."""
        assert self.labels is not None
        if self._known is None:
            self._known = (self.labels >= 0).nonzero().flatten().cpu()
        size = min(self.batch_size, len(self._known))
        epoch, batch = divmod(draw, len(self._known) // size)
        order = random.permutation(
            len(self._known), seed=self.seed, epoch=epoch, start=batch * size, count=size, impl=self.impl
        )
        numbers = self._known[order]
        return self.gather(numbers), self.labels[numbers.to(self.labels.device)].to(self.device, torch.int64)

    def _watched(self, rows: Tensor, draw: int) -> Tensor:
        """Rows, which no check has seen before; of those on the CPU, the first draw that is not finite is kept."""
        if self.flawed is None and rows.device.type == "cpu" and not is_finite(rows):
            self.flawed = draw
        return rows

    def _numbers(self, draw: int) -> Tensor:
        if self.sampled is not None:
            stream: Any = {"seed": self.seed, "purpose": Purpose.NOISE_D, "step": draw}
            sampler = self.sampled.sampler
            return sampler.matching(sampler.draw(self.batch_size, **stream), **stream)[self.part]
        epoch, batch = divmod(draw, self.batches)
        window, within = divmod(batch, self._window)
        if self._held != (epoch, window):
            # Many batches of the shuffle at once: a call costs far more than a number.
            batches = min(self._window, self.batches - window * self._window)
            start, count = window * self._window * self.batch_size, batches * self.batch_size
            self._order = random.permutation(
                self.n, seed=self.seed, epoch=epoch, start=start, count=count, impl=self.impl
            )
            self._held = (epoch, window)
        return self._order[within * self.batch_size : (within + 1) * self.batch_size][self.part]

    def epoch(self, draw: int) -> int:
        """Epoch of a draw, counted from 1."""
        return draw // self.batches + 1

    def gather(self, index: Tensor) -> Tensor:
        """The rows at these indices, on the networks' device. index: int64 (m,), on the CPU."""
        return self._placed(self._raw(index))

    def in_memory(self, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """All rows, (n, ...) contiguous: on the CPU the data itself if it is contiguous, memory-mapped files included.

        None if rows may change from call to call, or where a converted copy would be too large.
        """
        if (dtype, device) not in self._whole:
            data = self._in_memory(dtype, device)
            self._whole[dtype, device] = None if data is None else data.to(device)
        return self._whole[dtype, device]

    def _in_memory(self, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        data = self.data.x if isinstance(self.data, sources.Labelled) else self.data
        if isinstance(data, Dataset):
            plain = data.divisor == 1.0 and data.data.dtype == dtype
            data = data.data.reshape(data.shape) if plain else data
        plain = isinstance(data, np.ndarray) and data.flags.c_contiguous and data.flags.aligned
        if isinstance(data, np.ndarray) and plain and data.dtype == _NUMPY.get(dtype):
            with warnings.catch_warnings():  # about read-only arrays: no code writes to them
                warnings.simplefilter("ignore", UserWarning)
                data = torch.from_numpy(data)
        near = isinstance(data, Tensor) and data.device in (device, torch.device("cpu"))
        if isinstance(data, Tensor) and near and data.dtype == dtype and data.is_contiguous():
            return data.detach().resolve_neg()
        known = isinstance(data, Tensor | np.ndarray | Dataset)
        if not known or self.n * math.prod(self.shape) * dtype.itemsize > _MOST_CONVERTED:
            return None
        return self._raw(torch.arange(self.n)).to("cpu", dtype).contiguous()

    def _raw(self, index: Tensor) -> Tensor:
        if isinstance(self.data, Tensor):
            where = self.data.device
            if where.type != "cpu":
                index = index.pin_memory().to(where, non_blocking=True) if where.type == "cuda" else index.to(where)
            return self.data.detach().index_select(0, index)
        if isinstance(self.data, np.ndarray):
            rows = self.data[index.numpy()]
            return torch.from_numpy(np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("=")))
        return torch.as_tensor(self.data.rows(index))

    def _placed(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.dtype)
        if rows.device == self.device:
            return rows
        # From pinned memory the copy is queued behind the kernels; from pageable memory the host would wait
        # for it.
        return (rows.pin_memory() if self.device.type == "cuda" else rows).to(self.device, non_blocking=True)

    def _check_finite(self, first: Tensor) -> None:
        """One pass over the data before anything runs: a NaN row would surface epochs later as a NaN loss."""
        step = max(1, _SCAN_BYTES // (first.element_size() * math.prod(self.shape)))
        for start in range(0, self.n, step):
            block = self._raw(torch.arange(start, min(start + step, self.n)))
            if not is_finite(block):
                row = start + int((~torch.isfinite(block)).flatten(1).any(1).nonzero()[0])
                raise invalid.value("data", f"must be finite, got a NaN or an infinity in row {row}")
