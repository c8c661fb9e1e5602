"""The public objectives: what they compute, how they reduce, what they refuse."""

from __future__ import annotations

import itertools
import math
import random as plain_random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, IMPLS, INF, NAN, name_of, need
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastgan
from fastgan.losses import DISCRIMINATOR, GENERATOR

LOSS_DTYPE = {torch.float64: torch.float64}
TOLERANCE = {torch.float32: 3e-7, torch.float64: 1e-14, torch.float16: 3e-7, torch.bfloat16: 3e-7}


def logits(
    n: int, dtype: torch.dtype = torch.float32, seed: int = 0, device: str = "cpu", scale: float = 4.0
) -> Tensor:
    made = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale
    return made.to(dtype).to(device)


def assert_rounded(got: Tensor, want: Tensor) -> None:
    """Gradients equal to the double-precision ones but for roundings of got's dtype."""
    dtype = got.dtype
    atol = 0.0 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(got.cpu(), want.to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=atol)


# What each kind is, in plain double-precision PyTorch: (terms of the real logits, terms of the fake ones).
PLAIN_D: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "gan": (lambda r: torch.logaddexp(-r, 0 * r), lambda f: torch.logaddexp(f, 0 * f)),
    "hinge": (lambda r: torch.relu(1 - r), lambda f: torch.relu(1 + f)),
    "least_squares": (lambda r: (r - 1) ** 2 / 2, lambda f: f**2 / 2),
    "wasserstein": (lambda r: -r, lambda f: f),
}
PLAIN_G: dict[str, Callable[[Tensor], Tensor]] = {
    "non_saturating": lambda f: torch.logaddexp(-f, 0 * f),
    "minimax": lambda f: -torch.logaddexp(f, 0 * f),
    "mle": lambda f: -0.5 * f.exp(),
    "hinge": lambda f: -f,
    "least_squares": lambda f: (f - 1) ** 2 / 2,
    "wasserstein": lambda f: -f,
}


def test_every_kind_is_checked_here() -> None:
    assert set(PLAIN_D) | {"relativistic"} == set(DISCRIMINATOR)
    assert set(PLAIN_G) | {"relativistic"} == set(GENERATOR)


# ---------------------------------------------------------------- values and gradients


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("kind", PLAIN_D)
def test_M40_discriminator_loss(kind: str, dtype: torch.dtype, impl: str, device: str) -> None:
    """m real and n fake of different size; every reduction; upstream gradients other than 1."""
    need(impl, "loss", device, dtype)
    real, fake = (logits(n, dtype, seed, device).requires_grad_() for n, seed in ((1003, 1), (317, 2)))
    wide = [x.detach().cpu().double().requires_grad_() for x in (real, fake)]
    plain = [term(x) for term, x in zip(PLAIN_D[kind], wide, strict=True)]
    for reduction, total in (("mean", plain[0].mean() + plain[1].mean()), ("sum", plain[0].sum() + plain[1].sum())):
        loss = fastgan.discriminator_loss(real, fake, kind=kind, reduction=reduction, impl=impl)
        assert loss.shape == () and loss.dtype == LOSS_DTYPE.get(dtype, torch.float32)
        torch.testing.assert_close(loss.cpu().double(), total, rtol=TOLERANCE[dtype], atol=1e-15)
        got = torch.autograd.grad(loss, (real, fake), torch.full_like(loss, -1.75))
        expected = torch.autograd.grad(total, wide, torch.tensor(-1.75).double(), retain_graph=True)
        for g, e in zip(got, expected, strict=True):
            assert g.dtype == dtype
            assert_rounded(g, e)
    terms = fastgan.discriminator_loss(real, fake, kind=kind, reduction="none", impl=impl)
    for got_terms, e in zip(terms, plain, strict=True):
        assert got_terms.dtype == dtype
        torch.testing.assert_close(got_terms.cpu(), e.to(dtype))


@pytest.mark.parametrize("impl", IMPLS)
def test_the_hinge_is_flat_at_its_kink_as_torchs_is(impl: str) -> None:
    need(impl, "loss")
    real, fake = torch.ones(3, requires_grad=True), -torch.ones(3, requires_grad=True)
    fake.retain_grad()
    D(real, fake, kind="hinge", impl=impl).backward()
    assert real.grad.tolist() == fake.grad.tolist() == [0.0] * 3


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("kind", PLAIN_G)
def test_M41_generator_loss(kind: str, dtype: torch.dtype, impl: str, device: str) -> None:
    need(impl, "loss", device, dtype)
    fake = logits(501, dtype, 3, device, scale=2.0).requires_grad_()
    wide = fake.detach().cpu().double().requires_grad_()
    terms = PLAIN_G[kind](wide)
    for reduction, total in (("mean", terms.mean()), ("sum", terms.sum())):
        loss = fastgan.generator_loss(fake, kind=kind, reduction=reduction, impl=impl)
        assert loss.shape == () and loss.dtype == LOSS_DTYPE.get(dtype, torch.float32)
        torch.testing.assert_close(loss.cpu().double(), total, rtol=TOLERANCE[dtype], atol=1e-15)
        (got,) = torch.autograd.grad(loss, fake, torch.full_like(loss, 3.5))
        (expected,) = torch.autograd.grad(total, wide, torch.tensor(3.5).double(), retain_graph=True)
        assert_rounded(got, expected)
    got_terms = fastgan.generator_loss(fake, kind=kind, reduction="none", impl=impl)
    torch.testing.assert_close(got_terms.cpu(), terms.to(dtype))


@pytest.mark.parametrize("impl", IMPLS)
def test_relativistic_losses_pair_real_with_fake(impl: str, device: str) -> None:
    need(impl, "loss", device, torch.float64)
    real, fake = (logits(64, torch.float64, seed, device).requires_grad_() for seed in (1, 2))
    for sign, loss in (
        (-1, fastgan.discriminator_loss(real, fake, kind="relativistic", impl=impl)),
        (1, fastgan.generator_loss(fake, kind="relativistic", real_logits=real, impl=impl)),
    ):
        expected = torch.logaddexp(sign * (real - fake), torch.zeros_like(real)).mean()
        torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0.0)
        got = torch.autograd.grad(loss, (real, fake))
        want = torch.autograd.grad(expected, (real, fake))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)
    terms, nothing = fastgan.discriminator_loss(real, fake, kind="relativistic", reduction="none", impl=impl)
    assert terms.shape == (64,) and not nothing.any()


@pytest.mark.parametrize("impl", IMPLS)
def test_M44_labels_are_the_targets(impl: str, device: str) -> None:
    """one-sided smoothing weighs the real side; at p = q its optimum is D = 0.45; two-sided only when asked."""
    need(impl, "loss", device, torch.float64)
    real, fake = (logits(200, torch.float64, seed, device) for seed in (1, 2))
    for real_label, fake_label in ((0.9, 0.0), (0.9, 0.1), (1.0, 0.25), (0.0, 1.0)):
        loss = fastgan.discriminator_loss(real, fake, real_label=real_label, fake_label=fake_label, impl=impl)
        expected = F.binary_cross_entropy_with_logits(real, torch.full_like(real, real_label))
        expected = expected + F.binary_cross_entropy_with_logits(fake, torch.full_like(fake, fake_label))
        torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0.0)
    for probability, sign in ((0.45 - 1e-6, -1), (0.45 + 1e-6, 1)):
        x = torch.tensor([math.log(probability / (1 - probability))], dtype=torch.float64, requires_grad=True)
        fastgan.discriminator_loss(x, x, real_label=0.9, impl=impl).backward()
        assert x.grad is not None and x.grad.sign().item() == sign
    least = fastgan.discriminator_loss(real, fake, kind="least_squares", real_label=0.8, fake_label=-1.0, impl=impl)
    expected = ((real - 0.8) ** 2 / 2).mean() + ((fake + 1) ** 2 / 2).mean()
    torch.testing.assert_close(least, expected, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("impl", IMPLS)
def test_M42_non_saturating_is_cross_entropy_with_the_label_flipped(impl: str, device: str) -> None:
    """only the fake logits count."""
    need(impl, "loss", device)
    fake = torch.linspace(-60, 15, 301, device=device)
    loss = fastgan.generator_loss(fake, reduction="none", impl=impl)
    expected = F.binary_cross_entropy_with_logits(fake.double(), torch.ones_like(fake).double(), reduction="none")
    torch.testing.assert_close(loss.double(), expected, rtol=3e-7, atol=0.0)
    real = logits(5, device=device).requires_grad_()
    loss = fastgan.generator_loss(fake.clone().requires_grad_(), impl=impl) + 0 * real.sum()
    assert torch.autograd.grad(loss, real)[0].abs().sum() == 0


@pytest.mark.parametrize("impl", IMPLS)
def test_M41_blend_of_the_original_code(impl: str, device: str) -> None:
    need(impl, "loss", device, torch.float64)
    fake = logits(50, torch.float64, device=device)
    blend = fastgan.blended_generator_loss(fake, non_saturating_weight=3.0, minimax_weight=1.0, impl=impl)
    expected = (3 * PLAIN_G["non_saturating"](fake).mean() + PLAIN_G["minimax"](fake).mean()) / 4
    torch.testing.assert_close(blend, expected, rtol=1e-13, atol=0.0)
    alone = fastgan.blended_generator_loss(fake, non_saturating_weight=0.0, minimax_weight=2.0, impl=impl)
    torch.testing.assert_close(alone, PLAIN_G["minimax"](fake).mean(), rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_M46_a_mixed_batch_is_the_two_batches(dtype: torch.dtype, impl: str, device: str) -> None:
    """m real and n fake side by side."""
    need(impl, "loss", device, dtype)
    x = logits(1000, dtype, 5, device).view(40, 25)
    is_real = (torch.rand(40, 25, generator=torch.Generator().manual_seed(6)) < 0.3).to(device)
    for reduction in ("mean", "sum"):
        mixed_x, split_x = (x.clone().requires_grad_() for _ in range(2))
        mixed = fastgan.mixed_batch_loss(mixed_x, is_real, reduction=reduction, impl=impl)
        split = fastgan.discriminator_loss(split_x[is_real], split_x[~is_real], reduction=reduction, impl=impl)
        assert mixed.dtype == split.dtype
        rtol = 1e-14 if dtype == torch.float64 else 2.5e-7
        torch.testing.assert_close(mixed, split, rtol=rtol, atol=0.0)
        mixed.backward(torch.full_like(mixed, 2.5))
        split.backward(torch.full_like(split, 2.5))
        torch.testing.assert_close(mixed_x.grad, split_x.grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)
    terms = fastgan.mixed_batch_loss(x, is_real, reduction="none", impl=impl)
    real_terms, fake_terms = fastgan.discriminator_loss(x[is_real], x[~is_real], reduction="none", impl=impl)
    assert torch.equal(terms[is_real], real_terms) and torch.equal(terms[~is_real], fake_terms)


@pytest.mark.parametrize("impl", IMPLS)
def test_M46_a_mixed_batch_of_one_kind(impl: str, device: str) -> None:
    need(impl, "loss", device)
    x = logits(20, device=device)
    for real in (True, False):
        mask = torch.full((20,), real, device=device)
        got = fastgan.mixed_batch_loss(x, mask, impl=impl)
        torch.testing.assert_close(got, PLAIN_D["gan"][not real](x).mean(), rtol=1e-6, atol=0.0)


# ---------------------------------------------------------------- probabilities


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=name_of)
def test_M43_losses_of_probabilities(dtype: torch.dtype, impl: str, device: str) -> None:
    need(impl, "loss", device, dtype)
    real, fake = (torch.sigmoid(logits(n, dtype, seed, device)).requires_grad_() for n, seed in ((90, 1), (70, 2)))
    loss = fastgan.probability_discriminator_loss(real, fake, impl=impl)
    expected = F.binary_cross_entropy(real, torch.ones_like(real))
    expected = expected + F.binary_cross_entropy(fake, torch.zeros_like(fake))
    torch.testing.assert_close(loss, expected)
    got, want = (torch.autograd.grad(y, (real, fake), torch.full_like(y, 1.5)) for y in (loss, expected))
    torch.testing.assert_close(got, want)
    generator = fastgan.probability_generator_loss(fake, impl=impl)
    torch.testing.assert_close(generator, F.binary_cross_entropy(fake, torch.ones_like(fake)))
    summed = fastgan.probability_generator_loss(fake, reduction="sum", impl=impl)
    torch.testing.assert_close(summed, generator * fake.numel())


@pytest.mark.parametrize("impl", IMPLS)
def test_M43_certain_probabilities_are_finite_or_infinite_by_a_flag(impl: str, device: str) -> None:
    need(impl, "loss", device)
    for p, loss_of in (
        (0.0, lambda x, **k: fastgan.probability_generator_loss(x, **k)),
        (1.0, lambda x, **k: fastgan.probability_discriminator_loss(torch.ones_like(x), x, **k)),
    ):
        held, free = (torch.tensor([p], device=device, requires_grad=True) for _ in range(2))
        loss = loss_of(held, impl=impl)
        loss.backward()
        assert held.grad is not None and held.grad.isfinite().all() and held.grad.abs().item() > 1e37
        torch.testing.assert_close(loss.item(), -math.log(torch.finfo(torch.float32).tiny), rtol=1e-6, atol=0.0)
        loss = loss_of(free, clamp=False, impl=impl)
        loss.backward()
        assert loss.item() == INF
        assert free.grad is not None and free.grad.abs().item() == INF


@pytest.mark.parametrize("impl", IMPLS)
def test_M43_impossible_probabilities(impl: str, device: str) -> None:
    need(impl, "loss", device)
    for bad in (-0.1, 1.1, -1e-45, INF):
        p = torch.tensor([0.5, bad], device=device)
        if device == "cpu":
            with pytest.raises(ValueError, match=r"fake_probabilities must be probabilities in \[0, 1\], got"):
                fastgan.probability_generator_loss(p, impl=impl)
        else:
            assert fastgan.probability_generator_loss(p, impl=impl).isnan()
    p = torch.tensor([0.5, NAN], device=device, requires_grad=True)
    loss = fastgan.probability_generator_loss(p, impl=impl)
    assert loss.isnan() and torch.autograd.grad(loss, p)[0].isnan().tolist() == [False, True]


# ---------------------------------------------------------------- reductions


@pytest.mark.parametrize("impl", IMPLS)
def test_M45_a_half_precision_sum_does_not_overflow(impl: str, device: str) -> None:
    need(impl, "loss", device, torch.float16)
    for dtype in (torch.float16, torch.bfloat16):
        fake = torch.full((10_000,), 10.0, dtype=dtype, device=device)
        loss = fastgan.discriminator_loss(fake[:1], fake, reduction="sum", impl=impl)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.item(), 10_000 * 10.0000453989 + 4.53989e-5, rtol=1e-6, atol=0.0)


def long_mean(n: int, dtype: torch.dtype, impl: str, device: str) -> None:
    """Mixed signs, far more terms than float32 could add one by one."""
    x = torch.full((n,), 0.1, dtype=dtype)
    x[::2] = -0.1
    x[:1000] = 3.0
    x = x.to(device)
    exact = x.double()
    for kind, term in (("wasserstein", -exact), ("least_squares", (exact - 1) ** 2 / 2)):
        got = fastgan.generator_loss(x, kind=kind, impl=impl).item()
        assert got == pytest.approx(term.mean().item(), rel=1e-6), kind
    got = fastgan.generator_loss(x, impl=impl).item()
    assert got == pytest.approx(torch.logaddexp(-exact, torch.zeros((), dtype=torch.float64)).mean().item(), rel=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
def test_M45_long_reductions(impl: str, device: str) -> None:
    need(impl, "loss", device)
    long_mean(10_000_000 if impl == "native" else 1_000_000, torch.float32, impl, device)
    long_mean(1_000_000, torch.float16, impl, device)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=name_of)
def test_M45_very_long_reductions(dtype: torch.dtype, device: str) -> None:
    need("native", "loss", device)
    long_mean(100_000_000, dtype, "native", device)


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("impl", IMPLS)
def test_shapes(impl: str, device: str) -> None:
    need(impl, "loss", device)
    for shape in ((), (1,), (1, 1), (7,), (13, 1), (2, 3, 5), (1, 8193), (65, 257)):
        x = logits(math.prod(shape), device=device).view(shape).requires_grad_()
        loss = fastgan.discriminator_loss(x, x.detach(), impl=impl)
        torch.testing.assert_close(loss, (PLAIN_D["gan"][0](x).mean() + PLAIN_D["gan"][1](x).mean()).detach().to(loss))
        loss.backward()
        assert x.grad is not None and x.grad.shape == shape
        torch.testing.assert_close(x.grad, -torch.sigmoid(-x.detach()) / x.numel())
        assert fastgan.generator_loss(x, reduction="none", impl=impl).shape == shape


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batches(impl: str, device: str) -> None:
    """A mean of nothing is refused; a sum is 0 and its gradient empty; no reduction gives an empty tensor."""
    need(impl, "loss", device)
    nothing, some = torch.empty(0, 3, device=device, requires_grad=True), torch.ones(4, device=device)
    with pytest.raises(ValueError, match=r"discriminator_loss: real_logits must not be empty under 'mean'"):
        fastgan.discriminator_loss(nothing, some, impl=impl)
    with pytest.raises(ValueError, match=r"discriminator_loss: fake_logits must not be empty under 'mean'"):
        fastgan.discriminator_loss(some, nothing, impl=impl)
    with pytest.raises(ValueError, match=r"generator_loss: fake_logits must not be empty under 'mean'"):
        fastgan.generator_loss(nothing, impl=impl)
    with pytest.raises(ValueError, match=r"mixed_batch_loss: logits must not be empty under 'mean'"):
        fastgan.mixed_batch_loss(nothing, nothing.bool(), impl=impl)
    loss = fastgan.discriminator_loss(nothing, nothing, reduction="sum", impl=impl)
    assert loss.item() == 0.0
    loss.backward()
    assert nothing.grad is not None and nothing.grad.shape == (0, 3)
    torch.testing.assert_close(
        fastgan.discriminator_loss(nothing, some, reduction="sum", impl=impl), PLAIN_D["gan"][1](some).sum()
    )
    assert fastgan.generator_loss(nothing, reduction="none", impl=impl).shape == (0, 3)
    assert fastgan.mixed_batch_loss(nothing, nothing.bool(), reduction="none", impl=impl).shape == (0, 3)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_nan_reaches_the_loss(impl: str, device: str) -> None:
    need(impl, "loss", device)
    x = logits(3000, device=device)
    x[1234] = NAN
    for kind in DISCRIMINATOR:
        assert fastgan.discriminator_loss(x, x, kind=kind, impl=impl).isnan(), kind
    for kind in GENERATOR:
        real = x if kind == "relativistic" else None
        assert fastgan.generator_loss(x, kind=kind, real_logits=real, impl=impl).isnan(), kind


# ---------------------------------------------------------------- identities

FINITE = st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=40)


@pytest.mark.parametrize("impl", IMPLS)
@settings(max_examples=100, deadline=None)
@given(real=FINITE, fake=FINITE, seed=st.integers(0, 2**16), weight=st.floats(-5, 5))
def test_identities(impl: str, real: list[float], fake: list[float], seed: int, weight: float) -> None:
    """Order does not matter; real and fake change roles with the sign; the sum is the mean times the size."""
    need(impl, "loss", dtype=torch.float64)
    r, f = (torch.tensor(x, dtype=torch.float64) for x in (real, fake))
    loss = fastgan.discriminator_loss(r, f, impl=impl)
    same = {"rtol": 1e-13, "atol": 1e-300}
    torch.testing.assert_close(fastgan.discriminator_loss(-f, -r, impl=impl), loss, **same)
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(fastgan.discriminator_loss(r[order], f, impl=impl), loss, **same)
    doubled = fastgan.discriminator_loss(r.repeat(2), f, impl=impl)
    torch.testing.assert_close(doubled, loss, **same)
    summed = fastgan.generator_loss(f, reduction="sum", impl=impl)
    torch.testing.assert_close(summed, fastgan.generator_loss(f, impl=impl) * len(fake), **same)
    indistinct = fastgan.discriminator_loss(r, r, impl=impl).item()
    assert indistinct >= 2 * math.log(2) * (1 - 1e-15)
    x = r.clone().requires_grad_()
    (scaled,) = torch.autograd.grad(weight * fastgan.generator_loss(x, impl=impl), x)
    (plain,) = torch.autograd.grad(fastgan.generator_loss(x, impl=impl), x)
    torch.testing.assert_close(scaled, weight * plain, **same)


# ---------------------------------------------------------------- errors

X, Y = torch.zeros(4), torch.zeros(3)
D, G, M = fastgan.discriminator_loss, fastgan.generator_loss, fastgan.mixed_batch_loss
P, PG, B = fastgan.probability_discriminator_loss, fastgan.probability_generator_loss, fastgan.blended_generator_loss
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: D([1.0], X), TypeError, r"discriminator_loss: real_logits must be a torch.Tensor, got list"),
    (lambda: D(X, None), TypeError, r"discriminator_loss: fake_logits must be a torch.Tensor, got NoneType"),
    (lambda: D(X.long(), X), TypeError, r"discriminator_loss: real_logits must be floating point, got torch.int64"),
    (lambda: D(X, X.to(torch.complex64)), TypeError, r"discriminator_loss: fake_logits must be floating point"),
    (lambda: D(X, X.double()), TypeError, r"real_logits and fake_logits must share one dtype, got torch.float32 and"),
    (lambda: D(X, X.to("meta")), ValueError, r"real_logits and fake_logits must be on one device, got cpu and meta"),
    (lambda: D(X, X.to_sparse()), TypeError, r"fake_logits must be a dense tensor, got layout torch.sparse_coo"),
    (lambda: D(X.to_sparse(), X), TypeError, r"real_logits must be a dense tensor, got layout torch.sparse_coo"),
    (lambda: D(X, X, kind="gam"), ValueError, r"discriminator_loss: kind must be one of gan, hinge, .* got 'gam'"),
    (lambda: D(X, X, kind=[]), ValueError, r"discriminator_loss: kind must be one of gan, hinge, .* got \[\]"),
    (lambda: D(X, X, reduction="avg"), ValueError, r"reduction must be one of mean, sum, none, got 'avg'"),
    (lambda: D(X, X, impl="cuda"), ValueError, r"discriminator_loss: impl must be one of auto, native, reference"),
    (lambda: D(X, X, real_label=1.5), ValueError, r"discriminator_loss: real_label must lie in \[0, 1\], got 1.5"),
    (lambda: D(X, X, fake_label=NAN), ValueError, r"discriminator_loss: fake_label must lie in \[0, 1\], got nan"),
    (lambda: D(X, X, kind="hinge", real_label=0.9), ValueError, r"real_label and fake_label are for kind 'gan' and"),
    (lambda: D(X, Y, kind="relativistic"), ValueError, r"shapes must be equal, got \(4,\) and \(3,\)"),
    (lambda: D(X, 1.0, kind="relativistic"), TypeError, r"fake_logits must be a torch.Tensor, got float"),
    (lambda: G(X.int()), TypeError, r"generator_loss: fake_logits must be floating point, got torch.int32"),
    (lambda: G(X, kind="gan"), ValueError, r"generator_loss: kind must be one of non_saturating, .* got 'gan'"),
    (lambda: G(X, reduction=None), ValueError, r"generator_loss: reduction must be one of mean, sum, none, got None"),
    (lambda: G(X, real_logits=X), ValueError, r"kind 'non_saturating' takes no real_logits"),
    (lambda: G(X, kind="relativistic"), ValueError, r"kind 'relativistic' needs real_logits"),
    (lambda: G(X, reduction="none", impl="no"), ValueError, r"generator_loss: impl must be one of"),
    (lambda: M(X, X), TypeError, r"mixed_batch_loss: is_real must be a bool tensor, got torch.float32"),
    (lambda: M(X, [True]), TypeError, r"mixed_batch_loss: is_real must be a bool tensor, got <class 'list'>"),
    (lambda: M(X, Y.bool()), ValueError, r"mixed_batch_loss: is_real must match logits, got \(3,\)"),
    (lambda: M(X.bool(), X.bool()), TypeError, r"mixed_batch_loss: logits must be floating point, got torch.bool"),
    (lambda: P(X - 1, X), ValueError, r"real_probabilities must be probabilities in \[0, 1\], got -1.0"),
    (lambda: P(X, X, reduction="none"), ValueError, r"probability_discriminator_loss: reduction must be one of mean"),
    (lambda: PG("x"), TypeError, r"probability_generator_loss: fake_probabilities must be a torch.Tensor, got str"),
    (lambda: B(X, non_saturating_weight=-1, minimax_weight=2), ValueError, r"weights must be non-negative"),
    (lambda: B(X, non_saturating_weight=0, minimax_weight=0), ValueError, r"sum positive.*, got 0 and 0"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_errors_name_the_operation_and_the_argument(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_random_arguments_end_in_a_result_or_a_clear_error() -> None:
    """1,500 random calls: a result, TypeError, ValueError or RuntimeError, and nothing else."""
    tensors = [
        torch.randn(3), torch.randn(3).double(), torch.randn(3).half(), torch.randn(2, 3), torch.tensor(1.0),
        torch.empty(0), torch.ones(3, dtype=torch.int64), torch.tensor([True, False, True]), torch.zeros(3),
        torch.randn(3).to_sparse(), torch.empty(3, device="meta"), torch.randn(3, dtype=torch.complex64),
        torch.randn(6)[::2], torch.randn(1).expand(3), torch.full((3,), NAN), torch.full((3,), INF),
        torch.randn(3, requires_grad=True), torch.randn(3).to(torch.float8_e4m3fn),
    ]  # fmt: skip
    junk = [None, 1, 1.5, "mean", "none", "sum", "gan", "hinge", "mle", "native", "reference", [], {}, NAN, INF, -1]
    names = {
        D: ("kind", "real_label", "fake_label", "reduction", "impl"),
        G: ("kind", "real_logits", "reduction", "impl"),
        M: ("reduction", "impl"),
        P: ("clamp", "reduction", "impl"),
        PG: ("clamp", "reduction", "impl"),
        B: ("non_saturating_weight", "minimax_weight", "reduction", "impl"),
    }
    draw = plain_random.Random(0)
    finished = 0
    for function, _ in itertools.product(names, range(250)):
        arguments = [draw.choice(tensors if draw.random() < 0.9 else junk) for _ in range(draw.choice((1, 2, 2)))]
        keywords = {n: draw.choice(junk + tensors[:2]) for n in names[function] if draw.random() < 0.3}
        try:
            function(*arguments, **keywords)
            finished += 1
        except (TypeError, ValueError, RuntimeError) as error:
            assert str(error)
    assert finished > 20


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=name_of)
def test_relativistic_losses_of_halves_are_computed_in_float32(dtype: torch.dtype, impl: str, device: str) -> None:
    need(impl, "loss", device, dtype)
    real, fake = (torch.tensor([v], dtype=dtype, device=device, requires_grad=True) for v in (-40000.0, 40000.0))
    size = fake.item() - real.item()  # beyond float16
    loss = fastgan.discriminator_loss(real, fake, kind="relativistic", impl=impl)
    assert loss.item() == size and fastgan.generator_loss(
        real, kind="relativistic", real_logits=fake, impl=impl
    ).item() == pytest.approx(size)
    grads = torch.autograd.grad(loss, (real, fake))
    assert [g.item() for g in grads] == [-1.0, 1.0] and grads[0].dtype == dtype
    terms, _ = fastgan.discriminator_loss(real, fake, kind="relativistic", reduction="none", impl=impl)
    assert terms.dtype == dtype
