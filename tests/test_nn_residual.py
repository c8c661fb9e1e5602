"""nn.Residual: CTGAN's block, written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgan.nn import Residual


def test_it_is_the_block_written_out() -> None:
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block = Residual(3, 4, dtype=torch.float64)
    weight, bias = block.linear.weight.detach(), block.linear.bias.detach()
    affine = x @ weight.T + bias
    normalised = (affine - affine.mean(0)) / (affine.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(block(x), torch.cat([normalised * (normalised > 0), x], 1))
    assert torch.autograd.gradcheck(block.eval(), x.requires_grad_())
    assert set(block.state_dict()) >= {"linear.weight", "linear.bias", "norm.weight", "norm.running_var"}


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((0, 4), ValueError, "in_features must be at least 1, got 0"),
        ((3, 2.0), TypeError, "features must be an int, got float"),
    ],
)
def test_a_mistake_is_named(sizes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^Residual: {message}"):
        Residual(*sizes)
