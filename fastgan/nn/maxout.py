"""A layer of maxout units."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastgan import ops
from fastgan._options import Impl
from fastgan.nn.checks import check_size


class Maxout(nn.Module):
    """The maxout units of the paper's discriminators: each the largest of `pieces` affine maps of the input.

    Equivalent to `torch.nn.functional.linear(input, weight, bias).view(*shape, out_features,
    pieces).max(-1).values`. The gradient goes to one piece of each unit, the first of equal ones; a NaN in any piece
    makes the unit NaN.

    Args:
        in_features: width of the input.
        out_features: number of units.
        pieces: affine maps a unit chooses from.
        bias: whether each piece learns an additive bias.
        device: of the parameters.
        dtype: of the parameters.
        impl: "auto", "native" or "reference".

    Attributes:
        weight: (out_features * pieces, in_features); row u * pieces + p is piece p of unit u. Initialised as
            `nn.Linear`'s.
        bias: (out_features * pieces) or None.

    Raises:
        ValueError: a size below 1, an unknown impl, an input of the wrong width.

    Source: Goodfellow et al. (2013), "Maxout networks"; Goodfellow et al. (2014), section 5.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pieces: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.in_features = check_size("Maxout", "in_features", in_features)
        self.out_features = check_size("Maxout", "out_features", out_features)
        self.spec = ops.LayerSpec(pieces=check_size("Maxout", "pieces", pieces))
        self.impl = ops.check_impl("Maxout", impl)
        rows = out_features * pieces
        self.weight = nn.Parameter(torch.empty(rows, in_features, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(rows, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @property
    def pieces(self) -> int:
        return self.spec.pieces

    def reset_parameters(self) -> None:
        """U(-1/sqrt(in_features), 1/sqrt(in_features)) for weight and bias, as `torch.nn.Linear` does."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """input (..., in_features) -> (..., out_features)."""
        return ops.mlp(input, [self.weight], [self.bias], [self.spec], impl=self.impl, caller="Maxout")

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, pieces={self.pieces}, "
            f"bias={self.bias is not None}"
        )
