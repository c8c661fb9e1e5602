"""Gradient penalties: equal to the plain double backward, through fused layers, at zero gradients too."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from cases import IMPLS, NAN, need
from torch import Tensor, nn

import fastgan
from fastgan import gradient_penalty, random
from fastgan.losses import PENALTIES
from fastgan.random import Purpose


def plain_penalty(
    discriminator: nn.Module, real: Tensor, fake: Tensor, kind: str, weight: float, mix: Tensor
) -> Tensor:
    """As the papers write it, with torch.autograd.grad."""
    where = {"wgan-gp": mix * real + (1 - mix) * fake, "r1": real, "r2": fake}[kind].detach().requires_grad_()
    (derivative,) = torch.autograd.grad(discriminator(where).sum(), where, create_graph=True)
    if kind == "wgan-gp":
        return weight * ((derivative.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
    return weight / 2 * derivative.flatten(1).square().sum(1).mean()


def mlp(impl: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    fused = fastgan.nn.MLP([6, 16, 16, 1], activation="softplus", impl=impl, dtype=dtype)
    return fused, nn.Sequential(*copy.deepcopy(list(fused.children())))


def maxout(impl: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    class Plain(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.weight, self.bias = (nn.Parameter(p.detach().clone()) for p in (layer.weight, layer.bias))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight, self.bias).unflatten(-1, (-1, 3)).max(-1).values

    layers = [fastgan.nn.Maxout(6, 8, 3, dtype=dtype), fastgan.nn.Maxout(8, 5, 3, dtype=dtype)]
    last = fastgan.nn.Linear(5, 1, dtype=dtype)
    fused = fastgan.nn.Sequential(*layers, last, impl=impl)
    return fused, nn.Sequential(*(Plain(layer) for layer in layers), copy.deepcopy(nn.Sequential(last))[0])


def fused_convolutional(impl: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    images = [nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.Tanh(), nn.Flatten()]
    plain = nn.Sequential(*images, nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)
    model = copy.deepcopy(plain)
    return (fastgan.fuse(model) if impl == "native" else model), plain


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("make", (mlp, maxout, fused_convolutional))
@pytest.mark.parametrize("kind", PENALTIES)
def test_penalties_are_the_plain_double_backward(kind: str, make: object, dtype: torch.dtype, impl: str) -> None:
    need(impl, "mlp", dtype=dtype)
    fused, plain = make(impl, dtype)  # type: ignore[operator]
    real, fake = torch.randn(9, 6, dtype=dtype), 2 * torch.randn(9, 6, dtype=dtype)
    mix = random.uniform((9, 1), seed=5, purpose=Purpose.PENALTY, step=3, dtype=dtype)
    got = gradient_penalty(fused, real, fake, kind=kind, weight=7.0, seed=5, step=3)
    want = plain_penalty(plain, real, fake, kind, 7.0, mix)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(got, want, **tolerance)
    got.backward()
    want.backward()
    names = [name for name, _ in fused.named_parameters()]
    # Biases have no part in the gradient of layers without second derivative; the last one never has.
    without = {name for name in names if name.endswith("bias")} if make is maxout else {names[-1]}
    for (name, p), q in zip(fused.named_parameters(), plain.parameters(), strict=True):
        if name in without:
            assert p.grad is None or not p.grad.any(), name
            assert q.grad is None or not q.grad.any(), name
        else:
            assert p.grad is not None and q.grad is not None and q.grad.any(), f"{name} has no gradient"
            torch.testing.assert_close(p.grad, q.grad, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", PENALTIES)
def test_a_derivative_of_zero_gives_numbers(kind: str, plain: bool) -> None:
    """A dead discriminator, or one saturated at a batch's row: the norm's own gradient would be infinite there."""
    layers = torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)
    model = torch.nn.Sequential(*layers) if plain else fastgan.nn.MLP([4, 8, 1], activation="relu")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    x = torch.randn(6, 4)
    penalty = gradient_penalty(model, x, x, kind=kind, seed=0)
    assert penalty.item() == (10.0 if kind == "wgan-gp" else 0.0)
    penalty.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    # All of D is dead, so each gradient is exactly zero; the last bias has no part in the gradient.
    assert {name for name, grad in grads.items() if grad is None} <= {"2.bias"}
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads.values() if grad is not None)
    half_dead = torch.tensor([[-1.0, -2.0], [1.0, 2.0]])
    partly = gradient_penalty(lambda x: (x.relu() ** 2).sum(1), half_dead, half_dead, kind="r1")
    assert partly.item() == pytest.approx(10 / 2 * (4 + 16) / 2)


def test_mixing_numbers_replay_and_vary() -> None:
    model = fastgan.nn.MLP([3, 8, 1], activation="softplus")
    real, fake = torch.randn(5, 3), torch.randn(5, 3)

    def value(**stream: int) -> float:
        return gradient_penalty(model, real, fake, **stream).item()  # type: ignore[arg-type]

    assert value(seed=1, step=2) == value(seed=1, step=2)
    assert len({value(seed=1, step=2), value(seed=1, step=3), value(seed=2, step=2)}) == 3
    torch.manual_seed(4)
    first = value()
    assert value() != first
    torch.manual_seed(4)
    assert value() == first


@pytest.mark.parametrize("modes", ((torch.no_grad,), (torch.inference_mode,), (torch.no_grad, torch.inference_mode)))
@pytest.mark.parametrize("kind", PENALTIES)
def test_a_value_alone_has_no_graph(kind: str, modes: tuple[Callable[[], AbstractContextManager]]) -> None:
    """Else a history of values would keep the graphs of all of them. The data may be made in inference mode too."""
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(4, 3)
    expected = gradient_penalty(model, x, -x, kind=kind, seed=1)
    with contextlib.ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode())
        got = gradient_penalty(model, x.clone(), -x, kind=kind, seed=1)
    assert expected.requires_grad and not got.requires_grad
    assert got.item() == expected.item()


def test_batches_of_images_and_no_outer_graph() -> None:
    """(batch, channel, height, width); works under no_grad; leaves the examples' own gradients alone."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    real = torch.randn(5, 3, 2, 2, requires_grad=True)
    fake = torch.randn(5, 3, 2, 2, requires_grad=True)
    for kind in PENALTIES:
        penalty = gradient_penalty(model, real, fake, kind=kind, seed=0)
        penalty.backward()
        assert real.grad is None and fake.grad is None
        norm = model[1].weight.detach().norm()
        expected = 10 * (norm - 1) ** 2 if kind == "wgan-gp" else 5 * norm**2
        torch.testing.assert_close(penalty.detach(), expected)
        with torch.no_grad():
            torch.testing.assert_close(gradient_penalty(model, real, fake, kind=kind, seed=0), expected)
    real = real.detach().clone()
    real[2, 0, 0, 0] = NAN
    quadratic = lambda x: x.flatten(1).square().sum(1)  # noqa: E731
    assert gradient_penalty(quadratic, real, fake, kind="r1").isnan()


X = torch.zeros(4, 3)
BAD = [
    ({"kind": "gp"}, ValueError, "gradient_penalty: kind must be one of wgan-gp, r1, r2, got 'gp'"),
    ({"real": [1.0]}, TypeError, "gradient_penalty: real must be a torch.Tensor, got list"),
    ({"fake": X.long()}, TypeError, "gradient_penalty: fake must be floating point, got torch.int64"),
    ({"fake": torch.zeros(4, 2)}, ValueError, r"of examples of one shape, got \(4, 3\) and \(4, 2\)"),
    ({"fake": torch.zeros(5, 3)}, ValueError, "wgan-gp pairs real with fake, so their shapes must be equal"),
    ({"real": torch.tensor(1.0), "fake": torch.tensor(1.0)}, ValueError, "must be batches .*of examples"),
    ({"real": X[:0], "fake": X[:0]}, ValueError, r"the batch must not be empty, got shape \(0, 3\)"),
    ({"fake": X.double()}, TypeError, "real and fake must share one dtype, got torch.float32 and torch.float64"),
    ({"fake": X.to("meta")}, ValueError, "real and fake must be on one device, got cpu and meta"),
    ({"discriminator": lambda x: (x, x)}, TypeError, "what discriminator gives must be a torch.Tensor, got tuple"),
    ({"discriminator": torch.detach}, RuntimeError, "what discriminator gives must be differentiable, got no graph"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_errors(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"discriminator": nn.Linear(3, 1), "real": X, "fake": X} | change
    with pytest.raises(error, match=message):
        gradient_penalty(**arguments)  # type: ignore[arg-type]


def test_r1_takes_batches_of_different_size() -> None:
    assert gradient_penalty(nn.Linear(3, 1), torch.randn(5, 3), torch.randn(2, 3), kind="r1").isfinite()
