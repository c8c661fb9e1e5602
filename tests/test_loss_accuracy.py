"""How exact the losses are, bit pattern by bit pattern, against the float64 reference."""

from __future__ import annotations

import math
import os

import fresh
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import DIGITS, IMPLS, INF, LOGISTIC, LOSSES, NAN, LossCase, bit_patterns, name_of, need, row, ulp_error
from torch import Tensor

import fastgan
from fastgan import ops, reference
from fastgan._backend import backend_info

ORDERS = (0, 1, 2)
HALVES = (torch.float16, torch.bfloat16)
EDGES = [0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1.2e-38, 1e-7, -1e-7, 0.5, 1.0, -1.0, 10.0, -10.0, 22.18, -22.18]
EDGES += [80.0, -80.0, 88.0, -88.0, 88.8, -88.8, 104.0, -104.0, 1e4, -1e4, 3e38, -3e38]


def worst(case: LossCase, x: Tensor, order: int, impl: str, device: str = "cpu") -> tuple[float, float]:
    """The largest error in units in the last place and the input it occurs at."""
    got = ops.pointwise(x.to(device), case.formula, case.target, order, impl=impl).cpu()
    want = case.want(x, order, impl)
    error = ulp_error(got, want, case.derivative_unit if order == 1 else 0.0)
    if impl == "reference":  # torch's sigmoid and exp flush results below the smallest normal number
        tiny = torch.finfo(torch.float32).tiny
        error = torch.where((want.abs() < tiny) & (got.double().abs() < tiny), 0.0, error)
    at = int(error.argmax())
    return error[at].item(), x.flatten()[at].item()


def check_all(
    case: LossCase, dtype: torch.dtype, order: int, impl: str, stride: int, limit: float, device: str
) -> None:
    for x in bit_patterns(dtype, stride):
        error, at = worst(case, x, order, impl, device)
        assert error <= limit, f"{case.name}, order {order}: {error:.3f} ULP at {at!r} ({float(at).hex()})"


def limit_of(case: LossCase, order: int, impl: str) -> float:
    return (case.ulp if impl == "native" else case.reference_ulp)[order]


# ---------------------------------------------------------------- over the bit patterns


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", HALVES, ids=name_of)
@pytest.mark.parametrize("case", LOSSES, ids=name_of)
def test_every_half_is_rounded_once(case: LossCase, dtype: torch.dtype, impl: str, device: str) -> None:
    """All 65,536 inputs: half a unit, and what an error of a few float32 units can move across a rounding boundary."""
    need(impl, "loss", device, dtype)
    for order in ORDERS:
        slack = limit_of(case, order, impl) * 2.0 ** (DIGITS[dtype] - DIGITS[torch.float32])
        check_all(case, dtype, order, impl, 1, 0.5 + slack, device)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", LOSSES, ids=name_of)
def test_M40_single_precision_over_the_bit_patterns(case: LossCase, impl: str, device: str) -> None:
    """Every 8191st float32, subnormals included: 2 units for values."""
    need(impl, "loss", device)
    for order in ORDERS:
        check_all(case, torch.float32, order, impl, 8191, limit_of(case, order, impl), device)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("order", (0, 1))
@pytest.mark.parametrize("case", LOGISTIC, ids=name_of)
def test_single_precision_over_more_bit_patterns(case: LossCase, order: int, device: str) -> None:
    """Every 61st float32: 70 million inputs."""
    need("native", "loss", device)
    check_all(case, torch.float32, order, "native", 61, case.ulp[order], device)


def test_the_measure_sees_one_unit() -> None:
    x = torch.tensor([1.0, 3.0, 1e-45, 1e38], dtype=torch.float32)
    away = torch.full_like(x, INF)
    assert ulp_error(torch.nextafter(x, away), x.double()).tolist() == [1.0] * 4
    assert ulp_error(torch.tensor([0.0, INF, NAN, NAN]), torch.tensor([NAN, 1.0, NAN, 1.0]).double()).tolist() == [
        INF,
        INF,
        0.0,
        INF,
    ]
    assert ulp_error(torch.tensor([INF]), torch.tensor([1e39], dtype=torch.float64)).item() == 0.0


# ---------------------------------------------------------------- double precision against a longer type

_LONG = np.finfo(np.longdouble).nmant > 60


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


EXACT = {
    ("non_saturating", 0): lambda x: _softplus(-x),
    ("non_saturating", 1): lambda x: -_sigmoid(-x),
    ("fake", 0): _softplus,
    ("fake", 1): _sigmoid,
    ("minimax", 0): lambda x: -_softplus(x),
    ("minimax", 1): lambda x: -_sigmoid(x),
}


def check_double(formula: str, order: int, numbers: np.ndarray, impl: str, device: str) -> None:
    got = ops.pointwise(torch.from_numpy(numbers).to(device), formula, order=order, impl=impl).cpu().numpy()
    want = EXACT[formula, order](numbers.astype(np.longdouble))
    unit = np.spacing(np.abs(want.astype(np.float64)))
    error = np.abs(got.astype(np.longdouble) - want) / unit
    if impl == "reference":  # torch's sigmoid flushes subnormal results
        error[np.abs(want) < np.finfo(np.float64).tiny] = 0
    assert error.max() <= 3, f"{formula}: {error.max()} ULP at {numbers[error.argmax()]!r}"


def doubles(n: int, seed: int) -> np.ndarray:
    """Half of them near the origin, half over all magnitudes down to where the answer is subnormal."""
    draw = np.random.default_rng(seed)
    signs = draw.choice([-1.0, 1.0], n - n // 2)
    return np.concatenate([draw.normal(0, 8, n // 2), signs * 2.0 ** draw.uniform(-60, 9.5, n - n // 2)])


@pytest.mark.skipif(not _LONG, reason="this platform's long double is no longer than double")
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("formula", "order"), EXACT, ids=str)
def test_double_precision(formula: str, order: int, impl: str, device: str) -> None:
    need(impl, "loss", device, torch.float64)
    check_double(formula, order, doubles(200_000, 1), impl, device)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not _LONG, reason="this platform's long double is no longer than double")
@pytest.mark.parametrize(("formula", "order"), EXACT, ids=str)
def test_double_precision_on_a_hundred_million(formula: str, order: int, device: str) -> None:
    need("native", "loss", device, torch.float64)
    for seed in range(100):
        check_double(formula, order, doubles(1_000_000, seed), "native", device)


@pytest.mark.parametrize("case", LOSSES, ids=name_of)
def test_native_and_reference_agree_in_double_precision(case: LossCase, device: str) -> None:
    need("native", "loss", device, torch.float64)
    low, high = (0.0, 1.0) if case.domain == (0.0, 1.0) else (-40.0, 40.0)
    x = torch.linspace(low, high, 20_011, dtype=torch.float64)
    for order in ORDERS:
        error, at = worst(case, x, order, "native", device)
        assert error <= case.ulp[order] + case.reference_ulp[order], f"order {order}: {error} ULP at {at!r}"


# ---------------------------------------------------------------- the extremes


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, *HALVES), ids=name_of)
@pytest.mark.parametrize("case", LOSSES, ids=name_of)
def test_limits_are_exact(case: LossCase, dtype: torch.dtype, impl: str, device: str) -> None:
    need(impl, "loss", device, dtype)
    ends = torch.tensor([*case.domain, NAN], dtype=dtype, device=device)
    for order in ORDERS:
        got = ops.pointwise(ends, case.formula, case.target, order, impl=impl).cpu()
        for at, limits in ((0, case.at_low), (1, case.at_high)):
            if limits is None:
                continue
            want = torch.tensor([limits[order]], dtype=torch.float64)
            if limits[order] in (0.0, INF, -INF):
                assert got[at].item() == limits[order], f"order {order}: {got[at]} at {ends[at]}"
            else:
                # a target that float32 rounds, like 0.9, moves 1 - t by a few units
                assert ulp_error(got[at : at + 1], want).item() <= 4, f"order {order}: {got[at]} at {ends[at]}"
        assert got[2].isnan(), f"order {order}: a NaN went in, {got[2]} came out"


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", LOSSES, ids=name_of)
def test_extreme_inputs(case: LossCase, impl: str, device: str) -> None:
    """Zeros, subnormals, the ends of float32: right to the row's tolerance, and NaN only outside the domain."""
    need(impl, "loss", device)
    x = torch.tensor(EDGES)
    low, high = case.domain
    for order in ORDERS:
        error, at = worst(case, x, order, impl, device)
        assert error <= limit_of(case, order, impl), f"order {order}: {error} ULP at {at!r}"
        got = ops.pointwise(x.to(device), case.formula, case.target, order, impl=impl).cpu()
        assert torch.equal(got.isnan(), (x < low) | (x > high)), f"order {order}: {got}"


@pytest.mark.parametrize("impl", IMPLS)
def test_M10_maximum_likelihood_is_held_where_it_would_overflow(impl: str, device: str) -> None:
    need(impl, "loss", device)
    for dtype, hold in ((torch.float32, 88.0), (torch.float64, 709.0)):
        x = torch.tensor([hold - 1, hold, hold + 1, 1e4, INF], dtype=dtype, device=device, requires_grad=True)
        value = fastgan.generator_loss(x, kind="mle", reduction="none", impl=impl)
        (derivative,) = torch.autograd.grad(value.sum(), x)
        assert value.isfinite().all()
        assert (value[1:] == value[1]).all()
        assert torch.equal(derivative, value.detach())  # held values still push
        torch.testing.assert_close(value[1].item(), -0.5 * math.exp(hold), rtol=1e-6, atol=0.0)


# ---------------------------------------------------------------- the public losses on the logits people meet

TABLE = [-1e4, -100.0, -22.18, -10.0, 0.0, 10.0, 100.0, 1e4, -INF, INF]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("logit", TABLE)
def test_M40_both_terms_of_the_discriminators_loss(logit: float, impl: str, device: str) -> None:
    """Value and gradient through the fused loss: within 2 units of float64, and of torch where torch is exact."""
    need(impl, "loss", device)
    for term, formula, neutral in (("real", "non_saturating", -INF), ("fake", "fake", INF)):
        x = torch.tensor([logit], device=device, requires_grad=True)
        other = torch.tensor([neutral], device=device)  # its term is exactly 0
        loss = fastgan.discriminator_loss(*((x, other) if term == "real" else (other, x)), impl=impl)
        loss.backward()
        assert x.grad is not None
        for got, order in ((loss.detach().view(1), 0), (x.grad, 1)):
            want = row(formula).want(x, order)
            allowed = 2.0 if impl == "native" else 3.0
            assert ulp_error(got.cpu(), want).item() <= allowed, f"{term}, order {order}: {got} for {want}"
        label = torch.ones(1) if term == "real" else torch.zeros(1)
        plain = F.binary_cross_entropy_with_logits(torch.tensor([logit]).double(), label.double())
        if math.isfinite(logit) and plain > 1e-6:
            assert ulp_error(loss.detach().cpu().view(1), plain.view(1)).item() <= 2.0


@pytest.mark.parametrize("impl", IMPLS)
def test_M08_non_saturating_gradient_against_minimax(impl: str, device: str) -> None:
    """The same fixed point, stronger by exp(-l); both 1/2 at 0, and at -20 the minimax gradient is 2.0612e-9."""
    need(impl, "loss", device)
    logits = torch.cat([torch.linspace(-80, 80, 1601), torch.tensor([0.0, -20.0])]).to(device)
    derivatives = {}
    for kind in ("non_saturating", "minimax"):
        x = logits.clone().requires_grad_()
        (derivatives[kind],) = torch.autograd.grad(fastgan.generator_loss(x, kind=kind, reduction="sum", impl=impl), x)
    ratio = derivatives["non_saturating"].double() / derivatives["minimax"].double()
    torch.testing.assert_close(ratio, torch.exp(-logits.double()), rtol=1e-6, atol=0.0)
    assert derivatives["minimax"][-2] == derivatives["non_saturating"][-2] == -0.5
    torch.testing.assert_close(derivatives["minimax"][-1].item(), -2.0611536e-9, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(derivatives["non_saturating"][-1].item(), -(1 - 2.06e-9), rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", LOSSES, ids=name_of)
def test_the_reference_derivatives_are_its_derivatives(case: LossCase, impl: str) -> None:
    """The formulas by hand against autograd of the value: two independent ways to the same number."""
    need(impl, "loss", dtype=torch.float64)
    x = case.points(400).requires_grad_()
    value = reference.pointwise(x, case.formula, case.target)
    (derivative,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    torch.testing.assert_close(
        ops.pointwise(x, case.formula, case.target, 1, impl=impl), derivative, rtol=1e-12, atol=1e-12
    )
    if derivative.requires_grad:
        (second_derivative,) = torch.autograd.grad(derivative.sum(), x)
        got = ops.pointwise(x, case.formula, case.target, 2, impl=impl)
        torch.testing.assert_close(got, second_derivative, rtol=1e-11, atol=1e-11)


# ---------------------------------------------------------------- every instruction set this processor has


def sweep() -> None:
    """Every row of the native core at a coarser stride, for one more instruction set."""
    torch.set_num_threads(1)
    for case in LOSSES:
        for order in ORDERS:
            limit = limit_of(case, order, "native")
            check_all(case, torch.float32, order, "native", 65521, limit, "cpu")
            for dtype in HALVES:
                slack = limit * 2.0 ** (DIGITS[dtype] - DIGITS[torch.float32])
                check_all(case, dtype, order, "native", 7, 0.5 + slack, "cpu")
            low, high = (0.0, 1.0) if case.domain == (0.0, 1.0) else (-40.0, 40.0)
            error, at = worst(case, torch.linspace(low, high, 2003, dtype=torch.float64), order, "native")
            assert error <= case.ulp[order] + case.reference_ulp[order], f"{case.name}: {error} ULP at {at!r}"
        test_limits_are_exact(case, torch.float32, "native", "cpu")
        test_limits_are_exact(case, torch.float64, "native", "cpu")
    print(f"{backend_info()['native']['instruction_set']}: {len(LOSSES)} rows")


@pytest.mark.parametrize("isa", ("v2", "v3", "v4"))
def test_other_instruction_sets_are_as_exact(isa: str) -> None:
    need("native", "loss")
    if backend_info()["native"]["instruction_set"] == isa:
        pytest.skip(f"{isa} is what the other tests of this file ran")
    probe = fresh.run("import fastgan", FASTGAN_ISA=isa)
    if probe.returncode:
        pytest.skip(probe.stderr.strip().splitlines()[-1])
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_loss_accuracy as t; t.sweep()"
    run = fresh.run(code, FASTGAN_ISA=isa)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip() == f"{isa}: {len(LOSSES)} rows"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("formula", reference.FORMULAS)
def test_the_place_of_a_number_does_not_show(formula: str, dtype: torch.dtype) -> None:
    """A loop has vectors and a remainder: a compiler that fuses one product in the one and another in the other gives
    a number two values."""
    need("native", "loss", "cpu", dtype)
    x = torch.randn(2048, dtype=dtype, generator=torch.Generator().manual_seed(1))
    x = x.sigmoid() if formula.startswith("probability") else x
    for order in (0, 1, 2):
        target = 0.0 if formula.startswith("probability") else 0.3
        whole = ops.pointwise(x, formula, target, order=order, impl="native")
        for size in (1, 7, 13, 31):
            parts = [ops.pointwise(part, formula, target, order=order, impl="native") for part in x.split(size)]
            assert torch.equal(torch.cat(parts), whole), (order, size)
