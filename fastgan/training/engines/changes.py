"""Detect changes to modules since the plan was built; five times cheaper than rebuilding it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fastgan.nn.fusible import any_global_hook, hooks

_flat = chain.from_iterable
_PARTS, _STATE = attrgetter("_parameters", "_buffers", "_modules"), attrgetter("state")
_CALLED = attrgetter("__call__", "forward")
# Of a tensor, what `tensor.data = ...` and the like change in place
_KIND = attrgetter("dtype", "shape")
_HOOKS = attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")
_TRAINED = attrgetter("requires_grad")


class ChangeDetector:
    """The state of modules, optimisers and data when a plan was described.

    Independent of the plan's contents: it compares all attributes, and all children, parameters, buffers and optimiser
    states by identity, and address and layout of each tensor. A population checks every member at every launch, hence
    no loops in Python.
    """

    def __init__(self, gan: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer], data: Tensor) -> None:
        self._modules, self._optimizers = list(gan.modules()), list(optimizers.values())
        self._owners = [*self._modules, *self._optimizers]
        self._kinds = list(set(map(type, self._modules)))
        self._parameters = list(gan.parameters())
        kept = (value for o in self._optimizers for state in o.state.values() for value in state.values())
        # No plan reads how many updates there were: the one number among the states.
        states = [value for value in kept if isinstance(value, Tensor) and value.dim()]
        self._tensors: list[Tensor] = [*self._parameters, *gan.buffers(), *states, data]
        self._attributes = list(map(dict, map(vars, self._owners)))
        self._objects = self._all_objects()  # held, so that no other gets the identity of one
        self._identities, self._places = list(map(id, self._objects)), self._all_places()

    def is_current(self) -> bool:
        """Whether `plan.describe` would return the same description."""
        try:
            if list(map(vars, self._owners)) != self._attributes:
                return False
        except (RuntimeError, ValueError):  # an array, which has been replaced: no plan reads it, but it has changed
            return False
        return (
            list(map(id, self._all_objects())) == self._identities
            and self._all_places() == self._places
            and not any(_flat(map(hooks, self._modules)))
            and not any(_flat(map(_HOOKS, self._parameters)))
            and not (any_global_hook() or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)
        )

    def _all_objects(self) -> list[Any]:
        """The objects and names in modules and optimisers, and the methods of their classes."""
        states: list[dict[Any, Any]] = list(map(_STATE, self._optimizers))
        dicts = [*_flat(map(_PARTS, self._modules)), *states, *_flat(map(dict.values, states))]
        of_classes = chain(map(type, self._modules), _flat(map(_CALLED, self._kinds)))
        return [*_flat(dicts), *_flat(map(dict.values, dicts)), *of_classes]

    def _all_places(self) -> tuple[list[Any], ...]:
        tensors, parameters = self._tensors, self._parameters
        return (
            list(map(Tensor.data_ptr, tensors)),
            list(map(_KIND, tensors)),
            list(map(Tensor.is_contiguous, tensors)),
            list(map(Tensor.is_neg, parameters)),
            list(map(_TRAINED, parameters)),
            list(map(type, parameters)),
        )
