"""Layers without inputs, without outputs, and batches without rows: values and gradients are plain torch's."""

from __future__ import annotations

import warnings

import pytest
import torch
from cases import need

from fastgan import nn, ops
from fastgan.ops import LayerSpec

WIDTHS = ((4, 0, 3), (4, 3, 0), (0, 3, 2), (0, 0, 0), (4, 0, 0, 2), (4, 0), (0, 4), (4, 3, 2))
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])


@dtypes
@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("spec", [LayerSpec("tanh"), LayerSpec(pieces=3)], ids=["tanh", "maxout"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_values_and_gradients_are_the_references(
    widths: tuple[int, ...], spec: LayerSpec, rows: int, dtype: torch.dtype, device: str
) -> None:
    need("native", "mlp", device)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, device=device, requires_grad=True)

    x, depth = normal(rows, widths[0]), len(widths) - 1
    weights = [normal(after * spec.pieces, before) for before, after in zip(widths, widths[1:], strict=False)]
    biases = [normal(after * spec.pieces) for after in widths[1:]]
    found = []
    for impl in ("native", "reference"):
        # memory that was in use: what is not written shows
        used = [torch.full((n,), 7.0, dtype=dtype, device=device) for n in range(1, 40)]
        del used
        y = ops.mlp(x, weights, biases, [spec] * depth, impl=impl)
        found.append((y, *torch.autograd.grad(y.sum(), [x, *weights, *biases])))
    for native, reference in zip(*found, strict=True):
        torch.testing.assert_close(native, reference, rtol=1e-5, atol=1e-6)


@dtypes
def test_the_bias_of_a_layer_without_inputs_has_a_gradient(dtype: torch.dtype) -> None:
    """It was what lay in memory."""
    with warnings.catch_warnings():  # torch warns that there is nothing to fill
        warnings.simplefilter("ignore")
        model = nn.Sequential(torch.nn.Linear(4, 0), torch.nn.ReLU(), torch.nn.Linear(0, 2)).to(dtype)
    for rows in (1, 7, 300):
        model.zero_grad()
        used = torch.full((2,), 123.0, dtype=dtype)
        del used
        model(torch.randn(rows, 4, dtype=dtype)).sum().backward()
        assert model[2].bias.grad.tolist() == [rows, rows]
        assert model[0].weight.grad.shape == (0, 4) and model[2].weight.grad.shape == (2, 0)
