"""On a GPU: noise, masks and layers against the CPU and the float64 reference; streams, capture, no hidden waiting.

The losses' rows run on every device in their own files. What needs no GPU to be found is found by tests/test_simt*.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from cases import MLPS, PAIRS, MlpCase, name_of, need, row
from torch import Tensor

import fastgan
from fastgan import _cuda, ops, random
from fastgan.ops import LayerSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
# Relative to the size of the result
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=name_of)
def test_noise_is_that_of_the_cpu(dtype: torch.dtype) -> None:
    need("native", "random", "cuda", dtype)
    for n, offset in ((1, 0), (4096, 0), (100_003, 5), (7, 2**40 + 3)):
        stream = {"seed": 2**63 + 5, "purpose": 1, "step": 9, "offset": offset, "dtype": dtype}
        assert torch.equal(random.uniform(n, **stream, device="cuda").cpu(), random.uniform(n, **stream))
        got, want = random.normal(n, **stream, device="cuda").cpu(), random.normal(n, **stream)
        torch.testing.assert_close(got, want, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-6)


@pytest.mark.parametrize("shape", ((3, 8), (1000, 7), (5,), (2, 3, 16), (0, 4)), ids=str)
def test_masks_are_those_of_the_cpu(shape: tuple[int, ...]) -> None:
    need("native", "dropout", "cuda")
    x, key = torch.randn(shape), torch.tensor(77)
    for p in (0.0, 0.3, 1.0):
        assert torch.equal(ops.dropout(x.cuda(), p, key, 2).cpu(), ops.dropout(x, p, key, 2))


def value_and_gradients(case: MlpCase, rows: int, dtype: torch.dtype, device: str, impl: str) -> list[Tensor]:
    x, weights, biases, key = case.make(rows, dtype=dtype, device=device, grad=True, seed=7)
    y = case.run(x, weights, biases, key, impl)
    upstream = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape).to(device, dtype)
    inputs = [x, *weights, *(b for b in biases if b is not None)]
    return [y.detach().cpu().double(), *(g.cpu().double() for g in torch.autograd.grad(y, inputs, upstream))]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=name_of)
@pytest.mark.parametrize("case", MLPS, ids=name_of)
def test_every_network_is_the_reference(case: MlpCase, dtype: torch.dtype) -> None:
    need("native", "mlp", "cuda", dtype)
    for rows in (1, 33, 1000):
        got = value_and_gradients(case, rows, dtype, "cuda", "native")
        want = value_and_gradients(case, rows, torch.float64, "cpu", "reference")
        for a, b in zip(got, want, strict=True):
            scale = max(1.0, b.abs().max().item())
            assert (a - b).abs().max().item() <= TOLERANCE[dtype] * scale


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=name_of)
@pytest.mark.parametrize("case", MLPS, ids=name_of)
def test_every_gradient_of_a_gradient_is_the_reference(case: MlpCase, dtype: torch.dtype) -> None:
    """G6's correctness: what a gradient penalty differentiates."""
    need("native", "mlp", "cuda", dtype)

    def run(dtype: torch.dtype, device: str, impl: str) -> list[Tensor]:
        x, weights, biases, key = case.make(33, dtype=dtype, device=device, grad=True, seed=7)
        (grad,) = torch.autograd.grad(case.run(x, weights, biases, key, impl).sum(), x, create_graph=True)
        inputs = [x, *weights, *(b for b in biases if b is not None)]
        found = torch.autograd.grad(grad.square().sum(), inputs, materialize_grads=True)
        return [g.cpu().double() for g in found]

    got, want = run(dtype, "cuda", "native"), run(torch.float64, "cpu", "reference")
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max().item() <= 10 * TOLERANCE[dtype] * max(1.0, b.abs().max().item())


@pytest.mark.parametrize("width", (24, 96, 320), ids=str)
def test_small_and_large_networks_agree(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network whole and layer by layer; by size the middle one is the last to go whole."""
    need("native", "mlp", "cuda")
    case = MlpCase("both", (width, width, width, 8), (LayerSpec("relu", dropout=0.2), LayerSpec("tanh"), LayerSpec()))
    shape = _cuda.Shape(width, (width, width, 8), case.layers)
    assert shape.is_small(torch.empty(200, width, device="cuda")) == (width < 320)
    whole = value_and_gradients(case, 200, torch.float32, "cuda", "native")
    monkeypatch.setattr(_cuda, "_has_tensor_cores", lambda device: False)
    for a, b in zip(whole, value_and_gradients(case, 200, torch.float32, "cuda", "native"), strict=True):
        assert (a - b).abs().max().item() <= TOLERANCE[torch.float32] * max(1.0, b.abs().max().item())


def test_bfloat16_is_no_worse_than_twice_plain_pytorch() -> None:
    need("native", "mlp", "cuda", torch.bfloat16)
    case = MlpCase("wide", (256, 512, 512, 64), (LayerSpec("softplus"), LayerSpec("tanh"), LayerSpec()))
    want = value_and_gradients(case, 512, torch.float64, "cuda", "reference")
    fused = value_and_gradients(case, 512, torch.bfloat16, "cuda", "native")
    plain = value_and_gradients(case, 512, torch.bfloat16, "cuda", "reference")
    for a, b, exact in zip(fused, plain, want, strict=True):
        assert (a - exact).norm() <= 2 * (b - exact).norm() + 1e-6


def test_same_bits_again_on_any_stream() -> None:
    """A side stream, with producers that are late."""
    need("native", "mlp", "cuda")
    case = next(c for c in MLPS if c.name == "original")
    first = value_and_gradients(case, 257, torch.float32, "cuda", "native")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)
        second = value_and_gradients(case, 257, torch.float32, "cuda", "native")
    torch.cuda.current_stream().wait_stream(side)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def step_of_a_gan() -> tuple[Callable[[], None], list[Tensor]]:
    """Losses and gradients of D and G, without an optimiser; and where the gradients are stored."""
    torch.manual_seed(0)
    generator = fastgan.nn.MLP([8, 64, 16], activation="relu", device="cuda")
    discriminator = fastgan.nn.MLP([16, 64, 1], activation="leaky_relu", device="cuda")
    z, real = torch.randn(32, 8, device="cuda"), torch.randn(32, 16, device="cuda")
    parameters = [*generator.parameters(), *discriminator.parameters()]
    for p in parameters:
        p.grad = torch.zeros_like(p)

    def step() -> None:
        for p in parameters:
            assert p.grad is not None
            p.grad.zero_()
        fake = generator(z)
        fastgan.discriminator_loss(discriminator(real), discriminator(fake.detach())).backward()
        fastgan.generator_loss(discriminator(fake)).backward()

    return step, [p.grad for p in parameters if p.grad is not None]


def test_R24_a_step_can_be_captured_and_replays_its_bits() -> None:
    need("native", "mlp", "cuda")
    step, grads = step_of_a_gan()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    step()
    want = [g.clone() for g in grads]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(1000):
        graph.replay()
    for got, expected in zip(grads, want, strict=True):
        assert torch.equal(got, expected)


def test_R24_nothing_waits_for_the_device(nothing_waits: Callable[[], AbstractContextManager[None]]) -> None:
    need("native", "mlp", "cuda")
    step, _ = step_of_a_gan()
    step()
    with nothing_waits():
        step()
        random.normal((4, 8), seed=1, purpose=1, device="cuda")


@pytest.mark.parametrize("pair", range(len(PAIRS)))
def test_pairs_give_the_same_bits_aligned_or_not(pair: int) -> None:
    need("native", "loss", "cuda")
    formulas, targets = PAIRS[pair]
    x = [row(f).points(10_007, dtype=torch.float32, device="cuda", seed=i) for i, f in enumerate(formulas)]
    shifted = [torch.cat((t.new_zeros(1), t))[1:] for t in x]
    values = [ops.pair_loss(*tensors, formulas, targets, impl="native") for tensors in (x, shifted)]
    assert torch.equal(values[0], values[1])


@pytest.mark.slow
def test_R13_more_than_two_billion_elements() -> None:
    need("native", "loss", "cuda", torch.bfloat16)
    for n in (2**31 - 1, 2**31 + 513):
        x = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
        assert ops.pointwise(x, "fake", order=1, impl="native")[-1].item() == 0.5
        assert abs(ops.pair_loss(x, None, ("fake", "fake"), impl="native").item() - 0.6931472) < 1e-6


def test_another_device_is_served_there() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    x = torch.randn(1000, device="cuda:1", requires_grad=True)
    loss = fastgan.discriminator_loss(x, x, impl="native")
    loss.backward()
    assert loss.device == x.device and x.grad is not None and x.grad.device == x.device
