"""What a caller of a network remembers of its last calls."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan._kernels import MlpDescription
from fastgan.ops.dispatch import Likeness


class CallCache:
    """The description that `mlp` found at a caller's last call, valid while the shapes stay the same.

    Looking it up in a shared cache, by a hash of shapes and layers, takes longer than a small network's products. The
    caller has the same layers at each call, and a bias or None at the same places.
    """

    __slots__ = ("alike", "last", "latest", "learned", "memory")
    most_learned = 64  # a caller whose calls are never alike stops learning

    def __init__(self) -> None:
        # read once and replaced as a whole, because threads share them
        self.last: tuple[list[Any], MlpDescription] | None = None
        self.alike: dict[tuple[bool, ...], tuple[Likeness, MlpDescription]] = {}
        # of these, that of the last call without and with dropout
        self.latest: list[tuple[Likeness, MlpDescription] | None] = [None, None]
        self.learned = 0
        self.memory: Any = None  # of the weights, at the last call with a gradient (ops/networks.py)

    @staticmethod
    def _signature(x: Tensor, params: Sequence[Tensor | None], drops: bool) -> list[Any]:
        return [drops, x.shape[-1], *[p if p is None else p.shape for p in params]]

    @staticmethod
    def _kind(x: Tensor, params: Sequence[Any], drops: bool) -> tuple[bool, ...]:
        # D's calls on real and on fake rows are of two kinds. Tensors of inference mode have other keys of dispatch.
        inference = torch.is_inference_mode_enabled(), x.is_inference()
        return drops, x.requires_grad, params[0].requires_grad, *inference

    def recall(self, x: Tensor, params: Sequence[Tensor | None], drops: bool) -> MlpDescription | None:
        """The description where this call is common and like an earlier one; None where that takes a closer look.

        Not while torch.compile traces.
        """
        known = self.latest[drops]
        if known is None or not known[0].matches(x, params):
            known = self.alike.get(self._kind(x, params, drops))
            if known is None or not known[0].matches(x, params):
                return None
            self.latest[drops] = known
        return known[1]

    def find(self, x: Tensor, params: Sequence[Tensor | None], drops: bool) -> MlpDescription | None:
        """The description of the last call, where this one is common and has its shapes."""
        last = self.last
        if last is None or last[0] != self._signature(x, params, drops):
            return None
        if self.learned < self.most_learned and x.dim() == 2 and all(p is not None for p in params):
            self.learned += 1
            with contextlib.suppress(RuntimeError, TypeError):  # torch's checks are not public
                self.alike[self._kind(x, params, drops)] = Likeness(x, params), last[1]  # type: ignore[arg-type]
        return last[1]

    def keep(self, x: Tensor, params: Sequence[Tensor | None], drops: bool, network: MlpDescription) -> None:
        self.last = self._signature(x, params, drops), network
