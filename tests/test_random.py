"""The random numbers: known answers, one stream on every backend however it is cut, and their distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import IMPLS, need
from scipy import stats

from fastgan import ops, random, reference
from fastgan._backend import why_not
from fastgan.ops import LayerSpec
from fastgan.random import Purpose

ONES = 0xFFFFFFFF
# The vectors published with Random123 (Salmon et al., 2011): counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
LOW, HIGH = 1e-4, 1 - 1e-4  # of the p values


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    assert reference.philox(*counter, *key) == words
    as_tensors = reference.philox(*(torch.tensor([c]) for c in (*counter, *key)))
    assert tuple(int(w) for w in as_tensors) == words


@pytest.mark.parametrize("impl", IMPLS)
def test_every_part_of_a_counter_enters(impl: str) -> None:
    """Against Philox computed on Python integers, far from the origin in every part."""
    need(impl, "random")
    parts = {"seed": -123456789, "purpose": 200, "step": 2**55 + 12345, "substream": 54321, "offset": 4 * (2**40 + 77)}
    block, seed = parts["offset"] // 4, parts["seed"] % 2**64
    words = reference.philox(
        block & ONES,
        (block >> 32) | (parts["substream"] << 16),
        parts["step"] & ONES,
        (parts["step"] >> 32) | (parts["purpose"] << 24),
        seed & ONES,
        seed >> 32,
    )
    got = random.uniform(4, dtype=torch.float64, impl=impl, **parts)
    assert got.tolist() == [((w >> 9) + 0.5) / 2**23 for w in words]


# ---------------------------------------------------------------- one stream

STREAM = {"seed": 2**63 + 5, "purpose": Purpose.NOISE_D, "step": 2**40 + 3, "substream": 9}


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_native_and_reference_are_one_stream(dtype: torch.dtype) -> None:
    """Uniforms to the bit; normals within 4 units of float32 or 4e-15."""
    need("native", "random", dtype=dtype)
    for offset in (0, 3, 4 * 2**40 + 1):
        native, plain = (
            random.uniform(4099, dtype=dtype, offset=offset, impl=impl, **STREAM) for impl in ("native", "reference")
        )
        assert torch.equal(native, plain)
        n = 200_001
        native = random.normal(n, dtype=dtype, offset=offset, impl="native", **STREAM).double()
        exact = random.normal(n, dtype=torch.float64, offset=offset, impl="reference", **STREAM)
        if dtype == torch.float64:
            torch.testing.assert_close(native, exact, rtol=1e-14, atol=1e-14)
        else:
            unit = torch.from_numpy(np.spacing(np.abs(exact.float().numpy()))).double()
            # near a zero of the cosine the error is one of the radius
            unit = torch.maximum(unit, torch.full_like(unit, 2.0**-25))
            assert ((native - exact).abs() / unit).max() <= 4


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("draw", (random.uniform, random.normal))
def test_any_cut_of_a_stream_gives_the_same_numbers(draw: object, impl: str) -> None:
    need(impl, "random")
    whole = draw(10_007, impl=impl, **STREAM)  # type: ignore[operator]
    for size in (1, 2, 3, 5, 1024, 4096, 9999):
        starts = range(0, min(10_007, 60 * size), size)
        for start in starts:
            count = min(size, 10_007 - start)
            part = draw(count, offset=start, impl=impl, **STREAM)  # type: ignore[operator]
            assert torch.equal(part, whole[start : start + count]), (start, size)
    assert torch.equal(draw((2, 3), impl=impl, **STREAM), whole[:6].view(2, 3))  # type: ignore[operator]
    assert draw(0, impl=impl, **STREAM).shape == (0,)  # type: ignore[operator]
    assert draw((), impl=impl, **STREAM).shape == ()  # type: ignore[operator]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", random.PRIORS)
def test_priors_do_not_depend_on_the_chunk(name: str, impl: str) -> None:
    need(impl, "random")
    whole = random.prior(name, (1000, 7), impl=impl, **STREAM)
    for size in (1, 64, 999):
        parts = [
            random.prior(name, (min(size, 1000 - i), 7), offset=7 * i, impl=impl, **STREAM)
            for i in range(0, min(1000, 20 * size), size)
        ]
        together = torch.cat(parts)
        assert torch.equal(together, whole[: len(together)])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_halves_are_the_rounded_singles(dtype: torch.dtype, impl: str) -> None:
    need(impl, "random")
    got = random.normal(100, dtype=dtype, impl=impl, **STREAM)
    assert torch.equal(got, random.normal(100, impl=impl, **STREAM).to(dtype))


# ---------------------------------------------------------------- distribution


def assert_plausible(p_value: float) -> None:
    assert LOW < p_value < HIGH, p_value


@pytest.mark.parametrize("impl", IMPLS)
def test_uniforms_are_uniform(impl: str) -> None:
    need(impl, "random")
    x = random.uniform(1_000_000, seed=11, purpose=Purpose.DATA, dtype=torch.float64, impl=impl).numpy()
    assert 0 < x.min() and x.max() < 1
    assert_plausible(stats.kstest(x, "uniform").pvalue)
    assert_plausible(stats.chisquare(np.histogram(x, 1000, (0, 1))[0]).pvalue)
    pairs = np.histogram2d(x[::2], x[1::2], 50, ((0, 1), (0, 1)))[0]
    assert_plausible(stats.chisquare(pairs.ravel()).pvalue)
    gaps = np.histogram2d(x[:-4], x[4:], 50, ((0, 1), (0, 1)))[0]  # across counters
    assert_plausible(stats.chisquare(gaps.ravel()).pvalue)


@pytest.mark.parametrize("impl", IMPLS)
def test_normals_are_normal(impl: str) -> None:
    need(impl, "random")
    x = random.normal(1_000_000, seed=12, purpose=Purpose.DATA, dtype=torch.float64, impl=impl).numpy()
    assert np.isfinite(x).all()
    assert_plausible(stats.kstest(x, "norm").pvalue)
    edges = stats.norm.ppf(np.linspace(0, 1, 501))
    assert_plausible(stats.chisquare(np.histogram(x, edges)[0]).pvalue)
    assert_plausible(stats.pearsonr(x[::2], x[1::2]).pvalue)
    assert_plausible(stats.pearsonr(x[::2] ** 2, x[1::2] ** 2).pvalue)
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - moment) < 4 * math.sqrt(spread / x.size), power


@pytest.mark.slow
def test_a_hundred_million_uniforms() -> None:
    need("native", "random")
    counts, low, high = np.zeros(1 << 16), 1.0, 0.0
    for step in range(100):
        x = random.uniform(1_000_000, seed=13, purpose=Purpose.DATA, step=step).numpy()
        counts += np.bincount((x * (1 << 16)).astype(np.int64), minlength=1 << 16)
        low, high = min(low, x.min()), max(high, x.max())
    assert 0 < low and high < 1
    assert_plausible(stats.chisquare(counts).pvalue)


@pytest.mark.parametrize("name", random.PRIORS)
def test_M35_moments_of_the_priors(name: str) -> None:
    """mean 0 and variance 1 (1 / dim on the sphere), within four standard errors at 1e6 numbers."""
    z = random.prior(name, (100_000, 10), seed=14, purpose=Purpose.SAMPLE).double()
    n = z.numel()
    variance = 0.1 if name == "spherical" else 1.0
    # kurtosis: normal 3, uniform 1.8, sphere of dimension 10: 3 * 10 / 12
    excess = {"normal": 3.0, "uniform": 1.8, "spherical": 2.5}[name] - 1
    assert abs(z.mean().item()) < 4 * math.sqrt(variance / n)
    assert abs(z.square().mean().item() - variance) < 4 * variance * math.sqrt(excess / n) + 1e-7
    if name == "spherical":
        torch.testing.assert_close(z.norm(dim=1), torch.ones(100_000).double(), rtol=3e-7, atol=0.0)
    if name == "uniform":
        assert z.abs().max() <= math.sqrt(3) + 1e-6


# ---------------------------------------------------------------- permutations


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 7, 16, 17, 64, 65, 255, 1000, 4097))
def test_a_permutation_is_one(n: int, impl: str) -> None:
    need(impl, "random")
    for epoch in (0, 1, 2**55):
        rows = ops.permutation(n, seed=5, epoch=epoch, start=0, count=n, purpose=Purpose.ROWS, impl=impl)
        assert rows.dtype == torch.int64 and torch.equal(rows.sort().values, torch.arange(n))


@pytest.mark.parametrize("n", (1, 5, 1000, 2**20 + 1, 2**33 + 7, 2**40))
def test_native_and_reference_shuffle_alike(n: int) -> None:
    need("native", "random")
    for seed, epoch in ((0, 0), (2**63 + 1, 3), (-1, 2**54)):
        count = min(n, 500)
        start = n - count
        native, plain = (
            ops.permutation(n, seed=seed, epoch=epoch, start=start, count=count, purpose=0, impl=impl)
            for impl in ("native", "reference")
        )
        assert torch.equal(native, plain)
        assert native.min() >= 0 and native.max() < n and native.unique().numel() == count


def test_positions_of_a_permutation_look_uniform() -> None:
    """Every row comes to every place equally often, and neighbours do not stay neighbours."""
    n, epochs = 10, 20_000 if why_not("random", "cpu", torch.float32) is None else 3000
    counts = np.zeros((n, n))
    successors = np.zeros((n, n))
    for epoch in range(epochs):
        rows = random.permutation(n, seed=21, epoch=epoch).numpy()
        counts[np.arange(n), rows] += 1
        successors[rows[:-1], rows[1:]] += 1
    # rows and columns of the table sum to `epochs`, which leaves (n - 1)^2 degrees of freedom
    statistic = ((counts - epochs / n) ** 2 / (epochs / n)).sum() * (n - 1) / n
    assert_plausible(stats.chi2.sf(statistic, (n - 1) ** 2))
    off = successors[~np.eye(n, dtype=bool)]
    assert not successors.diagonal().any()
    assert abs(off / off.mean() - 1).max() < 5 / math.sqrt(off.mean())


def test_parts_and_epochs_of_a_permutation() -> None:
    whole = random.permutation(1000, seed=1, epoch=4)
    parts = [random.permutation(1000, seed=1, epoch=4, start=i, count=100) for i in range(0, 1000, 100)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(random.permutation(1000, seed=1, epoch=4, start=990), whole[990:])
    assert (random.permutation(1000, seed=1, epoch=5) == whole).sum() < 10
    assert (random.permutation(1000, seed=2, epoch=4) == whole).sum() < 10


# ---------------------------------------------------------------- scope and keys


def test_a_scope_replays_its_keys() -> None:
    def keys(seed: int, step: int, phase: int = 0) -> list[int]:
        with random.scope(seed, step, phase):
            return [int(random.next_dropout_seed()) for _ in range(3)]

    first = keys(1, 2)
    assert keys(1, 2) == first and len(set(first)) == 3
    torch.manual_seed(99)
    assert keys(1, 2) == first
    others = keys(2, 2) + keys(1, 3) + keys(1, 2, 1) + keys(-1, 2) + keys(1, 2 + 2**32)
    assert len(set(first + others)) == 18
    key = random.next_dropout_seed()
    assert key.dtype == torch.int64 and key.shape == () and key >= 0


def test_scopes_nest_and_end() -> None:
    with random.scope(1, 1):
        a = int(random.next_dropout_seed())
        with random.scope(1, 1):
            assert int(random.next_dropout_seed()) == a
        b = int(random.next_dropout_seed())
    with random.scope(1, 1):
        assert [int(random.next_dropout_seed()) for _ in range(2)] == [a, b]
    with pytest.raises(KeyError), random.scope(1, 1):
        raise KeyError
    torch.manual_seed(5)
    outside = int(random.next_dropout_seed())
    torch.manual_seed(5)
    assert int(random.next_dropout_seed()) == outside != a


def test_a_scope_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with random.scope(7, 7):
        key = random.next_dropout_seed()
        ops.mlp(torch.ones(3, 4), [torch.ones(2, 4)], [None], [LayerSpec(dropout=0.5)], dropout_seed=key)
    assert torch.equal(torch.rand(2), expected)


# ---------------------------------------------------------------- errors

GOOD = {"seed": 0, "purpose": 0}
BAD = [
    (GOOD | {"seed": 2**64}, ValueError, r"random.uniform: seed must lie in .* got 18446744073709551616"),
    (GOOD | {"seed": -(2**63) - 1}, ValueError, "random.uniform: seed must lie in"),
    (GOOD | {"seed": 0.5}, TypeError, "random.uniform: seed must be an integer, got 0.5"),
    (GOOD | {"seed": None}, TypeError, "random.uniform: seed must be an integer, got None"),
    (GOOD | {"purpose": 256}, ValueError, r"random.uniform: purpose must lie in \[0, 256\), got 256"),
    (GOOD | {"purpose": "x"}, TypeError, "random.uniform: purpose must be an integer, got 'x'"),
    (GOOD | {"step": 2**56}, ValueError, "random.uniform: step must lie in"),
    (GOOD | {"step": -1}, ValueError, "random.uniform: step must lie in"),
    (GOOD | {"substream": 2**16}, ValueError, r"random.uniform: substream must lie in \[0, 65536\), got 65536"),
    (GOOD | {"offset": -1}, ValueError, "random.uniform: offset must lie in"),
    (GOOD | {"dtype": torch.int32}, TypeError, "random.uniform: dtype must be floating point, got torch.int32"),
    (GOOD | {"impl": "cuda"}, ValueError, "random.uniform: impl must be one of auto, native, reference, got 'cuda'"),
]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("stream", "error", "message"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_errors(stream: dict[str, object], error: type[Exception], message: str, impl: str) -> None:
    need(impl, "random")
    with pytest.raises(error, match=message):
        random.uniform(3, **{"impl": impl} | stream)


def test_errors_of_permutations_and_priors() -> None:
    for bad in ({"n": 0}, {"n": 5, "start": 6}, {"n": 5, "start": -1}, {"n": 5, "count": 6}, {"n": 5, "count": -1}):
        with pytest.raises(ValueError, match=r"permutation: positions .* must lie within 0 to n = "):
            random.permutation(**{"seed": 0, "epoch": 0} | bad)
    with pytest.raises(ValueError, match="permutation: seed must lie in"):
        random.permutation(5, seed=2**64, epoch=0)
    with pytest.raises(ValueError, match="prior: name must be one of normal, uniform, spherical, got 'gaussian'"):
        random.prior("gaussian", (1, 1), seed=0, purpose=0)


def test_seeds_for_torch_have_63_bits() -> None:
    seeds = [random.torch_seed(7, step) for step in range(64)]
    assert len(set(seeds)) == 64 and 2**62 <= max(seeds) < 2**63 and min(seeds) < 2**62


@pytest.mark.parametrize("impl", IMPLS)
def test_a_seed_of_numpy_is_that_of_python(impl: str) -> None:
    need(impl, "random")
    for seed in (5, 2**40 + 3):
        for draw in (
            lambda seed: random.normal(9, seed=seed, purpose=Purpose.SAMPLE, impl=impl),
            lambda seed: random.permutation(9, seed=seed, epoch=2, impl=impl),
            lambda seed: torch.tensor(random.torch_seed(seed, 3)),
        ):
            assert torch.equal(draw(np.int64(seed)), draw(seed))
