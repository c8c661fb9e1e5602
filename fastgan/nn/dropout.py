"""Dropout by masks that are recomputed, not stored."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan import ops, random
from fastgan._options import Impl


class Dropout(torch.nn.Dropout):
    """The dropout of the paper's discriminators: 0 with probability p, else scaled by 1 / (1 - p).

    Equivalent to `torch.nn.functional.dropout(input, p, training)` in distribution. The mask is a function of
    a dropout seed, which the call draws from torch's default generator (so `torch.manual_seed` reproduces it) or,
    inside `fastgan.random.scope`, from that stream. The backward pass computes the mask again; no mask is stored.
    p = 0 and eval mode return the input.

    Args:
        p: probability of a zero, 0 and 1 included.
        impl: "auto", "native" or "reference".

    Raises:
        ValueError: p outside [0, 1], an unknown impl.

    Source: Goodfellow et al. (2014), section 5; Hinton et al. (2012).
    """

    def __init__(self, p: float = 0.5, *, impl: Impl = "auto") -> None:
        super().__init__(ops.check_probability("Dropout", "p", p))
        self.impl = ops.check_impl("Dropout", impl)

    def forward(self, input: Tensor) -> Tensor:
        """input of any shape -> the same shape."""
        if not self.training or self.p == 0.0:
            return input
        return ops.dropout(input, self.p, random.next_dropout_seed(), impl=self.impl)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"
