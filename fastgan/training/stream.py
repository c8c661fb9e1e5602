"""Minibatches in the order of a loader or a generator."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker
from typing import Any

import torch
from torch import Tensor

from fastgan._errors import Invalid
from fastgan._options import Impl
from fastgan.training import sources
from fastgan.training.rows import Minibatches

invalid = Invalid("train")


class Stream(Minibatches):
    """Data without row numbers: each draw is the next batch. At the end of an iterable the next epoch begins.

    A last batch with fewer rows is dropped. Batches may be tuples: the first part counts.

    Args:
        data: a `DataLoader`, an `IterableDataset`, or an iterable of batches (m, ...).
        batch_size: rows of a minibatch; every batch must have them.
        device, dtype: of the minibatches.

    Raises:
        TypeError: batches of another kind, or not floating point. ValueError: no batch, or one of a wrong size.
    """

    def __init__(self, data: Any, *, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self.data, self.batch_size, self.device, self.dtype = data, batch_size, device, dtype
        self.n = 0
        self.flawed = None
        self.sampled = None  # rows come as they are
        self.shape: tuple[int, ...] = ()
        self._source: Iterable[Any] = sources.batches_of(data, batch_size)
        self._epoch = self._given = self._short = 0
        self._batches: Iterator[Any] = iter(())
        self._waiting: Tensor | None = self._next()
        if 0 in self.shape:
            raise invalid.value("data", f"must have features, got rows of shape {self.shape}")

    def close(self) -> None:
        """Release the loader and its iterator, so that its workers end at once.

        In the cycles of references that an engine is part of, torch takes ten seconds to end persistent ones.
        """
        self.data = self._source = self._batches = iter(())

    def minibatch(self, draw: int) -> Tensor:
        """The next batch. Each draw is requested once, in order."""
        batch, self._waiting = self._waiting, None
        return self._placed(self._watched(self._next() if batch is None else batch, draw))

    def epoch(self, draw: int) -> int:
        """The epoch of the last batch, from 1."""
        return self._epoch

    def gather(self, index: Tensor) -> Tensor:
        """Rows of the next batch, for the dry run of the networks."""
        assert self._waiting is not None
        return self._placed(self._waiting[index])

    def in_memory(self, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """None: the rows come one batch at a time."""
        return None

    @property
    def labels(self) -> None:
        """Refused: a draw has rows alone."""
        rule = "must have rows by number where labels are needed: a dataset of (row, label), such as loader.dataset"
        raise invalid.value("data", f"{rule}, got a {self.kind}")

    def reordered(self, *, batch_size: int, seed: int, impl: Impl = "auto") -> Minibatches:
        raise Invalid("train_population").value(
            "data", f"must have rows by number, got a {self.kind}: members share no stream"
        )

    def _next(self) -> Tensor:
        for begins in (False, True):  # the rest of this pass, then a new one
            if begins:
                with _deaf_to_ctrl_c(getattr(self._source, "num_workers", 0) > 0):
                    again = iter(self._source)
                self._batches, self._epoch, self._short = again, self._epoch + 1, 0
            for item in self._batches:
                batch = self._checked(item)
                if self._short or len(batch) > self.batch_size:
                    raise self._wrong(f"one of {self._short or len(batch)}")
                if len(batch) == self.batch_size:
                    self._given += 1
                    return batch
                self._short = len(batch)  # the last one, or the next says that it is not
        if self._given:
            raise self._wrong(f"no more after {self._given}")
        raise self._wrong(f"one of {self._short}" if self._short else "none")

    def _wrong(self, got: str) -> ValueError:
        rule = f"must give batches of {self.batch_size} rows for every draw, got {got} from a {self.kind}"
        return invalid.value("data", rule)

    def _checked(self, item: Any) -> Tensor:
        batch = sources.as_tensor(sources.first_of(item))
        if not batch.is_floating_point():
            raise invalid.type("data", f"must be floating point, got {batch.dtype} from a {self.kind}")
        if batch.dim() < 2:
            raise invalid.value("data", f"must give batches of shape (m, ...), got {tuple(batch.shape)}")
        shape = tuple(batch.shape[1:])
        if self._given and shape != self.shape:
            raise invalid.value(
                "data", f"must give rows of shape {self.shape}, got {shape} after {self._given} batches"
            )
        self.shape = shape
        return batch.detach()


@contextlib.contextmanager
def _deaf_to_ctrl_c(workers: bool) -> Iterator[None]:
    """A context in which new processes ignore Ctrl-C, which a terminal sends to all.

    A run finishes its iteration first, for which it needs its loader's workers. Where the system has no masks of
    signals they see it, and the loader raises an error.
    """
    if not workers or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it takes the mask away when it starts, as the first spawned process makes it do
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
