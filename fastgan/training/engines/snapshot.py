"""Roll-back of non-finite updates in the eager engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastgan._ranks import Ranks
from fastgan.models import GAN


class Snapshot:
    """A copy of everything that an update may change, to roll a non-finite one back without a synchronisation.

    Args:
        active: False makes both methods do nothing.
        ranks: the processes that decide together.
    """

    def __init__(
        self,
        gan: GAN,
        optimizers: Iterable[torch.optim.Optimizer],
        *,
        active: bool,
        ranks: Ranks | None = None,
    ) -> None:
        self.gan, self.optimizers, self.active, self.ranks = gan, list(optimizers), active, ranks or Ranks()
        self.live: list[Tensor] = []
        self.saved: list[Tensor] = []
        self._states: list[dict[Any, dict[str, Any]]] = []

    @torch.no_grad()
    def save(self) -> None:
        """Call it before an update and its forward passes, which change running statistics."""
        if not self.active:
            return
        self._states = self._now()
        self.live = [*self.gan.parameters(), *self.gan.buffers(), *_tensors(self._states)]
        self.saved = [live.clone() for live in self.live]

    @torch.no_grad()
    def restore_unless_finite(self, loss: Tensor) -> None:
        """After an update: roll back if its loss is not finite, or if a number was finite and is not any more.

        Gradients need no check: if one is not finite, neither is the optimiser's state after it.
        """
        if not self.active:
            return
        pairs, now = list(zip(self.saved, self.live, strict=True)), self._now()
        kept = [(torch.isfinite(live) | ~torch.isfinite(saved)).all().to(loss.device) for saved, live in pairs]
        known = set(map(id, self.live))
        made = [torch.isfinite(value).all().to(loss.device) for value in _tensors(now) if id(value) not in known]
        finite = torch.stack([torch.isfinite(loss).all(), *kept, *made]).all()
        if self.ranks.size > 1:
            share = finite.to(torch.float32)
            self.ranks.mean_([share])
            finite = share == 1.0
        for saved, live in pairs:
            live.copy_(torch.where(finite.to(live.device), live, saved))
        # Other optimisers may create state in the first update, or keep it in Python numbers: only then is
        # the host asked.
        if not _same(now, self._states) and not bool(finite):
            for optimizer, state in zip(self.optimizers, self._states, strict=True):
                optimizer.state.clear()
                optimizer.state.update(state)

    def _now(self) -> list[dict[Any, dict[str, Any]]]:
        return [{p: dict(entry) for p, entry in optimizer.state.items()} for optimizer in self.optimizers]


def _tensors(states: list[dict[Any, dict[str, Any]]]) -> list[Tensor]:
    return [v for state in states for entry in state.values() for v in entry.values() if isinstance(v, Tensor)]


def _same(a: list[dict[Any, dict[str, Any]]], b: list[dict[Any, dict[str, Any]]]) -> bool:
    """The same tensors, by identity, and equal values of other kinds."""

    def flat(states: list[dict[Any, dict[str, Any]]]) -> list[tuple[Any, ...]]:
        items = ((p, name, value) for state in states for p, entry in state.items() for name, value in entry.items())
        return [(id(p), name, id(value) if isinstance(value, Tensor) else value) for p, name, value in items]

    return flat(a) == flat(b)
