"""What engines have in common that train one GAN a call."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np


class SingleMember(abc.ABC):
    """Each member of a population has calls of its own."""

    @abc.abstractmethod
    def begin(self, first: int, count: int, should_stop: Callable[[], bool]) -> Callable[[], np.ndarray]:
        """A function that runs iterations first .. first+count (from 0) and returns their metrics."""

    @classmethod
    def members_a_call(cls, threads: int) -> int:
        """One."""
        return 1

    @classmethod
    def begin_all(
        cls,
        engines: Sequence[Self],
        firsts: list[int],
        counts: list[int],
        threads: int,
        should_stop: Callable[[], bool],
    ) -> Callable[[], list[np.ndarray]]:
        """`begin` of the one engine of a call."""
        (engine,) = engines
        finish = engine.begin(firsts[0], counts[0], should_stop)
        return lambda: [finish()]
