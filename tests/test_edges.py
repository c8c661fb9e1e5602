"""Where fast paths meet the rest of PyTorch: shared weights, tracers, default devices, in-place code."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from cases import need
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import fastgan


def twice() -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    layer = fastgan.nn.Linear(3, 3, activation="tanh").double()
    return list(layer.parameters()), lambda x: layer(layer(x))


def tied() -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    layer = nn.Linear(3, 3).double()
    return list(layer.parameters()), fastgan.fuse(nn.Sequential(layer, nn.Tanh(), layer, nn.Sigmoid()))


@pytest.mark.parametrize("make", [twice, tied])
def test_a_layer_used_twice_has_one_gradient_with_and_without_a_graph(
    make: Callable[[], tuple[list[Tensor], Callable[[Tensor], Tensor]]],
) -> None:
    params, model = make()
    x = torch.randn(4, 3, dtype=torch.float64)
    plain = torch.autograd.grad(model(x).square().sum(), params)
    graphed = torch.autograd.grad(model(x).square().sum(), params, create_graph=True)
    torch.testing.assert_close(graphed, plain, rtol=1e-12, atol=1e-12)


def test_double_backward_is_exact_under_the_callers_autocast() -> None:
    need("native", "mlp")  # plain PyTorch applies the caller's autocast to its own backward
    layer = fastgan.nn.Linear(5, 4, activation="tanh")
    x = torch.randn(6, 5, requires_grad=True)
    y = layer(x)
    (plain,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (inside,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(inside, plain)


def test_a_default_device_elsewhere_changes_nothing_for_cpu_tensors() -> None:
    model = fastgan.nn.MLP([4, 8, 1], activation="tanh", dropout=0.5)
    x = torch.randn(2, 4)
    with torch.device("meta"):
        model(x).sum().backward()
        loss = fastgan.discriminator_loss(x, x)
        numbers = fastgan.random.normal(3, seed=1, purpose=1)
        rows = fastgan.random.permutation(5, seed=1, epoch=0)
    assert {t.device.type for t in (loss, numbers, rows, model[0].weight.grad)} == {"cpu"}
    assert torch.equal(numbers, fastgan.random.normal(3, seed=1, purpose=1))


def test_tracers_record_the_computation() -> None:
    model = fastgan.fuse(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))).eval()
    x, other = torch.randn(2, 4), torch.randn(3, 4)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about tracing
        traced = torch.jit.trace(model, x)
    torch.testing.assert_close(traced(other), model(other))
    graph = make_fx(lambda x: fastgan.generator_loss(x))(x)
    torch.testing.assert_close(graph(other[:2]), fastgan.generator_loss(other[:2]))
    assert fastgan.generator_loss(torch._efficientzerotensor(3)).item() == pytest.approx(0.6931472)


@pytest.mark.parametrize("shape", [(2, 3), (2, 5, 3), (3,)])
def test_the_output_of_a_layer_may_be_changed_in_place(shape: tuple[int, ...]) -> None:
    y = fastgan.nn.Linear(3, 4)(torch.randn(shape))
    y.relu_().sum().backward()
    assert y.min() >= 0


def test_vmap_over_a_backward_of_a_loss() -> None:
    logits = torch.randn(3, requires_grad=True)
    loss = fastgan.generator_loss(logits)
    rows = torch.func.vmap(lambda v: torch.autograd.grad(loss, logits, v, retain_graph=True)[0])(torch.tensor([1.0, 2]))
    torch.testing.assert_close(rows[1], -2 / 3 * torch.sigmoid(-logits.detach()))


def test_derivatives_that_hide_the_sign_are_left_alone_and_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.0), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    expected = model(x)
    torch.testing.assert_close(fastgan.fuse(model)(x), expected)
    with pytest.raises(ValueError, match="negative_slope must be positive, got -1"):
        fastgan.nn.Linear(3, 4, activation="leaky_relu", negative_slope=-1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_noise_masks_and_losses_never_wait_for_the_device(
    nothing_waits: Callable[[], AbstractContextManager[None]],
) -> None:
    model = fastgan.nn.MLP([8, 16, 1], activation="relu", dropout=0.5, device="cuda")
    fastgan.backend_info()
    with nothing_waits():
        z = fastgan.random.prior("normal", (4, 8), seed=1, purpose=1, device="cuda")
        fastgan.discriminator_loss(model(z), model(z)).backward()
