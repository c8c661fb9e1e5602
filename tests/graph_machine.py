"""Runs the graph engine without a GPU: products by torch on the CPU, launches emulated, captures remembered."""

from __future__ import annotations

from collections.abc import Callable

import torch
from emulator import STREAM, Library
from torch import Tensor

from fastgan.training.graph_layers import Machine


class Processor(Machine):
    """On the CPU, on which a capture is the calls themselves."""

    device = torch.device("cpu")
    matrix_units = True

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

    def run(self, body: Callable[[], None]) -> None:
        body()

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

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        self.calls = captured = []
        try:
            body()
        finally:
            self.calls = None
        self.captures.append(len(captured))

        def replay() -> None:
            for call in captured:
                call()

        return replay
