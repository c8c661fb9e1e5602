"""Divergences, the optimal discriminator and probability tables against their closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import fastgan
from fastgan import theory

LOG4 = math.log(4.0)
FAIR, BIASED = [0.5, 0.5], [0.95, 0.05]
COUNTS = [[2, 2, 10, 2], [10, 10, 2, 2], [5, 2, 1, 2]]
KINDS: dict[str, Callable[[Any], Any]] = {"numpy": np.asarray, "torch": torch.as_tensor}
X = np.linspace(-12.0, 16.0, 28001)
DX = float(X[1] - X[0])


def simplex(*shape: int, seed: int = 0) -> np.ndarray:
    """Random distributions, some outcomes without mass."""
    rng = np.random.default_rng(seed)
    p = rng.gamma(0.5, size=shape) * (rng.random(shape) > 0.1)
    p[..., 0] += 1e-3
    return p / p.sum(-1, keepdims=True)


def normal(mean: float) -> np.ndarray:
    return np.exp(-((X - mean) ** 2) / 2) / math.sqrt(2 * math.pi)


# ---------------------------------------------------------------- what goes in comes out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_and_type_of_the_arguments_come_out(kind: str, dtype: str) -> None:
    p, q = (KINDS[kind](x.astype(dtype)) for x in simplex(2, 5, 7))
    for result, shape in (
        (theory.js_divergence(p, q), (5,)),
        (theory.entropy(p), (5,)),
        (theory.optimal_discriminator(p, q), (5, 7)),
        (theory.value(p, q, theory.optimal_discriminator(p, q)), (5,)),
        (theory.training_criterion(p[0], q[0]), ()),
        (theory.f_value(p, q, 0 * p, kind="kl"), (5,)),
        (theory.JointTable(p).conditional("x"), (5, 7)),
        (theory.gaussian_density(p, 1.0, 2.0), (5, 7)),
        (theory.functional_game(p[0], 0 * p[0] + 1 / 7, 3).p_g, (4, 7)),
    ):
        assert isinstance(result, torch.Tensor) == (kind == "torch")
        assert tuple(result.shape) == shape and str(result.dtype).removeprefix("torch.") == dtype


def test_lists_and_counts_are_taken_too() -> None:
    assert theory.entropy([0.5, 0.5], base=2) == 1.0
    assert theory.entropy(torch.tensor([1, 0])).item() == 0.0
    assert isinstance(theory.kl_divergence(FAIR, torch.tensor(BIASED, dtype=torch.float64)), torch.Tensor)


def test_divergences_are_differentiable() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    other = torch.softmax(torch.randn(5, dtype=torch.float64), -1)
    for divergence in (theory.kl_divergence, theory.reverse_kl_divergence, theory.js_divergence,
                       theory.pearson_divergence, theory.hellinger_divergence, theory.training_criterion):  # fmt: skip
        assert torch.autograd.gradcheck(lambda x, f=divergence: f(torch.softmax(x, -1), other), logits)


# ---------------------------------------------------------------- value and optimal discriminator


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])
def test_M01_value_is_the_direct_sum(kind: str, dtype: str, tolerance: float) -> None:
    p, q = simplex(2, 1000, 12).astype(dtype)
    d = np.random.default_rng(1).uniform(0.01, 0.99, p.shape).astype(dtype)
    direct = (p * np.log(d.astype(np.float64)) + q * np.log(1 - d.astype(np.float64))).sum(-1)
    got = theory.value(*map(KINDS[kind], (p, q, d)))
    np.testing.assert_allclose(np.asarray(got), direct, atol=0, rtol=tolerance)


def test_M01_value_of_densities_on_a_grid() -> None:
    d = 1 / (1 + np.exp(X - 0.5))  # D* of N(0, 1) against N(1, 1)
    assert theory.value(normal(0), normal(1), d, dx=DX) == pytest.approx(-1.1634513968, abs=1e-9)
    uneven = np.sort(np.random.default_rng(0).uniform(-9, 10, 400_000))
    p, q = (theory.gaussian_density(uneven, mean) for mean in (0, 1))
    got = theory.value(p, q, 1 / (1 + np.exp(uneven - 0.5)), dx=np.gradient(uneven))
    assert got == pytest.approx(-1.1634513968, abs=1e-4)


def test_M01_value_of_samples() -> None:
    real, fake = torch.randn(2, 1001, dtype=torch.float64) * 5
    direct = torch.sigmoid(real).log().mean() + torch.sigmoid(-fake).log().mean()
    torch.testing.assert_close(theory.sample_value(real, fake), direct, rtol=1e-12, atol=0)
    torch.testing.assert_close(theory.sample_value(real, fake), -fastgan.discriminator_loss(real, fake))
    with pytest.raises(ValueError, match="sample_value: fake_logits must not be empty"):
        theory.sample_value([1.0], [])


def test_M01_value_at_the_edges() -> None:
    assert theory.value([1, 0], [0, 1], [1, 0]) == 0.0  # sure and right
    assert theory.value([1, 0], [0, 1], [0, 1]) == -math.inf  # sure and wrong
    assert theory.value(FAIR, FAIR, [1, 0.5]) == -math.inf == theory.value(FAIR, FAIR, [0, 0.5])
    assert -800 < theory.value([1, 0], [0, 1], [0, 1], clamp=True) < -700
    assert theory.value([1, 0, 0], [0, 1, 0], [1, 0, math.nan]) == 0.0  # D is asked nothing at the third outcome


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_M01_a_rounded_optimum_is_not_wrong(dtype: str) -> None:
    """Far in the tails D* is 1 or 0 to the last bit although both densities have mass; V there is a number."""
    for q in (1e-9, 1e-17, 1e-300):
        p_, q_ = np.array([[1 - q, q], [q, 1 - q]], dtype)
        d = theory.optimal_discriminator(p_, q_)
        assert np.abs(theory.value(p_, q_, d) - theory.training_criterion(p_, q_)) < 1e-6
    free = torch.tensor([1.0, 0.0], requires_grad=True)
    theory.value(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), free).backward()
    assert free.grad is not None and free.grad.tolist() == [1.0, -1.0]  # no NaN of a term without mass


def test_M02_optimal_discriminator_is_the_argmax() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.exponential(size=(2, 10_000)) * 10.0 ** rng.integers(-3, 3, (2, 10_000))
    low, high = np.zeros(10_000), np.ones(10_000)
    for _ in range(60):  # golden-section search of a log y + b log(1 - y), in float64 good to 1e-7 or so
        x1, x2 = high - (high - low) / 1.618033988749895, low + (high - low) / 1.618033988749895
        f1, f2 = (a * np.log(x) + b * np.log1p(-x) for x in (x1, x2))
        low, high = np.where(f1 > f2, low, x1), np.where(f1 > f2, x2, high)
    np.testing.assert_allclose(theory.optimal_discriminator(a, b), (low + high) / 2, atol=1e-6, rtol=0)


def test_M02_optimal_discriminator_at_the_edges() -> None:
    d = theory.optimal_discriminator(np.array([0.0, 3, 0, 5e-324, 1e308]), np.array([2.0, 0, 0, 5e-324, 1e308]))
    np.testing.assert_array_equal(d, [0.0, 1.0, math.nan, 0.5, 0.5])


def test_M44_smoothing_scales_the_optimal_discriminator() -> None:
    p, q = simplex(2, 9, seed=3)
    got = theory.optimal_discriminator(p, q, real_label=0.9)
    np.testing.assert_allclose(got, 0.9 * p / np.where(p + q == 0, math.nan, p + q), rtol=1e-15)
    assert theory.optimal_discriminator(0.3, 0.3, real_label=0.9) == pytest.approx(0.45, abs=1e-15)


def test_M03_theorem_1_on_coins() -> None:
    d = theory.optimal_discriminator(FAIR, BIASED)
    np.testing.assert_allclose(d, [0.344828, 0.909091], atol=5e-7)
    assert theory.js_divergence(FAIR, BIASED) == pytest.approx(0.1423375654, abs=5e-11)
    assert theory.js_divergence(FAIR, BIASED, base=2) == pytest.approx(0.2053496997, abs=5e-11)
    assert theory.value(FAIR, BIASED, d) == pytest.approx(-1.1016192303, abs=5e-11)


@pytest.mark.parametrize(
    ("mean", "js", "value"),
    [
        (0.5, 0.0303113005, -1.3256717601),
        (1.0, 0.1114214822, -1.1634513968),
        (2.0, 0.3368308203, -0.7126327204),
        (4.0, 0.6327201937, -0.1208539736),
    ],
)
def test_M03_theorem_1_on_gaussians(mean: float, js: float, value: float) -> None:
    p, q = normal(0), normal(mean)
    assert theory.js_divergence(p, q, dx=DX) == pytest.approx(js, abs=2e-10)
    assert theory.value(p, q, theory.optimal_discriminator(p, q), dx=DX) == pytest.approx(value, abs=2e-10)
    assert theory.js_from_value(value) == pytest.approx(js, abs=2e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])
def test_M03_the_criterion_is_the_value_at_the_optimal_discriminator(dtype: str, tolerance: float) -> None:
    p, q = simplex(2, 10_000, 12).astype(dtype)
    at_optimum = theory.value(p, q, theory.optimal_discriminator(p, q))
    np.testing.assert_allclose(at_optimum, -LOG4 + 2 * theory.js_divergence(p, q), atol=tolerance, rtol=0)
    np.testing.assert_allclose(theory.training_criterion(p, q), at_optimum, atol=tolerance, rtol=0)
    other = theory.value(p, q, np.clip(np.random.default_rng(0).random(p.shape), 0.01, 0.99).astype(dtype))
    assert (other < at_optimum).all()


def test_M04_the_minimum_is_minus_log_4_only_where_both_agree() -> None:
    p, q = simplex(2, 10_000, 6)
    assert (theory.training_criterion(p, q) > -LOG4 + 1e-12).all()
    np.testing.assert_allclose(theory.training_criterion(p, p), -1.3862943611, atol=5e-11)
    np.testing.assert_allclose(theory.training_criterion(p, p), -LOG4, atol=1e-12, rtol=0)


# ---------------------------------------------------------------- the generator's objectives


GRADIENTS = {
    1.0: (0.39797287, 0.60202713, 0.5),
    0.5: (0.23526351, 0.26473649, 0.25),
    2.0: (0.44959951, 1.55040049, 1.0),
    4.0: (0.13719482, 3.86280518, 2.0),
}
OBJECTIVES = ("minimax", "non_saturating", "mle")


@pytest.mark.parametrize("theta", GRADIENTS)
def test_M09_gradients_at_the_optimal_discriminator(theta: float) -> None:
    p, q = normal(0), normal(theta)
    for kind, expected in zip(OBJECTIVES, GRADIENTS[theta], strict=True):
        got = theory.generator_gradient(p, q, (X - theta) * q, kind=kind, dx=DX)
        assert got == pytest.approx(expected, abs=1e-6)


def test_M09_they_are_the_gradients_of_divergences() -> None:
    """On any table: minimax 2 JSD, non-saturating KL(q||p) - 2 JSD, maximum likelihood KL(p||q) / 2."""
    p = torch.from_numpy(simplex(12, seed=1)) + 1e-3
    p = p / p.sum()
    theta = torch.randn(12, dtype=torch.float64, requires_grad=True)
    q = torch.softmax(theta, -1)
    grad_q = torch.autograd.functional.jacobian(lambda t: torch.softmax(t, -1), theta.detach()).T
    js, kl, reverse = theory.js_divergence(p, q), theory.kl_divergence(p, q), theory.reverse_kl_divergence(p, q)
    for kind, divergence in zip(OBJECTIVES, (2 * js, reverse - 2 * js, kl / 2), strict=True):
        (expected,) = torch.autograd.grad(divergence, theta, retain_graph=True)
        torch.testing.assert_close(theory.generator_gradient(p, q.detach(), grad_q, kind=kind), expected)


@pytest.mark.parametrize("theta", GRADIENTS)
def test_M09_samples_through_the_library_agree(theta: float) -> None:
    """A million x = theta + z through the logits of D*, log p - log q at a fixed q, within 3 standard errors."""
    x = (theta + torch.randn(1_000_000, dtype=torch.float64)).requires_grad_()
    logits = theta**2 / 2 - theta * x
    for kind, expected in zip(OBJECTIVES, GRADIENTS[theta], strict=True):
        if kind == "mle" and theta > 1:
            continue  # its variance, exp(theta^2), cannot be estimated from a million samples
        loss = fastgan.generator_loss(logits, kind=kind, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert abs(grad.mean().item() - expected) <= 3 * grad.std().item() / 1000


# ---------------------------------------------------------------- f-divergences


@pytest.mark.parametrize("kind", ["gan", "js", "kl", "reverse_kl", "pearson", "hellinger"])
def test_the_best_logit_of_every_f_divergence_is_the_log_ratio(kind: str) -> None:
    p, q = (torch.from_numpy(x) + 1e-4 for x in simplex(2, 100, 9))
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    best = (p.log() - q.log()).requires_grad_()
    reached = theory.f_value(p, q, best, kind=kind)
    torch.testing.assert_close(reached, theory.f_divergence(p, q, kind=kind), rtol=1e-9, atol=1e-12)
    (derivative,) = torch.autograd.grad(reached.sum(), best)
    torch.testing.assert_close(derivative, torch.zeros_like(derivative), rtol=0, atol=1e-10)
    for noise in torch.randn(5, *best.shape, dtype=torch.float64):
        assert (theory.f_value(p, q, best.detach() + noise, kind=kind) < reached.detach()).all()


@pytest.mark.parametrize("kind", ["gan", "js", "kl", "reverse_kl", "pearson", "hellinger"])
def test_f_losses_are_the_value_of_samples(kind: str) -> None:
    """Samples that hold each outcome as often as p and q say estimate the value without error."""
    real, fake = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 1, 1, 2, 2])
    p, q = (torch.bincount(x) / 5 for x in (real, fake))
    logits = torch.tensor([0.3, -1.0, 2.0], requires_grad=True)
    loss = theory.f_discriminator_loss(logits[real], logits[fake], kind=kind)
    torch.testing.assert_close(-loss, theory.f_value(p, q, logits, kind=kind))
    for saturating in (False, True):
        assert theory.f_generator_loss(logits[fake], kind=kind, saturating=saturating).requires_grad


def test_the_gan_is_one_of_the_f_divergences() -> None:
    real, fake = torch.randn(2, 50, dtype=torch.float64) * 4
    torch.testing.assert_close(
        theory.f_discriminator_loss(real, fake, kind="gan"), fastgan.discriminator_loss(real, fake)
    )
    for saturating, kind in ((False, "non_saturating"), (True, "minimax")):
        got = theory.f_generator_loss(fake, kind="gan", saturating=saturating)
        torch.testing.assert_close(got, fastgan.generator_loss(fake, kind=kind))


def test_f_divergences_at_the_edges() -> None:
    disjoint = ([1.0, 0.0], [0.0, 1.0])
    expected = {"gan": 0.0, "js": math.log(2), "kl": math.inf, "reverse_kl": math.inf, "pearson": math.inf,
                "hellinger": 2.0}  # fmt: skip
    for kind, want in expected.items():
        assert theory.f_divergence(*disjoint, kind=kind) == pytest.approx(want, abs=1e-15)
    assert theory.pearson_divergence([1, 0, 0], [0.5, 0.5, 0]) == 1.0
    assert theory.f_value(*disjoint, [math.inf, -math.inf], kind="gan") == 0.0


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("kind", KINDS)
def test_M20_the_table(kind: str) -> None:
    table = theory.JointTable(KINDS[kind](COUNTS))
    assert table.marginal("x").tolist() == [float(Fraction(n, 50)) for n in (17, 14, 13, 6)]
    assert table.marginal("y").tolist() == [float(Fraction(n, 50)) for n in (16, 24, 10)]
    assert table.joint.tolist() == [[float(Fraction(n, 50)) for n in row] for row in COUNTS]
    assert table.joint[2, 1] == float(Fraction(2, 50))
    assert table.conditional("y")[0, 0] == float(Fraction(2, 17)) == pytest.approx(0.1176470588, abs=5e-11)
    assert table.conditional("x")[0].tolist() == [float(Fraction(n, 16)) for n in COUNTS[0]]
    entropies = [float(table.entropy(v, base=2)) for v in ("x", "y", "xy")]
    np.testing.assert_allclose(entropies, [1.9157496188, 1.4986885705, 3.1385065234], atol=5e-11)
    assert float(table.mutual_information(base=2)) == pytest.approx(0.2759316663, abs=1e-9)


def test_M20_mutual_information_is_a_divergence() -> None:
    table = theory.JointTable(COUNTS)
    independent = np.outer(table.marginal("y"), table.marginal("x"))
    kl = theory.kl_divergence(table.joint.ravel(), independent.ravel(), base=2)
    assert table.mutual_information(base=2) == pytest.approx(kl, abs=1e-14)
    assert table.conditional_entropy("y", base=2) == pytest.approx(3.1385065234 - 1.9157496188, abs=1e-9)


def test_M21_marginals_expectations_and_bayes() -> None:
    table = theory.JointTable(COUNTS)
    p_x, p_y, p_y_given_x = table.marginal("x"), table.marginal("y"), table.conditional("y")
    np.testing.assert_allclose(p_y_given_x @ p_x, p_y, atol=1e-15, rtol=0)
    np.testing.assert_allclose(p_y_given_x.sum(0), 1, atol=1e-15, rtol=0)
    np.testing.assert_allclose(table.conditional("x").sum(1), 1, atol=1e-15, rtol=0)
    np.testing.assert_allclose(theory.bayes(p_x, p_y_given_x), table.conditional("x"), atol=1e-15, rtol=0)
    np.testing.assert_allclose(theory.bayes(p_x, p_y_given_x[1]), table.conditional("x")[1], atol=1e-15, rtol=0)
    f = np.random.default_rng(0).normal(size=(3, 4)) * 100
    mean = float((f * np.array(COUNTS)).sum() / 50)
    assert table.expectation(f) == pytest.approx(mean, abs=1e-12)
    assert p_x @ table.expectation(f, given="x") == pytest.approx(mean, abs=1e-12)
    assert p_y @ table.expectation(f, given="y") == pytest.approx(mean, abs=1e-12)
    ys = np.array([[1.0], [2], [3]])
    np.testing.assert_allclose(table.expectation(ys, given="x"), (p_y_given_x * ys).sum(0), atol=1e-15)
    np.testing.assert_allclose(table.expectation(ys, given="y"), [1, 2, 3], atol=1e-15)
    assert table.expectation(np.arange(4)) == pytest.approx(p_x @ np.arange(4), abs=1e-15)


def test_M21_an_impossible_condition_has_no_conditional() -> None:
    table = theory.JointTable([[1, 0], [1, 0]])
    assert np.isnan(table.conditional("y")[:, 1]).all() and (table.conditional("x")[:, 0] == 1).all()
    assert np.isnan(table.expectation([1.0, 2.0], given="x")[1])
    assert np.isnan(theory.bayes([1, 0], [[1.0, 0], [0, 1.0]])[1]).all()


def test_M22_coins() -> None:
    def bits(f: Callable[..., Any], *p: list[float]) -> float:
        return float(f(*p, base=2))

    assert bits(theory.entropy, FAIR) == 1.0
    for got, expected in (
        (bits(theory.entropy, BIASED), 0.2863969572),
        (bits(theory.cross_entropy, BIASED, FAIR), 1.0),
        (bits(theory.cross_entropy, FAIR, BIASED), 2.1979643382),
        (bits(theory.kl_divergence, FAIR, BIASED), 1.1979643382),
        (bits(theory.kl_divergence, BIASED, FAIR), 0.7136030429),
        (bits(theory.reverse_kl_divergence, FAIR, BIASED), 0.7136030429),
    ):
        assert got == pytest.approx(expected, abs=1e-9 / 2)
    assert theory.entropy(FAIR) == pytest.approx(math.log(2), abs=1e-15)
    assert theory.entropy(normal(0), dx=DX) == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=1e-9)


def test_M23_edges() -> None:
    """Under pytest's -W error: neither NaN nor a warning."""
    assert theory.kl_divergence([0.5, 0.5], [1, 0]) == math.inf
    assert theory.kl_divergence([1, 0], [0.5, 0.5]) == pytest.approx(math.log(2), abs=1e-16)
    assert theory.kl_divergence([1, 0, 0], [1, 0, 0]) == 0.0
    assert theory.cross_entropy([0.5, 0.5], [1, 0]) == math.inf
    assert math.copysign(1, theory.entropy([1, 0])) == 1 and theory.entropy([1, 0]) == 0.0
    for parts in (2, 3, 7, 1000):
        p = np.zeros(2 * parts)
        p[:parts] = 1 / parts
        assert theory.js_divergence(p, p[::-1]) == pytest.approx(math.log(2), abs=1e-15)
    tiny = np.array([1 - 1e-300, 1e-300])
    assert np.isfinite(theory.kl_divergence(FAIR, tiny)) and np.isfinite(theory.js_divergence([1, 0], tiny))


def test_M23_js_is_symmetric_and_bounded_to_the_last_bit() -> None:
    p, q = simplex(2, 10_000, 5)
    forward, backward = theory.js_divergence(p, q), theory.js_divergence(q, p)
    assert (forward == backward).all()
    assert (forward > 0).all() and (forward <= math.log(2)).all()
    assert (theory.js_divergence(p, p) == 0).all()
    nothing = np.zeros_like(p)
    apart = theory.js_divergence(np.concatenate([p, nothing], 1), np.concatenate([nothing, q], 1))
    assert (apart <= math.log(2)).all() and (apart > math.log(2) - 1e-15).all()  # rounding would go beyond
    nearly = p * (1 + 1e-15 * np.random.default_rng(0).normal(size=p.shape))
    assert (theory.js_divergence(p, nearly) >= 0).all() and (theory.kl_divergence(p, nearly) >= 0).all()
    assert (theory.kl_divergence(p, q) != theory.kl_divergence(q, p)).mean() > 0.9
    assert (theory.kl_divergence(p, p) == 0).all()


def test_M23_root_of_js_is_a_metric() -> None:
    a, b, c = simplex(3, 10_000, 4)
    ab, bc, ac = (np.sqrt(theory.js_divergence(x, y)) for x, y in ((a, b), (b, c), (a, c)))
    assert (ac <= ab + bc + 1e-15).all()
    assert (np.square(ac) > np.square(ab) + np.square(bc)).any()  # JSD itself is none


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.entropy([0.5, 0.6]), "entropy: p must sum to one over the last axis, got 1.1"),
        (lambda: theory.kl_divergence(FAIR, [1.5, -0.5]), "kl_divergence: q must be finite and not negative, got -0.5"),
        (lambda: theory.js_divergence(FAIR, [0.5, math.nan]), "q must be finite and not negative, got nan"),
        (lambda: theory.reverse_kl_divergence([0.5, 0.6], FAIR), "reverse_kl_divergence: p must sum to one"),
        (lambda: theory.kl_divergence(FAIR, [1 / 3] * 3), "p and q must have the same outcomes on the last axis"),
        (lambda: theory.kl_divergence(FAIR, 1.0), "p and q must have the same outcomes on the last axis"),
        (lambda: theory.entropy(FAIR, base=1), "entropy: base must be above 1"),
        (lambda: theory.entropy(normal(0), dx=0.1), "entropy: p must integrate to one over dx, got"),
        (lambda: theory.entropy(normal(0), dx=abs(X[:5])), "dx must be one number or one for each of the 28001"),
        (lambda: theory.value(FAIR, FAIR, [0.5, 1.2]), "value: d must be probabilities in"),
        (lambda: theory.value(FAIR, FAIR, [0.5] * 3), "value: d must have one number for each of 2 outcomes"),
        (lambda: theory.optimal_discriminator([-1.0], [1.0]), "optimal_discriminator: p must be finite and not neg"),
        (lambda: theory.optimal_discriminator([1.0], [1.0, 2]), "optimal_discriminator: p and q must have one shape"),
        (lambda: theory.optimal_discriminator(1, 1, real_label=2), "real_label must lie in"),
        (lambda: theory.generator_gradient(FAIR, FAIR, FAIR, kind="hinge"), "kind must be one of minimax, non_sat"),
        (lambda: theory.JointTable([[1, -1]]), "JointTable: counts must be finite and not negative, got -1"),
        (lambda: theory.JointTable([[0, 0]]), "JointTable: counts must have a positive, finite sum, got 0"),
        (lambda: theory.JointTable([1, 2]), "JointTable: counts must be a table"),
        (lambda: theory.JointTable(COUNTS).marginal("z"), "variable must be one of x, y, got 'z'"),
        (lambda: theory.JointTable(COUNTS).expectation([1, 2]), "values must fit the table"),
        (lambda: theory.bayes([0.5, 0.6], [[1, 1]]), "bayes: prior must sum to one"),
        (lambda: theory.bayes(FAIR, [[1, 1, 1]]), "bayes: likelihood must be"),
        (lambda: theory.f_divergence(FAIR, FAIR, kind="x"), "f_divergence: kind must be one of gan, js"),
        (lambda: theory.gaussian_density([0.0], 0, 0), "gaussian_density: std must be above 0, got 0"),
        (lambda: theory.gaussian_density([0.0], [0, 1], weights=[1.0]), "weights must be one for each of 2 components"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_that_names_the_argument(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_wrong_types_are_named() -> None:
    for bad in (["a", "b"], np.array([1j, 0]), torch.tensor([1j, 0]), np.array([object()])):
        with pytest.raises(TypeError, match="entropy: p must hold real numbers, got"):
            theory.entropy(bad)
