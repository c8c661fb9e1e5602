"""A torch.nn.Sequential that runs neighbouring layers as one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastgan import ops
from fastgan._options import Impl
from fastgan.nn.fusible import any_global_hook, hooks
from fastgan.nn.segments import Segment, steps_of


class Sequential(nn.Sequential):
    """A `torch.nn.Sequential` that runs each chain of linear layers, activations and dropout as one call.

    Equivalent to `nn.Sequential(*modules)`, with the same children under the same names: `state_dict`, indexing, hooks
    and tools that read the children work as before. A child that does not fuse (see `fuse`) is called by itself.

    Args:
        *modules: children in order, or one OrderedDict of them.
        impl: "auto", "native" or "reference", for children without an `impl` of their own.

    Raises:
        ValueError: an unknown impl; an input of the wrong width, naming the layer.
    """

    # on the class, for the objects that `fuse` gives this class: they have no such attribute
    impl: Impl = "auto"

    def __init__(self, *modules: Any, impl: Impl = "auto") -> None:
        super().__init__(*modules)
        self.impl = ops.check_impl("Sequential", impl)

    def forward(self, input: Any) -> Any:
        """Pass the input through the children in order."""
        for step in steps_of(self):
            input = step(input)
        return input

    def __prepare_scriptable__(self) -> nn.Sequential:
        """The module that torch.jit.script compiles instead: the same children in a plain Sequential."""
        plain = nn.Sequential.__new__(type(self).__dict__.get("_before_fuse", nn.Sequential))
        plain.__dict__.update(self.__getstate__(), _modules=dict(self._modules))
        plain.__dict__.pop("impl", None)
        return plain

    def as_one_chain(self) -> Segment | None:
        """The chain, if a call of this module runs one chain and nothing else; otherwise None."""
        if "forward" in self.__dict__ or type(self).forward is not Sequential.forward or self._compiled_call_impl:
            return None
        if any(hooks(self)) or any_global_hook() or torch.compiler.is_compiling():
            return None
        steps = steps_of(self)
        return steps[0] if len(steps) == 1 and isinstance(steps[0], Segment) else None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        last = self.__dict__.get("_segmentation")
        for step in () if last is None else last.steps:
            if isinstance(step, Segment):
                step.cache.memory = None  # of the weights before a move or conversion, which nothing else holds
        return super()._apply(fn, recurse)

    def __getitem__(self, index: Any) -> Any:
        part: Any = super().__getitem__(index)
        if isinstance(index, slice):
            part.impl = self.impl
        return part

    def __getstate__(self) -> Any:
        return {name: value for name, value in super().__getstate__().items() if name != "_segmentation"}

    def extra_repr(self) -> str:
        segments = [f"({', '.join(s.names)})" for s in steps_of(self) if isinstance(s, Segment)]
        own = super().extra_repr()
        fused = f"one call each: {' '.join(segments)}" if segments else ""
        return ", ".join(part for part in (own, fused) if part)
