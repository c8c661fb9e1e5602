"""Runs the CUDA-graph engine without a GPU: products by torch on the CPU, launches emulated, captures remembered,
streams that go on in any order."""

from __future__ import annotations

import random
import weakref
from collections import deque
from collections.abc import Callable

import torch
from emulator import STREAM, Library
from torch import Tensor

from fastgan.training.engines.cuda_graph_layers import KernelLauncher


class Processor(KernelLauncher):
    """On the CPU, on which a capture is the calls themselves."""

    device = torch.device("cpu")
    tensor_cores = True

    def __init__(self, library: Library) -> None:
        self.library = library
        self.launches: list[str] = []

    def launch(self, entry: str, *arguments: object) -> None:
        self.launches.append(entry)
        self.library.call(entry, *arguments, STREAM)

    def product(self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None) -> None:
        """A processor's torch.mm has no `out_dtype`: rounded factors are made as wide as the sums, which is exact."""
        super().product(out, a.to(out.dtype), b.to(out.dtype), bias)

    def size(self, entry: str, *numbers: int) -> int:
        return self.library.call(entry, *numbers)

    def fork(self) -> None:
        pass

    def join(self) -> None:
        pass

    def run(self, body: Callable[[], object]) -> None:
        body()

    def fetch(self, x: Tensor) -> Tensor:
        return x.clone()

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        return body


class Recorder(Processor):
    """Remembers the calls of a capture instead of making them, and makes them at each replay, as a graph would.

    Python that would run between the calls on the first run does not run again: what it put into them is baked in.
    """

    def __init__(self, library: Library) -> None:
        super().__init__(library)
        self.calls: list[Callable[[], None]] | None = None
        self.captures: list[int] = []

    def _do(self, call: Callable[[], None]) -> None:
        if self.calls is None:
            call()
        else:
            self.calls.append(call)

    def launch(self, entry: str, *arguments: object) -> None:
        above = super().launch
        self._do(lambda: above(entry, *arguments))

    def product(self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None) -> None:
        above = super().product
        self._do(lambda: above(out, a, b, bias))

    def add(self, out: Tensor, x: Tensor) -> None:
        above = super().add
        self._do(lambda: above(out, x))

    def copy(self, out: Tensor, x: Tensor) -> None:
        above = super().copy
        self._do(lambda: above(out, x))

    def copy_all(self, outs: list[Tensor], xs: list[Tensor]) -> None:
        above = super().copy_all
        self._do(lambda: above(outs, xs))

    def clip(self, grads: list[Tensor], max_value: float, max_norm: float) -> None:
        above = super().clip
        self._do(lambda: above(grads, max_value, max_norm))

    def hold(self, tensors: list[Tensor], bound: float) -> None:
        above = super().hold
        self._do(lambda: above(tensors, bound))

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        self.calls = captured = []
        try:
            body()
        finally:
            self.calls = None
        self.captures.append(len(captured))

        def replay() -> None:
            for call in captured:
                self._do(call)

        return replay


class Streams:
    """A GPU's streams: calls wait until a result is fetched; meanwhile now this one goes on by a call, now that one."""

    def __init__(self, library: Library, seed: int = 0) -> None:
        self.library, self.chance = library, random.Random(seed)
        self.all: weakref.WeakSet[Stream] = weakref.WeakSet()
        self.most = 0  # that were at work at once

    @property
    def busy(self) -> list[Stream]:
        """Those that have calls to make."""
        return sorted((stream for stream in self.all if stream.calls_queued), key=id)

    def new(self) -> Stream:
        """A machine on a stream of its own."""
        self.all.add(stream := Stream(self))
        return stream


class Stream(Recorder):
    """A machine of `Streams`."""

    def __init__(self, streams: Streams) -> None:
        super().__init__(streams.library)
        self.streams = streams
        self.calls_queued: deque[Callable[[], None]] = deque()
        self.forked = False  # since a result was last fetched

    def fork(self) -> None:
        self.forked = True

    def run(self, body: Callable[[], object]) -> None:
        assert self.forked, "calls do not wait for what the caller's stream has been given"
        super().run(body)

    def _do(self, call: Callable[[], None]) -> None:
        (self.calls_queued if self.calls is None else self.calls).append(call)

    def join(self) -> None:
        while self.calls_queued:
            busy = self.streams.busy
            self.streams.most = max(self.streams.most, len(busy))
            self.streams.chance.choice(busy).calls_queued.popleft()()
        self.forked = False

    def fetch(self, x: Tensor) -> Tensor:
        self.join()
        return super().fetch(x)
