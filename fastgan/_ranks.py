"""The processes of a run: those of torch.distributed, or this process alone."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fastgan._errors import Invalid

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together.

    Args:
        rank: number of this process.
        size: how many there are.
        group: of torch.distributed, for objects and numbers of the CPU; None if this process is alone.
        tensors: group for tensors of the networks' device.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    tensors: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files and shows progress."""
        return self.rank == 0

    def gather(self, work: Callable[[], T], caller: str = "train_population") -> list[T]:
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
        answers: list[Any] = [None] * self.size
        dist.all_gather_object(answers, (part, None if broken is None else str(broken)), group=self.group)
        if broken is not None:
            raise broken
        for rank, (_, why) in enumerate(answers):
            if why is not None:
                raise Invalid(caller)(RuntimeError, f"rank {rank} broke down: {why}")
        return [part for part, _ in answers]

    def first(self, value: int) -> int:
        """The number of rank 0, on every rank."""
        if self.group is None:
            return value
        return int(self._of_all([value if self.is_first else 0], dist.ReduceOp.SUM)[0])

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return flag if self.group is None else bool(self._of_all([int(flag)], dist.ReduceOp.MAX)[0])

    def _of_all(self, values: list[int], how: Any) -> Tensor:
        numbers = torch.tensor(values)
        dist.all_reduce(numbers, how, group=self.group)
        return numbers

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its mean over the ranks; one message for all of a type."""
        if self.group is None:
            return
        for alike in self._by_type(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            dist.all_reduce(flat, group=self.tensors)
            self._write(alike, flat.div_(self.size))

    def copy_from_first_(self, tensors: Sequence[Tensor]) -> None:
        """Broadcast the tensors of rank 0."""
        if self.group is None:
            return
        for alike in self._by_type(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            dist.broadcast(flat, src=dist.get_global_rank(self.tensors, 0), group=self.tensors)
            self._write(alike, flat)

    @staticmethod
    def _by_type(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault(tensor.dtype, []).append(tensor.detach())
        return list(kinds.values())

    @staticmethod
    def _write(tensors: list[Tensor], flat: Tensor) -> None:
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))


@contextlib.contextmanager
def ranks(timeout: datetime.timedelta | None = None, device: torch.device | None = None) -> Iterator[Ranks]:
    """The ranks of the process group; where it is missing, it is made of what torchrun sets (RANK, WORLD_SIZE).

    Args:
        timeout: how long a rank waits for another one; None: a year.
        device: of the tensors that the ranks exchange; None: they exchange objects alone.
    """
    if not dist.is_available():
        yield Ranks()
        return
    if not dist.is_initialized() and "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield Ranks()
        return
    # Groups of their own: objects need gloo whatever the default backend is, and ranks of a population may wait for
    # each other for days.
    timeout = timeout or datetime.timedelta(days=365)
    groups = [dist.new_group(backend="gloo", timeout=timeout)]
    if device is not None and device.type == "cuda" and dist.is_nccl_available():
        groups.append(dist.new_group(backend="nccl", timeout=timeout))
    # torch does not wait until all ranks have connected: one that leaves at once would break the others off.
    dist.barrier(group=groups[0])
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), groups[0], groups[-1])
    finally:
        for group in groups:
            dist.destroy_process_group(group)


def local_device(name: str | None) -> str | None:
    """A config's device; of several processes that torchrun has begun each has the GPU of its number."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name
