"""The processes that share a population: torch.distributed where there is some, this process alone elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together.

    Args:
        rank: number of this process.
        size: how many there are.
        group: of torch.distributed; None where this process is alone.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    def gather(self, work: Callable[[], T]) -> list[T]:
        """Do the work on every rank; the results of all, in order, on every rank.

        Raises:
            RuntimeError: the work of another rank broke down. What breaks down here is raised as it is.
        """
        if self.group is None:
            return [work()]
        part, broken = None, None
        try:
            part = work()
        except Exception as error:  # the other ranks wait for this one: send them the error
            broken = error
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, (part, None if broken is None else str(broken)), group=self.group)
        if broken is not None:
            raise broken
        for rank, (_, why) in enumerate(told):
            if why is not None:
                raise RuntimeError(f"train_population: rank {rank} broke down: {why}")
        return [part for part, _ in told]


@contextlib.contextmanager
def ranks() -> Iterator[Ranks]:
    """The ranks of the process group; where it is missing, it is made of what torchrun sets (RANK, WORLD_SIZE)."""
    if not dist.is_available():
        yield Ranks()
        return
    if not dist.is_initialized() and "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield Ranks()
        return
    # A group of its own: objects need gloo whatever the default backend is, and a rank may wait for another one for
    # days.
    group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=365))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), group)
    finally:
        dist.destroy_process_group(group)
