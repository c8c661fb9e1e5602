"""Linear layers whose products round their factors, as tensor cores, AMX and AVX512-BF16 do: the oracle of those."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rounded(x: Tensor, kind: str) -> Tensor:
    """float32 to the factors' type, by integers: to nearest; ties away from 0 (tf32) or to even (bfloat16)."""
    if kind.endswith("bf16"):
        return x.to(torch.bfloat16).float()
    bits = x.contiguous().view(torch.int32)
    finite = (bits & 0x7F800000) != 0x7F800000
    up = torch.where(finite, (bits.long() + 0x1000).to(torch.int32), bits)
    return torch.where(x.isnan(), x, (up & ~0x1FFF).view(torch.float32))


class RoundedProduct(torch.autograd.Function):
    """x W^T with both factors of each product rounded, and so for the products of its derivatives of any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, kind: str) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kind = kind
        return rounded(x.detach(), kind) @ rounded(weight.detach(), kind).T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        of_x = RoundedProduct.apply(grad, weight.T, ctx.kind)
        return of_x, RoundedProduct.apply(grad.T, x.T, ctx.kind), None


class RoundedLinear(torch.nn.Linear):
    """A linear layer of such products."""

    def __init__(self, inputs: int, outputs: int, kind: str) -> None:
        super().__init__(inputs, outputs)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return RoundedProduct.apply(x, self.weight, self.kind) + self.bias
