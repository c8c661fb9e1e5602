"""The scratch memory of native calls: a thread keeps it, calls of any size may follow one another."""

from __future__ import annotations

import threading

import pytest
import torch
from cases import need

from fastgan import _kernels
from fastgan.ops import LayerSpec

resource = pytest.importorskip("resource")

Call = tuple[_kernels.MlpDescription, torch.Tensor, list[torch.Tensor], torch.Tensor, torch.Tensor]


def call(inputs: int, outputs: int, rows: int) -> Call:
    """(network, x, parameters, saved activations, grad_y) of one layer."""
    net = _kernels.MlpDescription([(outputs, inputs)], [LayerSpec("tanh")], 0.0, [True])
    x, params = torch.randn(rows, inputs), [torch.randn(outputs, inputs) / inputs, torch.randn(outputs)]
    y, work = _kernels.mlp_forward(net, x, params, None, True)
    assert work is not None
    return net, x, params, work, torch.randn_like(y)


def backward(made: Call) -> list[torch.Tensor | None]:
    net, x, params, work, grad_y = made
    return _kernels.mlp_backward(net, x, [params[0].data_ptr()], work, grad_y, None, [False, False, True])[0]


def test_a_backward_pass_takes_no_new_memory() -> None:
    """Memory given back and taken again comes with page faults, which cost more than the products of a wide layer."""
    need("native", "mlp")
    made = call(32, 1200, 256)
    for _ in range(3):
        backward(made)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        backward(made)
    pages = 1200 * 256 * 4 // resource.getpagesize()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < pages


@pytest.mark.parametrize("threads", (1, 2))
def test_calls_of_all_sizes_in_any_order_and_thread(threads: int) -> None:
    """Small, large, larger than what is kept, small again: each has the result that it has alone."""
    need("native", "mlp")
    calls = [call(3, 5, 7), call(64, 300, 500), call(2, 1024, 12000), call(3, 5, 7), call(64, 300, 500)]
    wrong: list[int] = []

    def run() -> None:
        for i, made in enumerate(calls):
            _, _, _, _, grad_y = made
            y = _kernels.mlp_forward(made[0], made[1], made[2], None, False)[0]
            (found,) = [g for g in backward(made) if g is not None]
            if (found - (grad_y * (1 - y * y)).sum(0)).norm() > 1e-4 * found.norm():
                wrong.append(i)

    pool = [threading.Thread(target=run) for _ in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("rows", (1, 16, 32, 48, 64, 200))
def test_gradients_where_tiles_of_a_transposed_weight_are_copied_and_where_not(rows: int) -> None:
    """A copy of a tile pays from some number of rows on, and where lines share a cache set."""
    need("native", "mlp")
    for inputs, outputs in ((70, 130), (37, 65), (1024, 96)):
        net, x, params, work, grad_y = call(inputs, outputs, rows)
        found = _kernels.mlp_backward(net, x, [params[0].data_ptr()], work, grad_y, None, [True, True, True])[0]
        leaves = [t.double().requires_grad_() for t in (x, *params)]
        truth = torch.autograd.grad(torch.tanh(leaves[0] @ leaves[1].t() + leaves[2]), leaves, grad_y.double())
        for a, b in zip(found, truth, strict=True):
            assert a is not None and (a - b).norm() < 1e-6 * b.norm()


@pytest.fixture
def filled() -> None:
    """New tensors are filled with NaN, as memory of any content. conftest.py puts the setting back."""
    torch.use_deterministic_algorithms(True)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("rows", (20, 27, 50, 61))  # columns of the last block, which has 16 in double
@pytest.mark.parametrize(
    "spec", (LayerSpec("leaky_relu"), LayerSpec("gelu"), LayerSpec(pieces=3), LayerSpec(dropout=0.5))
)
def test_products_read_nothing_that_was_never_written(
    spec: LayerSpec, rows: int, dtype: torch.dtype, filled: None
) -> None:
    """A product reads whole vectors of columns; subnormal numbers behind the last row made it three times as slow."""
    need("native", "mlp")
    sizes, layers = [(8 * spec.pieces, 6), (5, 8)], [spec, LayerSpec()]
    net = _kernels.MlpDescription(sizes, layers, 0.0, [True, True])
    weights, biases = [torch.randn(s, dtype=dtype) for s in sizes], [torch.randn(s[0], dtype=dtype) for s in sizes]
    x, seed = torch.randn(rows, 6, dtype=dtype), torch.tensor(3)
    y, work = _kernels.mlp_forward(net, x, [*weights, *biases], seed, True)
    assert work is not None and not work.isnan().any()
    addresses = [w.data_ptr() for w in weights]
    _, kept = _kernels.mlp_backward(net, x, addresses, work, torch.ones_like(y), seed, [True] * 5, keep=True)
    assert kept is not None and not kept.isnan().any()
