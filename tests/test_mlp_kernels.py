"""The native network and dropout against the float64 reference: values, gradients, shapes, NaN, masks."""

from __future__ import annotations

import pytest
import torch
from cases import ACTIVATIONS, IMPLS, INF, MLPS, NAN, MlpCase, name_of, need
from torch import Tensor

from fastgan import ops, reference
from fastgan.ops import LayerSpec

KEY = torch.tensor(0xDEAD_BEEF)
REAL = (torch.float32, torch.float64)
# Relative to the size of the result: sums of products round once a term, in random directions.
TOLERANCE = {torch.float32: (1.3e-6, 1e-5), torch.float64: (1e-12, 1e-13)}


def forward_and_backward(case: MlpCase, rows: tuple[int, ...], dtype: torch.dtype, impl: str) -> list[Tensor]:
    x, weights, biases, key = case.make(*rows, dtype=dtype, grad=True, seed=7)
    y = case.run(x, weights, biases, key, impl)
    upstream = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape).to(dtype)
    inputs = [x, *weights, *(b for b in biases if b is not None)]
    return [y.detach(), *torch.autograd.grad(y, inputs, upstream)]


def assert_as_exact(case: MlpCase, rows: tuple[int, ...], dtype: torch.dtype) -> None:
    need("native", "mlp", dtype=dtype)
    got = forward_and_backward(case, rows, dtype, "native")
    want = forward_and_backward(case, rows, torch.float64, "reference")
    rtol, atol = TOLERANCE[dtype]
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        torch.testing.assert_close(
            a.double(), b, rtol=rtol, atol=atol * scale, msg=lambda text, i=i: f"{case.name}, result {i}: {text}"
        )


@pytest.mark.parametrize("dtype", REAL, ids=name_of)
@pytest.mark.parametrize("case", MLPS, ids=name_of)
def test_native_is_the_reference(case: MlpCase, dtype: torch.dtype) -> None:
    for rows in ((1,), (5,), (16,), (33,), (2, 3), (2, 1, 4), ()):
        if not rows and case.drops:
            continue
        assert_as_exact(case, rows, dtype)


WIDTHS = ((1, 1), (1, 7), (7, 1), (31, 32), (33, 31), (16, 17), (64, 480), (130, 258), (784, 240))


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_widths_around_the_tiles(widths: tuple[int, int]) -> None:
    """Sizes on both sides of every register tile, vector and block."""
    for rows in (1, 15, 16, 17, 100):
        case = MlpCase("tile", (*widths, 3), (LayerSpec("leaky_relu"), LayerSpec()))
        assert_as_exact(case, (rows,), torch.float32)
        assert_as_exact(case, (rows,), torch.float64)


@pytest.mark.parametrize(("inputs", "dtype"), [(1024, torch.float32), (512, torch.float64)], ids=str)
def test_rows_of_weights_that_lie_4096_bytes_apart(inputs: int, dtype: torch.dtype) -> None:
    """They share a cache set, so products copy them first."""
    assert_as_exact(MlpCase("apart", (inputs, 40, 3), (LayerSpec("leaky_relu"), LayerSpec())), (17,), dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_M50_the_sizes_of_apex(activation: str) -> None:
    """[480, 1024, 1024, 512, 256, 1] cut to a quarter, batch 256: deep sums, split among threads."""
    case = MlpCase("apex", (120, 256, 256, 128, 64, 1), (LayerSpec(activation),) * 5)
    assert_as_exact(case, (256,), torch.float32)


def test_M51_maxout_of_the_original_discriminator() -> None:
    layers = (LayerSpec(pieces=5, dropout=0.5), LayerSpec(pieces=5, dropout=0.5), LayerSpec("sigmoid"))
    assert_as_exact(MlpCase("mnist", (784, 48, 48, 1), layers, input_dropout=0.2), (100,), torch.float32)


@pytest.mark.parametrize("impl", IMPLS)
def test_frozen_parts_get_no_gradient(impl: str) -> None:
    need(impl, "mlp")
    case = MLPS[3]
    x, weights, biases, key = case.make(4, dtype=torch.float32, grad=True)
    everything = torch.autograd.grad(case.run(x, weights, biases, key, impl).sum(), [x, *weights, *biases])
    for needed in range(1 + len(weights) + len(biases)):
        tensors = [t.detach().clone() for t in (x, *weights, *biases)]
        tensors[needed].requires_grad_()
        y = case.run(tensors[0], tensors[1:3], tensors[3:], key, impl)
        assert torch.equal(torch.autograd.grad(y.sum(), tensors[needed])[0], everything[needed])


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batches_and_widths(impl: str) -> None:
    need(impl, "mlp")
    case = next(c for c in MLPS if c.name == "original")
    for rows in ((0,), (3, 0), (0, 3)):
        x, weights, biases, key = case.make(*rows, dtype=torch.float32, grad=True)
        y = case.run(x, weights, biases, key, impl)
        assert y.shape == (*rows, 1)
        y.sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape
        for p in (*weights, *biases):
            assert p is not None and p.grad is not None and p.grad.shape == p.shape and not p.grad.any()
    bias = torch.tensor([1.0, -2.0])
    out = ops.mlp(torch.empty(3, 0), [torch.empty(2, 0)], [bias], [LayerSpec()], impl=impl)
    assert torch.equal(out, bias.expand(3, 2))  # a sum of nothing
    assert ops.mlp(torch.ones(3, 2), [torch.empty(0, 2)], [None], [LayerSpec()], impl=impl).shape == (3, 0)


@pytest.mark.parametrize("name", ("softplus", "maxout", "no_bias"))
def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    """To the bit: whatever the batch is split into, with and without a graph."""
    need("native", "mlp")
    case = next(c for c in MLPS if c.name == name)
    wide = MlpCase(name, (case.sizes[0], 67, 33), case.layers, case.bias)
    x, weights, biases, key = wide.make(5003, dtype=torch.float32)
    whole = wide.run(x, weights, biases, key, "native")
    for size in (1, 7, 16, 4096):
        picked = [x[i : i + size] for i in range(0, min(5003, 40 * size), size)]
        pieces = torch.cat([wide.run(part, weights, biases, key, "native") for part in picked])
        assert torch.equal(pieces, whole[: len(pieces)])
    graph = wide.run(x, [w.requires_grad_() for w in weights], biases, key, "native")
    assert torch.equal(graph, whole)


# ---------------------------------------------------------------- NaN, infinities, ties


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", REAL, ids=name_of)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_at_the_extremes(activation: str, dtype: torch.dtype, impl: str) -> None:
    """NaN goes through, infinities give their limits, values and gradients; GELU at infinity is left out: see below."""
    need(impl, "mlp", dtype=dtype)
    points = [-INF, INF, NAN, 0.0, -0.0, 1e4, -1e4, 1e-30, -1e-30, 88.0, -88.0, -104.0, 5.0, -5.0]
    if activation == "gelu":
        points = points[2:]  # x Phi(x) at -inf is infinity times 0, which is NaN in torch as well
    x = torch.tensor(points, dtype=dtype).view(-1, 1).requires_grad_()
    identity = torch.ones(1, 1, dtype=dtype)
    y = ops.mlp(x, [identity], [None], [LayerSpec(activation)], impl=impl)
    (derivative,) = torch.autograd.grad(y.sum(), x)
    wide = x.detach().double().requires_grad_()
    want = reference.ACTIVATIONS[activation](wide, 0.2)
    (want_derivative,) = torch.autograd.grad(want.sum(), wide)
    kink = x.detach().abs() < 1e-20 if activation in ("relu", "leaky_relu", "elu") else torch.zeros_like(x).bool()
    tolerance = {torch.float32: 3e-7, torch.float64: 1e-14}[dtype]
    nan = x.detach().isnan()
    assert torch.equal(y.isnan(), nan)
    torch.testing.assert_close(y[~nan].detach().double(), want[~nan].detach(), rtol=tolerance, atol=tolerance)
    usual = ~nan & ~kink
    torch.testing.assert_close(
        derivative[usual].double(), want_derivative[usual], rtol=3 * tolerance, atol=3 * tolerance
    )


@pytest.mark.parametrize("dtype", REAL, ids=name_of)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_second_derivatives_of_huge_numbers(activation: str, dtype: torch.dtype) -> None:
    """They are 0, not the NaN of 0 times an overflow: one huge row must not spoil a gradient penalty."""
    need("native", "mlp", dtype=dtype)
    huge = torch.finfo(dtype).max ** 0.6
    x = torch.tensor([huge, -huge, huge**0.5, -(huge**0.5)], dtype=dtype).view(-1, 1).requires_grad_()
    identity = torch.ones(1, 1, dtype=dtype, requires_grad=True)
    y = ops.mlp(x, [identity], [None], [LayerSpec(activation)], impl="native")
    (derivative,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(derivative.sum(), x, materialize_grads=True)
    assert not second.any(), second


# ---------------------------------------------------------------- dropout


@pytest.mark.parametrize("p", (0.2, 0.5, 0.9))
def test_native_and_reference_drop_the_same_elements(p: float) -> None:
    need("native", "dropout")
    for shape in ((7,), (5, 9), (3, 4, 6), (1000, 13), (2, 1)):
        for substream in (0, 3, 65535):
            for dtype in REAL:
                x = torch.ones(shape, dtype=dtype)
                native, plain = (ops.dropout(x, p, KEY, substream, impl=impl) for impl in IMPLS)
                assert torch.equal(native == 0, plain == 0)
                torch.testing.assert_close(native, plain, rtol=2 * torch.finfo(dtype).eps, atol=0.0)
    for key in (torch.tensor(-5), torch.tensor(2**63 - 1), torch.tensor(0)):
        native, plain = (ops.dropout(torch.ones(4, 64), p, key, impl=impl) for impl in IMPLS)
        assert torch.equal(native == 0, plain == 0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("p", (0.2, 0.5))
def test_M52_dropout_keeps_its_share(p: float, impl: str) -> None:
    """The keep rate and the mean within four standard errors; no two rows, columns or substreams share a mask."""
    need(impl, "dropout")
    n = 4000
    x = torch.ones(n, 250)
    kept = ops.dropout(x, p, KEY, impl=impl)
    error = 4 * (p * (1 - p) / x.numel()) ** 0.5
    assert abs((kept != 0).double().mean().item() - (1 - p)) < error
    assert abs(kept.double().mean().item() - 1.0) < error / (1 - p)
    for means, count in ((kept.double().mean(0), n), (kept.double().mean(1), 250)):
        assert (means - 1).abs().max() < 6 * (p / (1 - p) / count) ** 0.5
    assert torch.unique(kept, dim=0).shape[0] == n
    other = ops.dropout(x, p, KEY, 1, impl=impl)
    agree = ((kept != 0) == (other != 0)).double().mean().item()
    assert abs(agree - (p * p + (1 - p) ** 2)) < 0.005


@pytest.mark.parametrize("impl", IMPLS)
def test_dropout_at_its_ends(impl: str) -> None:
    need(impl, "dropout")
    x = torch.randn(6, 5)
    assert torch.equal(ops.dropout(x, 0.0, KEY, impl=impl), x)
    assert not ops.dropout(x, 1.0, KEY, impl=impl).any()
    x[2, 3] = NAN
    for p in (0.0, 0.5, 1.0):  # a NaN is not hidden by being dropped
        assert ops.dropout(x, p, KEY, impl=impl).isnan().sum() == 1
    assert ops.dropout(torch.tensor(2.0), 0.5, KEY, impl=impl).item() in (0.0, 4.0)
    assert ops.dropout(torch.empty(0, 4), 0.5, KEY, impl=impl).shape == (0, 4)
    assert ops.dropout(torch.empty(4, 0), 0.5, KEY, impl=impl).shape == (4, 0)


@pytest.mark.parametrize("impl", IMPLS)
def test_masks_inside_a_network_are_those_of_dropout(impl: str) -> None:
    """The input's mask is that of substream 0, layer i's output that of i + 1."""
    need(impl, "mlp")
    layers = [LayerSpec("relu", dropout=0.5), LayerSpec(dropout=0.3)]
    x = torch.randn(33, 10)
    weights = [torch.randn(7, 10), torch.randn(5, 7)]
    biases = [torch.randn(7), None]
    got = ops.mlp(x, weights, biases, layers, input_dropout=0.2, dropout_seed=KEY, impl=impl)
    y = ops.dropout(x, 0.2, KEY, 0, impl=impl)
    for i, layer in enumerate(layers):
        y = ops.mlp(y, [weights[i]], [biases[i]], [LayerSpec(layer.activation)], impl=impl)
        y = ops.dropout(y, layer.dropout, KEY, i + 1, impl=impl)
    torch.testing.assert_close(got, y)
    assert torch.equal(got == 0, y == 0)
    silent = ops.mlp(x, weights, biases, layers, input_dropout=0.2, impl=impl)  # without a key nothing drops
    plain = ops.mlp(x, weights, biases, [LayerSpec("relu"), LayerSpec()], impl=impl)
    assert torch.equal(silent, plain)
