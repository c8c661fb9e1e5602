"""The second-order pass of an MLP: gradients of its input's gradient, native against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from cases import MLPS, MlpCase, name_of, need
from torch import Tensor

import fastgan
from fastgan import _kernels
from fastgan.ops import LayerSpec

WIDE = (
    MlpCase("wide", (130, 258, 33, 1), (LayerSpec("leaky_relu"), LayerSpec("leaky_relu"), LayerSpec())),
    MlpCase("wide_smooth", (130, 258, 33, 2), (LayerSpec("tanh", dropout=0.3), LayerSpec("gelu"), LayerSpec())),
    MlpCase("wide_maxout", (96, 65, 9, 1), (LayerSpec(pieces=4), LayerSpec("softplus"), LayerSpec()), False, 0.2),
)
EXACT = {"rtol": 1e-10, "atol": 1e-11}


@pytest.fixture
def native_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The native second-order calls made so far."""
    made: list[str] = []
    for name in ("mlp_second_order", "mlp_penalty"):
        run = getattr(_kernels, name)
        monkeypatch.setattr(_kernels, name, lambda *a, run=run, name=name, **k: made.append(name) or run(*a, **k))
    return made


def gradients(
    case: MlpCase, rows: tuple[int, ...], impl: str, dtype: torch.dtype = torch.float64
) -> list[Tensor | None]:
    """Of <tangent, grad_x> with respect to grad_y, x and the parameters."""
    x, weights, biases, key = case.make(*rows, dtype=dtype, grad=True)
    y = case.run(x, weights, biases, key, impl)
    upstream, tangent = (
        torch.cos(torch.arange(float(t.numel()))).view(t.shape).to(dtype).requires_grad_() for t in (y, x)
    )
    (grad_x,) = torch.autograd.grad(y, x, upstream, create_graph=True)
    sought = [upstream, x, *weights, *(b for b in biases if b is not None)]
    return list(torch.autograd.grad(grad_x, sought, tangent, allow_unused=True))


@pytest.mark.parametrize("rows", [(1,), (33,), (2, 17), (100,)], ids=str)
@pytest.mark.parametrize("case", MLPS + WIDE, ids=name_of)
def test_the_second_order_pass_is_the_references(case: MlpCase, rows: tuple[int, ...], native_calls: list[str]) -> None:
    need("native", "mlp", dtype=torch.float64)
    got, want = gradients(case, rows, "native"), gradients(case, rows, "reference")
    assert native_calls == ["mlp_second_order"]
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert (a is None) == (b is None), i
        torch.testing.assert_close(a, b, **EXACT, msg=lambda text, i=i: f"result {i}: {text}")


@pytest.mark.parametrize("case", WIDE, ids=name_of)
def test_the_second_order_pass_in_float32(case: MlpCase) -> None:
    need("native", "mlp")
    got, want = gradients(case, (100,), "native", torch.float32), gradients(case, (100,), "reference")
    for a, b in zip(got, want, strict=True):
        if b is not None:
            assert a is not None and (a.double() - b).norm() < 1e-5 * b.norm() + 1e-12


@pytest.mark.parametrize("which", ("x", "weights", "biases", "one weight"))
def test_frozen_parts(which: str) -> None:
    """With some parameters frozen, the others get the same gradients."""
    need("native", "mlp", dtype=torch.float64)
    case = WIDE[1]
    everything = gradients(case, (7,), "native")
    x, weights, biases, key = case.make(7, grad=True)
    chosen = {"x": [x], "weights": weights, "biases": biases, "one weight": weights[1:2]}[which]
    tensors = [x, *weights, *biases]
    for t in tensors:
        if t is not x and not any(t is c for c in chosen):
            t.requires_grad_(False)  # type: ignore[union-attr]
    y = case.run(x, weights, biases, key, "native")
    (grad_x,) = torch.autograd.grad(
        y, x, torch.cos(torch.arange(float(y.numel()))).view(y.shape).double(), create_graph=True
    )
    tangent = torch.cos(torch.arange(float(x.numel()))).view(x.shape).double()
    found = torch.autograd.grad(grad_x, chosen, tangent, allow_unused=True)  # type: ignore[arg-type]
    for t, got in zip(chosen, found, strict=True):
        want = everything[1 + next(i for i, other in enumerate(tensors) if other is t)]
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want, **EXACT)


def test_only_what_is_requested_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    need("native", "mlp")
    asked: list[list[bool]] = []
    run = _kernels.mlp_backward
    monkeypatch.setattr(_kernels, "mlp_backward", lambda *a, **k: asked.append(list(a[6])) or run(*a, **k))
    model = fastgan.nn.MLP([3, 8, 1], activation="tanh")
    x = torch.randn(5, 3, requires_grad=True)
    torch.autograd.grad(model(x).sum(), x, create_graph=True)
    assert asked.pop() == [True, False, False, False, False]
    torch.autograd.grad(model(2 * x).sum(), x)
    assert asked.pop() == [True, False, False, False, False]
    model(2 * x).sum().backward(inputs=[model[0].weight, model[2].bias])
    assert asked.pop() == [False, True, False, False, True]
    torch.autograd.grad(model(x).sum(), [x, *model.parameters()], create_graph=True)
    assert asked.pop() == [True] * 5
    model(x).sum().backward()
    assert asked.pop() == [True] * 5


@pytest.mark.parametrize("case", [MLPS[3], MLPS[-1]], ids=name_of)
def test_third_derivatives(case: MlpCase) -> None:
    found = []
    for impl in ("auto", "reference"):
        x, weights, biases, key = case.make(4, grad=True)
        y = case.run(x, weights, biases, key, impl)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(second.square().sum(), [x, *weights]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


# ---------------------------------------------------------------- the penalty in one call


@pytest.mark.parametrize("kind", fastgan.losses.PENALTIES)
@pytest.mark.parametrize("case", MLPS + WIDE, ids=name_of)
def test_the_penalty_in_one_call(case: MlpCase, kind: str, native_calls: list[str]) -> None:
    """Equal to the penalty of several calls, and so are its gradients, their absence included."""
    need("native", "mlp", dtype=torch.float64)
    x, weights, biases, key = case.make(37, grad=True)
    x = x.detach()
    params = [p for p in (*weights, *biases) if p is not None]
    results = []
    for one_call in (True, False):
        if one_call:
            penalty = fastgan.ops.mlp_penalty(
                x, weights, biases, case.layers, kind, 3.0, input_dropout=case.input_dropout,
                dropout_seed=None if key is None else lambda: key, caller="test", cache=fastgan.ops.CallCache(),
            )  # fmt: skip
            assert penalty is not None
        else:
            where = x.clone().requires_grad_()
            y = case.run(where, weights, biases, key, "reference")
            (derivative,) = torch.autograd.grad(y.sum(), where, create_graph=True)
            penalty = fastgan.reference.gradient_penalty(derivative, kind, 3.0)
        first = torch.autograd.grad(2 * penalty, params, retain_graph=True, allow_unused=True)
        again = torch.autograd.grad(penalty, params, create_graph=True, allow_unused=True)  # by the reference
        results.append([penalty, *first, *again])
    assert native_calls == ["mlp_penalty"]
    for i, (got, want) in enumerate(zip(*results, strict=True)):
        if want is None or got is None:  # a bias below no activation
            assert got is None and want is None, i
        else:
            torch.testing.assert_close(got, want, **EXACT)


def test_which_discriminators_take_one_call(native_calls: list[str]) -> None:
    need("native", "mlp")

    def calls(discriminator: torch.nn.Module, dtype: torch.dtype = torch.float32) -> int:
        native_calls.clear()
        x = torch.randn(4, 3, dtype=dtype)
        fastgan.gradient_penalty(discriminator, x, x + 1).backward()
        return native_calls.count("mlp_penalty")

    model = fastgan.nn.MLP([3, 8, 1], activation="tanh")
    assert calls(model) == 1 and calls(torch.nn.Sequential(model)) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert calls(model) == 0
    assert calls(fastgan.nn.MLP([3, 8, 1], activation="tanh", dtype=torch.bfloat16), torch.bfloat16) == 0
    hook = model.register_forward_hook(lambda m, args, y: 2 * y)
    assert calls(model) == 0
    hook.remove()
    assert calls(model) == 1
    model.append(torch.nn.LayerNorm(1))
    assert calls(model) == 0


def test_a_penalty_walked_twice_and_under_no_grad(native_calls: list[str]) -> None:
    need("native", "mlp")
    model = fastgan.nn.MLP([3, 8, 1], activation="tanh", dropout=0.5)
    x = torch.randn(4, 3)
    with fastgan.random.scope(1, 2):
        penalty = fastgan.gradient_penalty(model, x, x, kind="r1")
    first = torch.autograd.grad(penalty, model[0].weight, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(penalty, model[0].weight)[0], first)
    with torch.no_grad(), fastgan.random.scope(1, 2):
        assert torch.equal(fastgan.gradient_penalty(model, x, x, kind="r1"), penalty)
    assert native_calls == ["mlp_penalty"] * 3


@pytest.mark.parametrize("size", (1e-3, 300.0))
@pytest.mark.parametrize("kind", fastgan.losses.PENALTIES)
def test_penalties_of_halves_are_computed_in_float32(kind: str, size: float) -> None:
    """In float16 the square of 300 is infinite and that of 0.001 rounds to a subnormal number."""
    weight = torch.full((1, 4), size / 2, dtype=torch.float16, requires_grad=True)
    x = torch.randn(8, 4, dtype=torch.float16)
    penalty = fastgan.gradient_penalty(lambda x: torch.nn.functional.linear(x, weight), x, x, kind=kind, weight=2.0)
    norm = weight.detach().double().norm().item()
    expected = 2 * (norm - 1) ** 2 if kind == "wgan-gp" else norm**2
    assert penalty.dtype == torch.float32 and penalty.item() == pytest.approx(expected, rel=1e-5)
    penalty.backward()
    assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any()
